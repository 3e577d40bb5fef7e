"""What the Predictors of a run on Ray export, on the metrics endpoint of every node (docs/scheduling.md has the names).

Counts are of attempts: a split that Ray has done twice counts twice here and once in the report.
"""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from inference.columns import ERROR, NUM_TOKENS
from inference.stats import Stats
from jobs.report import hash_fingerprint

COUNTERS = {
    "shardlabel_splits": "Splits that were labelled",
    "shardlabel_rows": "Rows that were labelled, failed ones included",
    "shardlabel_failed_rows": "Rows whose error is set",
    "shardlabel_tokens": "Tokens of these rows as the model saw them, special tokens included",
    "shardlabel_micro_batches": "Micro-batches that went through the model",
    "shardlabel_forward_seconds": "Time that micro-batches took",
    "shardlabel_budget_halvings": "How often memory ran out and micro-batches became smaller",
}
PADDING_RATIO = "shardlabel_padding_ratio"
MICRO_BATCH_SECONDS = "shardlabel_micro_batch_seconds"

_BOUNDARIES = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0]
_TAGS = ("output", "fingerprint", "actor")


class ActorMetrics:
    """The metrics of one Predictor; costs a millisecond per split and nothing per row."""

    def __init__(self, output: str, fingerprint: dict[str, Any]) -> None:
        """Declare them; `output` and the hash of the fingerprint say of which job they are."""
        import ray
        from ray.util.metrics import Counter, Gauge, Histogram

        actor = ray.get_runtime_context().get_actor_id() or "none"
        tags = {"output": output, "fingerprint": hash_fingerprint(fingerprint), "actor": actor[:8]}
        self._counters = {name: Counter(name, text, _TAGS) for name, text in COUNTERS.items()}
        self._padding = Gauge(PADDING_RATIO, "Share of what was computed for the last split that was padding", _TAGS)
        text = "Mean time of a micro-batch of a split, one observation per split"
        self._seconds = Histogram(MICRO_BATCH_SECONDS, text, _BOUNDARIES, _TAGS)
        for metric in (*self._counters.values(), self._padding, self._seconds):
            metric.set_default_tags(tags)

    def add(self, labelled: pa.Table, done: Stats) -> None:
        """Count a split that was labelled, and what the Predictor did for it."""
        amounts = {
            "shardlabel_splits": 1,
            "shardlabel_rows": len(labelled),
            "shardlabel_failed_rows": len(labelled) - labelled.column(ERROR).null_count,
            "shardlabel_tokens": pc.sum(labelled.column(NUM_TOKENS)).as_py() or 0,
            "shardlabel_micro_batches": done.num_micro_batches,
            "shardlabel_forward_seconds": done.forward_seconds,
            "shardlabel_budget_halvings": done.num_halvings,
        }
        for name, amount in amounts.items():
            if amount:  # Ray refuses to count nothing
                self._counters[name].inc(amount)
        if done.num_micro_batches:
            self._padding.set(1 - done.num_tokens / max(done.num_slots, 1))
            self._seconds.observe(done.forward_seconds / done.num_micro_batches)
