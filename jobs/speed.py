"""How fast this machine labels a job's rows: some of a sample, for seconds, with the very `Predictor` that would run.

In: a sample of texts. Out: tokens per second of one Predictor, while as many run as the machine would have.
"""

import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from statistics import harmonic_mean
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

import inference
from inference.batching import plan_micro_batches
from jobs.resources import available_cpus
from jobs.stages import Work

_ROUND_SECONDS = 2.0
_NUM_ROUNDS = 3
# What a round takes is foreseen from a shorter one, if it is not too short.
_LEAST_SHARE = 0.25
_GROWTH = 4
_GOLDEN = 0.6180339887498949


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
    *,
    split_rows: int,
    is_local: bool,
) -> Speed:
    """Label micro-batches of a sample, a few first, then three rounds of about two seconds, less if the sample ends.

    On CPUs as in a run: threads that tokenize and share one Predictor, each with the threads of an actor; so on the GPU
    of a local run, where they are one actor. On Ray's GPUs one Predictor is fed with tokens; where the processors here
    would not tokenize as fast as all GPUs take it, that counts.

    Args:
        work: with the resources of this machine.
        tokenizer: its own.
        loading: seconds that went into the tokenizer and imports.
        texts: of the sample, one row at least.
        num_tokens: of each row, at least 1.
        num_predictors: at once, where threads tokenize.
        split_rows: of a split, as the run cuts them.
        is_local: whether the run is.

    Raises:
        ShardlabelError: the model does not load.
    """
    started = time.perf_counter()
    predictor = work.load_predictor()
    loaded = time.perf_counter()
    is_on_gpu = bool(work.resources.gpus_per_actor)
    is_fed = is_on_gpu and not is_local
    count = 1 if is_fed else num_predictors
    blocks = _blocks(num_tokens, work.models[0].max_batch_tokens, count, split_rows)
    prepare = tokenizer if is_fed else _unchanged
    label = predictor if is_fed else lambda table: predictor(tokenizer(table))
    with ThreadPoolExecutor(count) as pool:

        def take(start: int, num_blocks: int) -> tuple[float, float]:
            """Label some blocks: tokens per second of all Predictors, and the seconds of the slowest."""
            chosen = [blocks[i % len(blocks)] for i in range(start, start + num_blocks)]
            hands = [chosen[i::count] for i in range(min(count, num_blocks))]
            tables = [[prepare(texts.take(pa.array(rows))) for rows in _of_each_split(hand)] for hand in hands]
            seconds = list(pool.map(partial(_seconds, label), tables))
            tokens = [sum(num_tokens[block.rows].sum() for block in hand) for hand in hands]
            # One by one: in a run nobody waits for the slowest.
            return float(sum(np.divide(tokens, seconds))), max(seconds)

        # Rows that were not labelled before: a CPU makes each shape of a product ready that it has not seen lately (0.3
        # to 0.6 ms), which in a run are most. A tiny model is 1.4 times as fast with the same rows again.
        most = len(blocks) if is_on_gpu else max(len(blocks) // (1 + _NUM_ROUNDS), count)
        size = _blocks_of_a_round(take, min(count, len(blocks)), min(most, len(blocks)))
        rounds = [take((i + 1) * size, size)[0] for i in range(_NUM_ROUNDS)]
    mean = harmonic_mean(rounds)  # of equal work, as one after the other takes time
    rate = mean if is_on_gpu else mean / count
    if is_fed:
        tokenized = float(num_tokens.sum()) / _seconds(tokenizer, [texts]) * available_cpus()
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


def _seconds(label: Callable[[pa.Table], pa.Table], tables: list[pa.Table]) -> float:
    """What labelling some tables takes."""
    began = time.perf_counter()
    for table in tables:
        label(table)
    return time.perf_counter() - began


def _unchanged(table: pa.Table) -> pa.Table:
    return table


class _Block(NamedTuple):
    """A micro-batch of the sample."""

    split: int
    """Whose rows these are: a share of the sample as large as a split of the run."""
    rows: NDArray[np.int64]


def _blocks(num_tokens: NDArray[np.float64], max_batch_tokens: int | None, count: int, split_rows: int) -> list[_Block]:
    """The sample in micro-batches, in an order in which any few that follow one another are of all lengths.

    A few rows by themselves would be slower than the same rows in a split, where they lie among others of their length;
    and rows of a larger split than the run's would be faster, since more of them are equally long. The steps are those
    of the golden ratio, which spread evenly however many there are.
    """
    budget = max(int(min(max_batch_tokens or math.inf, num_tokens.sum() / (_GROWTH * count))), 1)
    blocks = list[_Block]()
    num_splits = max(round(len(num_tokens) / split_rows), 1)
    for split, rows in enumerate(np.array_split(np.arange(len(num_tokens)), num_splits)):
        planned = list(plan_micro_batches(num_tokens[rows].astype(np.int64), budget, is_packed=True))
        places = np.argsort(np.argsort(np.arange(len(planned)) * _GOLDEN % 1))
        blocks += [_Block(split, rows[planned[place]]) for place in places]
    return blocks


def _of_each_split(blocks: list[_Block]) -> list[NDArray[np.int64]]:
    """The rows that are labelled together, since they are of one split."""
    splits = dict.fromkeys(block.split for block in blocks)
    return [np.concatenate([block.rows for block in blocks if block.split == split]) for split in splits]


def _blocks_of_a_round(take: Callable[[int, int], tuple[float, float]], size: int, most: int) -> int:
    """How many blocks take two seconds, or as many as there may be; warms everything up."""
    _, seconds = take(0, size)
    while seconds < _ROUND_SECONDS:
        _, seconds = take(0, size)
        if seconds > _LEAST_SHARE * _ROUND_SECONDS or size == most:
            return int(np.clip(size * _ROUND_SECONDS / seconds, size, most))
        size = min(size * _GROWTH, most)
    return size
