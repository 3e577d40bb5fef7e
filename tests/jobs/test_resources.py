"""`auto` turned into numbers."""

import pytest

from jobs.config import ActorRange, RunConfig
from jobs.resources import Resources, resolve_resources


@pytest.mark.parametrize(
    ("run", "cpus", "gpus", "expected"),
    [
        (RunConfig(), 2, 0, (2, 2, 0, 1)),
        (RunConfig(), 64, 0, (8, 8, 0, 8)),
        (RunConfig(), 16, 4, (4, 4, 1, 4)),
        (RunConfig(gpus_per_actor=0.5), 16, 4, (8, 8, 0.5, 2)),
        (RunConfig(gpus_per_actor=0), 4, 4, (4, 4, 0, 1)),
        (RunConfig(num_actors=3), 2, 0, (3, 3, 0, 1)),
        (RunConfig(num_actors=1), 2, 0, (1, 1, 0, 2)),
        (RunConfig(num_actors=ActorRange(min=2, max=4), threads_per_actor=5), 8, 0, (2, 4, 0, 5)),
    ],
)
def test_the_pool_fits_the_machine(
    run: RunConfig, cpus: int, gpus: float, expected: tuple[int, int, float, int]
) -> None:
    lowest, highest, share, threads = expected
    assert resolve_resources(run, cpus, gpus) == Resources(
        min_actors=lowest, max_actors=highest, gpus_per_actor=share, threads_per_actor=threads
    )
