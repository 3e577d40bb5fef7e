"""A calibration from an output of a real model, whose gold was drawn with a known temperature."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from numpy.typing import NDArray
from typer.testing import Result

from inference.calibration import best_threshold
from jobs.cli import app
from jobs.gold_labels import gold_labels
from jobs.gold_rows import _matrix_of
from jobs.status import read_status
from tests.jobs.conftest import read_parts
from tests.jobs.world import RUNNER, World, refusal

WORDS = "the an good bad film tool library for fast slow really not".split()  # noqa: SIM905 - a sentence reads better
NUM_ROWS = 5000
TRUTH = 0.4
TRUTHS = [0.3, 1.0, 2.0, 0.5]


def calibrate(output: Path, *arguments: str) -> Result:
    return RUNNER.invoke(app, ["calibrate", str(output), *arguments])


def calibrated(output: Path, *arguments: str) -> dict[str, Any]:
    result = calibrate(output, *arguments, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def with_gold(world: World, draw: Any) -> Path:
    """Label once to know the logits, and again with the gold that is drawn from them."""
    random = np.random.default_rng(11)
    texts = [" ".join(random.choice(WORDS, size=1 + i % 12)) for i in range(NUM_ROWS)]
    world.job["output"]["logits"] = True
    (world.folder / "in" / "good.parquet").unlink()
    world.write_shard("a.parquet", texts)
    assert world.run().exit_code == 0
    logits = np.array([row["logits"] for row in world.rows("a.parquet")])
    gold = draw(logits, random)
    world.write_shard("a.parquet", texts[:3000], gold=gold[:3000])
    # Another shard, which has a failed row and one without gold.
    world.write_shard(
        "b.parquet", [*texts[3000:], None, "a film"], gold=pa.array([*gold[3000:], gold[0], None], gold.type)
    )
    world.job["output"]["path"] = str(world.folder / "labels")
    assert world.run().exit_code == 0
    return world.folder / "labels"


@pytest.fixture(scope="module")
def classes(single_label: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exclusive classes: gold is drawn from softmax(logits / TRUTH)."""

    def draw(logits: NDArray[np.float64], random: np.random.Generator) -> pa.Array:
        gumbel = random.gumbel(size=logits.shape)  # argmax(z + gumbel) is a draw from softmax(z)
        names = np.array(["negative", "neutral", "positive"])
        return pa.array(names[(logits / TRUTH + gumbel).argmax(axis=1)].tolist())

    return with_gold(World(tmp_path_factory.mktemp("classes"), single_label), draw)


@pytest.fixture(scope="module")
def label_sets(multi_label: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Independent labels: gold is drawn from sigmoid(logits / TRUTHS)."""

    def draw(logits: NDArray[np.float64], random: np.random.Generator) -> pa.Array:
        is_right = random.uniform(size=logits.shape) < 1 / (1 + np.exp(-logits / TRUTHS))
        names = ["art", "music", "science", "sport"]
        return pa.array([[name for name, yes in zip(names, row, strict=True) if yes] for row in is_right])

    return with_gold(World(tmp_path_factory.mktemp("sets"), multi_label), draw)


def test_a_part_with_a_damaged_page_is_named(classes: Path, tmp_path: Path) -> None:
    output = Path(shutil.copytree(classes, tmp_path / "labels"))
    path = output / "b.parquet"
    logits = pq.read_metadata(path).row_group(0).column(pq.read_schema(path).names.index("logits"))
    start = logits.dictionary_page_offset or logits.data_page_offset
    content = bytearray(path.read_bytes())
    content[start : start + 400] = bytes(400)
    path.write_bytes(content)
    result = calibrate(output, "--gold", "gold")
    assert result.exit_code == 2
    assert refusal(result).startswith(f"shardlabel: {path} cannot be read (")
    assert refusal(result).endswith("); delete it and run again")


def test_the_temperature_that_the_gold_was_drawn_with_is_found(classes: Path) -> None:
    found = calibrated(classes, "--gold", "gold")
    assert found["options"] == {"temperature": pytest.approx(TRUTH, rel=0.1)}
    assert (found["num_fitted"], found["num_held_out"], found["num_left_out"]) == (2500, 2500, 2)
    before, after = found["before"], found["after"]
    assert after["negative_log_likelihood"] < before["negative_log_likelihood"]
    assert after["calibration_error"] < before["calibration_error"]
    assert after["accuracy"] == before["accuracy"]
    assert after["micro_f1"] is after["coverage"] is None


def test_the_numbers_are_those_of_the_half_that_was_not_fitted_on(classes: Path) -> None:
    found = calibrated(classes, "--gold", "gold", "--seed", "3")
    rows = [row for row in read_parts(str(classes)) if row["error"] is None and row["gold"] is not None]
    held_out = [rows[i] for i in np.random.default_rng(3).permutation(NUM_ROWS)[NUM_ROWS // 2 :]]
    right = [row["label"] == row["gold"] for row in held_out]
    assert found["before"]["accuracy"] == pytest.approx(np.mean(right))
    labels = ["negative", "neutral", "positive"]
    losses = [
        np.logaddexp.reduce(np.array(row["logits"]) / t) - row["logits"][labels.index(row["gold"])] / t
        for row in held_out
        for t in [found["options"]["temperature"]]
    ]
    assert found["after"]["negative_log_likelihood"] == pytest.approx(np.mean(losses))
    assert calibrated(classes, "--gold", "gold")["options"] != found["options"]


def test_the_options_of_an_accuracy_give_it_when_relabelled(classes: Path, tmp_path: Path) -> None:
    file, wanted = tmp_path / "options.yaml", 0.97
    plain = calibrated(classes, "--gold", "gold")["after"]["accuracy"]
    assert plain < wanted - 0.02
    found = calibrated(classes, "--gold", "gold", "--accuracy", str(wanted), "--out", str(file))
    assert yaml.safe_load(file.read_text()) == found["options"]
    assert set(found["options"]) == {"temperature", "abstain_below"}
    done = RUNNER.invoke(app, ["relabel", str(classes), str(tmp_path / "new"), "--options", str(file)])
    assert done.exit_code == 0, done.output
    assert read_status(str(tmp_path / "new")).job["task.options"] == found["options"]
    rows = [row for row in read_parts(str(tmp_path / "new")) if row["error"] is None and row["gold"] is not None]
    order = np.random.default_rng(0).permutation(NUM_ROWS)
    fitted, held_out = ([rows[i] for i in half] for half in np.split(order, [NUM_ROWS // 2]))
    right = [row["label"] == row["gold"] for row in fitted if row["label"] is not None]
    assert wanted <= np.mean(right) < wanted + 0.005
    accepted = [row for row in held_out if row["label"] is not None]
    assert found["after"]["coverage"] == pytest.approx(len(accepted) / len(held_out))
    assert found["after"]["accepted_accuracy"] == pytest.approx(np.mean([r["label"] == r["gold"] for r in accepted]))


def test_an_accuracy_that_all_rows_have_needs_no_threshold(classes: Path) -> None:
    assert set(calibrated(classes, "--gold", "gold", "--accuracy", "0.2")["options"]) == {"temperature"}


def test_an_accuracy_beyond_reach_is_status_1(single_label: Path, tmp_path: Path) -> None:
    world = World(tmp_path, single_label)
    world.job["output"]["logits"] = True
    assert world.run().exit_code == 0
    wrong = "neutral" if world.rows("good.parquet")[0]["label"] == "positive" else "positive"
    world.write_shard("good.parquet", ["the good film"] * 60, gold=[wrong] * 60)
    assert world.run(f"output.path={tmp_path / 'gold'}").exit_code == 0
    result = calibrate(tmp_path / "gold", "--gold", "gold", "--accuracy", "0.5")
    assert "no threshold reaches 50.0%, without one it is 0.0%" in refusal(result)
    assert result.exit_code == 1


def test_independent_labels_get_a_temperature_and_a_threshold_each(label_sets: Path, tmp_path: Path) -> None:
    file = tmp_path / "options.yaml"
    found = calibrated(label_sets, "--gold", "gold", "--out", str(file))
    temperatures, thresholds = found["options"]["temperature"], found["options"]["threshold"]
    assert list(temperatures.values()) == pytest.approx(TRUTHS, rel=0.25)
    assert found["after"]["negative_log_likelihood"] < found["before"]["negative_log_likelihood"]
    assert found["after"]["macro_f1"] > found["before"]["macro_f1"]
    done = RUNNER.invoke(app, ["relabel", str(label_sets), str(tmp_path / "new"), "--options", str(file), "--scores"])
    assert done.exit_code == 0, done.output
    rows = [row for row in read_parts(str(tmp_path / "new")) if row["error"] is None and row["gold"] is not None]
    fitted = [rows[i] for i in np.random.default_rng(0).permutation(NUM_ROWS)[: NUM_ROWS // 2]]
    for i, label in enumerate(["art", "music", "science", "sport"]):
        scores = np.array([row["scores"][i] for row in fitted], np.float32)
        is_right = np.array([label in row["gold"] for row in fitted])
        assert thresholds[label] == best_threshold(scores, is_right)
        assert all((label in row["labels"]) == (row["scores"][i] > np.float32(thresholds[label])) for row in rows)


def test_people_see_both_halves_and_what_to_write(classes: Path) -> None:
    lines = calibrate(classes, "--gold", "gold").stdout.splitlines()
    assert lines[0] == "gold gold: 2,500 rows fitted on, 2,500 held out (seed 0), 2 without gold or failed"
    found = calibrated(classes, "--gold", "gold")
    names = {line[:20].strip(): line[20:].split() for line in lines}
    assert names["NLL"] == [f"{found[when]['negative_log_likelihood']:.4f}" for when in ("before", "after")]
    assert lines[-1] == f"temperature: {found['options']['temperature']}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gold", "glod"], "--gold: the output has no column 'glod'; did you mean 'gold'?"),
        (["--gold", "confidence"], "column 'confidence' holds float, expected label names"),
        (["--gold", "text"], "column 'text' has labels that the checkpoint has not: "),
    ],
)
def test_a_column_that_is_no_gold_is_status_2(arguments: list[str], message: str, classes: Path) -> None:
    result = calibrate(classes, *arguments)
    assert message in refusal(result)
    assert result.exit_code == 2


def test_what_does_not_fit_the_head_is_refused(label_sets: Path) -> None:
    assert "--accuracy: only checkpoints that choose one of several" in refusal(
        calibrate(label_sets, "--gold", "gold", "--accuracy", "0.9")
    )
    assert "column 'text' has labels that the checkpoint has not" in refusal(calibrate(label_sets, "--gold", "text"))
    assert "column 'confidences' holds list<" in refusal(calibrate(label_sets, "--gold", "confidences"))


@pytest.mark.parametrize(
    ("kind", "offset", "names_kind"),
    [
        (pa.int64(), 0, pa.dictionary(pa.int32(), pa.string())),
        (pa.int8(), 0, pa.string_view()),
        (pa.int64(), 1, pa.string()),
    ],
    ids=str,
)
def test_ids_are_gold_in_the_order_of_the_logits(
    kind: pa.DataType, offset: int, names_kind: pa.DataType, single_label: Path, tmp_path: Path
) -> None:
    world = World(tmp_path, single_label)
    world.job["output"]["logits"] = True
    texts = [" ".join(WORDS[i % 7 : i % 12]) for i in range(60)]
    world.write_shard("good.parquet", texts, gold=pa.array([i % 3 + offset for i in range(60)], kind))
    names = pa.array([["negative", "neutral", "positive"][i % 3] for i in range(60)]).cast(names_kind)
    world.write_shard("good.parquet", texts, gold=pq.read_table(tmp_path / "in/good.parquet")["gold"], named=names)
    assert world.run().exit_code == 0
    if offset:
        assert "has labels that the checkpoint has not: '3' (20 rows); it has negative, neutral, positive" in refusal(
            calibrate(world.out, "--gold", "gold")
        )
    else:
        by_id, by_name = (calibrated(world.out, "--gold", column) for column in ("gold", "named"))
        assert by_id | {"gold": ""} == by_name | {"gold": ""}
        assert by_id["num_fitted"] == 30
        # The report takes the same rows for right.
        reports = [
            json.loads(RUNNER.invoke(app, ["report", str(world.out), "--gold", column, "--json"]).stdout)["gold"]
            for column in ("gold", "named")
        ]
        right = [row["label"] == row["named"] for row in world.rows("good.parquet")]
        assert [gold["accuracy"] for gold in reports] == [np.mean(right)] * 2


def test_what_gold_says_of_many_labels_of_numerals_and_of_nothing_in_a_set() -> None:
    names = [f"l{i}" for i in range(200)]
    for labels, numbers, has_sets, right in (
        (names, pa.array([0, 127], pa.int8()), False, [(0, 0), (1, 127)]),
        (["1", "2", "3"], pa.array([1, 3], pa.int64()), False, [(0, 0), (1, 2)]),
        (names, pa.array([[5, None], [], [7, 5]], pa.list_(pa.int32())), True, [(0, 5), (2, 5), (2, 7)]),
        (names, pa.array(["l3", "l1"]), True, [(0, 3), (1, 1)]),
    ):
        unknown = Counter[str]()
        gold = gold_labels(pa.chunked_array([numbers]), labels, has_sets=has_sets)
        found = np.argwhere(_matrix_of(gold, labels, unknown))
        assert ([tuple(pair) for pair in found.tolist()], unknown) == (right, Counter())


def test_gold_whose_bytes_are_no_text_is_status_2(single_label: Path, tmp_path: Path) -> None:
    world = World(tmp_path, single_label)
    world.job["output"]["logits"] = True
    offsets = pa.array([0, 1, 3], pa.int32()).buffers()[1]
    broken = pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"a\xffb")])
    world.write_shard("good.parquet", ["a film", "the film"], gold=broken)
    assert world.run().exit_code == 0
    for command in ("calibrate", "report"):
        result = RUNNER.invoke(app, [command, str(world.out), "--gold", "gold"])
        assert "--gold: the column has bytes that are no UTF-8, which name no label" in refusal(result)
        assert result.exit_code == 2


def test_a_handful_of_gold_rows_is_refused(single_label: Path, tmp_path: Path) -> None:
    world = World(tmp_path, single_label)
    world.job["output"]["logits"] = True
    world.write_shard("good.parquet", ["a film"] * 60, gold=["neutral"] * 19 + [None] * 41)
    assert world.run().exit_code == 0
    assert "19 rows have a label in 'gold' and are not failed; 20 are needed" in refusal(
        calibrate(world.out, "--gold", "gold")
    )
