"""What `shardlabel status` says of an output, against the rows that are in it."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from inference.errors import OutputError
from jobs.status import read_status
from tests.jobs.conftest import MakeJob, read_parts, run


def test_the_status_is_what_the_parts_hold(make_job: MakeJob) -> None:
    job = make_job(run={"split_rows": 10})
    report = run(job)
    rows = read_parts(job.output.path)
    found = read_status(job.output.path)
    assert (found.is_complete, found.num_parts, found.num_rows) == (True, 6, len(rows))
    assert found.num_failed == sum(row["error"] is not None for row in rows)
    assert found.num_truncated == sum(bool(row["truncated"]) for row in rows)
    assert found.num_tokens == sum(row["num_tokens"] or 0 for row in rows)
    assert found.errors == {"InputError: text is null": found.num_failed}
    assert found.fingerprint == report.fingerprint
    assert found.job["model.dtype"] == "float32"
    assert found.job["task.name"] == "text-classification"


def test_the_status_says_which_model_and_software_made_it(make_job: MakeJob, single_label: Path) -> None:
    job = make_job()
    run(job)
    (made,) = read_status(job.output.path).provenance
    assert made["model"] == {"name": str(single_label), "revision": None}
    names = ("torch", "transformers", "tokenizers", "pyarrow", "ray", "numpy")
    assert {name: made["software"][name] for name in names} == {name: version(name) for name in names}


def test_an_output_that_is_not_finished_says_so_also_without_its_manifest(make_job: MakeJob) -> None:
    job = make_job()
    run(job)
    before = read_status(job.output.path)
    (Path(job.output.path) / "_SUCCESS").unlink()
    (Path(job.output.path) / "_shardlabel" / "manifest.json").unlink()
    (Path(job.output.path) / "b.parquet").unlink()
    found = read_status(job.output.path)
    assert (found.is_complete, found.num_parts, found.num_rows) == (False, 2, before.num_rows - 7)
    assert found.job == before.job


def test_a_file_of_somebody_else_is_named(make_job: MakeJob) -> None:
    job = make_job()
    run(job)
    pq.write_table(pq.read_table(Path(job.output.path) / "b.parquet"), Path(job.output.path) / "z.parquet")
    foreign = pq.read_table(Path(job.output.path) / "b.parquet").replace_schema_metadata({})
    pq.write_table(foreign, Path(job.output.path) / "z.parquet")
    assert read_status(job.output.path).foreign_files == ["z.parquet"]


def test_a_directory_without_an_output_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="holds no output of shardlabel"):
        read_status(str(tmp_path))


def test_the_command_prints_it_for_people_and_for_machines(make_job: MakeJob) -> None:
    job = make_job()
    run(job)
    command = [sys.executable, "-m", "jobs", "status", job.output.path]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert text.startswith("complete\nparts      3\nrows       45, 5 failed")
    assert "5 x InputError: text is null" in text
    found = json.loads(subprocess.run([*command, "--json"], capture_output=True, text=True, check=True).stdout)
    assert found == read_status(job.output.path).as_dict()
