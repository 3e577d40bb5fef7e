"""Every task as a job: in process and on a real local Ray, on shards of every kind, and on real text."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from inference import available_tasks
from inference.columns import ERROR
from jobs.config import JobConfig
from jobs.plan import make_plan
from tests.inference.tasks import examples
from tests.jobs.conftest import part_bytes, run

PACKAGES = Path(__file__).parents[3] / "shared" / "data" / "packages"
COLUMNS: dict[str, dict[str, str]] = {
    "question-answering": {"question": "section", "context": "text"},
    "text-ranking": {"query": "section"},
}
"""What of the package descriptions plays which part; `text` is `text`."""

ON_RAY = [
    pytest.param(name, marks=[] if name == "token-classification" else pytest.mark.slow) for name in available_tasks()
]
"""A Ray run for each task takes 10 s; lists of spans are the deepest of the columns that travel."""


@pytest.fixture(scope="module", params=available_tasks())
def task(request: pytest.FixtureRequest) -> str:
    """Each task."""
    return str(request.param)


@pytest.fixture(scope="module")
def checkpoint(task: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint for it."""
    return examples.checkpoint(tmp_path_factory.mktemp(task), task, examples.families(task)[0])


def make_job(task: str, checkpoint: Path, shards: Path, output: Path, **sections: dict[str, Any]) -> JobConfig:
    content: dict[str, dict[str, Any]] = {
        "input": {"path": str(shards)},
        "output": {"path": str(output)},
        "model": {"name": str(checkpoint), "dtype": "float32"},
        "task": {"name": task, "options": examples.OPTIONS.get(task, {})},
        "run": {"executor": "local", "threads_per_actor": 1, "max_failed_fraction": 1},
    }
    return JobConfig.model_validate({key: content.get(key, {}) | sections.get(key, {}) for key in content | sections})


def write_shards(task: str, checkpoint: Path, folder: Path) -> Path:
    """One shard of rows, one without rows, one in which every row fails."""
    folder.mkdir()
    rows = examples.table(task, checkpoint)
    nulls = pa.table(
        [rows.column("id"), *(pa.nulls(len(rows), pa.string()) for _ in rows.column_names[1:])], rows.schema
    )
    for name, table in {"rows": rows, "empty": rows.slice(0, 0), "failing": nulls}.items():
        pq.write_table(table, folder / f"{name}.parquet")
    return folder


def test_every_part_has_the_declared_schema(task: str, checkpoint: Path, tmp_path: Path) -> None:
    shards = write_shards(task, checkpoint, tmp_path / "in")
    in_process = make_job(task, checkpoint, shards, tmp_path / "local")
    report = run(in_process)
    assert report.num_rows == 2 * len(pq.read_table(shards / "rows.parquet"))
    declared = make_plan(in_process).output_schema
    for name in ("rows", "empty", "failing"):
        written = pq.read_table(tmp_path / "local" / f"{name}.parquet")
        assert written.schema.remove_metadata() == declared.remove_metadata()
    assert pq.read_table(tmp_path / "local" / "failing.parquet").column(ERROR).null_count == 0


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("task", ON_RAY, indirect=True, scope="module")
def test_both_executors_write_the_same_bytes(task: str, checkpoint: Path, tmp_path: Path) -> None:
    shards = write_shards(task, checkpoint, tmp_path / "in")
    run(make_job(task, checkpoint, shards, tmp_path / "local"))
    run(make_job(task, checkpoint, shards, tmp_path / "ray", run={"executor": "ray", "num_actors": 1}))
    assert part_bytes(str(tmp_path / "ray")) == part_bytes(str(tmp_path / "local"))


@pytest.mark.skipif(not PACKAGES.exists(), reason="the package descriptions are not beside this checkout")
def test_real_text_is_answered_row_by_row(task: str, checkpoint: Path, tmp_path: Path) -> None:
    table = pq.read_table(min(PACKAGES.glob("*.parquet"))).slice(0, 200)
    table = table.select(["package", "section", "text"])
    (tmp_path / "in").mkdir()
    pq.write_table(table, tmp_path / "in" / "a.parquet")
    columns = {"columns": COLUMNS[task]} if task in COLUMNS else {}
    run(make_job(task, checkpoint, tmp_path / "in", tmp_path / "out", input=columns))
    labelled = pq.read_table(tmp_path / "out" / "a.parquet")
    assert labelled.select(table.column_names).equals(table)
    errors = set(labelled.column(ERROR).to_pylist())
    assert errors == {None} or task == "fill-mask"  # descriptions have no mask
