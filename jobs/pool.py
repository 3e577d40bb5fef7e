"""Where a job would run, as far as that is known before it: on this machine, or on a cluster that nobody asks here."""

import os
from dataclasses import dataclass
from importlib.util import find_spec

import inference
from inference.hardware import Device
from jobs.config import ActorRange, RunConfig
from jobs.resources import Node, Resources, available_cpus, resolve_resources


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Where the job would run."""

    resources: Resources
    num_actors: int
    """1 where it is left to a cluster that nobody asks here."""
    is_here: bool
    is_local: bool
    """Whether threads of this process share a Predictor; on a GPU they count as one actor."""

    @property
    def device(self) -> Device:
        """What each Predictor is on."""
        return "cuda" if self.resources.gpus_per_actor else "cpu"


def find_pool(run: RunConfig, num_actors: int | None) -> Pool:
    """What this machine offers, if the job would run on it; else a cluster's, as far as it is said."""
    is_joining = run.executor == "ray" and bool(run.address or os.environ.get("RAY_ADDRESS"))
    is_local = run.executor == "local"
    gpus = inference.count_gpus() if not is_joining and find_spec("torch") else 0
    if is_local and (gpus if run.gpus_per_actor == "auto" else run.gpus_per_actor):
        num_actors = 1  # a Predictor on one GPU, however many there are and whatever is asked for
    if not is_joining and (run.gpus_per_actor == "auto" or run.gpus_per_actor <= gpus):
        here = resolve_resources(run, [Node(cpus=available_cpus(), gpus=gpus)])
        return Pool(resources=here, num_actors=num_actors or here.max_actors, is_here=True, is_local=is_local)
    if num_actors is None:
        said = run.num_actors.max if isinstance(run.num_actors, ActorRange) else run.num_actors
        num_actors = 1 if said == "auto" else said
    gpus_per_actor = 1 if run.gpus_per_actor == "auto" else run.gpus_per_actor
    settled = run.model_copy(update={"num_actors": num_actors, "gpus_per_actor": gpus_per_actor})
    there = resolve_resources(settled, [Node(cpus=available_cpus(), gpus=0)])
    return Pool(resources=there, num_actors=num_actors, is_here=False, is_local=is_local)
