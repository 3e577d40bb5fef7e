"""Labels made again of kept logits are those of a fresh run, and the new output is as a run leaves it."""

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import Result

from jobs.cli import app
from jobs.config import JobConfig
from jobs.labels import PAGE, REPORT
from jobs.parts import PartIdentity, PartRecord
from jobs.reader import read_shards
from jobs.relabel import relabel as relabel_output
from jobs.relabelling import plan_relabelling
from jobs.report_page import render
from jobs.run import run_job
from jobs.status import read_status
from jobs.stopping import Stop
from jobs.storage import locate
from tests.jobs.conftest import MakeJob, part_bytes, read_parts, rows_of, run
from tests.jobs.s3_server import Store
from tests.jobs.world import RUNNER, refusal

SPLITS = {"executor": "local", "threads_per_actor": 1, "max_failed_fraction": 1, "split_rows": 10}
KEPT = {"logits": True}

HOOK = """
import numpy as np
import pyarrow as pa


class Halved:
    fields = [pa.field("top", pa.float32())]

    def __call__(self, logits):
        return logits / 2, [logits.max(axis=1)]
"""


def tables(output: Path) -> dict[str, pa.Table]:
    """Every part's rows, without what its footer says."""
    return {
        str(path.relative_to(output)): pq.ParquetFile(path).read().replace_schema_metadata()
        for path in sorted(output.rglob("*.parquet"))
    }


def report_of(output: Path) -> dict[str, Any]:
    """What was left of its labels, without place, times and speed; the page beside it says the same."""
    report = json.loads((output / REPORT).read_text())
    assert (output / PAGE).read_text() == render(report)
    return {key: value for key, value in report.items() if key not in {"output", "made_at", "runs"}}


def relabel(source: Path | str, target: Path | str, *arguments: str) -> Result:
    return RUNNER.invoke(app, ["relabel", str(source), str(target), *arguments])


def relabelled(source: Path | str, target: Path | str, *arguments: str) -> dict[str, Any]:
    """The report of a relabelling that succeeds."""
    result = relabel(source, target, *arguments, "--json")
    assert result.exit_code == 0, result.output
    report: dict[str, Any] = json.loads(result.stdout)
    return report


def overrides(options: dict[str, Any]) -> list[str]:
    return [f"{name}={json.dumps(value)}" for name, value in options.items()]


@pytest.fixture
def job(make_job: MakeJob) -> JobConfig:
    """Six parts with logits of three classes; five of 45 rows fail."""
    return make_job(output=KEPT, run=SPLITS)


@pytest.fixture
def out(job: JobConfig) -> Path:
    """The output of `job`."""
    run(job)
    return Path(job.output.path)


MERGED = {"negative": "not positive", "neutral": "not positive"}


@pytest.mark.parametrize(
    ("checkpoint", "before", "after", "scores"),
    [
        ("single_label", {}, {"temperature": 1.7}, True),
        ("single_label", {}, {"top_k": 2, "temperature": 0.3}, False),
        ("single_label", {}, {"abstain_below": 0.9}, None),
        ("single_label", {"top_k": 1}, {"label_map": MERGED, "abstain_below": 0.9, "abstain_label": "?"}, True),
        ("single_label", {"top_k": 3, "long_text": "window"}, {"top_k": None, "temperature": 3}, None),
        ("single_label", {"postprocess": "halved:Halved"}, {"temperature": 0.5, "top_k": 1}, True),
        ("multi_label", {}, {"threshold": 0.2}, None),
        ("multi_label", {"threshold": 0.9}, {"threshold": {"art": 0.1, "sport": 0.6}, "temperature": 2}, True),
        ("multi_label", {}, {"temperature": {"music": 0.7}, "label_map": {"art": "arts", "music": "arts"}}, True),
        ("multi_label", {"top_k": 4}, {"top_k": 2, "threshold": None}, False),
    ],
)
def test_the_parts_are_those_of_a_fresh_run_and_a_run_finds_nothing_to_do(  # noqa: PLR0913, PLR0917
    checkpoint: str,
    before: dict[str, Any],
    after: dict[str, Any],
    scores: bool | None,  # noqa: FBT001
    make_job: MakeJob,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "halved.py").write_text(HOOK)
    monkeypatch.syspath_prepend(tmp_path)
    model = {"name": str(request.getfixturevalue(checkpoint)), "dtype": "float32"}
    old = make_job(model=model, task={"options": before}, output=KEPT, run=SPLITS)
    run(old)
    flags = [] if scores is None else ["--scores" if scores else "--no-scores"]
    report = relabelled(old.output.path, tmp_path / "new", *overrides(after), *flags)
    options = {name: value for name, value in (before | after).items() if value is not None}
    kept = KEPT | {"scores": bool(scores)}
    fresh = make_job("fresh", model=model, task={"options": options}, output=kept, run=SPLITS)
    run(fresh)
    new, expected = tables(tmp_path / "new"), tables(tmp_path / "fresh")
    assert list(new) == list(expected)
    for name, table in expected.items():
        assert new[name].schema.equals(table.schema), name
        assert new[name].equals(table), name
    assert tables(tmp_path / "out") != expected
    assert report_of(tmp_path / "new") == report_of(tmp_path / "fresh")
    again = run(fresh.model_copy(update={"output": fresh.output.model_copy(update={"path": str(tmp_path / "new")})}))
    assert (again.new_parts, again.num_parts, again.is_complete) == (0, len(expected), True)
    assert again.fingerprint == report["fingerprint"] == read_status(fresh.output.path).fingerprint


def test_the_new_output_is_as_a_run_leaves_it_and_can_be_relabelled_back(out: Path, tmp_path: Path) -> None:
    before = part_bytes(str(out))
    report = relabelled(out, tmp_path / "new", "temperature=2", "abstain_below=0.9", "--workers", "3")
    assert (report["num_rows"], report["num_failed"], report["new_parts"], report["is_complete"]) == (45, 5, 6, True)
    status = read_status(str(tmp_path / "new"))
    assert (status.is_complete, status.num_rows, status.num_failed, status.foreign_files) == (True, 45, 5, [])
    assert status.job["task.options"] == {"temperature": 2, "abstain_below": 0.9}
    (made,) = status.provenance
    assert [step["fingerprint"] for step in made["relabelled_from"]] == [read_status(str(out)).fingerprint]
    shards = {name: table.num_rows for name, table in read_shards(str(tmp_path / "new"))}
    assert shards == {"a.parquet": 25, "b.parquet": 7, "deep/c d.parquet": 13}
    assert part_bytes(str(out)) == before
    relabelled(tmp_path / "new", tmp_path / "back", "temperature=null", "abstain_below=null")
    assert tables(tmp_path / "back") == tables(out)
    back = read_status(str(tmp_path / "back"))
    assert back.fingerprint == read_status(str(out)).fingerprint
    assert len(back.provenance[0]["relabelled_from"]) == 2


def test_the_command_says_how_the_labels_are_now_and_a_report_that_fails_costs_no_row(
    out: Path, tmp_path: Path
) -> None:
    new, page = tmp_path / "new", tmp_path / "new" / PAGE
    page.mkdir(parents=True)
    result = relabel(out, new, "abstain_below=1")
    assert "the parts are written, but not their report" in refusal(result)
    assert (result.exit_code, (new / "_SUCCESS").exists(), len(tables(new))) == (1, True, 6)
    page.rmdir()
    assert RUNNER.invoke(app, ["report", str(new)]).exit_code == 0
    lines = relabel(out, new, "abstain_below=1").stdout.splitlines()
    assert lines[1] == "speed      nothing to do"
    assert (lines[3].split(), lines[4]) == (["labels", "(no", "label)", "40", "100.0%"], f"report     {page}")


def test_an_abstained_row_is_no_failed_one(out: Path, tmp_path: Path) -> None:
    relabelled(out, tmp_path / "new", "abstain_below=1")
    rows = read_parts(str(tmp_path / "new"))
    assert [row["label"] for row in rows] == [None] * 45
    assert sum(row["error"] is not None for row in rows) == 5
    assert all((row["confidence"] is None) == (row["error"] is not None) for row in rows)


def test_again_makes_nothing_and_only_what_is_missing_is_made(out: Path, tmp_path: Path) -> None:
    relabelled(out, tmp_path / "new", "temperature=2")
    done = part_bytes(str(tmp_path / "new"))
    assert relabelled(out, tmp_path / "new", "temperature=2")["new_parts"] == 0
    (tmp_path / "new" / "b.parquet").unlink()
    assert relabelled(out, tmp_path / "new", "temperature=2")["new_parts"] == 1
    assert part_bytes(str(tmp_path / "new")) == done


def test_parts_that_were_made_again_are_relabelled_again(
    job: JobConfig, out: Path, shards: Path, tmp_path: Path
) -> None:
    relabelled(out, tmp_path / "new", "temperature=2")
    pq.write_table(rows_of(100, 9), shards / "b.parquet", row_group_size=10)
    pq.write_table(rows_of(200, 4), shards / "d.parquet")
    (shards / "deep" / "c d.parquet").unlink()
    run(job, prune=True)
    report = relabelled(out, tmp_path / "new", "temperature=2")
    assert report["new_parts"] == 2
    assert report["vanished_shards"] == ["deep/c d.parquet"]
    found = {name: table.column("id").to_pylist() for name, table in read_shards(str(tmp_path / "new"))}
    assert found["b.parquet"] == list(range(100, 109))
    assert found["d.parquet"] == list(range(200, 204))


def test_a_retry_in_the_new_output_stays(make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "grumpy.py").write_text(
        "import os\n\ndef pass_or_fail(logits):\n    assert 'GRUMPY' not in os.environ, 'no'\n    return logits\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("GRUMPY", "1")
    options = {"postprocess": "grumpy:pass_or_fail"}
    out = make_job(task={"options": options}, output=KEPT, run=SPLITS)
    run(out)
    relabelled(out.output.path, tmp_path / "new", "top_k=1")
    monkeypatch.delenv("GRUMPY")
    new = make_job("new", task={"options": options | {"top_k": 1}}, output=KEPT, run=SPLITS)
    assert run_job(new, lambda *_: None, lambda _: None, retry_failed=True).num_failed == 5
    report = relabelled(out.output.path, new.output.path, "top_k=1")
    assert (report["num_failed"], report["new_parts"]) == (5, 0)


def test_a_retry_of_failed_rows_is_taken_over(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "moody.py").write_text(
        "import os\n\ndef pass_or_fail(logits):\n    assert 'MOODY' not in os.environ, 'not today'\n    return logits\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("MOODY", "1")
    job = make_job(task={"options": {"postprocess": "moody:pass_or_fail"}}, output=KEPT, run=SPLITS)
    run(job)
    assert relabelled(job.output.path, tmp_path / "new", "top_k=1")["num_failed"] == 45
    monkeypatch.delenv("MOODY")
    run_job(job, lambda *_: None, lambda _: None, retry_failed=True)
    report = relabelled(job.output.path, tmp_path / "new", "top_k=1")
    assert (report["new_parts"], report["num_failed"]) == (6, 5)


KILLED = """
import os, signal, sys
from jobs import cli

fsync, num_left = os.fsync, int(sys.argv.pop(1))


def sync_or_die(file):
    global num_left
    num_left -= 1
    if not num_left:
        os.kill(os.getpid(), signal.SIGKILL)
    fsync(file)


os.fsync = sync_or_die
cli.main()
"""


@pytest.mark.parametrize("num_syncs", [6, 10], ids=["middle", "end"])
def test_killed_and_run_again_it_ends_with_the_bytes_of_an_undisturbed_one(
    num_syncs: int, out: Path, tmp_path: Path
) -> None:
    arguments = [str(tmp_path / "killed"), "temperature=2", "top_k=2", "--workers", "1"]
    command = [sys.executable, "-c", KILLED, str(num_syncs), "relabel", str(out), *arguments]
    done = subprocess.run(command, capture_output=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (tmp_path / "killed" / "_SUCCESS").exists()
    relabelled(out, tmp_path / "new", *arguments[1:])
    report = relabelled(out, tmp_path / "killed", *arguments[1:])
    assert report["num_parts"] == 6
    assert report["new_parts"] == {6: 3, 10: 0}[num_syncs]
    assert part_bytes(str(tmp_path / "killed")) == part_bytes(str(tmp_path / "new"))
    assert (tmp_path / "killed" / "_SUCCESS").exists()
    assert not list((tmp_path / "killed").rglob(".*tmp"))


def test_an_unfinished_output_is_refused_unless_it_is_wanted_and_gone_on_with_later(
    job: JobConfig, out: Path, tmp_path: Path
) -> None:
    (out / "b.parquet").unlink()
    (out / "_SUCCESS").unlink()
    assert "is not complete; run its job again, or take what there is with --partial" in refusal(
        relabel(out, tmp_path / "new", "top_k=1")
    )
    report = relabelled(out, tmp_path / "new", "top_k=1", "--partial")
    assert (report["num_parts"], report["is_complete"]) == (5, False)
    assert not (tmp_path / "new" / "_SUCCESS").exists()
    assert (report_of(tmp_path / "new")["is_complete"], report_of(tmp_path / "new")["num_rows"]) == (False, 38)
    run(job)
    assert relabelled(out, tmp_path / "new", "top_k=1")["new_parts"] == 1
    assert (report_of(tmp_path / "new")["is_complete"], report_of(tmp_path / "new")["num_rows"]) == (True, 45)
    assert (tmp_path / "new" / "_SUCCESS").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["temprature=2"], "task.options.temprature: unknown key; did you mean 'temperature'?"),
        (["temperature=-1"], "task.options.temperature"),
        (["long_text=window"], "task.options.long_text: would change the logits, so the job must run again"),
        (["label_map={positiv: good}"], "did you mean 'positive'?"),
        (["threshold=0.3"], "only multi-label checkpoints set labels by threshold"),
        ([], "is labelled like this already; name an option that changes"),
        (["temperature=null"], "is labelled like this already"),
        (["nonsense"], "expected an override of the form"),
        (["--options", "/nowhere.yaml"], "cannot read the options file"),
    ],
    ids=str,
)
def test_a_wrong_request_is_status_2_and_writes_nothing(
    arguments: list[str], message: str, out: Path, tmp_path: Path
) -> None:
    result = relabel(out, tmp_path / "new", *arguments)
    assert message in refusal(result)
    assert result.exit_code == 2
    assert not (tmp_path / "new").exists()


def test_what_no_labels_can_be_made_of_is_refused(make_job: MakeJob, regression: Path, tmp_path: Path) -> None:
    run(make_job("plain"))
    assert "plain: has no logits; run the job with output.logits=true" in refusal(
        relabel(tmp_path / "plain", tmp_path / "new", "top_k=1")
    )
    windows = {"long_text": "window", "merge_over": "scores"}
    run(make_job("merged", output=KEPT, task={"options": windows}))
    assert "has scores merged over windows" in refusal(relabel(tmp_path / "merged", tmp_path / "new", "top_k=1"))
    run(make_job("score", output=KEPT, model={"name": str(regression), "dtype": "float32"}))
    assert "holds a score and no label" in refusal(relabel(tmp_path / "score", tmp_path / "new", "top_k=1"))
    (tmp_path / "empty").mkdir()
    assert "holds no output of shardlabel" in refusal(relabel(tmp_path / "empty", tmp_path / "new", "top_k=1"))


def test_another_jobs_directory_and_the_same_one_are_refused(out: Path, tmp_path: Path) -> None:
    relabelled(out, tmp_path / "new", "temperature=2")
    before = part_bytes(str(tmp_path / "new"))
    result = relabel(out, tmp_path / "new", "temperature=3")
    assert "holds the output of another job (task.options was {'temperature': 2}" in refusal(result)
    assert (result.exit_code, part_bytes(str(tmp_path / "new"))) == (2, before)
    for place in (out, out / "new", tmp_path):
        assert "lie in one another" in refusal(relabel(out, place, "temperature=3"))
    shutil.copy(out / "b.parquet", tmp_path / "x.parquet")
    (out / "mine.parquet").write_bytes(b"mine")
    assert "holds mine.parquet, which is no part" in refusal(relabel(out, tmp_path / "other", "temperature=3"))


def test_a_column_of_the_input_stays_one_whose_name_a_head_also_uses(make_job: MakeJob, tmp_path: Path) -> None:
    path = tmp_path / "own" / "a.parquet"
    path.parent.mkdir()
    pq.write_table(pa.table({"labels": [["x"]], "confidences": [[0.5]], "scores": [1], "text": ["a film"]}), path)
    old = make_job(input={"path": str(path)}, output=KEPT)
    run(old)
    relabelled(old.output.path, tmp_path / "new", "temperature=9")
    (row,) = read_parts(str(tmp_path / "new"))
    assert (row["labels"], row["confidences"], row["scores"]) == (["x"], [0.5], 1)
    assert "has a column 'scores' of its input" in refusal(relabel(old.output.path, tmp_path / "other", "--scores"))


def test_a_part_that_changes_meanwhile_or_is_damaged_is_status_1(out: Path, tmp_path: Path) -> None:
    part = out / "b.parquet"
    content = bytearray(part.read_bytes())
    column = pq.ParquetFile(part).metadata.row_group(0).column(0)
    start = column.dictionary_page_offset or column.data_page_offset
    content[start : start + 20] = b"\xff" * 20
    part.write_bytes(bytes(content))
    result = relabel(out, tmp_path / "new", "temperature=2", "--workers", "1")
    assert "b.parquet cannot be read" in refusal(result)
    assert result.exit_code == 1


def test_max_seconds_stops_it_and_the_next_one_does_the_rest(out: Path, tmp_path: Path) -> None:
    result = relabel(out, tmp_path / "new", "temperature=2", "--max-seconds", "0")
    assert result.exit_code == 3
    assert "6 of 6 splits are left" in result.stderr
    assert not (tmp_path / "new").exists()
    assert relabelled(out, tmp_path / "new", "temperature=2")["new_parts"] == 6


def test_a_stop_comes_between_two_parts(out: Path, tmp_path: Path) -> None:
    stop, is_asked, plan = Stop(), Event(), plan_relabelling(str(out), str(tmp_path / "new"), {"temperature": 2})

    class Waiting(dict[str, PartIdentity]):
        """Lets the second part begin, and end when the stop has come."""

        num_begun = 0

        def __getitem__(self, part: str) -> PartIdentity:
            self.num_begun += 1
            assert self.num_begun == 1 or is_asked.wait(60)
            return super().__getitem__(part)

    def ask(_: PartRecord) -> None:
        stop.ask("SIGTERM")
        is_asked.set()

    plan = replace(plan, identities=Waiting(plan.identities))
    report = relabel_output(plan, lambda *_: None, ask, num_workers=1, stop=stop)
    assert (report.stopped, report.is_complete) == ("SIGTERM", False)
    assert 0 < report.new_parts == 6 - report.num_pending < 6
    status = read_status(str(tmp_path / "new"))
    assert (status.is_complete, status.num_parts) == (False, report.new_parts)
    assert status.last_run is not None
    assert status.last_run.state == "stopped"
    assert relabelled(out, tmp_path / "new", "temperature=2")["new_parts"] == report.num_pending
    assert len(dict(read_shards(str(tmp_path / "new")))) == 3


def test_a_part_that_cannot_be_written_fails_the_relabelling(out: Path, tmp_path: Path) -> None:
    (tmp_path / "new" / "b.parquet").mkdir(parents=True)
    (tmp_path / "new" / "b.parquet" / ".keep").touch()
    result = relabel(out, tmp_path / "new", "temperature=2")
    assert result.exit_code == 1
    message = result.stderr.splitlines()[-1]
    assert message.startswith("shardlabel: relabelling stopped: ")
    assert "b.parquet: cannot be written" in message
    assert message.endswith("the parts written until now stay, relabel again to finish")


def test_an_output_begun_before_there_was_a_key_is_relabelled_as_one_that_has_it(
    make_job: MakeJob, tmp_path: Path
) -> None:
    job = make_job(output=KEPT, model={"deduplicate": False}, run=SPLITS)
    run(job)
    for path in sorted((tmp_path / "out").rglob("*.parquet"))[:3]:
        table = pq.ParquetFile(path).read()
        footer = json.loads(table.schema.metadata[b"shardlabel"])
        del footer["fingerprint"]["model.deduplicate"]
        pq.write_table(table.replace_schema_metadata({b"shardlabel": json.dumps(footer).encode()}), path)
    relabelled(job.output.path, tmp_path / "new", "temperature=2")
    fresh = make_job("new", output=KEPT, model={"deduplicate": False}, task={"options": {"temperature": 2}}, run=SPLITS)
    assert run(fresh).new_parts == 0


def test_options_come_from_a_file_and_values_beside_it_win(out: Path, tmp_path: Path) -> None:
    file = tmp_path / "options.yaml"
    file.write_text(yaml.safe_dump({"temperature": 1.5, "top_k": 2}))
    relabelled(out, tmp_path / "new", "temperature=4", "label_map.positive=good", "--options", str(file))
    options = read_status(str(tmp_path / "new")).job["task.options"]
    assert options == {"temperature": 4, "top_k": 2, "label_map": {"positive": "good"}}


def test_from_and_to_a_store_the_tables_are_those_of_a_local_one(out: Path, store: Store, tmp_path: Path) -> None:
    bucket = locate(store.uri("relabel") + "&allow_bucket_creation=true")
    bucket.filesystem.create_dir(bucket.path)
    pafs.copy_files(str(out), bucket.join("out").path, pafs.LocalFileSystem(), bucket.filesystem)
    report = relabelled(store.uri("relabel/out"), store.uri("relabel/new"), "temperature=2")
    assert (report["num_rows"], report["is_complete"]) == (45, True)
    relabelled(out, tmp_path / "new", "temperature=2")
    assert part_bytes(str(store.root / "relabel" / "new")) == part_bytes(str(tmp_path / "new"))
