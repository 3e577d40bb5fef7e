"""What the rows should be: the model in float32, one row at a time, no padding; and how far an output is from it."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq

from benchmarks.workloads import BUILD

_CLEAR_MARGIN = 0.15  # of logits: below it bfloat16 itself decides, whoever computes


def reference(model: Path, file: Path, max_length: int) -> dict[str, Any]:
    """`ids`, `logits` and mean-pooled `embedding` of the rows of a shard; kept in a file."""
    kept = BUILD / "reference" / f"{model.name}-{file.parent.name}-{file.stem}.npz"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.savez(kept, **_compute(model, file, max_length))
    return dict(np.load(kept))


def _compute(model: Path, file: Path, max_length: int) -> dict[str, Any]:
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    module = transformers.AutoModelForSequenceClassification.from_pretrained(model, dtype=torch.float32).eval()
    table = pq.read_table(file)
    texts = [text or "" for text in table["text"].to_pylist()]
    pairs = table["text_pair"].to_pylist() if "text_pair" in table.column_names else [None] * len(texts)
    logits, embeddings = [], []
    is_t5 = module.config.model_type == "t5"
    with torch.inference_mode():
        for text, pair in zip(texts, pairs, strict=True):
            inputs = tokenizer(text, pair, truncation=True, max_length=max_length, return_tensors="pt")
            logits.append(module(**inputs).logits[0].numpy())
            states = None if is_t5 else module.base_model(**inputs).last_hidden_state[0]
            embeddings.append(np.zeros(1, np.float32) if states is None else states.mean(0).numpy())
    return {"ids": table["id"].to_numpy(), "logits": np.array(logits), "embedding": np.array(embeddings)}


def read_output(folder: Path, columns: list[str]) -> pa.Table:
    """The parts that a run wrote, wherever in its folder, sorted by id."""
    files = [str(file) for file in folder.rglob("*.parquet")]
    table = pyarrow.dataset.dataset(files).to_table()
    return table.select([name for name in ["id", *columns] if name in table.column_names]).sort_by("id")


def check_rows(table: pa.Table, inputs: list[Path]) -> str | None:
    """What is wrong with the ids of an output, if anything: each row of the input once."""
    expected = np.sort(np.concatenate([pq.read_table(file, columns=["id"])["id"].to_numpy() for file in inputs]))
    found = table["id"].to_numpy()
    if np.array_equal(found, expected):
        return None
    return f"the output has {len(found)} rows where {len(expected)} were expected, or not each once"


def compare(table: pa.Table, known: dict[str, Any], labels: list[str], column: str) -> dict[str, float]:
    """Agreement of an output with the reference, on the rows that the reference has.

    Returns:
        `agreement` of labels over all rows and `clear_agreement` over those whose two best logits are apart;
        `max_delta` and `mean_delta` of logits, or of the embedding's values over the embedding's own spread.
    """
    rows = table.filter(pa.array(np.isin(table["id"].to_numpy(), known["ids"])))
    order = np.argsort(known["ids"])
    expected = known[column][order]
    values = rows[column].to_pylist() if column in rows.column_names else []
    present = np.array([value is not None for value in values], dtype=bool)
    facts: dict[str, float] = {}
    if present.any():
        found = np.array([value for value in values if value is not None], dtype=np.float64)
        scale = float(expected.std()) if column == "embedding" else 1.0
        deltas = np.abs(found - expected[present]) / scale
        facts |= {"max_delta": float(deltas.max()), "mean_delta": float(deltas.mean())}
    if "label" in rows.column_names:
        logits = known["logits"][order]
        best = np.sort(logits, axis=1)
        clear = best[:, -1] - best[:, -2] > _CLEAR_MARGIN
        given = np.array(rows["label"].to_pylist(), dtype=object)
        is_given = np.array([label is not None for label in given])
        equal = given == np.array(labels, dtype=object)[logits.argmax(axis=1)]
        facts["agreement"] = float(equal[is_given].mean())
        facts["clear_agreement"] = float(equal[is_given & clear].mean())
    return facts
