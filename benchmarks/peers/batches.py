"""What ONNX Runtime and OpenVINO are fed with: the batches that shardlabel makes, sorted and cut by a token budget.

In: texts. Out: labels, confidences and logits in the order of the texts. Tokenized by the Rust library without
padding, a shard at a time, which is the window that is sorted.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import transformers
from numpy.typing import NDArray
from worker import read, write

Inputs = dict[str, NDArray[np.int64]]
Batch = tuple[NDArray[np.int64], Inputs]


class Classifier:
    """Tokenizer, batches and softmax around a function from inputs to logits."""

    def __init__(self, model: str) -> None:
        """Load the tokenizer and the labels."""
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(model)
        config = transformers.AutoConfig.from_pretrained(model)
        self.labels = np.array([config.id2label[index] for index in range(config.num_labels)])
        self.takes_types = "token_type_ids" in self.tokenizer.model_input_names

    def run(  # noqa: PLR0913 - a request, taken apart
        self,
        forward: Callable[[Iterator[Inputs]], Iterator[NDArray[np.float32]]],
        inputs: list[Path],
        output: Path,
        max_length: int,
        max_batch_tokens: int,
        *,
        logits: bool,
    ) -> dict[str, Any]:
        """Label the shards, one after the other; `forward` maps batches to logits in their order."""
        padded_tokens, forward_seconds = 0, 0.0
        for file in inputs:
            ids, texts = read(file)
            batches = list(self._batches(texts, max_length, max_batch_tokens))
            padded_tokens += sum(batch["input_ids"].size for _, batch in batches)
            found = np.empty((len(texts), len(self.labels)), dtype=np.float32)
            started = time.perf_counter()
            for (rows, _), values in zip(batches, forward(batch for _, batch in batches), strict=True):
                found[rows] = values
            forward_seconds += time.perf_counter() - started
            write(output, file, ids, self.columns(found, logits=logits))
        return {"padded_tokens": padded_tokens, "forward_seconds": forward_seconds}

    def columns(self, found: NDArray[np.float32], *, logits: bool) -> dict[str, pa.Array]:
        """`label` and `confidence`, on request `logits`."""
        powers = np.exp(found - found.max(axis=1, keepdims=True))
        best = found.argmax(axis=1)
        confidence = (powers / powers.sum(axis=1, keepdims=True))[np.arange(len(found)), best]
        columns = {"label": pa.array(self.labels[best]), "confidence": pa.array(confidence)}
        return columns | ({"logits": pa.array(list(found))} if logits else {})

    def _batches(self, texts: list[Any], max_length: int, max_batch_tokens: int) -> Iterator[Batch]:
        backend = self.tokenizer.backend_tokenizer
        backend.no_padding()
        backend.enable_truncation(max_length)
        encodings = backend.encode_batch_fast(texts)
        lengths = np.array([len(encoding) for encoding in encodings])
        order, start = np.argsort(-lengths, kind="stable"), 0
        while start < len(order):
            longest = int(lengths[order[start]])
            rows = order[start : start + max(max_batch_tokens // longest, 1)]
            yield rows, self._pad([encodings[row] for row in rows], longest)
            start += len(rows)

    def _pad(self, encodings: list[Any], longest: int) -> Inputs:
        shape = (len(encodings), longest)
        ids, mask, types = np.full(shape, self.tokenizer.pad_token_id or 0), np.zeros(shape, int), np.zeros(shape, int)
        for row, encoding in enumerate(encodings):
            ids[row, : len(encoding)], mask[row, : len(encoding)] = encoding.ids, 1
            if self.takes_types:
                types[row, : len(encoding)] = encoding.type_ids
        return {"input_ids": ids, "attention_mask": mask} | ({"token_type_ids": types} if self.takes_types else {})


class Exported(torch.nn.Module):
    """The float32 model with its inputs by position and its logits alone, as the converters want it."""

    def __init__(self, model: str) -> None:
        """Load it with plain attention, which every converter knows."""
        super().__init__()
        self.model = transformers.AutoModelForSequenceClassification.from_pretrained(
            model, dtype=torch.float32, attn_implementation="eager"
        ).eval()

    def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any = None) -> Any:
        """Logits."""
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        return self.model(input_ids=input_ids, attention_mask=attention_mask, **types).logits


def example(classifier: Classifier) -> tuple[list[str], tuple[torch.Tensor, ...]]:
    """Names and values of inputs to trace with: two rows of different length."""
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if classifier.takes_types else [])]
    encoded = classifier.tokenizer(["a first text to trace with", "another"], padding=True, return_tensors="pt")
    return names, tuple(encoded[name] for name in names)
