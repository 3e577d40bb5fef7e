"""What labelling takes: tokens and the speed of an actor in, hours and money out; an estimate."""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

from jobs.lengths import Lengths
from jobs.pool import Pool
from jobs.speed import Speed

_HOUR = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What labelling the pending rows takes; an estimate."""

    num_actors: int
    error: float
    """Relative, of `seconds` and all that follows from it: that of the tokens and that of the speed together."""
    seconds: float
    """Until the last split is done, when each actor takes the next one as soon as it is free."""
    rows_per_second: float
    actor_hours: float
    """Of all actors until then, those included that have nothing left to do."""
    gpu_hours: float
    """0 on CPUs."""
    price: float | None
    fixed_seconds: float | None
    """Before the first row: what of it was measured here, which is loading the model."""
    fixed_price: float | None


def cost_of(sizes: Sequence[int], lengths: Lengths, speed: Speed, pool: Pool, price: float | None) -> Cost:
    """Turn tokens and speed into time, and time into money.

    Args:
        sizes: rows of each pending split, in their order; none is empty.
        lengths: of a sample of their rows.
        speed: of one actor.
        pool: how many actors there will be.
        price: of an actor's hour.
    """
    num_actors = pool.num_actors
    of_all = lengths.num_tokens / speed.tokens_per_second
    seconds = of_all * busiest(sizes, num_actors) / sum(sizes)
    hours = num_actors * seconds / _HOUR
    fixed = speed.load_seconds
    return Cost(
        num_actors=num_actors,
        error=math.hypot(lengths.num_tokens_bound / max(lengths.num_tokens, 1), speed.error),
        seconds=seconds,
        rows_per_second=sum(sizes) / seconds if seconds else 0.0,
        actor_hours=hours,
        gpu_hours=hours * pool.resources.gpus_per_actor,
        price=None if price is None else hours * price,
        fixed_seconds=fixed,
        fixed_price=None if price is None or fixed is None else num_actors * fixed / _HOUR * price,
    )


def busiest(sizes: Sequence[int], num_actors: int) -> int:
    """Rows of the actor that has the most, when each takes the next split as soon as it is free."""
    loads = [0] * min(num_actors, len(sizes))
    for size in sizes:
        heapq.heapreplace(loads, loads[0] + size)
    return max(loads)
