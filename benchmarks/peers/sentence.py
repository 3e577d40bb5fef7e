"""sentence-transformers: `encode` (embeddings) and `CrossEncoder.predict` (pairs), with the best batch size."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import sentence_transformers
import torch
from sentence_transformers import models
from worker import read, serve, write

_BATCH_SIZES = (8, 32, 128)


class Encoder:
    """Mean-pooled embeddings of the base model below the classifier."""

    def __init__(self, setting: dict[str, Any]) -> None:
        """Load it."""
        torch.set_num_threads(setting["threads"])
        options = {"dtype": getattr(torch, setting["dtype"])}
        transformer = models.Transformer(setting["model"], model_kwargs=options)
        pooling = models.Pooling(transformer.get_embedding_dimension(), "mean")
        self.model = sentence_transformers.SentenceTransformer(modules=[transformer, pooling], device="cpu")
        self.candidates = [{"batch_size": size} for size in _BATCH_SIZES]

    def run(
        self, inputs: list[Path], output: Path, max_length: int, *, logits: bool, batch_size: int = 32
    ) -> dict[str, Any]:
        """Embed the shards."""
        del logits
        self.model.max_seq_length = max_length
        for file in inputs:
            ids, texts = read(file)
            found = self.model.encode(texts, batch_size=batch_size, show_progress_bar=False, convert_to_numpy=True)
            flat = pa.array(np.ascontiguousarray(found, dtype=np.float32).reshape(-1))
            write(output, file, ids, {"embedding": pa.FixedSizeListArray.from_arrays(flat, found.shape[1])})
        return {}


class Pairs:
    """A CrossEncoder over the two texts of each row."""

    def __init__(self, setting: dict[str, Any]) -> None:
        """Load it."""
        torch.set_num_threads(setting["threads"])
        options = {"dtype": getattr(torch, setting["dtype"])}
        self.model = sentence_transformers.CrossEncoder(setting["model"], device="cpu", model_kwargs=options)
        self.candidates = [{"batch_size": size} for size in _BATCH_SIZES]

    def run(
        self, inputs: list[Path], output: Path, max_length: int, *, logits: bool, batch_size: int = 32
    ) -> dict[str, Any]:
        """Label the shards."""
        self.model.max_seq_length = max_length
        names = self.model.model.config.id2label
        for file in inputs:
            ids, pairs = read(file)
            found = self.model.predict(
                pairs, batch_size=batch_size, show_progress_bar=False, activation_fn=torch.nn.Identity()
            )
            found = np.asarray(found, dtype=np.float32)
            scores = np.exp(found - found.max(axis=1, keepdims=True))
            confidence = scores.max(axis=1) / scores.sum(axis=1)
            columns = {"label": [names[int(best)] for best in found.argmax(axis=1)], "confidence": pa.array(confidence)}
            write(output, file, ids, columns | ({"logits": pa.array(list(found))} if logits else {}))
        return {}


if __name__ == "__main__":
    serve(lambda setting: Pairs(setting) if setting["variant"] == "pairs" else Encoder(setting))
