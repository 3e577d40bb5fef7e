"""The same job on a real local Ray."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from inference.errors import ModelError
from tests.jobs.conftest import MakeJob, part_bytes, rows_of, run
from tests.test_rules import blocks

pytestmark = pytest.mark.usefixtures("local_ray")
RAY = {"executor": "ray", "threads_per_actor": 1, "split_rows": 10}


def test_ray_writes_the_bytes_that_the_in_process_twin_writes(make_job: MakeJob, tmp_path: Path) -> None:
    with_ray = run(make_job("ray", run=RAY))
    in_process = run(make_job("local", run=RAY | {"executor": "local"}))
    assert part_bytes(str(tmp_path / "ray")) == part_bytes(str(tmp_path / "local"))
    assert (with_ray.num_rows, with_ray.num_tokens) == (in_process.num_rows, in_process.num_tokens)
    assert len(part_bytes(str(tmp_path / "ray"))) == 6


@pytest.mark.slow
def test_the_number_of_actors_changes_no_byte(make_job: MakeJob, tmp_path: Path) -> None:
    run(make_job("one", run=RAY | {"num_actors": 1}))
    run(make_job("some", run=RAY | {"num_actors": {"min": 1, "max": 2}}))
    assert part_bytes(str(tmp_path / "one")) == part_bytes(str(tmp_path / "some"))


@pytest.mark.slow
def test_a_shard_that_cannot_be_read_fails_alone(make_job: MakeJob, shards: Path) -> None:
    good = (shards / "a.parquet").read_bytes()
    (shards / "a.parquet").write_bytes(good[:4] + b"\xff" * 200 + good[204:])
    report = run(make_job(run=RAY))
    assert set(report.failed_shards) <= {"a-00000.parquet", "a-00001.parquet", "a-00002.parquet"}
    assert report.failed_shards
    assert "cannot be read" in next(iter(report.failed_shards.values()))
    assert report.num_parts == report.num_splits - len(report.failed_shards)


@pytest.mark.slow
def test_a_shard_without_rows_goes_through(make_job: MakeJob, shards: Path, tmp_path: Path) -> None:
    pq.write_table(rows_of(0, 0), shards / "empty.parquet")
    assert run(make_job(run=RAY)).num_rows == 45
    assert pq.read_metadata(tmp_path / "out" / "empty.parquet").num_rows == 0


@pytest.mark.slow
def test_weights_that_do_not_load_end_the_run_with_one_sentence(
    make_job: MakeJob, single_label: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in single_label.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    (broken / "model.safetensors").write_bytes(b"\0" * 64)
    with pytest.raises(ModelError, match="does not load as AutoModelForSequenceClassification") as error:
        run(make_job(model={"name": str(broken)}, run=RAY))
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_the_readme_ray_example_gives_the_labels_that_one_process_gives(shards: Path) -> None:
    code = "".join(blocks("python")).replace('"reviews/"', repr(str(shards)))
    for asked, here in {"num_gpus=1": "num_gpus=0", "size=8": "size=1", "size=4": "size=1"}.items():
        assert asked in code
        code = code.replace(asked, here)
    readme: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), readme)  # noqa: S102 - our own README
    rows = sorted(readme["dataset"].take_all(), key=lambda row: row["id"])
    expected = readme["predictor"](readme["tokenizer"](rows_of(0, 45))).to_pylist()
    for column in ("id", "label", "num_tokens", "error"):
        assert [row[column] for row in rows] == [row[column] for row in expected], column
