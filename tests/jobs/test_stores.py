"""A store that misbehaves, one that stays away, and credentials: taken from the usual places, shown nowhere."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from inference.errors import ConfigError
from jobs import storage
from jobs.cli import app
from jobs.listing import find
from jobs.stopping import Stopped
from jobs.storage import locate
from jobs.stores import read_each
from tests.jobs.conftest import MakeJob, part_bytes, run
from tests.jobs.faulty_proxy import Fault, Request, faulty_proxy
from tests.jobs.s3_server import ACCESS_KEY, ENVIRONMENT, SECRET_KEY, Store

MakeJobFile = Callable[[int], Path]


@pytest.fixture
def bucket(store: Store, tmp_path: Path, shards: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bucket with the shards in `in/`, as the server keeps it on disk."""
    monkeypatch.setattr(storage, "SETTLE_SECONDS", 0.0)  # nobody else writes there
    name = tmp_path.name.replace("_", "-").lower()
    place = locate(store.uri(name) + "&allow_bucket_creation=true")
    place.filesystem.create_dir(place.path)
    for path in sorted(shards.rglob("*.parquet")):
        storage.write(place.join(f"in/{path.relative_to(shards)}"), path.read_bytes())
    return store.root / name


@pytest.fixture
def job_file(make_job: MakeJob, store: Store, bucket: Path, tmp_path: Path) -> MakeJobFile:
    """A job from `in` to `out` of the bucket through a proxy's port."""

    def write(port: int) -> Path:
        paths = {key: store.uri(f"{bucket.name}/{name}", port) for key, name in (("input", "in"), ("output", "out"))}
        job = make_job(**{key: {"path": path} for key, path in paths.items()})
        path = tmp_path / "job.yaml"
        path.write_text(job.model_dump_json())
        return path

    return write


@pytest.mark.parametrize(
    "fault", ["cut", *(pytest.param(name, marks=pytest.mark.slow) for name in ("503", "reset", "reset after", "stall"))]
)
def test_a_store_that_recovers_costs_time_and_no_byte(
    make_job: MakeJob, store: Store, bucket: Path, fault: Fault
) -> None:
    ends = {name: {"path": store.uri(f"{bucket.name}/{name}")} for name in ("in", "calm")}
    run(make_job(input=ends["in"], output=ends["calm"]))
    with faulty_proxy(store.server_port) as proxy:
        # A stall costs the 3 s after which the SDK gives up, so two of them must do, one at a read and one at a write.
        proxy.decide = lambda r: fault if _is_chosen(r, len(proxy.faults), 2 if fault == "stall" else 6) else None
        # `in` and `out` both through the proxy: footers, pages, manifest, parts and `_SUCCESS` all meet it.
        job = make_job(
            input={"path": store.uri(f"{bucket.name}/in", proxy.port)},
            output={"path": store.uri(f"{bucket.name}/rough", proxy.port)},
        )
        report = run(job)
        assert len(proxy.faults) == (2 if fault == "stall" else 6)
    assert (report.failed_shards, report.num_rows) == ({}, 45)
    assert part_bytes(str(bucket / "rough")) == part_bytes(str(bucket / "calm"))


def _is_chosen(request: Request, num_faults: int, limit: int) -> bool:
    """Half of the faults at reads, half at uploads; `HEAD` has no body to cut."""
    wanted = "GET" if num_faults < limit // 2 else "PUT"
    return num_faults < limit and request.method == wanted


@pytest.mark.parametrize(("away", "status"), [("always", 2), ("from the first part on", 1)])
def test_a_store_that_stays_away_ends_with_one_sentence(
    job_file: MakeJobFile, store: Store, monkeypatch: pytest.MonkeyPatch, away: str, status: int
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    with faulty_proxy(store.server_port) as proxy:
        seen: list[bool] = []

        def decide(request: Request) -> Fault | None:
            seen.append(away == "always" or (request.method == "PUT" and ".parquet" in request.path))
            return "503" if any(seen) else None

        proxy.decide = decide
        result = CliRunner().invoke(app, ["run", str(job_file(proxy.port))])
    assert result.exit_code == status, result.output
    (message,) = [line for line in result.stderr.splitlines() if line.startswith("shardlabel: ")]
    assert "AWS Error" in message
    assert "Traceback" not in result.output


def test_retries_are_those_that_the_environment_asks_for(
    store: Store, bucket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for attempts in (1, 3):
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", str(attempts))
        with faulty_proxy(store.server_port) as proxy:
            proxy.decide = lambda _: "503"
            with pytest.raises(OSError, match="503"):
                find(locate(store.uri(f"{bucket.name}/in", proxy.port)))
            assert len(proxy.requests) == attempts


def test_a_profile_is_taken_and_no_secret_is_left_anywhere(
    job_file: MakeJobFile, store: Store, bucket: Path, tmp_path: Path
) -> None:
    secrets = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
    lines = [f"{name.lower()} = {value}\n" for name, value in secrets.items()]
    (tmp_path / "credentials").write_text(f"[labels]\n{''.join(lines)}")
    environment = {k: v for k, v in (os.environ | ENVIRONMENT).items() if k not in secrets} | {
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
        "AWS_PROFILE": "labels",
    }
    command = [sys.executable, "-m", "jobs", "run", str(job_file(store.port)), "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    written = [path.read_bytes() for path in (bucket / "out").rglob("*") if path.is_file()]
    assert (
        len(written) == 3 + 8
    )  # parts; manifest, index, the run's note, log and report, the labels' report and page, _SUCCESS
    for content in (*written, done.stdout, done.stderr):
        assert ACCESS_KEY.encode() not in content
        assert SECRET_KEY.encode() not in content


@pytest.mark.parametrize(
    "uri",
    [
        "s3://AKIDX:hUsH@bucket/a",
        "s3://AKIDX:hU/hUsH+@bucket/a?region=eu-west-1",
        "s3://AKIDX:12/hUsH@bucket/a",
        "s3://hUsH@bucket/a",
        "s3://bucket/a?secret_key=hUsH",
        "s3://bucket/a?region=x&access_key=hUsH",
        "abfs://account:hUsH@container/a",
        "abfs://c@account.dfs.core.windows.net/a?client_secret=hUsH",
    ],
)
@pytest.mark.parametrize("section", ["input", "output"])
def test_credentials_in_a_url_are_refused_and_not_shown(
    job_file: MakeJobFile, store: Store, uri: str, section: str
) -> None:
    result = CliRunner().invoke(app, ["run", str(job_file(store.port)), f"{section}.path={uri}"])
    assert (result.exit_code, "holds credentials" in result.stderr) == (2, True)
    assert "hUsH" not in result.output
    assert "AKIDX" not in result.output


@pytest.mark.parametrize("uri", ["s3://bucket/a@b/c:d@e?endpoint_override=127.0.0.1:1", "gs://anonymous@bucket/a"])
def test_an_at_sign_alone_is_no_credential(uri: str) -> None:
    assert str(locate(uri)) == uri.partition("?")[0].replace("anonymous@", "")


def test_the_name_of_a_place_leaves_the_options_out() -> None:
    place = locate("s3://bucket/a?endpoint_override=http://127.0.0.1:1&region=x").join("b c")
    assert (str(place), place.path) == ("s3://bucket/a/b c", "bucket/a/b c")


def test_a_refusal_is_a_wrong_request() -> None:
    with pytest.raises(ConfigError, match=r"s3://…@bucket/a: holds credentials; leave them out"):
        locate("s3://AKIDX:hUsH@bucket/a")


def test_a_signal_while_footers_are_read_does_not_wait_for_those_that_are_not_begun() -> None:
    is_reading, read = threading.Event(), list[int]()

    def slowly(number: int) -> None:
        is_reading.wait()
        time.sleep(0.02)
        read.append(number)

    def numbers() -> Iterator[int]:
        yield from range(1000)
        is_reading.set()
        raise Stopped

    with pytest.raises(Stopped):
        read_each(slowly, numbers())
    assert len(read) < 500
    assert read_each(lambda number: -number, range(100)) == [-number for number in range(100)]
