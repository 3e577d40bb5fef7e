"""transformers.pipeline: as documented, or in another precision with the best batch size, or also sorted by us."""

from pathlib import Path
from typing import Any

import torch
from classify import classify, load_pipeline
from worker import read, serve, write

_BATCH_SIZES = (1, 8, 32)


class Pipeline:
    """One pipeline over each shard's list of texts."""

    def __init__(self, setting: dict[str, Any]) -> None:
        """Load it."""
        torch.set_num_threads(setting["threads"])
        documented = setting["variant"] == "documented"
        self.by_length = setting["variant"] == "sorted"
        self.pipe = load_pipeline(setting["model"], None if documented else setting["dtype"])
        self.candidates = [] if documented else [{"batch_size": size} for size in _BATCH_SIZES]

    def run(
        self, inputs: list[Path], output: Path, max_length: int, *, logits: bool, batch_size: int | None = None
    ) -> dict[str, Any]:
        """Label the shards."""
        for file in inputs:
            ids, texts = read(file)
            columns = classify(
                self.pipe, texts, max_length, logits=logits, batch_size=batch_size, by_length=self.by_length
            )
            write(output, file, ids, columns)
        return {}


if __name__ == "__main__":
    serve(Pipeline)
