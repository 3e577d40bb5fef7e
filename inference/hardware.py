"""Which precision `auto` means; read from the processor's flags, so that a driver without torch can ask."""

from pathlib import Path
from typing import Literal

from inference.config import Dtype

Device = Literal["cpu", "cuda"]

MAX_BATCH_TOKENS: dict[Device, int] = {"cpu": 2048, "cuda": 65536}
"""Padded tokens of a micro-batch by default: the matrix units are busy, and a CPU's cache still holds them."""

# Instructions that multiply bfloat16 natively. Measured with a 2048^3 matmul, torch 2.13, 2 cores: AVX512_BF16 (Zen 5)
# 766 against 183 GFLOP/s in float32; AMX 1,800-2,150 against 250-300.
_NATIVE_BFLOAT16 = frozenset({"amx_bf16", "avx512_bf16"})


def resolve_dtype(dtype: Dtype, device: Device, cpuinfo: Path = Path("/proc/cpuinfo")) -> Dtype:
    """Turn `auto` into bfloat16 on a GPU or a CPU that multiplies it natively, and into float32 elsewhere."""
    if dtype != "auto":
        return dtype
    if device == "cuda" or _NATIVE_BFLOAT16 & cpu_flags(cpuinfo):
        return "bfloat16"
    return "float32"


def cpu_flags(cpuinfo: Path) -> frozenset[str]:
    """The instruction-set flags Linux reports; empty where there is no such file (macOS, Windows)."""
    if not cpuinfo.exists():
        return frozenset()
    lines = cpuinfo.read_text().splitlines()
    return frozenset(next((line for line in lines if line.startswith("flags")), "").split())
