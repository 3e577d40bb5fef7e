"""`python -m benchmarks.operators`: where the time of a forward goes, in one process on one core.

In: models and workloads. Out: a table, `build/operators.json`, and the section `operators` of `docs/performance.md`.
The profiler costs a few percent: seconds and MFU are of calls without it, and only the shares are of one with it.
"""

import os
import statistics
import sys
import time
from dataclasses import dataclass
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pyarrow as pa
import torch
import transformers
from torch import nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.flops import flops, matmul_peak
from benchmarks.one_core import DTYPE, run, tokenized
from benchmarks.tables import rows
from inference import Predictor, TaskConfig
from inference.columns import INPUT_IDS
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
    config, table = tokenized(model, workload, scale)
    predictor = Predictor(config, TaskConfig(), num_threads=1)
    lengths = Sequences.from_columns(table[INPUT_IDS], {}).lengths
    linear_flops = _linear_flops(predictor, table)
    peak, seconds = matmul_peak(DTYPE), []
    for _ in range(rounds):
        begun = time.process_time()
        predictor(table)
        seconds.append(time.process_time() - begun)
    return Profile(
        model=model,
        workload=workload,
        tokens=int(lengths.sum()),
        seconds=seconds,
        flops=flops(
            transformers.AutoConfig.from_pretrained(config.name), lengths, is_trimmed=predictor._model.is_trimmed
        ),
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
        f"`python -m benchmarks.operators`, {machine['date']}; one core of {machine['processor']}, {DTYPE}, "
        f"{facts['rounds']} rounds, processor seconds; the best matrix product beside them "
        f"{min(entry.peak for entry in found) / 1e9:.0f} to {max(entry.peak for entry in found) / 1e9:.0f} GFLOP/s. "
        f"torch {machine['versions']['torch']}, transformers {machine['versions']['transformers']}."
    )
    return f"{head}\n\n{rows(header, body)}"


def main(arguments: list[str]) -> int:
    """Measure, print, write."""
    return run("operators", __doc__, measure, report, "profiles", 0.2, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
