"""The doctor on what the Predictors get: how many there are, which precision, which devices, how much memory."""

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from inference.config import Dtype, ModelConfig
from inference.findings import Notes
from inference.hardware import (
    Device,
    check_fp8,
    count_gpus_here,
    free_memory,
    has_native_bfloat16,
    has_nvidia_device,
    resolve_dtype,
)
from inference.packing import resolve_packed
from jobs import wording
from jobs.config import JobConfig
from jobs.doctor_model import Patient
from jobs.provenance import software
from jobs.resources import Node, Resources, available_cpus, resolve_resources

# torch and the rest of a Predictor's process, beside its weights (docs/performance.md).
_PROCESS_BYTES = 500 * 10**6
_VALUE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

# Ray 2.60 wants this share of the free memory for its objects and caps it at what /dev/shm has, but not below 10 GB; a
# /dev/shm that is smaller yet is not used at all (ray/_private/utils.py:595, services.py:2229).
_STORE_SHARE = 0.3
_STORE_CAP = 10**10
_SHM = Path("/dev/shm")  # noqa: S108 - where Ray's objects are


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """Where the Predictors would run."""

    nodes: list[Node]
    is_here: bool
    """In this process, or on a Ray that would be started on this machine."""


def examine_here(job: JobConfig, notes: Notes) -> Ground:
    """Look at this machine; no Ray is started."""
    num_gpus, cpus = count_gpus_here(), available_cpus()
    judge_devices(num_gpus, software()["torch"], notes, has_nvidia=has_nvidia_device())
    if job.run.executor == "local":
        return Ground(nodes=[Node(cpus=cpus, gpus=num_gpus or 0)], is_here=True)
    if find_spec("ray") is None:
        notes.error("ray", "it is not installed here", "install shardlabel with its dependencies, or set run.executor")
    else:
        notes.ok("ray", f"ray {software()['ray']}: one of this job's own would be started here, and stopped in the end")
        judge_store(free_memory(), shutil.disk_usage(_SHM).free if _SHM.is_dir() else None, notes)
    # As many CPUs as such a Ray counts (jobs/cluster.py).
    room = resolve_resources(job.run.model_copy(update={"gpus_per_actor": 0}), [Node(cpus=cpus, gpus=0)]).max_actors
    return Ground(nodes=[Node(cpus=cpus, gpus=num_gpus or 0, slots=room + cpus)], is_here=True)


def judge_devices(num_gpus: int | None, torch_version: str | None, notes: Notes, *, has_nvidia: bool) -> None:
    """Whether torch is there and sees the GPUs that are."""
    if num_gpus is None:
        notes.error("devices", "torch is not installed here, and models run here", "install it, or join a cluster")
    elif num_gpus:
        notes.ok("devices", f"torch {torch_version} sees {num_gpus} GPU" + ("" if num_gpus == 1 else "s"))
    elif has_nvidia:
        is_for_cpus = "+cpu" in (torch_version or "")
        advice = "install a build of torch for CUDA" if is_for_cpus else "see nvidia-smi and CUDA_VISIBLE_DEVICES"
        notes.warn("devices", f"this machine has an NVIDIA GPU, and torch {torch_version} sees none", advice)
    else:
        notes.ok("devices", f"no GPU; {available_cpus()} cores")


def judge_store(memory: int | None, shared: int | None, notes: Notes) -> None:
    """Whether Ray's objects would lie in memory.

    Args:
        memory: free bytes; None is not known.
        shared: free bytes of /dev/shm; None where there is none.
        notes: what is told.
    """
    if memory is None or shared is None:
        return
    wanted = min(_STORE_SHARE * memory, max(_STORE_CAP, shared))
    message = f"{_SHM} has {wording.size(shared)} free, and Ray would take {wording.size(wanted)} for its objects"
    if shared < wanted:
        message += ", so they would lie on the disk of /tmp"
        notes.warn("shared memory", message, "in a container, raise --shm-size")
    else:
        notes.ok("shared memory", message)


def examine_resources(job: JobConfig, patients: Sequence[Patient], ground: Ground, notes: Notes) -> None:
    """Look at what each Predictor would get there."""
    resources = notes.attempt("actors", lambda: resolve_resources(job.run, ground.nodes))
    if resources is None:
        notes.skip("precision", "it depends on what the Predictors get")
        return
    _judge_actors(job, resources, ground, notes)
    device: Device = "cuda" if resources.gpus_per_actor else "cpu"
    num_bytes = 0
    for patient in patients:
        dtype = _examine_precision(patient, device, notes)
        num_bytes += 0 if patient.weights is None else patient.weights.num_values * _VALUE_BYTES[dtype]
    if num_bytes and ground.is_here:
        num_processes = 1 if job.run.executor == "local" else resources.max_actors
        judge_memory(num_bytes, num_processes, device, free_memory(), notes)


def _examine_precision(patient: Patient, device: Device, notes: Notes) -> Dtype:
    model = patient.model
    dtype = resolve_dtype(model.dtype, device)
    if patient.checkpoint is not None:
        family = patient.checkpoint.model_type
        notes.attempt("precision", lambda: check_fp8(model.fp8, family, dtype))
        notes.attempt("packed", lambda: resolve_packed(model.packed, family, device, dtype))
    judge_precision(model, device, dtype, notes, is_native=has_native_bfloat16())
    return dtype


def _judge_actors(job: JobConfig, resources: Resources, ground: Ground, notes: Notes) -> None:
    count, threads, cpus = resources.max_actors, resources.threads_per_actor, sum(node.cpus for node in ground.nodes)
    wish = resources.gpus_per_actor
    room = sum(int(node.gpus / wish) for node in ground.nodes) if wish else math.inf
    who = f"{count} threads that share one Predictor" if job.run.executor == "local" else f"up to {count} Predictors"
    what = f"{who}, {threads} torch threads each, on {f'{wish:g} GPUs each' if wish else f'{cpus} cores'}"
    if job.run.executor == "ray" and room < resources.min_actors:
        message = f"{resources.min_actors} Predictors with {wish:g} GPUs are wanted, and there is room for {room:g}"
        if ground.is_here:
            advice = "lower run.num_actors or run.gpus_per_actor; a run would wait for what does not come, and fail"
            notes.error("actors", message, advice)
        else:
            notes.warn("actors", message, "see whether the cluster will grow; else the run stops after some 30 minutes")
    elif not wish and count * threads > cpus:
        notes.warn("actors", what, "leave run.num_actors and run.threads_per_actor to auto: more threads are slower")
    else:
        notes.ok("actors", what)


def judge_precision(model: ModelConfig, device: Device, dtype: Dtype, notes: Notes, *, is_native: bool) -> None:
    """Whether the device computes in the precision, and what `auto` has become."""
    where = "a GPU" if device == "cuda" else "this CPU"
    what = f"auto is {dtype} on {where}" if model.dtype == "auto" else f"{dtype} on {where}"
    if model.fp8 and device == "cpu":
        notes.warn("precision", f"model.fp8 on {where}", "leave it out: it is for a GPU, and slower here")
    elif device == "cpu" and dtype == "float16":
        message = f"{what}: it is slow there, and values above 65,504 overflow"
        notes.warn("precision", message, "set model.dtype: auto, or float32")
    elif device == "cpu" and dtype == "bfloat16" and not is_native:
        message = f"{what}, which has neither AVX512_BF16 nor AMX: slower than float32"
        notes.warn("precision", message, "set model.dtype: auto, or float32")
    else:
        notes.ok("precision", what)


def judge_memory(num_bytes: int, num_processes: int, device: Device, free: int | None, notes: Notes) -> None:
    """Whether the weights fit, as often as they are loaded; what batches need comes on top.

    Args:
        num_bytes: of the weights in the precision of the run.
        num_processes: that load them.
        device: where they lie.
        free: bytes of this machine's memory; None is not known.
        notes: what is told.
    """
    if device == "cuda":
        notes.skip("memory", f"{wording.size(num_bytes)} of weights on each GPU were not compared with its memory")
        return
    needed = num_processes * (num_bytes + _PROCESS_BYTES)
    what = f"{num_processes} x {wording.size(num_bytes + _PROCESS_BYTES)} for weights and torch"
    if free is None:
        notes.skip("memory", f"{what}; how much is free is not known here")
    elif needed > free:
        advice = "lower run.num_actors, or set run.executor: local, where all threads share one copy"
        notes.warn("memory", f"{what}, and {wording.size(free)} are free", advice)
    else:
        notes.ok("memory", f"{what}, and {wording.size(free)} are free")
