"""`shardlabel report`: after runs, while they go on, on S3, and over parts that were written before it."""

import json
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path
from threading import Semaphore
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from inference.errors import OutputError
from jobs import labels
from jobs.cli import app
from jobs.counting import OTHER
from jobs.index import INDEX
from jobs.label_report import LabelReport
from jobs.label_source import find_source
from jobs.labels import PAGE, REPORT, make_report
from jobs.parts import _COUNTERS_KEY, PartRecord
from jobs.run import run_job
from jobs.run_log import RUNS
from jobs.stages import write_split
from jobs.status import read_status
from jobs.storage import locate
from tests.conftest import MakeCheckpoint
from tests.jobs.conftest import MakeJob, part_bytes, read_parts, rows_of, run
from tests.jobs.outputs import complete, write_output
from tests.jobs.s3_server import Store
from tests.jobs.world import NUM_ROWS, RUNNER, World, refusal

SPLITS = {"split_rows": 10}


def report_of(output: str | Path, **how: Any) -> LabelReport:
    return make_report(locate(str(output)), **how)


def check_counts(report: LabelReport, rows: list[dict[str, Any]]) -> None:
    """Compare with the rows themselves."""
    answered = [row for row in rows if row["error"] is None]
    assert (report.num_rows, report.num_failed) == (len(rows), len(rows) - len(answered))
    assert report.num_truncated == sum(row["truncated"] for row in answered)
    assert report.num_tokens == sum(row["num_tokens"] for row in answered)
    assert {each.label: each.count for each in report.labels} == Counter(row["label"] for row in answered)
    for each in report.labels:
        confidences = [row["confidence"] for row in answered if row["label"] == each.label]
        assert each.mean_confidence == pytest.approx(sum(confidences) / len(confidences), abs=1e-6)
        assert each.share == pytest.approx(len(confidences) / len(answered))
        assert Counter({i: n for i, n in enumerate(each.histogram) if n}) == Counter(int(c * 20) for c in confidences)
    assert report.confidence is not None
    assert report.confidence.mean == pytest.approx(sum(row["confidence"] for row in answered) / len(answered), abs=1e-6)
    lengths = [row["num_tokens"] for row in answered]
    assert report.token_lengths.mean == pytest.approx(sum(lengths) / len(lengths))
    for i, count in enumerate(report.token_lengths.counts):
        low, high = report.token_lengths.edges[i : i + 2]
        assert count == sum(low <= length < high for length in lengths)
    assert sum(report.token_lengths.counts) == len(lengths)


def test_it_says_what_all_rows_say(make_job: MakeJob) -> None:
    job = make_job(run=SPLITS)
    run(job)
    rows = read_parts(job.output.path)
    report = report_of(job.output.path)
    check_counts(report, rows)
    assert (report.num_shards, report.num_parts, report.rows_read, report.planned_rows) == (3, 6, 0, 45)
    assert (report.is_complete, report.task, report.counted, report.num_makers) == (
        True,
        "text-classification",
        "rows",
        1,
    )
    assert [(each.message, each.count) for each in report.errors] == [("InputError: text is null", 5)]
    assert report.notes == []


def test_examples_are_the_rows_that_they_name(make_job: MakeJob) -> None:
    job = make_job(run=SPLITS)
    run(job)
    report = report_of(job.output.path)
    for example in [*report.least_certain, *report.sample, *report.errors[0].examples]:
        row = pq.read_table(Path(job.output.path) / example.part).to_pylist()[example.row]
        assert example.values == {"id": str(row["id"]), "text": row["text"]}
        assert (example.label, example.confidence, example.error) == (row["label"], row["confidence"], row["error"])
        assert (example.num_tokens, example.truncated) == (row["num_tokens"], row["truncated"])
        assert example.part.startswith(example.shard.removesuffix(".parquet"))
    answered = [row["confidence"] for row in read_parts(job.output.path) if row["error"] is None]
    assert [example.confidence for example in report.least_certain] == sorted(answered)[:20]
    assert len({(example.part, example.row) for example in report.sample}) == 20
    assert all(example.error is None for example in report.sample)
    assert [example.values["text"] for example in report.errors[0].examples] == [None] * 5


def test_the_end_of_a_run_leaves_the_report_and_its_page(make_job: MakeJob) -> None:
    job = make_job(run=SPLITS)
    run(job)
    output = Path(job.output.path)
    left = json.loads((output / REPORT).read_text())
    made = report_of(output).as_dict()
    assert left | {"made_at": ""} == json.loads(json.dumps(made)) | {"made_at": ""}
    assert [run["rows"] for run in left["runs"]] == [45]
    assert set(left["runs"][0]["stage_seconds"]) == {"read", "predict", "write"}
    assert left["runs"][0]["stage_seconds"]["predict"] > 0
    page = (output / PAGE).read_text()
    assert page.startswith("<!doctype html>")
    assert "InputError: text is null" in page
    (output / PAGE).unlink()
    run(job)  # writes nothing new, so leaves no report
    assert not (output / PAGE).exists()


def test_two_runs_write_the_same_bytes(make_job: MakeJob) -> None:
    one, other = make_job("one", run=SPLITS), make_job("other", run=SPLITS | {"num_actors": 2})
    run(one)
    run(other)
    assert part_bytes(one.output.path) == part_bytes(other.output.path)


def test_while_a_run_goes_on_it_says_what_is_written(
    make_job: MakeJob, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of the shard that is half done, but of a shard that is being replaced the old rows."""
    job, seen, turn = make_job(run=SPLITS | {"num_actors": 1}), list[LabelReport](), Semaphore(1)

    def write(*how: Any) -> PartRecord:
        turn.acquire()  # the next part is written when the one before was looked at
        return write_split(*how)

    def look(_: object) -> None:
        seen.append(report_of(job.output.path))
        check_counts(seen[-1], read_parts(job.output.path))
        turn.release()

    monkeypatch.setattr("jobs.pipeline.write_split", write)
    run_job(job, lambda *_: None, look)
    assert [report.num_rows for report in seen] == [10, 20, 25, 32, 42, 45]
    assert [report.is_complete for report in seen] == [False] * 6
    assert {report.planned_rows for report in seen} == {45}
    assert seen[0].notes == ["1 shards are not finished; the parts that they have are counted"]
    before = report_of(job.output.path)
    pq.write_table(rows_of(100, 25), shards / "a.parquet", row_group_size=10)
    seen.clear()

    def look_again(_: object) -> None:
        seen.append(report_of(job.output.path))
        turn.release()

    run_job(job, lambda *_: None, look_again)
    kept = [replace(report, made_at="", is_complete=True, runs=[]) for report in seen[:-1]]
    assert kept == [replace(before, made_at="", runs=[])] * 2
    check_counts(report_of(job.output.path), read_parts(job.output.path))


def strip_counters(path: Path) -> None:
    """A part as it was written before there were counters."""
    table = pq.read_table(path)
    metadata = {key: value for key, value in (table.schema.metadata or {}).items() if key != _COUNTERS_KEY}
    pq.write_table(table.replace_schema_metadata(metadata), path, compression="zstd")


def test_parts_without_counters_are_read_and_mixed_with_others(make_job: MakeJob) -> None:
    job = make_job(run=SPLITS)
    run(job)
    output = Path(job.output.path)
    before = report_of(output)
    strip_counters(output / "a-00000.parquet")
    strip_counters(output / "b.parquet")
    report = report_of(output)
    assert report.rows_read == 17
    assert report.notes == ["17 rows are of parts that were written without counters, so they were read"]
    assert replace(report, made_at="", rows_read=0, notes=[]) == replace(before, made_at="")
    assert run(job).new_rows == 0  # such parts are still this job's
    (output / "a-00001.parquet").unlink()
    assert run(job).new_rows == 10
    assert json.loads((output / REPORT).read_text())["rows_read"] == 17


def test_the_software_shown_is_that_of_the_first_part_whichever_is_read_first(tmp_path: Path) -> None:
    table = complete({"text": ["x"], "label": ["a"], "confidence": pa.array([0.5], pa.float32())})
    output = write_output(tmp_path / "out", {"x.parquet": [table], "y.parquet": [table]})
    first = tmp_path / "out" / "x-00000.parquet"
    metadata = pq.read_schema(first).metadata
    footer = json.loads(metadata[b"shardlabel"])
    # Five million bytes take longer to read than the other part's footer.
    footer["provenance"]["software"] = {"torch": "1", "other": "1" * 5_000_000}
    pq.write_table(table.replace_schema_metadata({b"shardlabel": json.dumps(footer)}), first)
    report = report_of(output)
    assert (report.software["torch"], report.num_makers) == ("1", 2)


def test_a_pruned_shard_is_not_counted_any_more(make_job: MakeJob, shards: Path) -> None:
    job = make_job()
    run(job)
    (shards / "b.parquet").unlink()
    run(job)
    assert report_of(job.output.path).num_rows == 45
    run(job, prune=True)
    left = json.loads((Path(job.output.path) / REPORT).read_text())
    assert (left["num_rows"], left["num_shards"], report_of(job.output.path).num_rows) == (38, 2, 38)


def test_of_very_many_parts_a_run_leaves_no_report(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels, "MAX_PARTS_AT_END", 5)
    job = make_job(run=SPLITS)
    run(job)
    assert not (Path(job.output.path) / REPORT).exists()


def test_an_output_on_s3_is_reported_as_one_on_a_disk(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.storage.SETTLE_SECONDS", 0.0)
    place = locate(store.uri("labels-report") + "&allow_bucket_creation=true")
    place.filesystem.create_dir(place.path)
    table = complete(
        {
            "text": ["one", None, "three"],
            "right": ["a", "b", "b"],
            "label": ["a", None, "b"],
            "confidence": pa.array([0.9, None, 0.4], pa.float32()),
            "error": [None, "bad", None],
        }
    )
    shards = {"x.parquet": [table, table.slice(0, 1)], "deep/y.parquet": [table]}
    on_disk = report_of(write_output(tmp_path / "out", shards), gold="right")
    uri = store.uri("labels-report/out")
    on_store = report_of(write_output(uri, shards), gold="right")
    assert replace(on_store, made_at="", output="") == replace(on_disk, made_at="", output="")
    result = CliRunner().invoke(app, ["report", uri, "--gold", "right", "--json"])
    assert result.exit_code == 0, result.output
    left = storage_json(uri)
    assert left == json.loads(result.stdout)
    assert left["num_rows"] == 7


def storage_json(uri: str) -> Any:
    place = locate(uri).join(REPORT)
    with place.filesystem.open_input_stream(place.path) as stream:
        return json.loads(stream.read())


def test_the_command_prints_a_screen_and_where_the_rest_is(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job(run=SPLITS)
    run(job)
    result = CliRunner().invoke(app, ["report", job.output.path, "--gold", "text"])
    assert result.exit_code == 0, result.output
    assert len(result.stdout.splitlines()) <= 24
    assert "rows       45 in 6 parts of 3 shards" in result.stdout
    assert "5 x InputError: text is null" in result.stdout
    assert (
        "gold       text: 40 rows compared\n             left out: 0 without a prediction, 5 without" in result.stdout
    )
    assert f"all of it  {Path(job.output.path) / PAGE}\n" in result.stdout
    other = make_job("other", run={"split_rows": 20})
    run(other)
    result = CliRunner().invoke(app, ["report", job.output.path, "--against", other.output.path])
    assert "100.0% of 40 rows agree, 0 flipped" in result.stdout.replace("\n", "")
    for arguments, status, message in (
        ([str(tmp_path / "nothing")], 2, "holds no output of shardlabel"),
        ([job.output.path, "--gold", "nothing"], 2, "keeps no column 'nothing'"),
        ([job.output.path, "--against", str(tmp_path / "nothing")], 2, "holds no output of shardlabel"),
    ):
        result = CliRunner().invoke(app, ["report", *arguments])
        assert (result.exit_code, message in result.stderr) == (status, True), result.output


def test_a_directory_without_an_output_or_without_a_part_yet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="holds no output of shardlabel"):
        report_of(tmp_path)
    with pytest.raises(OutputError, match="holds no part yet"):
        report_of(write_output(tmp_path / "claimed", {}))


def test_a_report_that_cannot_be_written_is_an_error_but_the_output_is_complete(
    single_label: Path, tmp_path: Path
) -> None:
    """Nor is the old report taken for one of the new rows."""
    world = World(tmp_path, single_label)
    page = world.out / PAGE
    assert f"report     {page}" in world.run().stdout
    page.unlink()
    page.mkdir()
    world.write_shard("new.parquet", ["a bad film"] * 3)
    result = world.run()
    assert result.exit_code == 1
    message = refusal(result)
    assert f"the parts are written, but not their report: {page}: cannot be written (" in message
    assert message.endswith(f"; then run: shardlabel report {world.out}")
    assert (world.out / "_SUCCESS").exists()
    status = read_status(str(world.out))
    assert (status.is_complete, status.num_rows) == (True, NUM_ROWS + 3)
    assert status.last_run is not None
    assert status.last_run.state == "done"
    assert json.loads((world.out / "_shardlabel/report.json").read_text())["num_rows"] == NUM_ROWS + 3
    result = world.run()
    assert (result.exit_code, "labels" in result.stdout, str(page) in result.stdout) == (0, False, False)
    page.rmdir()
    assert RUNNER.invoke(app, ["report", str(world.out)]).exit_code == 0
    assert page.read_text().startswith("<!doctype html>")
    assert f"report     {page}" in world.run().stdout


def test_a_part_whose_rows_cannot_be_read_keeps_the_sign_away(single_label: Path, tmp_path: Path) -> None:
    """Its footer can, so that it counts as committed; whoever waits for the sign would meet its rows."""
    world = World(tmp_path, single_label)
    world.run()
    part = min(world.out.glob("*.parquet"))
    content = bytearray(part.read_bytes())
    end = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    content[4:end] = bytes(end - 4)
    part.write_bytes(content)
    world.write_shard("new.parquet", ["a bad film"] * 3)
    for _ in range(2):
        result = world.run()
        assert result.exit_code == 1
        assert part.name in refusal(result)
        assert not (world.out / "_SUCCESS").exists()


def test_a_report_that_fails_as_nobody_foresaw_takes_no_complete_output_along(make_job: MakeJob) -> None:
    job = make_job()
    log = {"run_id": "", "started": "last night", "seconds": 1, "num_parts": 1, "interval_seconds": 1}
    (runs := Path(job.output.path) / RUNS).mkdir(parents=True)
    # No time as a run writes it: of another version perhaps, or of somebody's hands.
    (runs / "2000.json").write_text(json.dumps(log | {"intervals": [], "stage_seconds": {}}))
    with pytest.raises(ValueError, match="last night"):
        run(job)
    assert (runs.parent.parent / "_SUCCESS").exists()
    assert run(job).new_rows == 0


def test_of_an_unfinished_shard_the_parts_of_its_latest_version_count(tmp_path: Path) -> None:
    columns = {"text": ["x"] * 4, "label": ["a"] * 4, "confidence": pa.array([0.5] * 4, pa.float32())}
    table = complete(columns)
    for version, tables in ((1, [table, table]), (2, [table.slice(0, 3)])):
        output = write_output(tmp_path / "out", {"x.parquet": tables}, version=version)
        (tmp_path / "out" / INDEX).unlink()
    assert (tmp_path / "out" / "x-00001.parquet").exists()
    report = report_of(output)
    assert (report.num_rows, report.num_parts) == (3, 1)
    assert report.notes == ["1 shards are not finished; the parts that they have are counted"]


def test_long_values_are_cut_and_other_types_shown_as_text(tmp_path: Path) -> None:
    columns = {"text": ["x" * 3000], "when": [1.5], "label": ["a"], "confidence": pa.array([0.5], pa.float32())}
    (example,) = report_of(write_output(tmp_path / "out", {"x.parquet": [complete(columns)]})).sample
    assert example.values == {"text": "x" * 1999 + "…", "when": "1.5"}


def test_an_output_without_its_texts_says_so(tmp_path: Path) -> None:
    columns = {"id": [1], "label": ["a"], "confidence": pa.array([0.5], pa.float32())}
    report = report_of(write_output(tmp_path / "out", {"x.parquet": [complete(columns)]}))
    assert report.notes == [
        "the output keeps no text of its input: add it to output.keep_columns to read the rows here"
    ]


def test_the_example_of_the_shape_is_of_the_shape() -> None:
    content = json.loads(Path(__file__).with_name("report_example.json").read_text())
    assert LabelReport(**content).as_dict() == content
    assert set(content) == {field.name for field in fields(LabelReport)}


def test_a_label_and_a_confidence_of_the_input_are_not_those_of_a_head_that_scores(
    make_job: MakeJob, regression: Path, tmp_path: Path
) -> None:
    texts = ["the good film", "slow", "a bad film"]
    shard = {"text": texts, "label": ["x"] * 3, "confidence": ["high", "low", None]}
    (tmp_path / "again").mkdir()
    pq.write_table(pa.table(shard), tmp_path / "again" / "a.parquet")
    job = make_job(input={"path": str(tmp_path / "again")}, model={"name": str(regression)})
    run(job)
    report = make_report(locate(job.output.path))
    assert (report.counted, report.labels, report.confidence, report.least_certain) == (None, [], None, [])
    scores = [row["score"] for row in read_parts(job.output.path)]
    assert report.score is not None
    assert (report.score.minimum, report.score.maximum) == (min(scores), max(scores))
    assert report.sample[0].values.keys() == shard.keys()


def test_a_regression_over_several_targets_is_reported_with_all_its_numbers(
    make_job: MakeJob, make_checkpoint: MakeCheckpoint
) -> None:
    job = make_job(model={"name": str(make_checkpoint(["x", "y"], problem_type="regression"))}, run=SPLITS)
    run(job)
    assert (Path(job.output.path) / "_SUCCESS").exists()
    report = report_of(job.output.path)
    assert (report.score, report.labels, len(report.sample)) == (None, [], 20)
    for example in report.sample:
        row = pq.read_table(Path(job.output.path) / example.part).to_pylist()[example.row]
        assert example.label is not None
        assert list(map(float, example.label.split(", "))) == pytest.approx(row["score"], rel=1e-3)


def test_where_each_row_has_labels_of_its_own_the_report_stays_bounded_and_counts_all_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labels, "_MERGED_AT_ONCE", 3)

    def part(shard: int) -> pa.Table:
        """A third of the rows have the common label, of one shard three quarters; the others each their own."""
        num_own = 300 if shard == 5 else 800
        names = [*(f"{shard}-{i}" for i in range(num_own)), *["common"] * (1200 - num_own)]
        errors = [*(f"bad {shard}-{i}" for i in range(30)), *[None] * 1170]
        confidences = pa.array([*[None] * 30, *[0.5] * 1170], pa.float32())
        columns = {"label": [*[None] * 30, *names[30:]], "confidence": confidences, "error": errors}
        return complete({"text": ["x"] * 1200, **columns})

    output = write_output(tmp_path / "out", {f"{i}.parquet": [part(i)] for i in range(8)})
    report = report_of(output)
    counts = {each.label: each.count for each in report.labels}
    assert 990 < len(counts) <= 1000
    assert (counts["common"], sum(counts.values())) == (7 * 400 + 900, 8 * 1170)
    assert counts[OTHER] == 8 * 1170 - counts["common"] - (len(counts) - 2)
    (outlier,) = report.outliers
    assert (outlier.shard, outlier.measure) == ("5.parquet", "labels")
    assert outlier.detail == f"common {900 / 1170:.1%} instead of {(7 * 400 + 900) / (8 * 1170):.1%}"
    counters, shards = labels.count(find_source(locate(output)))
    assert len(counters.errors) <= 1000
    assert sum(Counter(shard.labels).total() for shard in shards) == 8 * 1170
    assert all(shard.labels.keys() <= counters.labels.keys() for shard in shards)


def test_values_that_python_has_no_words_for_do_not_end_a_run(make_job: MakeJob, tmp_path: Path) -> None:
    broken = pa.Array.from_buffers(
        pa.string(), 3, [None, pa.array([0, 3, 4, 7], pa.int32()).buffers()[1], pa.py_buffer(b"one\xfftwo")]
    )
    shard = pa.table(
        {
            "text": broken,
            "far": pa.array([0, 300_000_000_000, 4_000_000_000_000], pa.timestamp("s")),
            "note": broken,
            "nested": pa.StructArray.from_arrays([broken], ["note"]),
        }
    )
    (tmp_path / "odd").mkdir()
    pq.write_table(shard, tmp_path / "odd" / "a.parquet")
    job = make_job(input={"path": str(tmp_path / "odd")})
    assert run(job).num_failed == 1
    report = make_report(locate(job.output.path))
    (failed,) = report.errors[0].examples
    assert failed.values["text"] == failed.values["note"] == "\ufffd"
    assert failed.values["far"] is not None
    assert [each.values["far"] for each in report.sample if each.row == 0] == ["1970-01-01 00:00:00"]


@pytest.mark.parametrize("num_groups", [1, 2])
def test_a_run_that_finished_no_shard_says_why_and_not_that_there_is_no_report(
    single_label: Path, tmp_path: Path, num_groups: int
) -> None:
    world = World(tmp_path, single_label)
    path = world.folder / "in" / "good.parquet"
    pq.write_table(pa.table({"text": ["the good film"] * 20}), path, row_group_size=20 // num_groups)
    content = bytearray(path.read_bytes())
    content[4:44] = b"\xff" * 40  # the first page
    path.write_bytes(content)
    world.job["run"]["split_rows"] = 10
    result = world.run()
    assert result.exit_code == 1
    assert "could not be read: good-00000.parquet" in refusal(result)
    report = json.loads((world.out / "_shardlabel" / "report.json").read_text())
    assert (report["num_parts"], len(report["failed_shards"])) == (num_groups - 1, 3 - num_groups)
