"""How fast this machine labels a job's rows: some of a sample, for seconds, with the very `Predictor` that would run.

In: a sample of texts. Out: tokens per second of one Predictor, while as many run as the machine would have.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from statistics import harmonic_mean

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

import inference
from jobs.resources import available_cpus
from jobs.stages import Work

_ROUND_SECONDS = 2.0
_NUM_ROUNDS = 3
# What a round takes is foreseen from a shorter one, if it is not too short.
_LEAST_SHARE = 0.25
_FIRST_ROWS = 8
_GROWTH = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Tokens of rows per second, as a run's report counts them."""

    tokens_per_second: float
    """Of one Predictor."""
    error: float
    """Relative: half of the range of the rounds over their mean; 0 where the speed was given."""
    is_measured: bool
    """Whether here and now; else it was given."""
    load_seconds: float | None = None
    """To import torch and to load tokenizer and weights, in this process; None where nothing was loaded."""
    measured_seconds: float = 0.0
    num_predictors: int = 1
    """That ran at once while it was measured."""
    threads_per_actor: int | None = None
    rounds: tuple[float, ...] = ()
    """Tokens per second of each round, of all Predictors that ran together."""


def measure_speed(  # noqa: PLR0913, PLR0917
    work: Work,
    tokenizer: "inference.Tokenizer",
    loading: float,
    texts: pa.Table,
    num_tokens: NDArray[np.float64],
    num_predictors: int,
) -> Speed:
    """Label rows of a sample again and again, a little longer each time, then three rounds of about two seconds.

    On CPUs as in a run: threads that tokenize and share one Predictor, each with the threads of an actor. On a GPU one
    Predictor is fed with tokens; where the processors here would not tokenize as fast as all GPUs take it, that counts.

    Args:
        work: with the resources of this machine.
        tokenizer: its own.
        loading: seconds that went into the tokenizer and imports.
        texts: of the sample, one row at least.
        num_tokens: of each row, at least 1.
        num_predictors: at once, on CPUs.

    Raises:
        ShardlabelError: the model does not load.
    """
    started = time.perf_counter()
    predictor = work.load_predictor()
    loaded = time.perf_counter()
    is_on_gpu = bool(work.resources.gpus_per_actor)
    count = 1 if is_on_gpu else num_predictors
    order = np.random.default_rng(0).permutation(len(texts))
    prepare = tokenizer if is_on_gpu else _unchanged
    label = predictor if is_on_gpu else lambda table: predictor(tokenizer(table))
    with ThreadPoolExecutor(count) as pool:

        def take(start: int, num_rows: int) -> tuple[float, float]:
            """Label some rows: tokens per second of all Predictors, and the seconds of the slowest."""
            rows = np.take(order, np.arange(start, start + num_rows), mode="wrap")
            hands = _deal(rows, num_tokens, count)
            tables = [prepare(texts.take(pa.array(hand))) for hand in hands]
            seconds = list(pool.map(partial(_seconds, label), tables))
            # One by one: in a run nobody waits for the slowest.
            return sum(num_tokens[hand].sum() / each for hand, each in zip(hands, seconds, strict=True)), max(seconds)

        num_rows = _rows_of_a_round(take, count * _FIRST_ROWS, len(texts))
        rounds = [float(take(i * num_rows, num_rows)[0]) for i in range(_NUM_ROUNDS)]
    mean = harmonic_mean(rounds)  # of equal work, as one after the other takes time
    rate = mean / count
    if is_on_gpu:
        tokenized = float(num_tokens.sum()) / _seconds(tokenizer, texts) * available_cpus()
        rate = min(rate, tokenized / work.resources.max_actors)
    return Speed(
        tokens_per_second=rate,
        error=(max(rounds) - min(rounds)) / 2 / mean,
        is_measured=True,
        load_seconds=loading + loaded - started,
        measured_seconds=time.perf_counter() - loaded,
        num_predictors=count,
        threads_per_actor=work.resources.threads_per_actor,
        rounds=tuple(rounds),
    )


def _seconds(label: Callable[[pa.Table], pa.Table], table: pa.Table) -> float:
    """What labelling a table takes."""
    began = time.perf_counter()
    label(table)
    return time.perf_counter() - began


def _unchanged(table: pa.Table) -> pa.Table:
    return table


def _rows_of_a_round(take: Callable[[int, int], tuple[float, float]], num_rows: int, num_sampled: int) -> int:
    """How many rows take two seconds, or all of the sample; warms everything up."""
    num_rows = min(num_rows, num_sampled)
    take(0, num_rows)
    while True:
        _, seconds = take(0, num_rows)
        if seconds > _LEAST_SHARE * _ROUND_SECONDS or num_rows == num_sampled:
            return int(np.clip(num_rows * _ROUND_SECONDS / seconds, 1, num_sampled))
        num_rows = min(num_rows * _GROWTH, num_sampled)


def _deal(rows: NDArray[np.int64], num_tokens: NDArray[np.float64], count: int) -> Sequence[NDArray[np.int64]]:
    """Rows dealt out like cards, the longest first, so that all have as much to do."""
    by_length = rows[np.argsort(-num_tokens[rows], kind="stable")]
    return [by_length[start::count] for start in range(min(count, len(rows)))]
