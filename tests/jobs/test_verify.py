"""`shardlabel verify`: a sound output is sound, and each kind of damage is seen and named, whatever the footers say."""

import copy
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import Result

from inference import available_tasks
from inference.columns import ERROR
from inference.reference import Verdict
from jobs import storage
from jobs.cli import app
from jobs.config import JobConfig
from jobs.index import INDEX
from jobs.manifest import MANIFEST, SUCCESS
from jobs.plan import make_plan
from jobs.storage import locate
from jobs.verify import Effort, Verification, _choose_rows, verify_job
from jobs.verify_values import TOLERANCES, Values
from tests.conftest import RAGGED_TEXTS, MakeCheckpoint
from tests.inference.tasks import examples
from tests.jobs.conftest import MakeJob, run
from tests.jobs.s3_server import Store
from tests.jobs.test_tasks import PACKAGES
from tests.jobs.test_tasks import make_job as job_of
from tests.jobs.world import RUNNER, World, refusal

DEMO_MODEL = Path(__file__).parents[2] / "docs" / "demo" / "model"
EVERYTHING = Effort(sample=10_000)
NOTHING = {"label": None, "confidence": None}

Change = Callable[[pa.Table], pa.Table]


@pytest.fixture(scope="module")
def made(single_label: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A finished output: a shard of two parts, one of one, in which one text is null and one row has its own error."""
    world = World(tmp_path_factory.mktemp("made"), single_label)
    texts = [f"{RAGGED_TEXTS[i % len(RAGGED_TEXTS)]} {i}" for i in range(40)]
    world.write_shard("good.parquet", texts, id=range(40), weight=[float("nan"), *range(39)])
    world.write_shard("more/b.parquet", [*texts[:9], None], id=range(100, 110), weight=[0.5] * 10)
    world.job["run"] |= {"split_rows": 20, "max_failed_fraction": 1}
    assert world.run().exit_code == 0
    return world


@pytest.fixture
def world(made: World, tmp_path: Path) -> World:
    """A copy of it that a test may spoil; the shards keep their times."""
    copied = copy.copy(made)
    copied.folder = tmp_path
    shutil.copytree(made.folder, tmp_path, dirs_exist_ok=True)
    paths = {"input": {"path": str(tmp_path / "in")}, "output": {"path": str(copied.out)}}
    copied.job = made.job | paths
    return copied


def verify(world: World, *arguments: str) -> Result:
    """`shardlabel verify` of every row."""
    path = world.folder / "job.yaml"
    path.write_text(yaml.safe_dump(world.job))
    return RUNNER.invoke(app, ["verify", str(path), "--sample", "10000", *arguments])


def found(world: World, status: int, *arguments: str) -> Any:
    """What `--json` says, with the exit status."""
    result = verify(world, "--json", *arguments)
    assert result.exit_code == status, result.output
    return json.loads(result.stdout)


def problems(content: Any) -> list[tuple[str, str]]:
    return [(problem["kind"], problem["where"]) for problem in content["problems"]]


def rewrite(path: Path, change: Change, **record: Any) -> None:
    """Change a part's rows under the footer that it has, but for some numbers of its record."""
    table = pq.ParquetFile(path).read()
    metadata = dict(table.schema.metadata)
    identity = json.loads(metadata[b"shardlabel"])
    identity["record"] |= record
    metadata[b"shardlabel"] = json.dumps(identity, sort_keys=True).encode()
    pq.write_table(change(table).replace_schema_metadata(metadata), path, compression="zstd")


def with_value(column: str, row: int, value: Any) -> Change:
    """Another value in one place."""

    def change(table: pa.Table) -> pa.Table:
        values = table.column(column).to_pylist()
        values[row] = value
        i, kind = table.schema.get_field_index(column), table.schema.field(column)
        return table.set_column(i, kind, pa.array(values, kind.type))

    return change


def test_a_sound_output_is_sound_by_every_row(world: World) -> None:
    result = verify(world)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "sound"
    assert lines[1] == f"parts      3 of 3 in {world.out}, all read"
    assert lines[2] == "rows       50, compared with the input by text, id, weight"
    assert lines[3] == "values     50 rows recomputed in float32, the output is float32; seed 0"
    assert lines[4] == "           100% agree (at least 100% must), 50 of 50"
    content = found(world, 0)
    values = content["values"]
    assert (values["num_compared"], values["agreement"], values["rows"]) == (50, 1.0, [])
    assert list(values["differences"]) == ["confidence"]
    assert 0 < values["mean_difference"] <= values["max_difference"] < 1e-4
    assert (content["num_rows"], content["problems"], content["is_sound"]) == (50, [], True)


def test_rows_that_abstain_are_sound(world: World) -> None:
    world.job["task"] = {"options": {"abstain_below": 0.7, "temperature": 1.5}}
    world.job["output"] = {"path": str(world.folder / "sure")}
    assert world.run().exit_code == 0
    path = world.folder / "sure" / "good-00000.parquet"
    labels = pq.ParquetFile(path).read().column("label")
    assert 0 < labels.null_count < len(labels)
    assert found(world, 0)["values"]["agreement"] == 1.0
    rewrite(path, with_value("confidence", 3, None))
    assert ("answers", path.name) in problems(found(world, 1))


def flipped(world: World) -> dict[str, Any]:
    """Another label in the row 25 of good.parquet; which it was."""
    path = world.out / "good-00001.parquet"
    before = pq.ParquetFile(path).read().column("label")[5].as_py()
    rewrite(path, with_value("label", 5, "neutral" if before != "neutral" else "positive"))
    return {"row": 25, "expected": before}


def test_a_label_that_was_changed_is_found_in_its_row(world: World) -> None:
    change = flipped(world)
    content = found(world, 1)
    (row,) = content["values"]["rows"]
    assert (row["shard"], row["row"], row["text"]) == ("good.parquet", 25, f"{RAGGED_TEXTS[5]} 25")
    assert row["expected"].split()[0] == change["expected"] != row["found"].split()[0]
    assert content["values"]["agreement"] == 0.98
    assert problems(content) == []
    printed = verify(world).stdout
    assert "not sound" in printed.splitlines()[0]
    assert f"differs    good.parquet row 25: {RAGGED_TEXTS[5]} 25" in printed
    # Not even where one label in ten may differ: its confidence is not what the reference gives that label.
    assert "differ by up to" in refusal(verify(world, "--min-agreement", "0.9"))
    assert verify(world, "--min-agreement", "0.9", "--max-difference", "1").exit_code == 0


@pytest.mark.parametrize(("column", "value"), [("confidence", float("nan")), ("label", "zzz")])
def test_a_value_that_cannot_be_compared_is_a_fault_whatever_the_tolerances(
    column: str, value: Any, world: World
) -> None:
    rewrite(world.out / "good-00001.parquet", with_value(column, 5, value))
    content = found(world, 1, "--min-agreement", "0.9", "--max-difference", "0.5")
    (row,) = content["values"]["rows"]
    assert (row["row"], content["values"]["num_faulty"], problems(content)) == (25, 1, [])
    assert row["faults"][0].startswith("confidence cannot be compared: a value is not finite, ")


def test_a_label_is_only_found_when_its_row_is_in_the_sample(world: World) -> None:
    flipped(world)
    splits = make_plan(JobConfig.model_validate(world.job)).splits
    statuses = {}
    for seed in range(20):
        rows = _choose_rows(splits, Effort(sample=10, seed=seed))
        assert sum(map(len, rows.values())) == 10
        statuses[int(5 in rows.get("good-00001.parquet", []))] = seed
    assert sorted(statuses) == [0, 1]
    for status, seed in statuses.items():
        assert verify(world, "--sample", "10", "--seed", str(seed)).exit_code == status
    assert verify(world, "--sample", "0").exit_code == 0


def test_every_row_is_drawn_as_often_as_any_other(world: World) -> None:
    splits = make_plan(JobConfig.model_validate(world.job)).splits
    drawn: Counter[tuple[str, int]] = Counter()
    for seed in range(400):
        for part, rows in _choose_rows(splits, Effort(sample=10, seed=seed)).items():
            drawn.update((part, row) for row in rows)
    assert len(drawn) == 50
    assert max(drawn.values()) < 2 * min(drawn.values())  # 80 each, and a standard deviation of 8


def test_confidences_that_were_shifted_are_found(world: World) -> None:
    def shift(table: pa.Table) -> pa.Table:
        values = pc.subtract(table.column("confidence"), pa.scalar(0.1, pa.float32()))
        return table.set_column(table.schema.get_field_index("confidence"), table.schema.field("confidence"), values)

    rewrite(world.out / "good-00000.parquet", shift)
    content = found(world, 1)
    assert content["values"]["max_difference"] == pytest.approx(0.1, abs=1e-4)
    assert content["values"]["agreement"] == 1.0
    assert content["values"]["num_different"] == 20
    assert problems(content) == []


def swapped(table: pa.Table) -> pa.Table:
    return table.take([1, 0, *range(2, len(table))])


def test_rows_that_were_swapped_are_found(world: World) -> None:
    rewrite(world.out / "good-00001.parquet", swapped)
    content = found(world, 1)
    (problem,) = content["problems"]
    assert (problem["kind"], problem["where"]) == ("order", "good-00001.parquet")
    assert problem["message"] == (
        "row 0 differs from the input: text is ' 21', there it is 'the good film 20'; "
        "rows that differ: 2 in text, 2 in id, 2 in weight"
    )
    assert (content["values"]["num_sampled"], content["values"]["num_compared"]) == (50, 30)
    assert "not recomputed: 20 rows of parts whose rows are not in their place" in verify(world).stdout


def test_rows_that_were_dropped_or_doubled_are_found(world: World) -> None:
    path, content = world.out / "good-00000.parquet", (world.out / "good-00000.parquet").read_bytes()
    rewrite(path, lambda table: table.slice(0, 18))
    assert problems(found(world, 1))[0] == ("rows", "good-00000.parquet")
    assert "it has 18 rows, its split has 20" in verify(world).stdout
    path.write_bytes(content)
    rewrite(path, lambda table: pa.concat_tables([table, table.slice(19)]))
    assert "it has 21 rows, its split has 20" in verify(world).stdout
    path.write_bytes(content)
    rewrite(path, lambda table: pa.concat_tables([table.slice(0, 19), table.slice(0, 1)]))  # as many as before
    assert ("order", "good-00000.parquet") in problems(found(world, 1))


def test_a_part_that_is_gone_is_missed(world: World) -> None:
    (world.out / "good-00000.parquet").unlink()
    content = found(world, 1)
    assert problems(content) == [("missing", "good-00000.parquet")]
    assert "the part of 20 rows of good.parquet is gone, which a run had written" in verify(world).stdout
    assert (content["num_parts"], content["num_rows"]) == (2, 30)


def test_a_part_that_lost_its_end_is_found(world: World) -> None:
    path = world.out / "more" / "b.parquet"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert problems(found(world, 1)) == [("torn", "more/b.parquet")]


def test_bytes_that_changed_within_a_part_are_found(world: World) -> None:
    path = world.out / "good-00000.parquet"
    content = bytearray(path.read_bytes())
    content[4:400] = bytes(396)
    path.write_bytes(content)
    ((kind, where), *_) = problems(found(world, 1))
    assert (kind in {"torn", "order"}, where) == (True, "good-00000.parquet")


@pytest.fixture(scope="module")
def other(made: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a job that differs in one key."""
    folder = tmp_path_factory.mktemp("other")
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(made.job | {"output": {"path": str(folder / "out")}}))
    assert RUNNER.invoke(app, ["run", str(path), "model.max_length=16"]).exit_code == 0
    return folder / "out"


def test_a_part_of_another_job_is_found_in_and_beside_the_others(world: World, other: Path) -> None:
    for name in ("good-00000.parquet", "new.parquet"):
        shutil.copy(other / "good-00000.parquet", world.out / name)
    content = found(world, 1)
    assert problems(content) == [("foreign", "good-00000.parquet"), ("foreign", "new.parquet")]
    assert content["problems"][0]["message"] == "it is a part of another job (model.max_length was 16, is 32)"


def test_of_rows_that_differ_the_first_are_kept_and_all_are_counted(world: World) -> None:
    values = Values(make_plan(JobConfig.model_validate(world.job)), TOLERANCES["float32"], 0)
    for row in range(50):
        faults = () if row % 2 else ("it is wrong",)
        values._add(Verdict(is_same=True, differences={}, found="a", expected="b", faults=faults), "x", row, "text")
    found = values.finish()
    assert (found.num_compared, found.num_different) == (50, 25)
    assert [each.row for each in found.rows] == list(range(0, 40, 2))
    assert len(values._rows) == 20


def test_files_too_many_are_found(world: World) -> None:
    (world.out / "notes.txt").write_text("not a part")
    pq.write_table(pa.table({"a": [1]}), world.out / "table.parquet")
    shutil.copy(world.out / "good-00000.parquet", world.out / "copy.parquet")
    content = found(world, 1)
    assert problems(content) == [("extra", "copy.parquet"), ("foreign", "notes.txt"), ("foreign", "table.parquet")]
    assert "it is a copy of good-00000.parquet, whose rows are there twice then" in verify(world).stdout


def test_a_part_under_the_name_of_another_is_found(world: World) -> None:
    shutil.copy(world.out / "good-00000.parquet", world.out / "good-00001.parquet")
    assert problems(found(world, 1)) == [("extra", "good-00001.parquet")]


def test_an_index_that_lacks_a_shard_or_names_another_version_is_found(world: World) -> None:
    index = world.out / INDEX
    table = pq.read_table(index)
    pq.write_table(table.filter(pc.not_equal(table.column("shard"), "good.parquet")), index)
    assert problems(found(world, 1)) == [("index", "good.parquet")]
    i, sizes = table.schema.get_field_index("size"), pc.add(table.column("size"), 1)
    pq.write_table(table.set_column(i, table.schema.field("size"), sizes), index)
    assert problems(found(world, 1)) == [("index", "good.parquet"), ("index", "more/b.parquet")]
    for spoil in (index.unlink, lambda: index.write_bytes(b"no index")):
        spoil()
        assert [where for kind, where in problems(found(world, 1)) if kind == "index"][-2:] == [
            "good.parquet",
            "more/b.parquet",
        ]
    (world.out / "good-00000.parquet").unlink()
    assert problems(found(world, 1)) == [
        ("index", INDEX),
        ("missing", "good-00000.parquet"),
        ("index", "more/b.parquet"),
    ]


def test_counts_that_do_not_fit_are_found_in_the_footer_and_in_the_rows(world: World) -> None:
    path = world.out / "good-00000.parquet"
    table = pq.ParquetFile(path).read()
    total = pc.sum(table.column("num_tokens")).as_py()
    row = table.column("num_tokens")[3].as_py()
    rewrite(path, with_value("num_tokens", 3, row + 1))
    content = found(world, 1)
    assert problems(content) == [("counts", "good-00000.parquet")]
    assert content["problems"][0]["message"] == f"its footer says num_tokens {total:,}, its rows {total + 1:,}"
    rewrite(path, lambda table: table, num_tokens=total + 1)
    content = found(world, 1)
    assert problems(content) == []
    assert content["values"]["num_faulty"] == 1
    assert content["values"]["rows"][0]["faults"] == [f"num_tokens is {row + 1}, the tokenizer gives {row}"]


def test_every_number_of_a_footer_is_counted_again(world: World) -> None:
    path = world.out / "more" / "b.parquet"
    rewrite(path, lambda table: table, num_failed=0, num_truncated=5, errors={"InputError: text is null": 3})
    messages = [problem["message"] for problem in found(world, 1, "--sample", "0")["problems"]]
    assert messages == [
        "its footer says num_failed 0, its rows 1",
        "its footer says num_truncated 5, its rows 2",
        "its footer says 3 x 'InputError: text is null', its rows 1",
    ]


def test_a_failed_row_with_an_answer_is_found(world: World) -> None:
    path = world.out / "more" / "b.parquet"
    rewrite(path, with_value(ERROR, 9, None), num_failed=0, errors={})
    content = found(world, 1)
    assert problems(content) == [("answers", "more/b.parquet")]
    (row,) = content["values"]["rows"]
    assert row["faults"] == ["it has no error, and there can be no answer (InputError: text is null)"]


def test_a_row_that_failed_without_a_reason_is_shown(world: World) -> None:
    path = world.out / "more" / "b.parquet"
    error = "RuntimeError: nobody knows"
    rewrite(path, with_value(ERROR, 2, error), num_failed=2, errors={error: 1, "InputError: text is null": 1})
    rewrite(path, with_value("label", 2, None))
    rewrite(path, with_value("confidence", 2, None))
    content = found(world, 1)
    assert problems(content) == []
    (row,) = content["values"]["rows"]
    assert (row["found"], row["expected"]) == (f"failed: {error}", "an answer")


def test_columns_that_are_not_those_of_the_job_are_found(world: World) -> None:
    path = world.out / "good-00000.parquet"
    content = path.read_bytes()
    rewrite(path, lambda table: table.drop(["weight"]))
    assert found(world, 1)["problems"][0]["message"] == "it has no column 'weight'"
    path.write_bytes(content)
    rewrite(path, lambda table: table.set_column(1, "id", table.column("id").cast(pa.int32())))
    assert found(world, 1)["problems"][0]["message"] == "column 'id' is int32, expected int64"
    path.write_bytes(content)
    rewrite(path, lambda table: table.select(table.column_names[::-1]))
    assert problems(found(world, 1)) == [("schema", "good-00000.parquet")]


def test_an_output_that_no_run_finished_is_not_sound(world: World) -> None:
    (world.out / SUCCESS).unlink()
    assert problems(found(world, 1)) == [("unfinished", SUCCESS)]


def test_shards_that_changed_came_or_went_are_named_and_no_damage(world: World) -> None:
    world.write_shard("c.parquet", ["new"], id=[1], weight=[0.0])
    os.utime(world.folder / "in" / "good.parquet", (1, 1))
    (world.folder / "in" / "more" / "b.parquet").unlink()
    content = found(world, 0)
    names = [content[f"{key}_shards"] for key in ("stale", "new", "vanished")]
    assert names == [["good.parquet"], ["c.parquet"], ["more/b.parquet"]]
    assert (content["num_parts"], content["num_read"], content["values"]["num_compared"]) == (0, 0, 0)
    lines = verify(world).stdout.splitlines()
    assert lines[-3].startswith("stale      1 shard (good.parquet) changed, or are cut otherwise")
    assert world.run("--prune").exit_code == 0
    assert found(world, 0)["num_parts"] == 3


def test_a_shard_that_cannot_be_read_is_a_problem(world: World) -> None:
    (world.folder / "in" / "broken.parquet").write_bytes(b"PAR1 but not really")
    assert ("input", "broken.parquet") in problems(found(world, 1))


def test_a_choice_of_parts_is_read_and_said(world: World) -> None:
    content = found(world, 0, "--parts", "1")
    assert (content["num_parts"], content["num_read"]) == (3, 1)
    assert content["values"]["num_compared"] == content["num_rows"] in {10, 20}
    assert "3 of 3 in" in (text := verify(world, "--parts", "1", "--seed", "3").stdout)
    assert "1 of them read, chosen by seed 3" in text
    assert {found(world, 0, "--parts", "1", "--seed", str(seed), "--sample", "0")["num_rows"] for seed in range(6)} == {
        10,
        20,
    }


def test_without_input_columns_it_says_that_rows_were_not_compared(world: World) -> None:
    world.job["output"] = {"path": str(world.folder / "bare"), "keep_columns": []}
    assert world.run().exit_code == 0
    text = verify(world).stdout
    assert "rows       50, not compared with the input: output.keep_columns keeps none of its columns" in text
    path = world.folder / "bare" / "good-00001.parquet"
    rewrite(path, lambda table: table.take([0, 1, 2, 3, 4, 6, 5, *range(7, 20)]))
    content = found(world, 1)  # texts 25 and 26: "x" has other tokens than "tool tool …"
    assert [row["faults"] != [] for row in content["values"]["rows"]] == [True, True]


def test_values_of_every_type_are_compared_without_a_false_alarm(world: World) -> None:
    rows = 12
    column = pa.array([[{"x": float("nan")}, {"x": 1.5}], None, []] * 4)
    world.write_shard(
        "kinds.parquet",
        pa.array(["a film"] * rows).dictionary_encode(),
        id=range(rows),
        weight=[float("inf"), None, float("nan")] * 4,
        nested=column,
        when=pa.array(range(rows), pa.timestamp("s", "UTC")),
        raw=pa.array([b"\xff\x00", None, b""] * 4),
        colour=pa.array(["red", "blue", None] * 4).dictionary_encode(),
    )
    assert world.run("run.split_rows=5").exit_code == 0
    content = found(world, 0, "run.split_rows=5")
    assert set(content["compared_columns"]) == {"text", "id", "weight", "nested", "when", "raw", "colour"}
    rewrite(world.out / "kinds-00000.parquet", with_value("nested", 0, [{"x": float("nan")}, {"x": 1.25}]))
    (problem,) = found(world, 1, "run.split_rows=5")["problems"]
    assert problem["message"].startswith("row 0 differs from the input: nested is [{'x': nan}, {'x': 1.25}], there it")


def test_another_job_an_empty_place_and_a_wrong_request_are_refused(world: World, tmp_path: Path) -> None:
    result = verify(world, "model.max_length=16")
    assert result.exit_code == 2
    assert "holds the output of another job (model.max_length was 32, is 16); verify it with" in refusal(result)
    world.job["output"] = {"path": str(tmp_path / "nothing")}
    result = verify(world)
    assert result.exit_code == 2
    assert f"{tmp_path / 'nothing'} holds no output yet; run the job first" in refusal(result)
    assert not (tmp_path / "nothing").exists()
    assert verify(world, "--min-agreement", "2").exit_code == 2


def test_a_lost_manifest_is_made_up_for_by_the_parts_and_nothing_is_written(world: World) -> None:
    (world.out / MANIFEST).unlink()
    before = sorted((str(path), path.stat().st_mtime_ns) for path in world.out.rglob("*"))
    assert found(world, 0)["is_sound"]
    assert sorted((str(path), path.stat().st_mtime_ns) for path in world.out.rglob("*")) == before


@pytest.mark.parametrize("task", available_tasks())
def test_the_output_of_every_task_is_sound(task: str, tmp_path: Path) -> None:
    checkpoint = examples.checkpoint(tmp_path / "model", task, examples.families(task)[0])
    (tmp_path / "in").mkdir()
    rows = examples.table(task, checkpoint)
    pq.write_table(rows, tmp_path / "in" / "a.parquet", row_group_size=5)
    job = job_of(task, checkpoint, tmp_path / "in", tmp_path / "out", run={"split_rows": 5})
    run(job)
    result = verify_job(job, EVERYTHING)
    assert result.problems == ()
    assert result.values is not None
    assert result.values.num_compared == len(rows)
    assert result.values.rows == ()
    assert (result.values.agreement, result.is_sound) == (1.0, True)
    assert 0 < result.values.max_difference < 1e-4


def test_an_output_whose_labels_were_withheld_is_sound_as_its_job_made_it_and_relabelled(world: World) -> None:
    options = "task.options={temperature: 3.0, abstain_below: 0.7}"
    job = [f"output.path={world.folder / 'unsure'}", "output.logits=true"]
    assert world.run(*job).exit_code == 0
    target = world.folder / "sure"
    arguments = ["relabel", str(world.folder / "unsure"), str(target), "temperature=3.0", "abstain_below=0.7"]
    assert RUNNER.invoke(app, arguments).exit_code == 0
    again = [f"output.path={target}", "output.logits=true", options]
    content = found(world, 0, *again)
    assert (content["values"]["num_compared"], content["values"]["agreement"]) == (50, 1.0)
    path = target / "good-00000.parquet"
    rows = pq.ParquetFile(path).read()
    is_withheld = pc.is_null(rows.column("label")).to_pylist()
    assert 0 < sum(is_withheld) < len(rows)
    rewrite(path, with_value("confidence", is_withheld.index(True), None))
    assert ("answers", "good-00000.parquet") in problems(found(world, 1, *again))


def test_of_several_models_the_one_that_answered_is_asked_again(world: World, make_checkpoint: MakeCheckpoint) -> None:
    labels = ["negative", "neutral", "positive"]
    second = make_checkpoint(labels, max_length=64, hidden_size=16)
    first = {"name": str(world.checkpoint), "dtype": "float32", "escalate_below": 0.7}
    world.job |= {"model": [first, {"name": str(second), "dtype": "float32"}]}
    world.job["output"] = {"path": str(world.folder / "cascade")}
    assert world.run().exit_code == 0
    path = world.folder / "cascade" / "good-00000.parquet"
    assert set(pq.ParquetFile(path).read().column("answered_by").to_pylist()) == {0, 1}
    content = found(world, 0)
    assert (content["values"]["num_compared"], content["values"]["agreement"]) == (50, 1.0)
    rewrite(
        path,
        lambda table: table.set_column(
            (i := table.schema.get_field_index("answered_by")),
            table.schema.field(i),
            pc.subtract(pa.scalar(1, pa.int8()), table.column("answered_by")),
        ),
    )
    assert found(world, 1)["values"]["num_different"] > 10


def cascade(world: World, second: Path) -> tuple[Path, list[dict[str, Any]]]:
    """A part of two models, of which the first fails at what is long, and its rows."""
    first = {"name": str(world.checkpoint), "dtype": "float32", "max_length": 12, "escalate_below": 0.7}
    world.job |= {
        "model": [first, {"name": str(second), "dtype": "float32"}],
        "task": {"options": {"long_text": "error"}},
        "output": {"path": str(world.folder / "cascade")},
    }
    assert world.run().exit_code == 0
    path = world.folder / "cascade" / "good-00000.parquet"
    return path, pq.ParquetFile(path).read().to_pylist()


def test_of_several_models_each_row_has_the_answer_of_the_one_that_the_bound_gives_it_to(
    world: World, make_checkpoint: MakeCheckpoint
) -> None:
    second = make_checkpoint(["negative", "neutral", "positive"], max_length=64, hidden_size=16)
    path, rows = cascade(world, second)
    stayed = next(i for i, row in enumerate(rows) if row["answered_by"] == 0)
    went = next(i for i, row in enumerate(rows) if (row["escalated_from"] or {}).get("confidence"))
    # Rows at which the first model failed went on, and one without a text did not.
    assert any(row["error"] is None and (row["escalated_from"] or {}) == NOTHING for row in rows)
    empty = pq.ParquetFile(path.parent / "more" / "b.parquet").read().to_pylist()[9]
    assert (empty["text"], empty["answered_by"], empty["escalated_from"]) == (None, 0, None)
    assert problems(found(world, 0)) == []
    content, where = path.read_bytes(), path.name
    num_escalated = sum(row["answered_by"] for row in rows)
    for column, row, value, more in (
        ("answered_by", stayed, 7, [num_escalated + 1]),
        ("answered_by", stayed, -1, [num_escalated]),
        ("answered_by", stayed, None, [num_escalated]),
        ("answered_by", went, 0, [num_escalated - 1]),
        ("escalated_from", went, None, [num_escalated]),
        ("escalated_from", went, rows[went]["escalated_from"] | {"confidence": 0.75}, [num_escalated]),
        ("escalated_from", stayed, {"label": "neutral", "confidence": 0.5}, [num_escalated]),
        ("confidence", stayed, 0.65, [num_escalated]),
    ):
        rewrite(path, with_value(column, row, value), num_escalated=more)
        assert problems(found(world, 1, "--min-agreement", "0", "--max-difference", "1")) == [("escalation", where)]
        path.write_bytes(content)
    rewrite(path, with_value("answered_by", stayed, 7), num_escalated=[num_escalated + 1])
    text = verify(world).stdout
    assert "good-00000.parquet: 1 rows have another model's answer than escalate_below gives them" in text
    assert "not recomputed: 1 rows of parts whose rows are not in their place, or whose answered_by is no" in text
    path.write_bytes(content)
    rewrite(path, lambda table: table, num_escalated=[0])
    (problem,) = found(world, 1)["problems"]
    assert problem["message"] == f"its footer says num_escalated [0], its rows [{num_escalated}]"


def test_a_row_without_a_text_cannot_have_gone_on(world: World, make_checkpoint: MakeCheckpoint) -> None:
    second = make_checkpoint(["negative", "neutral", "positive"], max_length=64, hidden_size=16)
    path, _ = cascade(world, second)
    path = path.parent / "more" / "b.parquet"
    num_escalated = sum(row["answered_by"] for row in pq.ParquetFile(path).read().to_pylist())
    rewrite(path, with_value("answered_by", 9, 1), num_escalated=[num_escalated + 1])
    rewrite(path, with_value("escalated_from", 9, NOTHING))
    assert problems(found(world, 1)) == [("escalation", "more/b.parquet")]


def test_an_output_on_s3_is_read_there(
    make_job: MakeJob, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "SETTLE_SECONDS", 0.0)
    name = tmp_path.name.replace("_", "-").lower()
    place = locate(store.uri(name) + "&allow_bucket_creation=true")
    place.filesystem.create_dir(place.path)
    job = make_job(output={"path": store.uri(f"{name}/out")}, run={"split_rows": 10})
    run(job)
    assert verify_job(job, EVERYTHING).is_sound
    part = locate(store.uri(f"{name}/out")).join("b.parquet")
    content = storage.read_bytes(part)
    assert content is not None
    storage.write(part, content[: len(content) // 2])
    assert [problem.kind for problem in verify_job(job, EVERYTHING).problems] == ["torn"]


def demo_job(folder: Path, texts: pa.Table, **model: Any) -> JobConfig:
    """The shipped model over some texts."""
    (folder / "in").mkdir()
    pq.write_table(texts, folder / "in" / "a.parquet")
    content = {
        "input": {"path": str(folder / "in")},
        "output": {"path": str(folder / "out")},
        "model": {"name": str(DEMO_MODEL), "max_length": 128, **model},
        "run": {"executor": "local", "split_rows": 250},
    }
    return JobConfig.model_validate(content)


@pytest.mark.skipif(not PACKAGES.exists(), reason="the package descriptions are not beside this checkout")
def test_bfloat16_packed_and_fused_agrees_with_float32_on_real_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = pq.read_table(min(PACKAGES.glob("*.parquet"))).slice(0, 500).select(["package", "text"])
    job = demo_job(tmp_path, texts, dtype="bfloat16", packed=True)
    run(job)
    result: Verification = verify_job(job, Effort(sample=200))
    values = result.values
    assert values is not None
    with capsys.disabled():
        print(  # noqa: T201 - the measurement is to be seen
            f"\nverify: {values.num_compared} of 500 package descriptions, bfloat16, packed: {values.agreement:.2%} of "
            f"the labels agree with float32, confidences moved by {values.mean_difference:.1e} on average and "
            f"{values.max_difference:.1e} at most"
        )
    assert (result.dtype, values.num_compared) == ("bfloat16", 200)
    assert result.problems == ()
    assert values.agreement is not None
    assert values.agreement >= 0.99
    assert np.isfinite(values.max_difference)
    assert result.is_sound
