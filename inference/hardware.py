"""Which precision `auto` means, who can have fp8, and what this machine has.

Read from the processor's flags and other files, so that a driver without torch can ask.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from inference.config import Dtype
from inference.errors import ConfigError

Device = Literal["cpu", "cuda"]

# Padded tokens of a micro-batch by default: the matrix units are busy, and a CPU's cache still holds them. There it is
# 2,048 for models that are 768 wide or more, and as many values of a narrower one up to 8,192 tokens, since what a
# micro-batch costs besides its tokens is more of them the narrower the model is. On two cores with AVX512_BF16, against
# 2,048: a model 128 wide with 8,192 1.3 to 1.5 times as fast, MiniLM-L6 (384 wide) with 4,096 1.01 to 1.04;
# DistilBERT and BERT-base are as fast with 1,024 to 8,192.
_GPU_BATCH_TOKENS = 131_072
_LEAST_BATCH_TOKENS, _MOST_BATCH_TOKENS, _WIDTH = 2048, 8192, 768

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
    return "bfloat16" if device == "cuda" or has_native_bfloat16(cpuinfo) else "float32"


def resolve_max_batch_tokens(max_batch_tokens: int | None, device: Device, hidden_size: int | None) -> int:
    """Settle `model.max_batch_tokens`: by the width of the model, which is None where nobody knows it."""
    if max_batch_tokens is not None:
        return max_batch_tokens
    if device == "cuda":
        return _GPU_BATCH_TOKENS
    return min(max(_LEAST_BATCH_TOKENS * _WIDTH // (hidden_size or _WIDTH), _LEAST_BATCH_TOKENS), _MOST_BATCH_TOKENS)


def has_native_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor multiplies it; others imitate it, slower than float32."""
    return bool(_NATIVE_BFLOAT16 & cpu_flags(cpuinfo))


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


def count_gpus_here() -> int | None:
    """GPUs that torch can use in this process; None where there is no torch to ask."""
    if find_spec("torch") is None:
        return None
    import torch

    return torch.cuda.device_count()


def has_nvidia_device(devices: Path = Path("/dev")) -> bool:
    """Whether the driver of an NVIDIA GPU is there, whatever torch can do with it."""
    return any(devices.glob("nvidia[0-9]*"))


def free_memory(root: Path = Path("/")) -> int | None:
    """Bytes that processes may still take: what Linux has, or what is left of this container's limit; else None.

    Args:
        root: where proc and sys lie.
    """
    meminfo = root / "proc/meminfo"
    if not meminfo.exists():
        return None
    lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
    free = int(lines["MemAvailable"].split()[0]) * 1024
    # cgroups version 2, and 1; without a limit they say "max", or a number larger than any memory.
    groups = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))
    for limit, usage in groups:
        files = [root / "sys/fs/cgroup" / name for name in (limit, usage)]
        if all(file.exists() for file in files) and (said := [file.read_text().strip() for file in files])[0].isdigit():
            free = min(free, int(said[0]) - int(said[1]))
    return max(free, 0)


def cpu_flags(cpuinfo: Path) -> frozenset[str]:
    """The instruction-set flags Linux reports; empty where there is no such file (macOS, Windows)."""
    if not cpuinfo.exists():
        return frozenset()
    lines = cpuinfo.read_text().splitlines()
    return frozenset(next((line for line in lines if line.startswith("flags")), "").split())
