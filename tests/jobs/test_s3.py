"""Jobs over a real S3 server: the same bytes as on a disk, resumed, listed in pages, and nothing by halves."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from inference.errors import ConfigError, FingerprintError, InputError, JobError, OutputError
from jobs import manifest, storage
from jobs.config import JobConfig
from jobs.listing import find
from jobs.parts import PartRecord
from jobs.plan import make_plan
from jobs.reader import read_shards
from jobs.run import run_job
from jobs.storage import Location, locate
from tests.jobs.conftest import MakeJob, part_bytes, rows_of, run
from tests.jobs.faulty_proxy import Request, faulty_proxy
from tests.jobs.s3_server import Store

RAY = {"executor": "ray", "threads_per_actor": 1, "num_actors": 1}


@pytest.fixture
def bucket(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty bucket as the server keeps it on disk; its name is that of the test's directory."""
    monkeypatch.setattr(storage, "SETTLE_SECONDS", 0.0)  # the tests that are about it set it
    name = tmp_path.name.replace("_", "-").lower()
    place = locate(store.uri(name) + "&allow_bucket_creation=true")
    place.filesystem.create_dir(place.path)
    return store.root / name


@pytest.fixture
def filled(bucket: Path, store: Store, shards: Path) -> Path:
    """The bucket with the shards in `in/`."""
    place = locate(store.uri(f"{bucket.name}/in"))
    for path in sorted(shards.rglob("*.parquet")):
        storage.write(place.join(str(path.relative_to(shards))), path.read_bytes())
    return bucket


MakeS3Job = Callable[..., JobConfig]


@pytest.fixture
def s3_job(make_job: MakeJob, store: Store, filled: Path) -> MakeS3Job:
    """A job from `in` to `out`, in splits of ten rows; keyword arguments are settings of `run`."""

    def make(source: str = "in", output: str = "out", port: int | None = None, **settings: object) -> JobConfig:
        return make_job(
            input={"path": store.uri(f"{filled.name}/{source}", port)},
            output={"path": store.uri(f"{filled.name}/{output}", port)},
            run={"split_rows": 10} | settings,
        )

    return make


@pytest.fixture
def expected(make_job: MakeJob, filled: Path, store: Store, shards: Path, tmp_path: Path) -> dict[str, bytes]:
    """The parts of the same job on a disk, over files with the times that the store says: they are in the footers."""
    for name, info in find(locate(store.uri(f"{filled.name}/in"))):
        os.utime(shards / name, (info.mtime_ns // 10**9,) * 2)
    run(make_job("local", run={"split_rows": 10}))
    return part_bytes(str(tmp_path / "local"))


def test_a_job_over_s3_writes_the_bytes_of_a_local_one(
    s3_job: MakeS3Job, filled: Path, expected: dict[str, bytes]
) -> None:
    report = run(s3_job())
    assert (report.num_rows, report.num_parts, len(expected)) == (45, 6, 6)
    assert part_bytes(str(filled / "out")) == expected
    assert (filled / "out" / "_SUCCESS").exists()


@pytest.mark.usefixtures("local_ray")
def test_so_does_one_on_ray(s3_job: MakeS3Job, filled: Path, expected: dict[str, bytes]) -> None:
    assert run(s3_job(**RAY)).num_parts == 6
    assert part_bytes(str(filled / "out")) == expected


def test_a_second_run_writes_nothing_and_lost_parts_are_made_again(
    s3_job: MakeS3Job, filled: Path, store: Store, expected: dict[str, bytes]
) -> None:
    run(s3_job())
    with faulty_proxy(store.server_port) as proxy:
        assert run(s3_job(port=proxy.port)).new_rows == 0
        assert {request.method for request in proxy.requests} == {"GET", "HEAD"}
    for name in ("a-00001.parquet", "deep/c d-00000.parquet"):
        storage.delete(locate(store.uri(f"{filled.name}/out")).join(name))
        assert not (filled / "out" / name).exists()
    assert run(s3_job()).new_rows == 20
    assert part_bytes(str(filled / "out")) == expected


def test_success_goes_first_and_comes_last(s3_job: MakeS3Job, filled: Path, store: Store) -> None:
    run(s3_job())
    storage.delete(locate(store.uri(f"{filled.name}/out")).join("b.parquet"))
    with faulty_proxy(store.server_port) as proxy:
        run(s3_job(port=proxy.port))
        changes = [(r.method, r.path.partition("/out/")[2].partition("?")[0]) for r in proxy.requests if r.is_change]
    assert (changes[0], changes[-1]) == (("DELETE", "_SUCCESS"), ("PUT", "_SUCCESS"))
    assert ("PUT", "b.parquet") in changes[1:-1]


def test_another_split_size_replaces_the_parts(s3_job: MakeS3Job, filled: Path) -> None:
    run(s3_job())
    run(s3_job(split_rows=1000))
    assert sorted(part_bytes(str(filled / "out"))) == ["a.parquet", "b.parquet", "deep/c d.parquet"]


def test_a_glob_and_a_single_object_are_input(s3_job: MakeS3Job) -> None:
    assert run(s3_job("in/*.parquet", "some")).num_rows == 32
    assert run(s3_job("in/**/*.parquet", "all")).num_rows == 45
    assert run(s3_job("in/%5Bab%5D*.parquet", "escaped")).num_rows == 32
    assert run(s3_job("in/deep/c%20d.parquet", "one")).num_rows == 13


def test_more_objects_than_a_page_holds_are_listed(store: Store) -> None:
    names = [f"{i:04d}.parquet" for i in range(1100)]
    with faulty_proxy(store.server_port) as proxy:
        for pattern, wanted in (("in", [*names, "deep/last.parquet"]), ("in/*.parquet", names)):
            proxy.requests.clear()
            found = find(locate(store.uri(f"pages/{pattern}", proxy.port)))
            assert [name for name, _ in found] == wanted
            assert len(proxy.requests) <= 5  # a listing has two pages; not one request per object


def test_an_object_overwritten_with_as_many_bytes_is_redone(s3_job: MakeS3Job, filled: Path, store: Store) -> None:
    run(s3_job())
    shard = filled / "in" / "b.parquet"
    time.sleep(1.1)  # the store's time has whole seconds
    storage.write(locate(store.uri(f"{filled.name}/in")).join("b.parquet"), shard.read_bytes())
    assert run(s3_job()).new_rows == 7


def test_a_reader_sees_a_shard_as_it_was_until_all_of_it_is_new(s3_job: MakeS3Job, filled: Path, store: Store) -> None:
    run(s3_job())
    out, seen = store.uri(f"{filled.name}/out"), []
    sink = pa.BufferOutputStream()
    pq.write_table(rows_of(100, 30), sink, row_group_size=10)
    storage.write(locate(store.uri(f"{filled.name}/in")).join("a.parquet"), sink.getvalue())
    run_job(s3_job(), lambda *_: None, lambda _: seen.append(dict(read_shards(out))["a.parquet"]))
    assert [table.column("id").to_pylist() for table in seen] == [list(range(25))] * 3
    assert dict(read_shards(out))["a.parquet"].column("id").to_pylist() == list(range(100, 130))
    assert not [path for path in (filled / "out").rglob("*.old") if path.is_file()]


def test_what_a_store_has_not_is_said(bucket: Path, store: Store, s3_job: MakeS3Job) -> None:
    place = locate(store.uri(f"{bucket.name}/none"))
    assert (storage.read_text(place), find(place)) == (None, [])
    storage.delete(place)
    with pytest.raises(OutputError, match=r"s3://no-such-bucket/a: cannot be written .*does not exist"):
        storage.write(locate(store.uri("no-such-bucket")).join("a"), b"1")
    with pytest.raises(InputError, match="holds no Parquet file"):
        run(s3_job("nothing"))
    with pytest.raises(ConfigError, match="lie in one another"):
        run(s3_job(output="in/out"))


def test_a_job_killed_while_it_uploads_leaves_whole_parts_only_and_goes_on(
    s3_job: MakeS3Job, filled: Path, store: Store, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    job_file = tmp_path / "job.yaml"
    with faulty_proxy(store.server_port) as proxy:
        proxy.decide = lambda r: "hold" if r.method == "PUT" and "/out/b.parquet" in r.path else None
        job_file.write_text(s3_job(port=proxy.port).model_dump_json())
        process = subprocess.Popen([sys.executable, "-m", "jobs", "run", str(job_file)], stderr=subprocess.DEVNULL)
        assert proxy.holds.wait(60)
        process.kill()
        process.wait()
    written = [path for path in (filled / "out").rglob("*.parquet") if not path.name.startswith(".")]
    assert {str(path.relative_to(filled / "out")) for path in written} < set(expected)
    assert not (filled / "out" / "b.parquet").exists()
    for path in written:
        pq.read_table(path)
    assert not (filled / "out" / "_SUCCESS").exists()
    run(s3_job())
    assert part_bytes(str(filled / "out")) == expected


def test_an_upload_in_pieces_that_is_killed_leaves_the_old_object(bucket: Path, store: Store) -> None:
    with faulty_proxy(store.server_port) as proxy:
        proxy.decide = lambda r: "hold" if "partNumber=2" in r.path else None
        place = locate(store.uri(bucket.name, proxy.port)).join("part")
        storage.write(place, b"old")
        code = (
            "from jobs import storage; from jobs.storage import Location;"
            f"storage.write(Location({place.uri!r}, {place.path!r}), bytes(24 * 2**20))"
        )
        process = subprocess.Popen([sys.executable, "-c", code])
        assert proxy.holds.wait(60)
        process.kill()
        process.wait()
        assert [r.method for r in proxy.requests if r.is_change].count("PUT") >= 2
    assert (bucket / "part").read_bytes() == b"old"


@pytest.mark.parametrize("is_refused", [True, False])
def test_an_object_is_copied_by_the_store_or_in_pieces(
    bucket: Path, store: Store, monkeypatch: pytest.MonkeyPatch, *, is_refused: bool
) -> None:
    content = os.urandom(24 * 2**20)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with faulty_proxy(store.server_port) as proxy:
        place = locate(store.uri(bucket.name, proxy.port))
        storage.write(place.join("day=1/a b+c%.parquet"), content)
        proxy.requests.clear()
        proxy.decide = lambda _: "503" if is_refused and not proxy.faults else None
        assert storage.copy(place.join("day=1/a b+c%.parquet"), place.join("kept/copy"))
        methods = [request.method for request in proxy.requests]
        assert not storage.copy(place.join("none"), place.join("kept/none"))
    assert methods[0] == "PUT"
    assert methods.count("GET") == 6 if is_refused else methods == ["PUT"]
    assert (bucket / "kept" / "copy").read_bytes() == content


def test_a_lost_answer_to_the_end_of_an_upload_costs_a_second_upload(bucket: Path, store: Store) -> None:
    content = os.urandom(12 * 2**20)
    with faulty_proxy(store.server_port) as proxy:

        def lose_one(request: Request) -> str | None:
            is_end = request.method == "POST" and "uploadId=" in request.path
            return "reset after" if is_end and not proxy.faults else None

        proxy.decide = lose_one  # type: ignore[assignment]
        storage.write(locate(store.uri(bucket.name, proxy.port)).join("part"), content)
        assert proxy.faults == ["reset after"]
    assert (bucket / "part").read_bytes() == content


def test_a_store_that_refuses_the_folder_object_has_deleted_the_file(
    bucket: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    folder = locate(store.uri(f"{bucket.name}/out", store.server_port))  # rclone itself, which refuses it
    for name in ("part", "other"):
        storage.write(folder.join(name), b"1")
    with pytest.raises(OSError, match="When creating key 'out/'"):
        folder.filesystem.delete_file(f"{folder.path}/part")
    storage.write(folder.join("part"), b"1")
    storage.delete(folder.join("part"))
    # On its disk: having refused it, rclone shows nothing of the folder until the next upload.
    assert [path.name for path in (bucket / "out").iterdir()] == ["other"]


def test_a_part_that_the_store_does_not_give_is_not_taken_for_somebody_elses(
    s3_job: MakeS3Job, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(s3_job())
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with faulty_proxy(store.server_port) as proxy:
        proxy.decide = lambda r: "503" if "/out/b.parquet" in r.path else None
        with pytest.raises(OutputError, match=r"out/b\.parquet: cannot be read .*503"):
            run(s3_job(port=proxy.port))


def claim(place: Location, fingerprint: dict[str, Any]) -> str:
    """What becomes of a job that claims a directory."""
    try:
        manifest.begin(place, fingerprint)
    except FingerprintError:
        return "refused"
    return "taken"


def test_of_two_jobs_that_begin_in_the_same_moment_one_is_refused(
    s3_job: MakeS3Job, bucket: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "SETTLE_SECONDS", 1.0)
    fingerprint = make_plan(s3_job()).fingerprint
    jobs = [fingerprint | {"model.dtype": dtype} for dtype in ("float32", "bfloat16")]
    places = [locate(store.uri(f"{bucket.name}/round-{number}")) for number in range(4)]
    both_have_looked = threading.Barrier(2 * len(places))

    def write_late(location: Location, content: bytes) -> None:
        both_have_looked.wait(30)
        write(location, content)

    write = storage.write
    monkeypatch.setattr(storage, "write", write_late)
    with ThreadPoolExecutor(2 * len(places)) as pool:
        outcomes = list(pool.map(claim, [place for place in places for _ in jobs], jobs * len(places)))
    assert [sorted(outcomes[i : i + 2]) for i in range(0, len(outcomes), 2)] == [["refused", "taken"]] * len(places)
    for place, outcome in zip(places, outcomes[::2], strict=True):
        assert manifest.is_claimed(place, jobs[0]) == (outcome == "taken")


def test_two_jobs_that_both_went_on_are_told_and_neither_reads_the_others_parts(
    s3_job: MakeS3Job, store: Store, filled: Path
) -> None:
    job = s3_job()
    other = job.model_copy(update={"model": job.models[0].model_copy(update={"dtype": "bfloat16"})})
    place = locate(store.uri(f"{filled.name}/out"))

    def claimed_late(_: PartRecord) -> None:
        content = json.dumps({"fingerprint": make_plan(other).fingerprint}).encode()
        storage.write(place.join(manifest.MANIFEST), content)

    with pytest.raises(
        JobError, match=r"another job began at .*model\.dtype was 'bfloat16', is 'float32'.* parts of both"
    ):
        run_job(job, lambda *_: None, claimed_late)
    assert not (filled / "out" / "_SUCCESS").exists()
    for one in (job, other):
        with pytest.raises(FingerprintError, match="holds the output of another job"):
            run(one)
