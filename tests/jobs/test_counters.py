"""Counters of parts, merged in any order, are what a slow loop over all rows counts."""

import bisect
import hashlib
import json
import math
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.answers import find_columns
from jobs.counters import Counters, counted_columns
from jobs.counting import OTHER, Place, priorities
from jobs.histograms import LENGTH_EDGES, Confidences

SCHEMAS: dict[str, list[tuple[str, pa.DataType]]] = {
    "text-classification": [("label", pa.string()), ("confidence", pa.float32())],
    "zero-shot-classification": [("labels", pa.list_(pa.string())), ("confidences", pa.list_(pa.float32()))],
    "token-classification": [
        ("entities", pa.list_(pa.struct([("label", pa.string()), ("confidence", pa.float32()), ("text", pa.string())])))
    ],
    "question-answering": [("answer", pa.string()), ("confidence", pa.float32())],
    "text-ranking": [("score", pa.float32())],
    "text2text-generation": [
        ("prediction", pa.string()),
        ("confidence", pa.float32()),
        ("log_probability", pa.float32()),
        ("num_generated", pa.int32()),
    ],
    "fill-mask": [
        ("predictions", pa.list_(pa.list_(pa.struct([("token", pa.string()), ("confidence", pa.float32())]))))
    ],
    "feature-extraction": [("embedding", pa.list_(pa.float32(), 2))],
}
NAMES = ("a", "b", "ö", "")
ACCOUNTING = [("num_tokens", pa.int32()), ("truncated", pa.bool_()), ("error", pa.string())]


def answer(task: str, dice: random.Random) -> dict[str, Any]:
    """The columns of one answered row."""

    def confidence() -> float:
        return dice.choice([0.0, 0.15, 0.5, 1.0, dice.random()])

    names = [name for name in NAMES if dice.random() < 0.4]
    answers: dict[str, Callable[[], dict[str, Any]]] = {
        "text-classification": lambda: {"label": dice.choice([*NAMES, None]), "confidence": confidence()},
        "zero-shot-classification": lambda: {"labels": names, "confidences": [confidence() for _ in names]},
        "token-classification": lambda: {
            "entities": [{"label": name, "confidence": confidence(), "text": name} for name in names]
        },
        "question-answering": lambda: {"answer": "x", "confidence": confidence()},
        "text-ranking": lambda: {"score": dice.choice([0.0, dice.gauss(0, 3)])},
        "text2text-generation": lambda: {
            "prediction": "x",
            "confidence": confidence(),
            "log_probability": -1.0,
            "num_generated": dice.randrange(40),
        },
        "fill-mask": lambda: {
            "predictions": [
                [{"token": "a", "confidence": confidence()}, {"token": "b", "confidence": 0.0}] for _ in names
            ]
        },
        "feature-extraction": lambda: {"embedding": [0.0, 1.0]},
    }
    return answers[task]()


def make_table(task: str, num_rows: int, dice: random.Random) -> pa.Table:
    """Rows of a task; some fail, for one of three reasons."""
    fields = [*SCHEMAS[task], *ACCOUNTING]
    rows: list[dict[str, Any]] = []
    for _ in range(num_rows):
        if dice.random() < 0.2:
            rows.append({"error": dice.choice(["null", "E: odd", "x" * 300])})
        else:
            tokens = dice.choice([0, 7, 8, 9, 10, 128, dice.randrange(5000)])
            rows.append({**answer(task, dice), "num_tokens": tokens, "truncated": dice.random() < 0.3, "error": None})
    return pa.Table.from_pylist(rows, pa.schema([("label_of_old", pa.string()), *fields]))


def answers_of(row: dict[str, Any], task: str) -> list[tuple[str | None, float]]:
    """Labels and confidences of a row, the slow way."""
    if row["error"] is not None or task in {"text-ranking", "feature-extraction"}:
        return []
    if task == "text-classification":
        return [(row["label"], row["confidence"])]
    if task == "zero-shot-classification":
        return list(zip(row["labels"], row["confidences"], strict=True))
    if task == "token-classification":
        return [(entity["label"], entity["confidence"]) for entity in row["entities"]]
    if task == "fill-mask":
        return [(None, mask[0]["confidence"]) for mask in row["predictions"]]
    return [(None, row["confidence"])]


def slowly(parts: dict[str, pa.Table], task: str) -> dict[str, Any]:
    """What all rows say, one after the other."""
    rows = [(Place(part, i), row) for part, table in parts.items() for i, row in enumerate(table.to_pylist())]
    answered = [(place, row) for place, row in rows if row["error"] is None]
    lengths = [row["num_tokens"] for _, row in answered]
    errors = Counter(row["error"][:200] for _, row in rows if row["error"] is not None)
    bins: dict[str | None, list[int]] = {}
    sums = Counter[str | None]()
    least = []
    for place, row in answered:
        found = answers_of(row, task)
        for label, confidence in found:
            bins.setdefault(label, [0] * 20)[min(int(confidence * 20), 19)] += 1
            sums[label] += round(confidence * 1_000_000)
        if found:
            least.append((min(confidence for _, confidence in found), place))
    scores = [row["score"] for _, row in answered if task == "text-ranking"]
    has_labels = task in {"text-classification", "zero-shot-classification", "token-classification"}
    return {
        "rows": (len(rows), len(rows) - len(answered), sum(bool(row["truncated"]) for _, row in rows)),
        "unlabelled": sum(all(label is None for label, _ in answers_of(row, task)) for _, row in answered)
        if has_labels
        else 0,
        "tokens": (histogram(lengths), sum(lengths), sum(length**2 for length in lengths)),
        "labels": {label: (bins[label], sums[label]) for label in bins},
        "errors": {
            text: (count, [place for place, row in rows if (row["error"] or "")[:200] == text][:5])
            for text, count in errors.items()
        },
        "least": sorted(least)[:20],
        "scores": (len(scores), math.fsum(scores), min(scores, default=None), max(scores, default=None)),
        "generated": histogram([row["num_generated"] for _, row in answered if task == "text2text-generation"]),
    }


def histogram(lengths: list[int]) -> dict[int, int]:
    """By the edge that a length's bin begins with."""
    edges = LENGTH_EDGES.tolist()
    return dict(Counter(edges[bisect.bisect_right(edges, length) - 1] for length in lengths))


def edged(counts: tuple[int, ...]) -> dict[int, int]:
    return {int(edge): count for edge, count in zip(LENGTH_EDGES, counts, strict=False) if count}


def told(counters: Counters) -> dict[str, Any]:
    """The same of counters."""
    scores = counters.scores
    return {
        "rows": (counters.num_rows, counters.num_failed, counters.num_truncated),
        "unlabelled": counters.num_unlabelled,
        "tokens": (edged(counters.tokens.counts), counters.tokens.total, counters.tokens.squares),
        "labels": {label: (each.bins.tolist(), each.millionths) for label, each in counters.labels.items()},
        "errors": {text: (each.count, list(each.places)) for text, each in counters.errors.items()},
        "least": list(counters.least_certain),
        "scores": (
            scores.num_values,
            pytest.approx(scores.total, abs=1e-9),
            scores.minimum if scores.counts else None,
            scores.maximum if scores.counts else None,
        ),
        "generated": edged(counters.generated.counts),
    }


def make_parts(task: str, seed: int) -> dict[str, pa.Table]:
    dice = random.Random(seed)  # noqa: S311 - no secret
    sizes = [0, 1, dice.randrange(300), dice.randrange(30), dice.randrange(60)]
    return {f"part-{i}": make_table(task, size, dice) for i, size in enumerate(sizes)}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("task", SCHEMAS)
def test_merged_counters_are_what_a_loop_over_all_rows_counts(task: str, seed: int) -> None:
    parts = make_parts(task, seed)
    each = [Counters.of(table, part, task) for part, table in parts.items()]
    written = [
        Counters.from_dict(json.loads(json.dumps(one.as_dict())), part) for part, one in zip(parts, each, strict=True)
    ]
    assert told(Counters.merge(each)) == slowly(parts, task)
    assert told(Counters.merge([one for one in written if one is not None])) == slowly(parts, task)
    for part, table in parts.items():
        assert told(Counters.of(table, part, task)) == slowly({part: table}, task)


@given(seed=st.integers(0, 1000), task=st.sampled_from(sorted(SCHEMAS)), cut=st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_the_order_and_the_grouping_of_merges_do_not_matter(seed: int, task: str, cut: int) -> None:
    each = [Counters.of(table, part, task) for part, table in make_parts(task, seed).items()]
    at_once = Counters.merge(each)
    grouped = Counters.merge([Counters.merge(each[cut:]), Counters(), Counters.merge(reversed(each[:cut]))])
    assert told(grouped) == told(at_once)
    assert (grouped.sample, grouped.scores.counts, grouped.scores.exponent, grouped.scores.start) == (
        at_once.sample,
        at_once.scores.counts,
        at_once.scores.exponent,
        at_once.scores.start,
    )


@pytest.mark.parametrize("task", SCHEMAS)
def test_kept_columns_that_are_called_as_answers_of_other_tasks_are_not_counted(task: str) -> None:
    """They stand before the task's own, which have other names, and hold anything."""
    table = make_table(task, 100, random.Random(5))  # noqa: S311 - no secret
    kept: dict[str, list[Any]] = {
        "label": [i % 2 for i in range(100)],
        "labels": ["x"] * 100,
        "num_generated": [-1.5] * 100,
        "prediction": [None] * 100,
    }
    both = table
    for name in [name for name in kept if name not in table.column_names]:
        both = both.add_column(0, name, [kept[name]])
    assert told(Counters.of(both, "p", task)) == slowly({"p": table}, task)


def test_the_sample_of_two_parts_is_uniform_over_their_rows_whatever_their_sizes() -> None:
    """400 pairs of parts of 10 and 90 rows: of 20 rows 2 are of the small one on average, standard deviation 1.2."""
    rows = {"num_tokens": pa.array([1] * 90, pa.int32()), "truncated": [False] * 90, "error": pa.nulls(90, pa.string())}
    large, taken = pa.table(rows), []
    for number in range(400):
        each = [Counters.of(large.slice(0, size), f"{size}-{number}", None) for size in (10, 90)]
        places = [place for _, place in Counters.merge(each).sample]
        assert len(set(places)) == 20
        taken.append(sum(place.part.startswith("10-") for place in places))
    assert abs(np.mean(taken) - 2) < 4 * 1.2 / math.sqrt(400)


def test_the_sample_has_no_failed_row_and_is_of_the_lowest_priorities() -> None:
    table = make_table("text-classification", 3000, random.Random(3))  # noqa: S311
    answered = [i for i, error in enumerate(table.column("error").to_pylist()) if error is None]
    values = priorities("p", np.array(answered)).tolist()
    expected = sorted((value, Place("p", row)) for value, row in zip(values, answered, strict=True))
    assert list(Counters.of(table, "p", "text-classification").sample) == expected[:20]


def test_priorities_are_splitmix64_of_the_parts_hash() -> None:
    """Against the reference in C, in Python's integers (https://prng.di.unimi.it/splitmix64.c)."""

    def reference(seed: int, number: int) -> int:
        z = (seed + number * 0x9E3779B97F4A7C15) % 2**64
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
        return z ^ (z >> 31)

    assert reference(0, 1) == 0xE220A8397B1DCDAF  # its first output of seed 0
    seed = int.from_bytes(hashlib.blake2b(b"a.parquet", digest_size=8).digest(), "little")
    assert priorities("a.parquet", np.array([0, 1, 70_000])).tolist() == [
        reference(seed, 1),
        reference(seed, 2),
        reference(seed, 70_001),
    ]


def test_of_more_than_a_thousand_labels_the_rare_ones_are_counted_together() -> None:
    names = [f"l{i:04d}" for i in range(1500)]
    labels = [*names, *names[:999]]  # the first 999 twice
    columns = {"label": labels, "confidence": pa.array([0.5] * len(labels), pa.float32())}
    rest = {"num_tokens": pa.array([1] * len(labels), pa.int32()), "truncated": [False] * len(labels)}
    table = pa.table({**columns, **rest, "error": pa.nulls(len(labels), pa.string())})
    counters = Counters.of(table, "p", "text-classification")
    assert len(counters.labels) == 1000
    counts = {name: each.num_values for name, each in counters.labels.items()}
    assert counts == dict.fromkeys(names[:999], 2) | {OTHER: 501}
    assert counters.labels[OTHER].mean == 0.5


def test_answers_without_a_label_are_told_apart_however_few_they_are() -> None:
    names: list[str | None] = [None, *map(str, range(1500))]
    counters = Counters(labels={name: Confidences(np.full(20, 2 if name else 1), 1) for name in names}).cut()
    assert len(counters.labels) == 1000
    assert counters.labels[None].num_values == 20
    assert counters.labels[OTHER].num_values == 502 * 40


def test_counters_of_another_version_are_not_understood() -> None:
    content = Counters().as_dict()
    assert Counters.from_dict(content, "p") is not None
    assert Counters.from_dict(content | {"version": 2}, "p") is None


@pytest.mark.parametrize(
    ("names", "task", "expected"),
    [
        (["labels", "label", "confidence", "error"], "text-classification", ("label", "confidence")),
        (["label", "confidence", "labels", "confidences"], "text-classification", ("labels", "confidences")),
        (["label", "score", "error"], "text-classification", ("score",)),
        (["label", "confidence", "score", "error"], "text-classification", ("score",)),
        (["score", "label", "confidence", "error"], "text-classification", ("label", "confidence")),
        (["label", "confidence", "embedding"], "feature-extraction", ()),
        (["label", "confidence"], "a task of somebody's own", ()),
        (["label", "confidence"], None, ()),
        (["prediction", "confidence", "first_tokens", "x"], "text2text-generation", ("prediction", "confidence")),
    ],
)
def test_a_kept_input_column_is_not_taken_for_an_answer(
    names: list[str], task: str | None, expected: tuple[str, ...]
) -> None:
    assert find_columns(names, task).names == expected


def test_only_columns_that_are_counted_are_read() -> None:
    names = ["id", "text", "label", "confidence", "logits", "num_tokens", "truncated", "error"]
    assert counted_columns(names, "text-classification") == ["label", "confidence", "num_tokens", "truncated", "error"]
