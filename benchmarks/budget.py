"""How the speed of shardlabel depends on the token budget of its micro-batches; one process a model, budgets in turn.

A budget that every run tuned for itself would make two machines write different bytes, so the default is a number;
this says what it costs, and what `model.max_batch_tokens` may bring on a machine like the one measured.
"""

from collections.abc import Callable
from typing import Any

from benchmarks.catalog import PEERS
from benchmarks.compare import Results, build_cell, start
from benchmarks.workloads import BUILD

BUDGETS = (512, 1024, 2048, 4096, 8192)
WORKLOAD = "reviews"
_TIMEOUT = 900.0


def measure_budget(models: list[str], results: Results, rounds: int, say: Callable[[str], None]) -> None:
    """Time the reviews of every model with every budget, round after round."""
    timings = results.extra.setdefault("budget", [])
    for model in models:
        cells = len(results.cells)
        cell = build_cell(model, WORKLOAD, results)
        del results.cells[cells:]  # this is no comparison
        with start(PEERS["shardlabel"], cell.folder, results, f"budget-{model}") as process:
            process.wait_ready(_TIMEOUT)
            request: dict[str, Any] = {"do": "run", "max_length": cell.max_length}
            for number in range(1, rounds + 1):
                for budget in BUDGETS:
                    output = str(BUILD / "out" / "budget" / f"{model}-{budget}")
                    asked = request | {"output": output, "max_batch_tokens": budget}
                    files = [str(file) for file in cell.shards]
                    process.ask(asked | {"inputs": files[:1]}, _TIMEOUT)  # loads the model for this budget
                    before = results.measure_peaks()
                    seconds = process.ask(asked | {"inputs": files}, _TIMEOUT)["seconds"]
                    after = results.measure_peaks()
                    peak = min(before[results.dtype], after[results.dtype])
                    rate = sum(cell.tokens) / seconds
                    facts = {"model": model, "budget": budget, "round": number, "tokens_per_second": rate}
                    timings.append(facts | {"dtype": results.dtype, "peak_flops": peak})
                    say(f"budget: {model}, {budget:,} tokens, round {number}: {rate:,.0f} tokens/s")
