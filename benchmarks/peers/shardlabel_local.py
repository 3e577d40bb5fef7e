"""shardlabel itself: the local executor over planned splits, with Tokenizer and Predictor loaded before.

The clock runs from the first split to the last part; planning and loading are in the cold table. A part has the
columns `id`, `label`, `confidence` and the accounting that every output of shardlabel has.
"""

from functools import lru_cache
from pathlib import Path
from time import perf_counter
from typing import Any

from worker import serve

import inference
from inference.config import ModelConfig, TaskConfig
from jobs import manifest
from jobs.config import JobConfig
from jobs.parts import PartRecord
from jobs.pipeline import LocalExecutor
from jobs.plan import make_plan
from jobs.resources import resolve_resources
from jobs.run import prepare


class Shardlabel:
    """The in-process executor, whose constructors are remembered from run to run."""

    candidates: list[dict[str, Any]] = []

    def __init__(self, setting: dict[str, Any]) -> None:
        """Make Tokenizer and Predictor remember; the first run of a workload loads them."""
        self.setting = setting
        inference.Tokenizer = _remember(inference.Tokenizer)  # type: ignore[misc,assignment]
        self.predictors: list[Any] = []
        inference.Predictor = _remember(inference.Predictor, self.predictors)  # type: ignore[misc,assignment]

    def run(
        self,
        inputs: list[Path],
        output: Path,
        max_length: int,
        max_batch_tokens: int | None = None,
        *,
        logits: bool,
    ) -> dict[str, Any]:
        """Label the shards into a directory that no run has seen."""
        is_embedding = self.setting["variant"] == "embeddings"
        job = JobConfig.model_validate(
            {
                "input": {"path": [str(file) for file in inputs]},
                "output": {"path": _fresh(output), "keep_columns": ["id"], "logits": logits and not is_embedding},
                "model": {
                    "name": self.setting["model"],
                    "dtype": self.setting["dtype"],
                    "max_length": max_length,
                    "max_batch_tokens": max_batch_tokens,
                },
                "task": {"name": "feature-extraction" if is_embedding else "text-classification"},
                "run": {"executor": "local", "max_failed_fraction": 1},
            }
        )
        plan = make_plan(job)
        committed = manifest.read_committed(plan, retry_failed=False)
        with LocalExecutor() as executor:
            work = prepare(plan, committed, resolve_resources(job.run, executor.nodes()))
            manifest.begin(plan.output, work.origin.fingerprint)
            started = perf_counter()
            records: list[PartRecord] = list(executor.run(committed.pending, work))
            seconds = perf_counter() - started
        if unread := [record.error for record in records if record.error]:
            raise RuntimeError(unread[0])
        num_failed = sum(record.num_failed for record in records)
        facts = {"seconds": seconds, "num_failed": num_failed, "workers": work.resources.max_actors}
        return facts | {"is_trimmed": self.predictors[-1]._model.is_trimmed}


def _fresh(output: Path) -> str:
    return str(output / f"run-{len(list(output.iterdir()))}")


def _remember(build: Any, made: list[Any] | None = None) -> Any:
    """`build`, keeping what it built last: a second job with the same arguments gets the same object.

    Args:
        build: a constructor.
        made: where each new object is put.
    """

    @lru_cache(maxsize=1)
    def built(model: str, task: str, options: tuple[tuple[str, Any], ...]) -> Any:
        found = build(ModelConfig.model_validate_json(model), TaskConfig.model_validate_json(task), **dict(options))
        if made is not None:
            made.append(found)
        return found

    def call(model: ModelConfig, task: TaskConfig, **options: Any) -> Any:
        return built(model.model_dump_json(), task.model_dump_json(), tuple(options.items()))

    return call


if __name__ == "__main__":
    serve(Shardlabel)
