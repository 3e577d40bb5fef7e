"""Daft: a class with a pipeline as a batch UDF, the native runner, `read_parquet` to `write_parquet`.

Daft's own `classify_text` is zero-shot only, so its documented way to a classifier is a UDF. The clock starts when the
class has loaded the model, as for Ray Data.
"""

import time
from pathlib import Path
from typing import Any

import daft
import torch
from classify import classify, load_pipeline
from worker import serve

_BATCH_ROWS = 256


@daft.cls
class Classifier:
    """One pipeline; texts in, a struct of label and confidence out."""

    def __init__(self, setting: dict[str, Any], loaded: str) -> None:
        """Load it and say when."""
        torch.set_num_threads(setting["threads"])
        self.pipe = load_pipeline(setting["model"], setting["dtype"])
        Path(loaded).write_text(str(time.time()))

    @daft.method.batch(
        return_dtype=daft.DataType.struct(
            {
                "label": daft.DataType.string(),
                "confidence": daft.DataType.float64(),
                "logits": daft.DataType.list(daft.DataType.float64()),
            }
        ),
        batch_size=_BATCH_ROWS,
    )
    def label(self, texts: Any, max_length: int, batch_size: int, logits: bool) -> list[dict[str, Any]]:  # noqa: FBT001
        """One batch of rows."""
        rows = [text or "" for text in texts.to_pylist()]
        found = classify(self.pipe, rows, max_length, logits=logits, batch_size=batch_size, by_length=True)
        blank = [None] * len(rows)
        return [
            {"label": label, "confidence": confidence, "logits": values}
            for label, confidence, values in zip(
                found["label"], found.get("confidence", blank), found.get("logits", blank), strict=True
            )
        ]


class Daft:
    """The query, tuned as the pipeline is."""

    candidates = [{"batch_size": size} for size in (1, 8, 32)]

    def __init__(self, setting: dict[str, Any]) -> None:
        """Choose the runner."""
        daft.set_runner_native()
        self.setting = setting

    def run(
        self, inputs: list[Path], output: Path, max_length: int, *, logits: bool, batch_size: int = 8
    ) -> dict[str, Any]:
        """One query over the shards."""
        loaded = output / "loaded"
        classifier = Classifier(self.setting, str(loaded))
        frame = daft.read_parquet([str(file) for file in inputs])
        found = classifier.label(daft.col("text"), max_length, batch_size, logits)
        frame = frame.select(daft.col("id"), found.alias("found"))
        names = ["label", "logits" if logits else "confidence"]
        frame = frame.select(daft.col("id"), *(daft.col("found").get(name).alias(name) for name in names))
        frame.write_parquet(str(output / "parts"), compression="zstd")
        return {"seconds": time.time() - float(loaded.read_text())}


if __name__ == "__main__":
    serve(Daft)
