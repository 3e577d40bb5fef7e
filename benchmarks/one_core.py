"""A benchmark of some models and workloads on one core: its command line, its tokens, its JSON and its section."""

import argparse
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.compare import TOKENS
from benchmarks.machine import describe_machine
from benchmarks.models import MODELS, build_model
from benchmarks.schedule import CORE_MODELS, CORE_WORKLOADS
from benchmarks.tables import write_section
from benchmarks.workloads import ROOT, WORKLOADS, build_workload
from inference import ModelConfig, TaskConfig, Tokenizer
from inference.config import Dtype

DTYPE: Dtype = "bfloat16"


def tokenized(model: str, workload: str, scale: float) -> tuple[ModelConfig, pa.Table]:
    """A model in bfloat16, and a part of a workload as it takes it."""
    folder = build_model(model)
    num_rows = max(int(TOKENS[model] * scale / WORKLOADS[workload].mean_tokens), 16)
    texts = pa.concat_tables([pq.read_table(file) for file in build_workload(workload, num_rows)])
    config = ModelConfig(name=str(folder), dtype=DTYPE, max_length=WORKLOADS[workload].max_length)
    return config, Tokenizer(config, TaskConfig())(texts)


def run(  # noqa: PLR0913, PLR0917 - what one benchmark is
    name: str,
    about: str | None,
    measure: Callable[[str, str, float, int], Any],
    report: Callable[[dict[str, Any]], str],
    key: str,
    scale: float,
    arguments: list[str],
) -> int:
    """Measure each model with each workload, write, print.

    Args:
        name: of the module, the section and the JSON file.
        about: what `--help` says.
        measure: a model, a workload, a scale and a number of rounds -> a dataclass.
        report: the facts -> the section of the page.
        key: what the JSON calls the dataclasses.
        scale: unless another one is given.
        arguments: of the command line.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=about)
    parser.add_argument("--models", nargs="+", choices=["demo", *MODELS], default=list(CORE_MODELS), metavar="NAME")
    parser.add_argument("--workloads", nargs="+", choices=list(WORKLOADS), default=list(CORE_WORKLOADS), metavar="NAME")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=scale)
    parser.add_argument("--json", default=str(ROOT / "build" / f"{name}.json"))
    parser.add_argument("--page", default=str(ROOT / "docs" / "performance.md"), help="the page that holds the table")
    options = parser.parse_args(arguments)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    torch.set_num_threads(1)
    found = [
        asdict(measure(model, workload, options.scale, options.rounds))
        for model in options.models
        for workload in options.workloads
    ]
    facts = {"machine": describe_machine(), "rounds": options.rounds, key: found}
    write_section(Path(options.json), Path(options.page), name, facts, report(facts))
    return 0
