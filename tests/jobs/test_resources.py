"""`auto` turned into numbers."""

import pytest

from inference.errors import ConfigError
from jobs.config import ActorRange, RunConfig
from jobs.resources import Node, Resources, resolve_resources


def node(cpus: int, gpus: float = 0, slots: float | None = None) -> Node:
    return Node(cpus=cpus, gpus=gpus, slots=cpus if slots is None else slots)


def here(cpus: int, gpus: float = 0) -> list[Node]:
    """A machine without a Ray that counts its CPUs."""
    return [Node(cpus=cpus, gpus=gpus)]


RANGE = ActorRange(min=2, max=4)


@pytest.mark.parametrize(
    ("run", "nodes", "expected"),
    [
        (RunConfig(), here(2), (2, 2, 2, 0, 1)),
        (RunConfig(), here(64), (8, 8, 8, 0, 8)),
        (RunConfig(), here(16, 4), (4, 4, 4, 1, 4)),
        (RunConfig(gpus_per_actor=0.5), here(16, 4), (8, 8, 8, 0.5, 2)),
        (RunConfig(gpus_per_actor=0), here(4, 4), (4, 4, 4, 0, 1)),
        (RunConfig(num_actors=3), here(2), (3, 3, 3, 0, 1)),
        (RunConfig(num_actors=1), here(2), (1, 1, 1, 0, 2)),
        (RunConfig(num_actors=RANGE, threads_per_actor=5), here(8), (2, 4, 4, 0, 5)),
        # three nodes of two CPUs: one CPU is left for the tasks around the Predictors
        (RunConfig(), [node(2)] * 3, (5, 5, 5, 0, 1)),
        (RunConfig(), [node(16)] * 3, (24, 24, 24, 0, 2)),
        (RunConfig(), [node(2, slots=4)], (2, 2, 2, 0, 1)),
        # a GPU is of one node: two nodes of three GPUs hold one Predictor of two GPUs each
        (RunConfig(gpus_per_actor=2), [node(8, 3)] * 2, (2, 2, 2, 2, 8)),
        (RunConfig(), [node(4, 1), node(32)], (1, 1, 1, 1, 4)),
        # a pool starts with what fits now
        (RunConfig(num_actors=ActorRange(max=16)), [node(8, 2)] * 3, (1, 6, 16, 1, 1)),
        (RunConfig(num_actors=RANGE, gpus_per_actor=1), [], (2, 2, 4, 1, 1)),
        (RunConfig(num_actors=RANGE, gpus_per_actor=1), [node(8)], (2, 2, 4, 1, 2)),
        (RunConfig(num_actors=7, gpus_per_actor=0), [], (7, 7, 7, 0, 1)),
    ],
)
def test_the_pool_fits_the_machines(
    run: RunConfig, nodes: list[Node], expected: tuple[int, int, int, float, int]
) -> None:
    lowest, initial, highest, share, threads = expected
    assert resolve_resources(run, nodes) == Resources(
        min_actors=lowest,
        initial_actors=initial,
        max_actors=highest,
        gpus_per_actor=share,
        threads_per_actor=threads,
    )


@pytest.mark.parametrize(
    ("run", "nodes", "key"),
    [
        (RunConfig(), [], "run.gpus_per_actor"),
        (RunConfig(num_actors=RANGE), [], "run.gpus_per_actor"),
        (RunConfig(gpus_per_actor=1), [], "run.num_actors"),
        (RunConfig(gpus_per_actor=1), [node(8)], "run.num_actors"),
        (RunConfig(gpus_per_actor=4), [node(8, 2)] * 2, "run.num_actors"),
        (RunConfig(gpus_per_actor=0), [], "run.num_actors"),
    ],
)
def test_auto_is_refused_where_a_cluster_has_nothing_of_it_yet(run: RunConfig, nodes: list[Node], key: str) -> None:
    with pytest.raises(ConfigError, match=f"^{key}: auto is what .* {{min: 1, max: …}}$"):
        resolve_resources(run, nodes)
