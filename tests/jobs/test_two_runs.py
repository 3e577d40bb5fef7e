"""Two runs of one job at once do no harm; two jobs do not share a directory."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from inference.errors import FingerprintError, JobError
from jobs import manifest, storage
from jobs.parts import PartRecord
from jobs.run import run_job
from jobs.storage import locate
from tests.jobs.conftest import MakeJob, part_bytes, read_parts, run


def test_two_runs_at_once_end_well_and_write_what_one_writes(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job(run={"split_rows": 10})
    (tmp_path / "job.yaml").write_text(job.model_dump_json())
    command = [sys.executable, "-m", "jobs", "run", str(tmp_path / "job.yaml"), "--json"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        stdout, stderr = process.communicate(timeout=120)
        assert process.returncode == 0, stderr
        assert json.loads(stdout)["num_rows"] == 45
    run(make_job("alone", run={"split_rows": 10}))
    assert part_bytes(job.output.path) == part_bytes(str(tmp_path / "alone"))
    assert storage.read_text(locate(job.output.path).join("_SUCCESS")) == ""


def test_a_run_that_another_one_cut_otherwise_meanwhile_does_not_call_the_output_complete(make_job: MakeJob) -> None:
    job, ran = make_job(run={"split_rows": 10}), list[str]()

    def meanwhile(record: PartRecord) -> None:
        if not ran:
            ran.append(record.part)
            run(make_job(run={"split_rows": 20}))

    output = Path(job.output.path)
    with pytest.raises(JobError, match=r"another run of this job was at work .*run again"):
        run_job(job, lambda *_: None, meanwhile)
    assert not (output / "_SUCCESS").exists()
    run(job)
    assert sorted(row["id"] for row in read_parts(job.output.path)) == list(range(45))
    assert (output / "_SUCCESS").exists()


def test_two_runs_that_take_turns_at_the_same_splits_both_end_well(make_job: MakeJob) -> None:
    job, ran = make_job(run={"split_rows": 10}), list[str]()

    def meanwhile(record: PartRecord) -> None:
        if not ran:
            ran.append(record.part)
            run(job)

    assert run_job(job, lambda *_: None, meanwhile).is_complete
    assert (Path(job.output.path) / "_SUCCESS").exists()


def test_a_run_begins_while_another_one_makes_and_removes_notes(tmp_path: Path) -> None:
    output, stop, made = locate(str(tmp_path / "out")), threading.Event(), list[str]()
    fingerprint = {"model.deduplicate": True, "model.fp8": False, "model.trimmed": True}

    def note(name: str) -> None:
        while not stop.is_set():
            if (location := manifest.note_attempt(output, name, 3)) is not None:
                storage.delete(location)
        made.append(name)

    manifest.begin(output, fingerprint)
    threads = [threading.Thread(target=note, args=(f"{number}.parquet",)) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(50):
            manifest.begin(output, fingerprint)
            storage.sweep(output)
            time.sleep(0.01)  # a write that is swept away five times running is an error
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert len(made) == 4


def test_a_file_that_another_run_sweeps_away_is_written_again(tmp_path: Path) -> None:
    directory, stop = locate(str(tmp_path)), threading.Event()

    def sweep() -> None:
        while not stop.is_set():
            storage.sweep(directory)
            time.sleep(0.05)

    # Slower than a write: one that is swept away five times running is an error.
    sweeper = threading.Thread(target=sweep)
    sweeper.start()
    try:
        for i in range(100):
            storage.write(directory.join(f"{i}"), b"whole" * 1000)
    finally:
        stop.set()
        sweeper.join()
    assert {(tmp_path / f"{i}").read_bytes() for i in range(100)} == {b"whole" * 1000}


def test_of_many_that_create_a_file_at_once_one_is_told_that_it_did(tmp_path: Path) -> None:
    location = locate(str(tmp_path / "deep" / "file"))
    told: list[bool] = []
    threads = [threading.Thread(target=lambda: told.append(storage.create(location, b"x"))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (sum(told), len(told)) == (1, 16)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["file"]


def test_a_file_whose_draft_another_run_sweeps_away_is_created_all_the_same(tmp_path: Path) -> None:
    directory, stop = locate(str(tmp_path)), threading.Event()

    def sweep() -> None:
        while not stop.is_set():
            storage.sweep(directory)
            time.sleep(0.05)

    sweeper = threading.Thread(target=sweep)
    sweeper.start()
    try:
        assert [storage.create(directory.join(f"{i}"), b"x") for i in range(100)] == [True] * 100
    finally:
        stop.set()
        sweeper.join()
    assert {(tmp_path / f"{i}").read_bytes() for i in range(100)} == {b"x"}


def test_a_job_that_finds_the_directory_claimed_by_another_meanwhile_is_refused(make_job: MakeJob) -> None:
    job = make_job()
    run(job)
    output = locate(job.output.path)
    fingerprint = manifest.read_fingerprint(output)
    assert fingerprint is not None
    manifest.begin(output, fingerprint)
    with pytest.raises(FingerprintError, match=r"model\.dtype was 'float32', is 'bfloat16'"):
        manifest.begin(output, fingerprint | {"model.dtype": "bfloat16"})
