"""How many Predictors run, and what each gets: `auto` turned into numbers for this machine or cluster."""

import os
from dataclasses import dataclass

from jobs.config import ActorRange, RunConfig

# More processes than this cost more memory (weights and torch, some 0.5 GB each) than they gain over threads.
_MAX_CPU_ACTORS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """The actor pool: between `min_actors` and `max_actors`, each with so many GPUs and torch threads."""

    min_actors: int
    max_actors: int
    gpus_per_actor: float
    threads_per_actor: int


def available_cpus() -> int:
    """Processors this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def resolve_resources(run: RunConfig, cpus: int, gpus: float) -> Resources:
    """One actor per GPU; without GPUs one per core up to eight, the cores shared out evenly as threads.

    On two cores two actors of one thread were 1.1 to 1.2 times as fast as one actor of two (BERT-base, bfloat16).
    """
    gpus_per_actor = float(gpus >= 1) if run.gpus_per_actor == "auto" else float(run.gpus_per_actor)
    if isinstance(run.num_actors, ActorRange):
        lowest, highest = run.num_actors.min, run.num_actors.max
    elif run.num_actors == "auto":
        lowest = highest = max(int(gpus / gpus_per_actor), 1) if gpus_per_actor else min(cpus, _MAX_CPU_ACTORS)
    else:
        lowest = highest = run.num_actors
    threads = max(cpus // highest, 1) if run.threads_per_actor == "auto" else run.threads_per_actor
    return Resources(min_actors=lowest, max_actors=highest, gpus_per_actor=gpus_per_actor, threads_per_actor=threads)
