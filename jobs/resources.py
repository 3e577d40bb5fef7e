"""How many Predictors run, and what each gets: `auto` turned into numbers for this machine or cluster."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

from inference.errors import ConfigError
from jobs.config import ActorRange, RunConfig

# More processes than this cost more memory (weights and torch, some 0.5 GB each) than they gain over threads.
_MAX_CPU_ACTORS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A machine that can hold Predictors."""

    cpus: int
    """Processors."""
    gpus: float
    slots: float = math.inf
    """CPUs as Ray counts them: a Predictor on a CPU holds one, and so does each task around it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """The actor pool: between `min_actors` and `max_actors`, each with so many GPUs and torch threads."""

    min_actors: int
    initial_actors: int
    """Those that the nodes of the moment can hold, so that no node waits for the pool to grow."""
    max_actors: int
    gpus_per_actor: float
    threads_per_actor: int


def available_cpus() -> int:
    """Processors this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def resolve_resources(run: RunConfig, nodes: Sequence[Node]) -> Resources:
    """One actor per GPU; without GPUs one per core up to eight a node, the cores shared out evenly as threads.

    On two cores two actors of one thread were 1.1 to 1.2 times as fast as one actor of two (BERT-base, bfloat16).

    Raises:
        ConfigError: `auto` asks for what the cluster has, and it has nothing now.
    """
    if run.gpus_per_actor == "auto" and not nodes:
        msg = (
            "run.gpus_per_actor: auto is what the cluster has, and it has no worker now; say what its workers will "
            "have (1, or 0 for CPUs), and how many Predictors with run.num_actors: {min: 1, max: …}"
        )
        raise ConfigError(msg)
    has_gpu = any(node.gpus >= 1 for node in nodes)
    gpus_per_actor = float(has_gpu) if run.gpus_per_actor == "auto" else float(run.gpus_per_actor)
    fitting = _count_fitting(nodes, gpus_per_actor)
    if isinstance(run.num_actors, ActorRange):
        lowest, highest = run.num_actors.min, run.num_actors.max
    elif run.num_actors == "auto":
        if not fitting and (gpus_per_actor or not nodes):
            msg = (
                "run.num_actors: auto is what fits on the nodes of the moment, and none can hold a Predictor with "
                f"{gpus_per_actor:g} GPUs; for a cluster that grows, give run.num_actors: {{min: 1, max: …}}"
            )
            raise ConfigError(msg)
        lowest = highest = max(fitting, 1)
    else:
        lowest = highest = run.num_actors
    threads = max(min(sum(node.cpus for node in nodes) // highest, *_cores(nodes)), 1)
    return Resources(
        min_actors=lowest,
        initial_actors=min(max(lowest, fitting), highest),
        max_actors=highest,
        gpus_per_actor=gpus_per_actor,
        threads_per_actor=threads if run.threads_per_actor == "auto" else run.threads_per_actor,
    )


def _count_fitting(nodes: Sequence[Node], gpus_per_actor: float) -> int:
    """Predictors that the nodes can hold now; no GPU is shared out over two nodes."""
    if gpus_per_actor:
        return sum(int(node.gpus / gpus_per_actor) for node in nodes)
    # Predictors that held every CPU would leave none for the tasks that feed them, and Ray would wait (ray#44687).
    spare = sum(node.slots for node in nodes) - 1
    return max(int(min(sum(min(node.cpus, _MAX_CPU_ACTORS) for node in nodes), spare)), 0)


def _cores(nodes: Sequence[Node]) -> list[int]:
    return [node.cpus for node in nodes if node.cpus] or [1]
