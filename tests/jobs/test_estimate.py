"""`shardlabel plan`: what it says is what a run then does, and it leaves everything as it was."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from statistics import harmonic_mean
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner, Result

import inference
from inference.errors import ConfigError
from jobs.cli import app
from jobs.config import JobConfig, load_job
from jobs.cost import busiest
from jobs.estimate import Estimate, Known, estimate_job
from jobs.estimate_text import describe_estimate
from jobs.manifest import read_committed
from jobs.plan import make_plan
from jobs.pool import find_pool
from jobs.resources import Resources
from jobs.run import prepare
from jobs.speed import measure_speed
from tests.jobs.conftest import MakeJob, read_parts, rows_of, run

ROOT = Path(__file__).parents[2]
RUNNER = CliRunner()
GIVEN = Known(tokens_per_second=100.0, num_actors=2, price_per_hour=3.6)


@pytest.fixture
def job(make_job: MakeJob) -> JobConfig:
    return make_job(run={"split_rows": 10, "num_actors": 2})


def command(job: JobConfig, name: str, folder: Path, *arguments: str) -> Result:
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(job.model_dump(mode="json")))
    return RUNNER.invoke(app, [name, str(path), *arguments])


def listing(*folders: Path) -> dict[str, tuple[int, str]]:
    """Every file and folder with its time of change and a hash of its content."""
    return {
        str(path): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "")
        for folder in folders
        for path in [folder, *folder.rglob("*")]
        if path.exists()
    }


@pytest.mark.parametrize("state", ["absent", "complete", "half", "changed"])
def test_nothing_is_written(state: str, job: JobConfig, shards: Path, tmp_path: Path, single_label: Path) -> None:
    out = Path(job.output.path)
    if state != "absent":
        run(job)
    if state == "half":
        (out / "b.parquet").unlink()
        (out / "_SUCCESS").unlink()
    if state == "changed":
        pq.write_table(rows_of(100, 8), shards / "a.parquet")
    (tmp_path / "job.yaml").touch()
    before = listing(tmp_path, single_label)
    result = command(job, "plan", tmp_path)
    after = listing(tmp_path, single_label)
    assert result.exit_code == 0, result.output
    mine = str(tmp_path / "job.yaml")  # written by this test itself
    assert {**after, mine: None} == {**before, mine: None}
    assert out.exists() == (state != "absent")


def test_the_output_is_announced_as_it_is_then_written(job: JobConfig) -> None:
    found = estimate_job(job, GIVEN)
    report = run(job)
    (schema, *others) = [pq.read_schema(path) for path in sorted(Path(job.output.path).rglob("*.parquet"))]
    assert list(found.columns.items()) == [(field.name, str(field.type)) for field in schema]
    assert all(other.equals(schema) for other in others)
    assert found.model.dtype == report.dtype
    assert found.lengths is not None
    rows = read_parts(job.output.path)
    assert found.lengths.num_tokens == report.num_tokens == sum(row["num_tokens"] or 0 for row in rows)
    assert found.lengths.failed_share == pytest.approx(report.num_failed / report.num_rows)
    assert found.lengths.truncated_share == pytest.approx(report.num_truncated / report.num_rows)
    assert found.todo.num_splits == report.num_splits


def test_after_the_run_there_is_nothing_to_estimate(job: JobConfig) -> None:
    run(job)
    found = estimate_job(job, GIVEN)
    assert (found.todo.num_pending, found.lengths, found.speed, found.cost) == (0, None, None, None)
    assert found.is_complete
    assert f"output     {job.output.path}: complete" in describe_estimate(found)
    assert "failed     5 rows; retry would label" in describe_estimate(found)


@pytest.mark.parametrize("change", [{"task": {"options": {"top_k": 2}}}, {"model": {"max_length": 16}}])
def test_the_output_of_another_job_is_refused_as_a_run_refuses_it(
    change: dict[str, Any], job: JobConfig, make_job: MakeJob, tmp_path: Path
) -> None:
    run(job)
    before = listing(Path(job.output.path))
    refused = [command(make_job(**change), name, tmp_path) for name in ("run", "plan")]
    assert [result.exit_code for result in refused] == [2, 2]
    assert refused[0].stderr == refused[1].stderr
    assert "holds the output of another job" in refused[1].stderr
    assert listing(Path(job.output.path)) == before


def test_hours_and_money_are_those_of_the_tokens(job: JobConfig) -> None:
    found = estimate_job(job, GIVEN)
    assert found.lengths is not None
    assert found.cost is not None
    # Two actors take splits of 10, 10, 5, 7, 10 and 3 rows: 10 + 5 + 10 and 10 + 7 + 3.
    seconds = found.lengths.num_tokens / 100 * 25 / 45
    assert found.cost.seconds == pytest.approx(seconds)
    assert found.cost.actor_hours == pytest.approx(2 * seconds / 3600)
    assert found.cost.price == pytest.approx(2 * seconds / 3600 * 3.6)
    assert found.cost.rows_per_second == pytest.approx(45 / seconds)
    assert (found.cost.gpu_hours, found.cost.error, found.cost.fixed_seconds) == (0, 0, None)


def test_the_busiest_actor_is_the_one_of_a_simulation() -> None:
    sizes = [7, 1, 5, 5, 9, 2, 2, 8, 1]
    for num_actors in (1, 2, 3, 5, 9, 20):
        free_at = [0] * num_actors
        for size in sizes:
            free_at[free_at.index(min(free_at))] += size
        assert busiest(sizes, num_actors) == max(free_at)


def test_a_part_of_the_rows_says_how_far_it_may_be_off(job: JobConfig) -> None:
    full, part = estimate_job(job, GIVEN), estimate_job(job, Known(**{**vars_of(GIVEN), "sample_rows": 20}))
    assert full.lengths is not None
    assert part.lengths is not None
    assert part.cost is not None
    assert part.lengths.num_rows == 20
    assert abs(part.lengths.num_tokens - full.lengths.num_tokens) <= part.lengths.num_tokens_bound
    assert part.cost.error == pytest.approx(part.lengths.num_tokens_bound / part.lengths.num_tokens, rel=0.01)


def vars_of(known: Known) -> dict[str, Any]:
    return {name: getattr(known, name) for name in Known.__slots__}


def test_the_speed_is_measured_with_as_many_predictors_as_would_run(job: JobConfig) -> None:
    found = estimate_job(job, Known())
    assert found.speed is not None
    assert found.cost is not None
    assert (found.speed.is_measured, found.speed.num_predictors, found.speed.threads_per_actor) == (True, 2, 1)
    assert len(found.speed.rounds) == 3
    mean = 3 / sum(1 / rate for rate in found.speed.rounds)
    assert found.speed.tokens_per_second == pytest.approx(mean / 2)
    assert found.speed.error == pytest.approx((max(found.speed.rounds) - min(found.speed.rounds)) / 2 / mean)
    assert found.cost.num_actors == 2
    assert found.cost.fixed_seconds == found.speed.load_seconds
    assert found.speed.load_seconds is not None
    assert found.speed.load_seconds > 0


def test_no_more_predictors_are_measured_at_once_than_there_are_splits(make_job: MakeJob) -> None:
    found = estimate_job(make_job(run={"num_actors": 7}), Known())  # three splits
    assert found.speed is not None
    assert found.cost is not None
    assert (found.speed.num_predictors, found.cost.num_actors) == (3, 7)


def test_for_a_cluster_nothing_is_measured_and_its_own_speed_is_asked_for(make_job: MakeJob) -> None:
    job = make_job(run={"executor": "ray", "address": "10.0.0.9:6379", "threads_per_actor": "auto"})
    found = estimate_job(job, Known())
    assert (found.is_here, found.device, found.speed, found.cost) == (False, "cuda", None, None)
    assert "give --tokens-per-second" in describe_estimate(found)
    given = estimate_job(job, Known(tokens_per_second=50_000, num_actors=8))
    assert given.cost is not None
    assert given.cost.num_actors == 8
    assert given.cost.gpu_hours == pytest.approx(given.cost.actor_hours)
    assert given.model.max_batch_tokens == 131_072


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({"executor": "local", "num_actors": 3}, (True, "cpu", 3)),
        ({"executor": "local", "gpus_per_actor": 1, "num_actors": 3}, (False, "cuda", 1)),
        ({"address": "h:1", "num_actors": {"min": 2, "max": 9}, "gpus_per_actor": 0}, (False, "cpu", 9)),
        ({"address": "h:1"}, (False, "cuda", 1)),
    ],
)
def test_where_a_job_would_run(how: dict[str, Any], expected: tuple[bool, str, int], make_job: MakeJob) -> None:
    run_config = make_job(run={"executor": "ray", "threads_per_actor": "auto", **how}).run
    pool = find_pool(run_config, None)
    assert (pool.is_here, pool.device, pool.num_actors) == expected
    is_one = pool.is_local and pool.device == "cuda"  # whatever is asked for
    assert find_pool(run_config, 12).num_actors == (1 if is_one else 12)


@pytest.mark.parametrize(("executor", "num_actors"), [("local", 1), ("ray", 4)])
def test_a_local_run_has_one_predictor_on_one_gpu_however_many_there_are(
    executor: str, num_actors: int, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(inference, "count_gpus", lambda: 4)
    found = estimate_job(make_job(run={"executor": executor}), Known(tokens_per_second=100.0))
    assert found.cost is not None
    assert found.lengths is not None
    assert (found.is_here, found.device, found.cost.num_actors) == (True, "cuda", num_actors)
    assert found.cost.gpu_hours == pytest.approx(num_actors * found.cost.seconds / 3600)
    assert (found.cost.seconds == pytest.approx(found.lengths.num_tokens / 100)) == (num_actors == 1)


@pytest.mark.parametrize(("is_local", "at_once"), [(True, 3), (False, 1)])
def test_threads_of_a_local_run_are_measured_as_one_actor_on_a_gpu(
    job: JobConfig, *, is_local: bool, at_once: int
) -> None:
    """The arithmetic; no GPU is needed for that."""
    plan = make_plan(job)
    pool = Resources(min_actors=3, initial_actors=3, max_actors=3, gpus_per_actor=1, threads_per_actor=1)
    work = prepare(plan, read_committed(plan), pool)
    texts = pa.table({"text": ["a good film"] * 64})
    speed = measure_speed(
        work, work.load_tokenizer(), 0.0, texts, np.full(64, 5.0), 3, split_rows=64, is_local=is_local
    )
    assert speed.num_predictors == at_once
    assert speed.tokens_per_second <= harmonic_mean(speed.rounds) * (1 + 1e-9)
    assert not is_local or speed.tokens_per_second == pytest.approx(harmonic_mean(speed.rounds))


def test_on_a_cpu_no_round_labels_rows_of_another_one(job: JobConfig) -> None:
    plan = make_plan(job)
    pool = Resources(min_actors=1, initial_actors=1, max_actors=1, gpus_per_actor=0, threads_per_actor=1)
    work = prepare(plan, read_committed(plan), pool)
    tokenizer, seen = work.load_tokenizer(), list[set[str]]()

    def noting(table: pa.Table) -> pa.Table:
        seen.append(set(table["text"].to_pylist()))
        return tokenizer(table)

    texts = pa.table({"text": [f"a good film {i}" for i in range(400)]})
    measure_speed(work, cast("Any", noting), 0.0, texts, np.full(400, 6.0), 1, split_rows=400, is_local=True)
    *before, first, second, third = seen
    assert {len(rows) for rows in (first, second, third)} == {100}
    assert set.union(*before, first, second, third) == set(texts["text"].to_pylist())


def test_a_cluster_of_the_environment_is_a_cluster(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.9:6379")
    assert not find_pool(make_job(run={"executor": "ray"}).run, None).is_here
    assert find_pool(make_job().run, None).is_here  # local


@pytest.mark.parametrize(
    ("how", "known", "message"),
    [
        ({}, Known(calibrate=True, tokens_per_second=5), "leave one of the two out"),
        ({"executor": "ray", "address": "h:1"}, Known(calibrate=True), "would not run on this machine"),
    ],
)
def test_what_contradicts_itself_is_refused(how: dict[str, Any], known: Known, message: str, make_job: MakeJob) -> None:
    with pytest.raises(ConfigError, match=message):
        estimate_job(make_job(run=how), known)


def test_a_run_that_would_fail_is_foretold_with_status_1(make_job: MakeJob, shards: Path, tmp_path: Path) -> None:
    job = make_job(run={"max_failed_fraction": 0.1})  # 5 of 45 rows are null
    (shards / "broken.parquet").write_bytes(b"PAR1 no PAR1")
    result = command(job, "plan", tmp_path, "--no-calibrate")
    assert result.exit_code == 1
    assert "problem    shard broken.parquet cannot be read: not a readable Parquet file" in result.stdout
    assert "problem    11.1% of the sample's rows fail (InputError: text is null)" in result.stdout
    assert command(job, "run", tmp_path).exit_code == 1
    allowed = make_job("other", run={"max_failed_fraction": 0.12})
    (shards / "broken.parquet").unlink()
    assert command(allowed, "plan", tmp_path, "--no-calibrate").exit_code == 0
    assert command(allowed, "run", tmp_path).exit_code == 0


def test_where_nothing_that_was_drawn_can_be_read_plan_foretells_that_a_run_fails(
    make_job: MakeJob, shards: Path, tmp_path: Path
) -> None:
    """Of few splits, of which all are read, and of more than that, of which some are."""
    for path in shards.rglob("*.parquet"):
        path.unlink()
    path = shards / "good.parquet"
    pq.write_table(rows_of(0, 400), path, row_group_size=10)
    content = bytearray(path.read_bytes())
    for group in range(40):  # the footer stays sound
        start = pq.read_metadata(path).row_group(group).column(1).dictionary_page_offset
        content[start : start + 40] = b"\xff" * 40
    path.write_bytes(content)
    for split_rows in (10, 200):
        job = make_job(run={"split_rows": split_rows})
        result = command(job, "plan", tmp_path, "--no-calibrate", "--sample", "50")
        assert result.exit_code == 1, result.output
        assert "problem    shard good.parquet cannot be read: " in result.stdout
    assert command(job, "run", tmp_path).exit_code == 1


def test_the_command_prints_for_people_and_for_machines(job: JobConfig, tmp_path: Path) -> None:
    how = ("--tokens-per-second", "100", "--actors", "2", "--price-per-hour", "3.6", "--sample", "45")
    text, machine = command(job, "plan", tmp_path, *how), command(job, "plan", tmp_path, *how, "--json")
    assert (text.exit_code, machine.exit_code) == (0, 0)
    found, expected = json.loads(machine.stdout), json.loads(json.dumps(estimate_job(job, GIVEN).as_dict()))
    assert found.pop("seconds") > 0
    expected.pop("seconds")
    assert found == expected
    assert "input      3 shards, 45 rows" in text.stdout
    assert "to do      6 of 6 splits, 45 rows: 6 new, 0 of shards that changed" in text.stdout
    assert "sample     45 of 45 rows to do, from 6 splits" in text.stdout
    assert f"output     {job.output.path}: nothing there yet" in text.stdout
    assert "columns    id int64, text string, label string, confidence float, num_tokens int32" in text.stdout
    assert "fail       11.1% of the rows" in text.stdout
    bars = [line for line in text.stdout.splitlines() if "█" in line]
    widest = max(found["lengths"]["histogram"], key=lambda each: each["share"])
    assert max(bars, key=lambda line: line.count("█")).split()[:2] == [
        f"{widest['first']}-{widest['last']}",
        f"{widest['share']:.1%}",
    ]


def test_a_driver_without_torch_can_plan(job: JobConfig, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job.model_dump(mode="json")))
    code = "import sys; sys.modules['torch'] = None; from jobs.cli import main; main()"
    line = [sys.executable, "-c", code, "plan", str(tmp_path / "job.yaml"), "--tokens-per-second", "100", "--json"]
    done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    expected = estimate_job(job, Known(tokens_per_second=100))
    assert expected.cost is not None
    assert json.loads(done.stdout)["cost"]["seconds"] == pytest.approx(expected.cost.seconds)


def test_the_demo_can_be_planned(tmp_path: Path, shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    overrides = [f"input.path={shards}", f"output.path={tmp_path / 'out'}", "output.keep_columns=[id]"]
    found: Estimate = estimate_job(load_job(Path("docs/demo/job.yaml"), overrides), GIVEN)
    assert found.columns["label"] == "string"
    assert found.executor == "ray"
    assert "Not in them: starting Ray, reading and writing" in describe_estimate(found)
