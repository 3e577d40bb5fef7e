"""What `auto` means on which processor."""

from pathlib import Path

import pytest

from inference.config import Dtype
from inference.hardware import (
    Device,
    cpu_flags,
    free_memory,
    has_nvidia_device,
    resolve_dtype,
    resolve_max_batch_tokens,
)

CPUINFO = """processor\t: 0
model name\t: A processor named amx_bf16
flags\t\t: fpu sse4_2 avx2 {flags}
bugs\t\t: spectre_v1

processor\t: 1
flags\t\t: fpu sse4_2 avx2 {flags}
"""


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("avx512f amx_bf16 amx_tile", "bfloat16"),
        ("avx512f avx512_bf16", "bfloat16"),
        ("avx512f avx512_vnni", "float32"),
        ("avx512_bf16_emulated", "float32"),
    ],
)
def test_auto_is_bfloat16_where_the_processor_multiplies_it(flags: str, expected: Dtype, tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(CPUINFO.format(flags=flags))
    assert resolve_dtype("auto", "cpu", cpuinfo) == expected


@pytest.mark.parametrize("content", ["", "processor\t: 0\nFeatures\t: fp asimd bf16\n"])
def test_auto_is_float32_where_the_processor_has_no_flags(content: str, tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(content)
    assert resolve_dtype("auto", "cpu", cpuinfo) == "float32"


def test_auto_is_float32_where_the_system_does_not_describe_its_processor(tmp_path: Path) -> None:
    assert resolve_dtype("auto", "cpu", tmp_path / "cpuinfo") == "float32"


def test_auto_is_bfloat16_on_a_gpu_whatever_the_processor(tmp_path: Path) -> None:
    assert resolve_dtype("auto", "cuda", tmp_path / "cpuinfo") == "bfloat16"


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_precision_that_was_asked_for_is_what_runs(dtype: Dtype, device: Device, tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(CPUINFO.format(flags="amx_bf16"))
    assert resolve_dtype(dtype, device, cpuinfo) == dtype


def test_the_flags_are_single_words_without_their_heading(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(CPUINFO.format(flags="amx_int8"))
    assert {"fpu", "sse4_2", "avx2", "amx_int8"} <= cpu_flags(cpuinfo)
    assert "spectre_v1" not in cpu_flags(cpuinfo)


def test_a_gpu_is_there_when_its_driver_has_made_a_device(tmp_path: Path) -> None:
    (tmp_path / "nvidiactl").touch()
    assert not has_nvidia_device(tmp_path)
    (tmp_path / "nvidia0").touch()
    assert has_nvidia_device(tmp_path)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8000 * 1024),
        ({"memory.max": "max", "memory.current": "5"}, 8000 * 1024),
        ({"memory.max": "1048576", "memory.current": "48576"}, 1000000),
        ({"memory.max": "1000", "memory.current": "2000"}, 0),
        ({"memory/memory.limit_in_bytes": "3000", "memory/memory.usage_in_bytes": "1000"}, 2000),
        ({"memory/memory.limit_in_bytes": str(2**63), "memory/memory.usage_in_bytes": "1000"}, 8000 * 1024),
    ],
)
def test_free_memory_is_the_machines_or_what_a_container_has_left(
    files: dict[str, str], expected: int, tmp_path: Path
) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal:       16000 kB\nMemAvailable:    8000 kB\n")
    for name, content in files.items():
        file = tmp_path / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{content}\n")
    assert free_memory(tmp_path) == expected


def test_where_there_is_no_proc_nobody_knows(tmp_path: Path) -> None:
    assert free_memory(tmp_path) is None


@pytest.mark.parametrize(
    ("given", "device", "hidden_size", "expected"),
    [
        (None, "cpu", 768, 2048),
        (None, "cpu", 1024, 2048),
        (None, "cpu", 384, 4096),
        (None, "cpu", 128, 8192),
        (None, "cpu", None, 2048),
        (None, "cuda", 128, 131_072),
        (50, "cpu", 128, 50),
        (50, "cuda", None, 50),
    ],
)
def test_a_micro_batch_of_a_narrow_model_has_more_tokens_on_a_cpu(
    given: int | None, device: Device, hidden_size: int | None, expected: int
) -> None:
    assert resolve_max_batch_tokens(given, device, hidden_size) == expected
