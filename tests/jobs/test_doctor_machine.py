"""What the doctor says of devices, memory and precision, for machines that this one is not."""

from collections.abc import Callable
from typing import Any

import pytest

from inference.findings import Notes
from jobs.doctor_machine import judge_devices, judge_memory, judge_precision, judge_store
from tests.jobs.conftest import MakeJob


def one(judge: Callable[..., None], *arguments: Any, **flags: bool) -> tuple[str, str]:
    notes = Notes()
    judge(*arguments, notes, **flags)
    (finding,) = notes.findings
    return finding.level, f"{finding.message}; {finding.advice}"


def test_a_gpu_that_torch_does_not_see_is_a_warning_that_knows_a_build_for_cpus() -> None:
    assert one(judge_devices, 0, "2.13.0", has_nvidia=False)[0] == "ok"
    assert one(judge_devices, 2, "2.13.0+cu130", has_nvidia=True) == ("ok", "torch 2.13.0+cu130 sees 2 GPUs; ")
    level, text = one(judge_devices, 0, "2.13.0+cpu", has_nvidia=True)
    assert (level, "install a build of torch for CUDA" in text) == ("warning", True)
    level, text = one(judge_devices, 0, "2.13.0+cu130", has_nvidia=True)
    assert (level, "CUDA_VISIBLE_DEVICES" in text) == ("warning", True)


def test_memory_is_compared_with_as_many_copies_as_are_loaded() -> None:
    gigabyte = 10**9
    assert one(judge_memory, gigabyte, 2, "cpu", 3 * gigabyte)[0] == "ok"
    level, text = one(judge_memory, gigabyte, 2, "cpu", 3 * gigabyte - 1)
    assert (level, text.startswith("2 x 1.5 GB for weights and torch, and 3.0 GB are free")) == ("warning", True)
    assert one(judge_memory, gigabyte, 2, "cpu", None)[0] == "skipped"
    assert one(judge_memory, gigabyte, 2, "cuda", 1)[0] == "skipped"


def test_rays_store_is_compared_with_the_shared_memory() -> None:
    assert one(judge_store, 2 * 10**9, 10**9)[0] == "ok"
    level, text = one(judge_store, 2 * 10**9, 64 * 10**6)  # as a container has it
    assert (level, "Ray would take 600.0 MB" in text) == ("warning", True)
    # No more than the larger of 10 GB and what there is, however much memory is free.
    assert one(judge_store, 10**12, 12 * 10**9)[0] == "ok"
    assert one(judge_store, 10**12, 9 * 10**9)[0] == "warning"


@pytest.mark.parametrize(
    ("dtype", "device", "is_native", "level"),
    [
        ("float32", "cpu", False, "ok"),
        ("bfloat16", "cpu", True, "ok"),
        ("bfloat16", "cpu", False, "warning"),
        ("float16", "cpu", True, "warning"),
        ("float16", "cuda", False, "ok"),
        ("bfloat16", "cuda", False, "ok"),
    ],
)
def test_a_precision_that_the_device_imitates_is_a_warning(
    make_job: MakeJob, dtype: str, device: str, *, is_native: bool, level: str
) -> None:
    job = make_job(model={"dtype": dtype})
    assert one(judge_precision, job.models[0], device, dtype, is_native=is_native)[0] == level
