"""`python -m benchmarks.operators`: where the time of a forward goes, in one process on one core.

In: models and workloads. Out: a table, `build/operators.json`, and the section `operators` of `docs/performance.md`.
The profiler costs a few percent: seconds and MFU are of calls without it, and only the shares are of one with it.
"""

import argparse
import os
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import transformers
from torch import nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.compare import TOKENS
from benchmarks.flops import flops, matmul_peak
from benchmarks.machine import describe_machine
from benchmarks.models import MODELS, build_model
from benchmarks.schedule import CORE_MODELS, CORE_WORKLOADS
from benchmarks.tables import rows, write_section
from benchmarks.workloads import ROOT, WORKLOADS, build_workload
from inference import ModelConfig, Predictor, TaskConfig, Tokenizer
from inference.columns import INPUT_IDS
from inference.config import Dtype
from inference.fused import PackedLinear
from inference.sequences import Sequences

GROUPS = {
    "linear layers": ("mkldnn::_linear_pointwise", "aten::addmm", "aten::mm"),
    "products of attention": ("aten::baddbmm", "aten::bmm"),
    "softmax": ("aten::_softmax",),
    "norms and sums": ("aten::native_layer_norm", "aten::add"),
    "copies": ("aten::copy_",),
}
"""What torch calls the operators; any other is in "other operators", and Python, numpy and Arrow are in "the rest"."""

_DTYPE: Dtype = "bfloat16"


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Of one model and workload."""

    model: str
    workload: str
    tokens: int
    seconds: list[float]
    flops: float
    linear_flops: float
    peak: float
    """Floating-point operations per second."""
    shares: dict[str, float]
    """Of the seconds of the profiled call, group by group; together 1."""

    @property
    def mfu(self) -> float:
        """By the median, over the peak that was measured just before."""
        return self.flops / statistics.median(self.seconds) / self.peak

    @property
    def linear_rate(self) -> float:
        """Of the linear layers alone, over the peak."""
        return self.linear_flops / (self.shares["linear layers"] * statistics.median(self.seconds)) / self.peak


def measure(model: str, workload: str, scale: float, rounds: int) -> Profile:
    """Label a part of a workload some times, then once with the profiler."""
    folder = build_model(model)
    num_rows = max(int(TOKENS[model] * scale / WORKLOADS[workload].mean_tokens), 16)
    texts = pa.concat_tables([pq.read_table(file) for file in build_workload(workload, num_rows)])
    config = ModelConfig(name=str(folder), dtype=_DTYPE, max_length=WORKLOADS[workload].max_length)
    table = Tokenizer(config, TaskConfig())(texts)
    predictor = Predictor(config, TaskConfig(), num_threads=1)
    lengths = Sequences.from_columns(table[INPUT_IDS], {}).lengths
    config_of_model = transformers.AutoConfig.from_pretrained(folder)
    linear_flops = _linear_flops(predictor, table)
    peak, seconds = matmul_peak(_DTYPE), []
    for _ in range(rounds):
        begun = time.process_time()
        predictor(table)
        seconds.append(time.process_time() - begun)
    return Profile(
        model=model,
        workload=workload,
        tokens=int(lengths.sum()),
        seconds=seconds,
        flops=flops(config_of_model, lengths, is_trimmed=predictor._model.is_trimmed),
        linear_flops=linear_flops,
        peak=peak,
        shares=_shares(predictor, table),
    )


def _linear_flops(predictor: Predictor, table: pa.Table) -> float:
    """Counted by hooks in a call of its own, which also warms up."""
    total = 0.0

    def count(_: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal total
        total += 2.0 * inputs[0].shape[-1] * output.numel()

    module = predictor._model._module
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear | PackedLinear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    predictor(table)
    for hook in hooks:
        hook.remove()
    return total


def _shares(predictor: Predictor, table: pa.Table) -> dict[str, float]:
    begun = time.process_time()
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        predictor(table)
        whole = time.process_time() - begun
    named = {name: group for group, names in GROUPS.items() for name in names}
    shares = dict.fromkeys([*GROUPS, "other operators"], 0.0)
    for event in profiled.key_averages():
        shares[named.get(event.key, "other operators")] += event.self_cpu_time_total / 1e6 / whole
    return shares | {"the rest": 1 - sum(shares.values())}


def report(facts: dict[str, Any]) -> str:
    """The section of the page."""
    machine, found = facts["machine"], [Profile(**entry) for entry in facts["profiles"]]
    groups = [*GROUPS, "other operators", "the rest"]
    body = [
        [
            f"{entry.model}, {entry.workload}",
            f"{entry.tokens / statistics.median(entry.seconds):,.0f}",
            f"{entry.mfu:.0%}",
            f"{entry.linear_rate:.0%}",
            *[f"{entry.shares[group]:.1%}" for group in groups],
        ]
        for entry in found
    ]
    header = ["one core", "tokens/s", "MFU", "linear layers' rate / peak", *groups]
    head = (
        f"`python -m benchmarks.operators`, {machine['date']}; one core of {machine['processor']}, {_DTYPE}, "
        f"{facts['rounds']} rounds, processor seconds; the best matrix product beside them "
        f"{min(entry.peak for entry in found) / 1e9:.0f} to {max(entry.peak for entry in found) / 1e9:.0f} GFLOP/s. "
        f"torch {machine['versions']['torch']}, transformers {machine['versions']['transformers']}."
    )
    return f"{head}\n\n{rows(header, body)}"


def main(arguments: list[str]) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.operators", description=__doc__)
    parser.add_argument("--models", nargs="+", choices=["demo", *MODELS], default=list(CORE_MODELS), metavar="NAME")
    parser.add_argument("--workloads", nargs="+", choices=list(WORKLOADS), default=list(CORE_WORKLOADS), metavar="NAME")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=0.2)
    parser.add_argument("--json", default=str(ROOT / "build" / "operators.json"))
    parser.add_argument("--page", default=str(ROOT / "docs" / "performance.md"), help="the page that holds the table")
    options = parser.parse_args(arguments)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    torch.set_num_threads(1)
    profiles = [
        measure(model, workload, options.scale, options.rounds)
        for model in options.models
        for workload in options.workloads
    ]
    facts = {"machine": describe_machine(), "rounds": options.rounds, "profiles": [asdict(entry) for entry in profiles]}
    write_section(Path(options.json), Path(options.page), "operators", facts, report(facts))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
