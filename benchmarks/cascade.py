"""A cheap model, a better one, and both in a cascade over the same texts: `python -m benchmarks.cascade PARQUET …`.

In: files with a column `text`. Out: rows per second of processor time of one thread, the best of some rounds that take
turns, and the share of rows that went on. Processor time, so that a busy machine does not decide what is faster.
"""

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from inference import Cascade, ModelConfig, Predictor, TaskConfig, Tokenizer
from inference.columns import ANSWERED_BY

MODEL = str(Path(__file__).parents[1] / "docs/demo/model")
BOUNDS = (0.5, 0.7, 0.9)
SPLIT_ROWS = 2048

Label = Callable[[pa.Table], pa.Table]


def labeller(*models: ModelConfig) -> Label:
    """What labels a table with one model, or with several."""
    task = TaskConfig()
    tokenizer = Tokenizer(models[0], task)
    predictor = Cascade(models, task, 1) if len(models) > 1 else Predictor(models[0], task, 1)
    return lambda table: predictor(tokenizer(table))


def measure(label: Label, splits: list[pa.Table]) -> tuple[float, float]:
    """Rows per second of processor time, and the share of rows that the first model did not answer."""
    num_rows, num_escalated = sum(map(len, splits)), 0
    started = time.process_time()
    for split in splits:
        labelled = label(split)
        if ANSWERED_BY in labelled.column_names:
            num_escalated += sum(labelled.column(ANSWERED_BY).to_pylist())
    return num_rows / (time.process_time() - started), num_escalated / num_rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="+", metavar="PARQUET")
    parser.add_argument("--lengths", nargs=2, type=int, default=(16, 256), help="max_length of the two")
    parser.add_argument("--dtypes", nargs=2, default=("float32", "float32"), help="precision of the two")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    cheap, better = (
        ModelConfig(name=MODEL, max_length=length, dtype=dtype)
        for length, dtype in zip(options.lengths, options.dtypes, strict=True)
    )
    labellers = {"cheap": labeller(cheap), "better": labeller(better)}
    for bound in BOUNDS:
        labellers[f"below {bound}"] = labeller(cheap.model_copy(update={"escalate_below": bound}), better)
    table = pa.concat_tables([pq.read_table(file, columns=["text"]) for file in options.files])
    splits = [table.slice(start, SPLIT_ROWS) for start in range(0, len(table), SPLIT_ROWS)]
    best = dict.fromkeys(labellers, (0.0, 0.0))
    for label in labellers.values():
        label(splits[0].slice(0, 256))
    for _ in range(options.rounds):
        for name, label in labellers.items():
            best[name] = max(best[name], measure(label, splits))
    print(f"{len(table):,} rows")
    for name, (rate, share) in best.items():
        print(f"{name:10} {rate:8,.0f} rows/s {share:7.1%} escalated")


if __name__ == "__main__":
    main()
