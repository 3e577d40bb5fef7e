"""Too many failed rows stop a job; retry labels their splits again; a split that kills is set aside."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from inference.errors import JobError
from inference.hook import _import
from jobs.config import JobConfig
from jobs.failures import FailureLimit
from jobs.parts import PartRecord
from jobs.run import run_job
from tests.jobs.conftest import MakeJob, part_bytes, read_parts, run

HOOK = """
from pathlib import Path
import os, signal
import numpy as np
import torch

def moody(logits):
    mood = Path(__file__).with_name("mood").read_text()
    rows = logits.argmax(axis=1) == 0
    if mood == "raise" and rows.any():
        raise KeyError("mood")
    if mood == "die" and len(logits) == 13:
        os.kill(os.getpid(), signal.SIGKILL)
    if mood == "lose the device" and len(logits) == 13:
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")
    return logits
"""


@pytest.fixture
def mood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A hook that does what the file `mood` beside it says."""
    (tmp_path / "moody_hook.py").write_text(HOOK)
    (tmp_path / "mood").write_text("fine")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path / "mood"
    _import.cache_clear()


def moody(make_job: MakeJob, directory: str = "out", **settings: Any) -> JobConfig:
    options = {"options": {"postprocess": "moody_hook:moody"}}
    return make_job(directory, task=options, run={"split_rows": 10, **settings})


def record(num_rows: int, **errors: int) -> PartRecord:
    return PartRecord(part="p", num_rows=num_rows, num_failed=sum(errors.values()), errors=errors)


def test_a_small_job_stops_when_more_than_its_fraction_has_failed() -> None:
    limit = FailureLimit(0.01, 1000, [])
    limit.add(record(10, a=10))  # 1 % of all rows, though every row until now
    with pytest.raises(JobError, match=r"11 of 20 rows failed, more than run\.max_failed_fraction 0\.01 allows"):
        limit.add(record(10, b=1))


def test_a_large_job_stops_long_before_its_end() -> None:
    limit = FailureLimit(0.01, 10**10, [])
    for _ in range(100):
        limit.add(record(1000, a=10))
    with pytest.raises(JobError, match=r"commonest: a \(1,000\); b \(11\)"):
        limit.add(record(1000, b=11))


def test_the_parts_that_are_there_count() -> None:
    with pytest.raises(JobError, match="7 of 60 rows failed"):
        FailureLimit(0.1, 60, [record(30, a=4)]).add(record(30, a=3))
    FailureLimit(0.1, 60, [record(30, a=4)]).add(record(30, a=2))


def test_no_failed_row_is_too_many_only_where_none_is_allowed() -> None:
    FailureLimit(0, 10, []).add(record(10))
    with pytest.raises(JobError, match="1 of 10 rows failed"):
        FailureLimit(0, 10, []).add(record(10, a=1))


def test_a_job_with_too_many_failed_rows_ends_with_the_commonest_error_and_keeps_its_parts(make_job: MakeJob) -> None:
    job = make_job(run={"max_failed_fraction": 0.1})
    with pytest.raises(JobError, match=r"commonest: InputError: text is null \(\d\)"):
        run(job)
    assert part_bytes(job.output.path)
    assert not (Path(job.output.path) / "_SUCCESS").exists()
    assert run(make_job(run={"max_failed_fraction": 0.12})).num_failed == 5
    with pytest.raises(JobError, match="5 of 45 rows failed"):  # done already, and still too many
        run(job)


def test_retry_labels_only_the_splits_that_have_failed_rows(
    make_job: MakeJob, shards: Path, tmp_path: Path, mood: Path
) -> None:
    for path in shards.rglob("*.parquet"):  # no nulls: what fails here is the hook
        table = pq.read_table(path)
        texts = pa.array([text or "x" for text in table["text"].to_pylist()])
        pq.write_table(table.set_column(1, "text", texts), path, row_group_size=10)
    expected = moody(make_job, "expected")
    run(expected)
    job = moody(make_job)
    mood.write_text("raise")
    assert run(job).num_failed > 0
    failed = {row["id"] for row in read_parts(job.output.path) if row["error"]}
    assert {row["error"] for row in read_parts(job.output.path)} == {None, "KeyError: 'mood'"}
    mood.write_text("fine")
    assert run(job).new_parts == 0
    before = {path: path.stat().st_mtime_ns for path in Path(job.output.path).rglob("*.parquet")}
    bad = {p for p in before if failed & set(pq.read_table(p)["id"].to_pylist())}
    report = run_job(job, lambda *_: None, lambda _: None, retry_failed=True)
    assert (report.new_parts, report.num_failed) == (len(bad), 0)
    assert {p for p, then in before.items() if p.stat().st_mtime_ns != then} == bad
    assert part_bytes(job.output.path) == part_bytes(expected.output.path)
    assert (tmp_path / "out" / "_SUCCESS").exists()


@pytest.mark.slow
@pytest.mark.timeout(400)  # two Rays and five actors, one after the other: 40 s, 110 s under a load of 15
@pytest.mark.parametrize("kind", ["die", "lose the device"])
def test_a_split_that_takes_its_process_with_it_is_set_aside_and_the_others_are_labelled(
    make_job: MakeJob, shards: Path, tmp_path: Path, mood: Path, kind: str
) -> None:
    pq.write_table(pa.table({"id": range(13), "text": ["good"] * 13}), shards / "deep" / "c d.parquet")
    small = [f"e{i:02d}.parquet" for i in range(70 if kind == "die" else 0)]  # so many that it is one of a bundle
    for name in small:
        pq.write_table(pa.table({"id": [0], "text": ["film"]}), shards / name)
    job = make_job(
        task={"options": {"postprocess": "moody_hook:moody"}},
        run={"executor": "ray", "num_actors": 1, "split_rows": 100},
    )
    (tmp_path / "job.yaml").write_text(job.model_dump_json())
    command = [sys.executable, "-m", "jobs", "run", "job.yaml", "--json"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}

    def shardlabel() -> subprocess.CompletedProcess[str]:
        # A Ray of its own: its workers find the hook in the working directory of the driver.
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    mood.write_text(kind)
    done = shardlabel()
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    assert report["failed_shards"] == {"deep/c d.parquet": "its process died 3 times while it was labelled"}
    assert sorted(part_bytes(job.output.path)) == ["a.parquet", "b.parquet", *small]
    assert not (tmp_path / "out" / "_SUCCESS").exists()
    assert not list((tmp_path / "out" / "_shardlabel" / "attempts").iterdir())
    mood.write_text("fine")
    healed = shardlabel()
    assert healed.returncode == 0, healed.stderr
    assert (json.loads(healed.stdout)["new_parts"], json.loads(healed.stdout)["failed_shards"]) == (1, {})
