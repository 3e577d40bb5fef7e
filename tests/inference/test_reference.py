"""The reference agrees with what a Predictor answers in every task, and with no other row's answer."""

import math
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from transformers import AutoTokenizer, BartConfig, BartForConditionalGeneration

from inference import ModelConfig, Predictor, TaskConfig, Tokenizer, available_tasks, reference
from inference.checkpoint import open_checkpoint
from inference.columns import ERROR, NUM_TOKENS, TRUNCATED
from inference.errors import ConfigError, ModelError
from inference.reference import Reference, Verdict, has_reference
from inference.tasks import load_task, text_columns
from tests.conftest import RAGGED_TEXTS
from tests.families import TOKENIZERS, WORDS, build_checkpoint
from tests.inference.conftest import edit_json, without_unknown
from tests.inference.tasks import examples
from tests.own_code import with_code

CLOSE = 1e-4

MORE: list[TaskConfig] = [
    TaskConfig(scores=True, logits=True, options={"long_text": "window", "stride": 5, "merge": "max"}),
    TaskConfig(options={"long_text": "error"}),
    TaskConfig(name="token-classification", options={"aggregation": "max", "stride": 7}),
    TaskConfig(name="token-classification", options={"aggregation": "average", "long_text": "truncate"}),
    TaskConfig(name="question-answering", options={"align_to_words": False, "top_k": 2}),
    TaskConfig(name="feature-extraction", options={"pooling": "max", "long_text": "window", "stride": 3}),
    TaskConfig(name="feature-extraction", options={"pooling": "last", "layers": [0, 1, -1]}),
    TaskConfig(name="fill-mask", options={"targets": ["the", "a", "x"], "top_k": 2}),
    TaskConfig(name="text2text-generation", options={"candidates": ["a", "the world"], "candidate_score": "mean"}),
]
"""Requests beside those of the contract test."""

CASES = [
    (config, family)
    for task in available_tasks()
    for i, config in enumerate([*examples.VARIANTS[task], *(more for more in MORE if more.name == task)])
    for family in (examples.families(task)[-1:] if i == 0 else examples.families(task)[:1])
]
"""The tasks as they are by default are in `tests/jobs/test_verify.py`."""


class Answered:
    """Rows with their answers in float32, and a reference for them."""

    def __init__(self, path: Path, config: TaskConfig, table: pa.Table, **model: Any) -> None:
        settings = ModelConfig(name=str(path), dtype="float32", **model)
        rows = Predictor(settings, config, num_threads=1)(Tokenizer(settings, config)(table))
        roles = text_columns(load_task(config, open_checkpoint(settings)), config.columns, table.schema)
        self.texts = [{role: row[name] for role, name in roles.items()} for row in table.to_pylist()]
        self.found: list[dict[str, Any]] = rows.drop(table.column_names).to_pylist()
        self.reference = Reference(settings, config)

    def check(self, i: int, **changed: Any) -> Verdict:
        """One row beside the reference, some of its columns as they should not be."""
        return self.reference.check(self.texts[i], self.found[i] | changed)


def assert_agrees(answered: Answered) -> None:
    for i in range(len(answered.texts)):
        verdict = answered.check(i)
        assert verdict.faults == ()
        assert verdict.is_same is not False, verdict
        assert max(verdict.differences.values(), default=0) < CLOSE, verdict


@pytest.mark.parametrize(
    ("config", "family"), CASES, ids=[f"{config.name}-{family}-{i}" for i, (config, family) in enumerate(CASES)]
)
def test_a_task_agrees_with_its_reference_and_an_answer_of_another_row_does_not(
    config: TaskConfig, family: str, tmp_path: Path
) -> None:
    path = examples.checkpoint(tmp_path / family, config.name, family)
    answered = Answered(path, config, examples.table(config.name, path))
    assert_agrees(answered)
    failed = [row[ERROR] is not None for row in answered.found]
    assert failed[-1]
    assert not all(failed)
    accounting = [name for name in answered.found[0] if name in (NUM_TOKENS, "num_windows", TRUNCATED)]
    num_other = 0
    for i, row in enumerate(answered.found):
        other = answered.found[i - 1]
        if row[ERROR] is not None or other[ERROR] is not None or row == other:
            continue
        own = {name: row[name] for name in accounting}
        verdict = answered.reference.check(answered.texts[i], other | own)
        num_other += verdict.is_same is False or bool(verdict.faults) or max(verdict.differences.values()) > CLOSE
    assert num_other >= 4


def test_there_is_a_reference_for_every_task() -> None:
    assert [task for task in available_tasks() if not has_reference(task)] == []


def test_a_task_without_a_reference_is_refused_in_one_sentence(
    single_label: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(reference._MAKERS, "text-classification")
    with pytest.raises(ConfigError, match=r"verify cannot recompute rows of text-classification; .* --sample 0"):
        Reference(ModelConfig(name=str(single_label)), TaskConfig())


@pytest.mark.parametrize("family", ["big_bird", "xlnet"])
def test_families_with_ways_of_their_own_agree_in_any_order(family: str, tmp_path: Path) -> None:
    path = build_checkpoint(tmp_path, family, "sequence-classification")
    texts = [" ".join(WORDS[start : start + size]) for start, size in ((0, 24), (9, 2), (0, 24), (30, 25))]
    assert_agrees(Answered(path, TaskConfig(logits=True), pa.table({"text": texts})))


@pytest.mark.parametrize("name", ["multi_label", "regression", "one_label", "roberta"])
def test_every_kind_of_head_agrees(name: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(name)
    table = pa.table({"text": RAGGED_TEXTS, "text_pair": [*RAGGED_TEXTS[1:], ""]})
    for config in (
        TaskConfig(scores=True, logits=True, options={"top_k": 2}),
        TaskConfig(options={"long_text": "window"}),
    ):
        assert_agrees(Answered(path, config, table))


EXCLUSIVE = {"temperature": 3.0, "label_map": {"neutral": "rest", "positive": "rest"}, "abstain_below": 0.7, "top_k": 2}
INDEPENDENT = {
    "temperature": {"art": 3.0, "sport": 0.5},
    "label_map": {"art": "arts", "music": "arts"},
    "threshold": {"arts": 0.6, "sport": 0.3},
    "top_k": 2,
}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("single_label", EXCLUSIVE),
        ("single_label", EXCLUSIVE | {"abstain_label": "unsure", "long_text": "window", "merge_over": "scores"}),
        ("multi_label", INDEPENDENT),
        ("multi_label", INDEPENDENT | {"long_text": "window", "merge": "max"}),
        ("one_label", {"temperature": 2.0}),
    ],
)
def test_temperatures_label_maps_and_thresholds_are_part_of_the_reference(
    name: str, options: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    path, table = request.getfixturevalue(name), pa.table({"text": RAGGED_TEXTS})
    answered = Answered(path, TaskConfig(scores=True, logits=True, options=options), table)
    assert_agrees(answered)
    plain = Answered(path, TaskConfig(scores=True, logits=True), table)
    assert [row["scores"] for row in answered.found] != [row["scores"] for row in plain.found]
    labels = {row["label"] for row in answered.found} if name == "single_label" else set()
    assert labels <= {options.get("abstain_label"), "negative", "rest"}
    assert len(labels) != 1


def test_a_label_withheld_or_given_on_the_wrong_side_of_the_bound_is_that_far_beyond_it(single_label: Path) -> None:
    table, options = pa.table({"text": RAGGED_TEXTS}), {"temperature": 2.0}
    given = Answered(single_label, TaskConfig(options=options), table).found
    bound = sorted(row["confidence"] for row in given)[len(given) // 2]
    answered = Answered(single_label, TaskConfig(options=options | {"abstain_below": bound}), table)
    is_withheld = [row["label"] is None for row in answered.found]
    assert set(is_withheld) == {True, False}
    for i in (is_withheld.index(True), is_withheld.index(False)):
        verdict = answered.check(i, label=given[i]["label"] if is_withheld[i] else None)
        assert verdict.is_same is False
        assert verdict.differences["confidence"] == pytest.approx(abs(given[i]["confidence"] - bound), abs=CLOSE)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Answered:
    """Texts with one of three classes, the last one null."""
    path = build_checkpoint(tmp_path_factory.mktemp("bert"), "bert", "sequence-classification", max_length=32)
    return Answered(path, TaskConfig(), pa.table({"text": pa.array([*RAGGED_TEXTS, None], pa.string())}))


def test_another_label_is_seen_though_its_confidence_is_right(labelled: Answered) -> None:
    row = labelled.found[0]
    other = "neutral" if row["label"] != "neutral" else "positive"
    verdict = labelled.check(0, label=other)
    assert verdict.is_same is False
    assert verdict.differences["confidence"] > 0.05
    assert verdict.expected.startswith(f"{row['label']} ")
    assert labelled.check(0, label="no such label").is_same is False


def test_a_confidence_that_was_shifted_is_that_far_away(labelled: Answered) -> None:
    shifted = labelled.found[0]["confidence"] - 0.1
    assert labelled.check(0, confidence=shifted).differences["confidence"] == pytest.approx(0.1, abs=1e-5)


def test_wrong_counts_are_faults(labelled: Answered) -> None:
    num_tokens = labelled.found[0][NUM_TOKENS]
    assert labelled.check(0, num_tokens=num_tokens + 1).faults == (
        f"num_tokens is {num_tokens + 1}, the tokenizer gives {num_tokens}",
    )
    assert labelled.check(0, truncated=True).faults == ("truncated is True, the tokenizer gives False",)
    cut = RAGGED_TEXTS.index("tool " * 200)
    assert labelled.found[cut][TRUNCATED]
    assert labelled.check(cut, truncated=False).faults == ("truncated is False, the tokenizer gives True",)


def test_an_answer_to_nothing_is_a_fault_and_an_error_without_a_reason_is_not_the_same(labelled: Answered) -> None:
    last = len(labelled.texts) - 1
    counts = {NUM_TOKENS: None, TRUNCATED: None}
    (fault,) = labelled.reference.check(labelled.texts[last], labelled.found[0] | counts).faults
    assert fault == "it has no error, and there can be no answer (InputError: text is null)"
    verdict = labelled.check(0, label=None, confidence=None, error="ValueError: no reason")
    assert (verdict.is_same, verdict.faults) == (False, ())
    assert (verdict.found, verdict.expected) == ("failed: ValueError: no reason", "an answer")


def test_columns_that_no_run_would_write_are_a_fault(labelled: Answered) -> None:
    (fault,) = labelled.check(0, label=None, confidence=None).faults
    assert fault.startswith("its columns are no answer of text-classification")


@pytest.mark.parametrize(
    "changed", [{"confidence": math.nan}, {"confidence": math.inf}, {"label": "no such label"}], ids=str
)
def test_what_cannot_be_compared_is_a_fault(changed: dict[str, Any], labelled: Answered) -> None:
    verdict = labelled.check(0, **changed)
    (fault,) = verdict.faults
    assert fault.startswith("confidence cannot be compared: ")
    assert (verdict.is_same, verdict.differences) == (False, {})


def test_what_is_not_a_number_is_seen_behind_others_too(tmp_path: Path) -> None:
    path = examples.checkpoint(tmp_path / "qa", "question-answering", "bert")
    config = TaskConfig(name="question-answering", options={"top_k": 2})
    answered = Answered(path, config, examples.table("question-answering", path))
    i, (first, second) = next((i, row["answers"]) for i, row in enumerate(answered.found) if row["answers"])
    (fault,) = answered.check(i, answers=[first, second | {"confidence": math.nan}]).faults
    assert fault.startswith("answers cannot be compared: ")
    path = examples.checkpoint(tmp_path / "mask", "fill-mask", "bert")
    mask = AutoTokenizer.from_pretrained(path).mask_token
    answered = Answered(path, TaskConfig(name="fill-mask"), pa.table({"text": [f"{mask} film {mask}"]}))
    one, (best, *others) = answered.found[0]["predictions"]
    (fault,) = answered.check(0, predictions=[one, [best | {"confidence": math.nan}, *others]]).faults
    assert fault.startswith("predictions cannot be compared: ")


HOOKS = """
import numpy as np
import pyarrow as pa

class Calibrated:
    fields = [pa.field("margin", pa.float32()), pa.field("is_sure", pa.bool_())]

    def __call__(self, logits):
        best = np.sort(logits, axis=1)
        margin = best[:, -1] - best[:, -2]
        return logits / 2, [margin, margin > 1]

def doubled(logits):
    return 2 * logits

class Above:
    fields = [pa.field("above", pa.list_(pa.float32()))]

    def __call__(self, logits):
        return logits, [pa.array([row[row > 0].tolist() for row in logits], pa.list_(pa.float32()))]
"""


def test_the_users_function_is_part_of_the_reference(
    single_label: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "verified_hooks.py").write_text(HOOKS)
    monkeypatch.syspath_prepend(tmp_path)
    hook = {"postprocess": "verified_hooks:Calibrated"}
    answered = Answered(single_label, TaskConfig(logits=True, options=hook), pa.table({"text": RAGGED_TEXTS}))
    assert_agrees(answered)
    assert answered.check(0, is_sure=not answered.found[0]["is_sure"]).is_same is False
    assert answered.check(0, margin=answered.found[0]["margin"] + 100).differences["margin"] > 1
    # How many values a function gives a row may hang on a rounding.
    hook = {"postprocess": "verified_hooks:Above"}
    answered = Answered(single_label, TaskConfig(options=hook), pa.table({"text": RAGGED_TEXTS}))
    verdict = answered.check(0, above=[1.0] * 9)
    assert (verdict.is_same, verdict.faults) == (False, ())
    for task in ("token-classification", "question-answering"):
        path = examples.checkpoint(tmp_path / task, task, "bert")
        config = TaskConfig(name=task, logits=True, options={"postprocess": "verified_hooks:doubled"})
        assert_agrees(Answered(path, config, examples.table(task, path)))


def test_words_are_read_as_words(tmp_path: Path) -> None:
    path = build_checkpoint(tmp_path, "mpnet", "token-classification", max_length=32)
    rows = [*(text.split(" ") for text in RAGGED_TEXTS), ["", "the", "New York"], ["a", None], []]
    table = pa.table({"text": pa.array(rows, pa.list_(pa.string()))})
    for options in ({"aggregation": "average"}, {"aggregation": "none", "stride": 5, "ignore_labels": []}):
        assert_agrees(Answered(path, TaskConfig(name="token-classification", options=options), table))


@pytest.mark.parametrize("stride", [6, 7])
def test_entities_of_windows_are_those_of_the_window_that_sees_most_around_them(stride: int, tmp_path: Path) -> None:
    path = build_checkpoint(tmp_path, "bert", "token-classification", max_length=32)
    texts = [" ".join(WORDS[i : i + 70]) for i in (0, 11, 23)]
    options = {"stride": stride, "aggregation": "none", "ignore_labels": []}
    answered = Answered(
        path, TaskConfig(name="token-classification", logits=True, options=options), pa.table({"text": texts})
    )
    assert_agrees(answered)
    assert min(row["num_windows"] for row in answered.found) > 2


def test_candidates_may_be_each_rows_own(tmp_path: Path) -> None:
    path = examples.checkpoint(tmp_path, "zero-shot-classification", "roberta")
    own = [["good", "bad"], ["good"], [], None, ["x", None], ["a", "b", "c"], ["good " * 40], ["a"], ["b"], ["c"]]
    table = pa.table({"text": RAGGED_TEXTS, "candidate_labels": pa.array(own, pa.list_(pa.string()))})
    assert_agrees(Answered(path, TaskConfig(name="zero-shot-classification", scores=True), table))


def test_a_pair_without_room_for_windows_fails_in_both(tmp_path: Path) -> None:
    path = examples.checkpoint(tmp_path, "text-ranking", "bert")
    table = pa.table({"query": ["film " * 40, "film", "a"], "text": ["good " * 40, "good " * 40, "b"]})
    answered = Answered(path, TaskConfig(name="text-ranking", options={"long_text": "window"}), table)
    assert [row[ERROR] is None for row in answered.found] == [False, True, True]
    assert_agrees(answered)


def test_windows_start_at_the_beginning_whichever_end_would_be_cut_off(single_label: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(single_label, tmp_path / "left"))
    config = copied / "tokenizer_config.json"
    config.write_text(config.read_text().replace("{", '{"truncation_side": "left",', 1))
    for options in ({}, {"long_text": "window"}):
        assert_agrees(Answered(copied, TaskConfig(options=options), pa.table({"text": RAGGED_TEXTS})))


@pytest.mark.usefixtures("modules")
def test_code_that_comes_with_a_checkpoint_is_run_where_it_is_trusted(single_label: Path, tmp_path: Path) -> None:
    path = with_code(single_label, tmp_path / "own")
    table = pa.table({"text": RAGGED_TEXTS})
    answered = Answered(path, TaskConfig(), table, trust_remote_code=True)
    assert_agrees(answered)
    plain = Answered(single_label, TaskConfig(), table)  # this code says the opposite
    assert [row["label"] for row in answered.found] != [row["label"] for row in plain.found]


@pytest.mark.parametrize("num_beams", [1, 3])
def test_what_bart_writes_is_what_its_own_generation_writes(num_beams: int, tmp_path: Path) -> None:
    tokenizer = TOKENIZERS["roberta"]()
    tokenizer.model_max_length = 64
    layers = {"layers": 2, "attention_heads": 2, "ffn_dim": 64}
    sizes: dict[str, Any] = {f"{side}_{name}": n for side in ("encoder", "decoder") for name, n in layers.items()}
    torch.manual_seed(3)
    BartForConditionalGeneration(
        BartConfig(vocab_size=len(tokenizer), d_model=32, max_position_embeddings=64, init_std=0.25, **sizes)
    ).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    config = TaskConfig(
        name="text2text-generation", logits=True, options={"max_new_tokens": 8, "num_beams": num_beams, "top_k": 3}
    )
    assert_agrees(Answered(tmp_path, config, pa.table({"text": RAGGED_TEXTS})))


def test_a_text_that_the_tokenizer_refuses_fails_in_both(copy: Path) -> None:
    answered = Answered(without_unknown(copy), TaskConfig(), pa.table({"text": ["a", "ж", "b"]}))
    assert [row[ERROR] is None for row in answered.found] == [True, False, True]
    assert_agrees(answered)
    assert answered.check(1).is_same


def test_masks_are_found_where_the_tokenizer_does_not_say_which_they_are(tmp_path: Path) -> None:
    path = examples.checkpoint(tmp_path, "fill-mask", "bert")
    table = examples.table("fill-mask", path)
    edit_json(path / "tokenizer_config.json", "mask_token", tokenizer_class="PreTrainedTokenizerFast")
    answered = Answered(path, TaskConfig(name="fill-mask"), table)
    assert [row[ERROR] is None for row in answered.found] == [True] * len(RAGGED_TEXTS) + [False]
    assert_agrees(answered)


def test_a_confidence_that_is_no_number_is_seen_wherever_it_stands(tmp_path: Path) -> None:
    path = examples.checkpoint(tmp_path / "mask", "fill-mask", "bert")
    answered = Answered(path, TaskConfig(name="fill-mask"), pa.table({"text": ["[MASK] good [MASK]"]}))
    assert_agrees(answered)
    first, second = answered.found[0]["predictions"]
    spoilt = [first, [second[0] | {"confidence": math.nan}, *second[1:]]]
    assert answered.check(0, predictions=spoilt).is_same is False
    path = examples.checkpoint(tmp_path / "answers", "question-answering", "bert")
    table = pa.table({"question": ["a tool"], "context": ["the good film, the bad tool"]})
    answered = Answered(path, TaskConfig(name="question-answering", options={"top_k": 2}), table)
    assert_agrees(answered)
    first, second = answered.found[0]["answers"]
    assert answered.check(0, answers=[first, second | {"confidence": math.nan}]).is_same is False


def test_a_checkpoint_that_transformers_refuses_is_one_sentence(copy: Path) -> None:
    edit_json(copy / "config.json", hidden_dropout_prob="some")
    message = r"by transformers alone \(.*'hidden_dropout_prob': .*\); leave the values out with --sample 0"
    with pytest.raises(ModelError, match=message):
        Reference(ModelConfig(name=str(copy)), TaskConfig())
