"""A random sample of the rows of some splits: seeded, spread over all of them, and read in seconds.

In: splits. Out: a table of texts, and what each row stands for. Up to 32 splits are all read and rows drawn from all of
them; of more splits some are drawn, by their rows, and rows from each.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from inference.errors import InputError
from inference.repeats import plain_texts
from jobs.reading import read_split
from jobs.shards import Split

# Large splits have 32,768 rows or 64 MiB of columns at most, so that 32 are some seconds; of small ones more are read.
_MAX_LARGE = 32
_MAX_SMALL = 256

# Each holds a split's texts.
_THREADS = 8

_SEED = 20261126

NUM_ERRORS = 2.0
"""How many standard errors a bound is: 95 % of a normal distribution lie within."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Rows, in the order of their splits."""

    texts: pa.Table
    num_population: int
    """Rows that the sample stands for."""
    weights: NDArray[np.float64]
    """Of each row; together 1."""
    draws: NDArray[np.int64] | None
    """Of each row the draw of a split that it came with, numbered from 0; None: rows were drawn one by one from all."""
    pieces: tuple[tuple[int, int], ...]
    """(Rows of the sample, rows of the split) of each split that was read, in the order of the rows."""
    unreadable: dict[str, str]
    """Shards that could not be read -> why; their rows are not in the sample."""

    def mean(self, values: NDArray[np.float64]) -> float:
        """The mean of all rows' values, estimated from those of the sample's."""
        return float(self.weights @ values)

    def bound(self, values: NDArray[np.float64]) -> float:
        """How far the mean may be off: two standard errors.

        Of rows drawn one by one: sqrt(s² / n * (1 - n / N)). Of splits drawn by their rows, with rows of each: the
        standard error of the draws' means (Cochran, Sampling Techniques, 3rd ed., section 11.9; splits are drawn at
        equal steps here, which is no less exact where neighbours are alike).
        """
        if self.draws is None:
            of_each, rest = values, 1 - len(values) / self.num_population
        else:
            of_each, rest = np.bincount(self.draws, values) / np.bincount(self.draws), 1.0
        if len(of_each) < 2:  # noqa: PLR2004 - one value says nothing of how values differ
            return abs(self.mean(values)) if rest else 0.0
        return float(NUM_ERRORS * np.sqrt(of_each.var(ddof=1) / len(of_each) * rest))


def draw_sample(splits: Sequence[Split], schema: pa.Schema, max_rows: int, seed: int = _SEED) -> Sample:
    """Draw and read some rows.

    Args:
        splits: with one row at least.
        schema: the columns to read, which hold text.
        max_rows: of the sample; of so many rows or fewer all are taken, in their order.
        seed: of the dice.
    """
    sizes = np.array([split.num_rows for split in splits])
    dice = np.random.default_rng(seed)
    is_one_by_one = len(splits) <= _MAX_LARGE or 2 * max_rows >= sizes.sum()
    drawn = list((_draw_rows if is_one_by_one else _draw_splits)(sizes, max_rows, dice))

    def read(item: tuple[int, list[NDArray[np.int64]]]) -> pa.Table | str:
        index, rows = item
        try:
            return plain_texts(read_split(splits[index], schema)).take(pa.array(np.concatenate(rows)))
        except InputError as error:
            return str(error)

    with ThreadPoolExecutor(_THREADS) as pool:
        found = list(zip(drawn, pool.map(read, drawn), strict=True))
    good = [(index, rows, table) for (index, rows), table in found if isinstance(table, pa.Table)]
    lengths = np.array([len(some) for _, rows, _ in good for some in rows], np.int64)
    draws = np.repeat(np.arange(len(lengths)), lengths)
    equal = np.full(len(draws), 1 / max(len(draws), 1))
    return Sample(
        texts=pa.concat_tables([plain_texts(schema.empty_table()), *(table for *_, table in good)]),
        num_population=int(sizes.sum()),
        weights=equal if is_one_by_one else 1 / (len(lengths) * np.repeat(lengths, lengths)),
        draws=None if is_one_by_one else draws,
        pieces=tuple((len(table), int(sizes[index])) for index, _, table in good),
        unreadable={splits[index].shard: table for (index, _), table in found if isinstance(table, str)},
    )


def _draw_rows(
    sizes: NDArray[np.int64], max_rows: int, dice: np.random.Generator
) -> Iterator[tuple[int, list[NDArray[np.int64]]]]:
    """Rows of all splits, each as likely as another: a split's index with the rows that were drawn of it."""
    ends = np.cumsum(sizes)
    chosen = np.sort(dice.choice(ends[-1], min(max_rows, ends[-1]), replace=False))
    for index, rows in enumerate(np.split(chosen, np.searchsorted(chosen, ends[:-1]))):
        if len(rows):
            yield index, [rows - (ends[index] - sizes[index])]


def _draw_splits(
    sizes: NDArray[np.int64], max_rows: int, dice: np.random.Generator
) -> Iterator[tuple[int, list[NDArray[np.int64]]]]:
    """Some splits at equal steps over all rows, and as many rows of each; a large one may be drawn several times."""
    ends = np.cumsum(sizes)
    num_draws = min(int(np.clip(-(-max_rows * len(sizes) // ends[-1]), _MAX_LARGE, _MAX_SMALL)), max_rows)
    places = (np.arange(num_draws) + dice.random()) * (ends[-1] / num_draws)
    owners = np.minimum(np.searchsorted(ends, places, side="right"), len(sizes) - 1)
    for index, count in zip(*np.unique(owners, return_counts=True), strict=True):
        rows = dice.choice(sizes[index], min(count * (max_rows // num_draws), sizes[index]), replace=False)
        yield int(index), np.array_split(rows, count)
