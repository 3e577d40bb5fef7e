"""Shards to label, and jobs over them."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.config import JobConfig
from jobs.manifest import Committed
from jobs.plan import Plan
from jobs.report import RunReport
from jobs.run import run_job
from tests.conftest import RAGGED_TEXTS
from tests.jobs.s3_server import ENVIRONMENT, Store, serve

ROWS_PER_SHARD = {"a.parquet": 25, "b.parquet": 7, "deep/c d.parquet": 13}


def rows_of(start: int, count: int) -> pa.Table:
    """Rows with a unique id and texts of ragged lengths; every ninth text is null."""
    ids = list(range(start, start + count))
    texts = [None if i % 9 == 5 else f"{RAGGED_TEXTS[i % len(RAGGED_TEXTS)]} {i}" for i in ids]
    return pa.table({"id": pa.array(ids, pa.int64()), "text": pa.array(texts, pa.string())})


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Three uneven shards of 45 rows in all, in row groups of ten, one in a subdirectory with a space in its name."""
    start = 0
    for name, count in ROWS_PER_SHARD.items():
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows_of(start, count), path, row_group_size=10)
        start += count
    return tmp_path / "in"


@pytest.fixture(scope="session")
def store_credentials() -> Iterator[None]:
    """The environment of a user of the S3 server; Ray's workers have that of the moment in which Ray was started."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def store(store_credentials: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:  # noqa: ARG001
    """One S3 server for all tests; each makes a bucket of its own. The bucket `pages` holds 1,101 objects."""
    root = tmp_path_factory.mktemp("s3") / "buckets"
    (root / "pages" / "in" / "deep").mkdir(parents=True)
    for name in (*(f"{i:04d}" for i in range(1100)), "deep/last"):
        (root / "pages" / "in" / f"{name}.parquet").write_bytes(b"1")
    with serve(root) as running:
        yield running


@pytest.fixture(scope="session")
def local_ray(store_credentials: None) -> Iterator[None]:  # noqa: ARG001 - needed in the environment
    """One Ray for all tests that want it: 4 logical CPUs, for two Predictors and the tasks around them."""
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"
    os.environ["RAY_AUTH_MODE"] = "disabled"
    import ray  # noqa: PLC0415 - the variables above are read when it is imported

    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


MakeJob = Callable[..., JobConfig]


@pytest.fixture
def make_job(shards: Path, tmp_path: Path, single_label: Path) -> MakeJob:
    """A job over `shards`; keyword arguments are sections, `run={"split_rows": 10}`."""

    def make(directory: str = "out", /, **sections: dict[str, Any]) -> JobConfig:
        content: dict[str, dict[str, Any]] = {
            "input": {"path": str(shards)},
            "output": {"path": str(tmp_path / directory)},
            "model": {"name": str(single_label), "dtype": "float32"},
            "run": {"executor": "local", "threads_per_actor": 1, "max_failed_fraction": 1},
        }
        return JobConfig.model_validate(
            {key: content.get(key, {}) | sections.get(key, {}) for key in content | sections}
        )

    return make


def run(job: JobConfig, *, prune: bool = False) -> RunReport:
    """Run a job without a progress line."""

    def start(plan: Plan, committed: Committed) -> None:
        assert len(plan.splits) == len(committed.pending) + len(committed.records)

    return run_job(job, start, lambda _: None, prune=prune)


def read_parts(output: str) -> list[dict[str, Any]]:
    """All rows of an output, part by part in the order of their names."""
    return [row for path in sorted(Path(output).rglob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def part_bytes(output: str) -> dict[str, bytes]:
    """The content of every part."""
    return {str(path.relative_to(output)): path.read_bytes() for path in sorted(Path(output).rglob("*.parquet"))}
