"""Which precision `auto` means, and who can have fp8.

Read from the processor's flags, so that a driver without torch can ask.
"""

from pathlib import Path
from typing import Literal

from inference.config import Dtype
from inference.errors import ConfigError

Device = Literal["cpu", "cuda"]

MAX_BATCH_TOKENS: dict[Device, int] = {"cpu": 2048, "cuda": 131072}
"""Padded tokens of a micro-batch by default: the matrix units are busy, and a CPU's cache still holds them."""

# Instructions that multiply bfloat16 natively. Measured with a 2048^3 matmul, torch 2.13, 2 cores: AVX512_BF16 (Zen 5)
# 766 against 183 GFLOP/s in float32; AMX 1,800-2,150 against 250-300.
_NATIVE_BFLOAT16 = frozenset({"amx_bf16", "avx512_bf16"})

# T5 reads the type of its weights and converts to it; no other family was tried.
_FP8_FAMILIES = (
    "albert",
    "bert",
    "camembert",
    "deberta",
    "deberta-v2",
    "distilbert",
    "electra",
    "modernbert",
    "mpnet",
    "roberta",
    "xlm-roberta",
)


def resolve_dtype(dtype: Dtype, device: Device, cpuinfo: Path = Path("/proc/cpuinfo")) -> Dtype:
    """Turn `auto` into bfloat16 on a GPU or a CPU that multiplies it natively, and into float32 elsewhere."""
    if dtype != "auto":
        return dtype
    if device == "cuda" or _NATIVE_BFLOAT16 & cpu_flags(cpuinfo):
        return "bfloat16"
    return "float32"


def check_fp8(fp8: bool, model_type: str, dtype: Dtype) -> None:  # noqa: FBT001
    """Refuse `model.fp8` where it cannot be; `auto` may become bfloat16 and passes.

    Raises:
        ConfigError: it is asked for in another precision, or for a family that cannot.
    """
    if not fp8:
        return
    if model_type not in _FP8_FAMILIES:
        msg = f"model.fp8: a {model_type} checkpoint cannot use fp8, only {', '.join(_FP8_FAMILIES)} can; leave it out"
        raise ConfigError(msg)
    if dtype not in {"auto", "bfloat16"}:
        msg = f"model.fp8: it goes with bfloat16 alone, and model.dtype is {dtype} here; set bfloat16 or leave fp8 out"
        raise ConfigError(msg)


def cpu_flags(cpuinfo: Path) -> frozenset[str]:
    """The instruction-set flags Linux reports; empty where there is no such file (macOS, Windows)."""
    if not cpuinfo.exists():
        return frozenset()
    lines = cpuinfo.read_text().splitlines()
    return frozenset(next((line for line in lines if line.startswith("flags")), "").split())
