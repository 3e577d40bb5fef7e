"""A request that is refused (exit status 2) only when the model loads leaves the output directory as it was."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from inference.errors import ConfigError, FingerprintError, JobError, ModelError
from jobs import manifest, storage
from jobs.plan import Plan, make_plan
from jobs.stopping import Stopped
from jobs.storage import locate
from jobs.undo import undone_if_refused
from tests.inference.conftest import edit_weights
from tests.jobs.conftest import MakeJob, rows_of, run
from tests.jobs.world import World, refusal
from tests.own_code import MODELING, with_code


def contents(folder: Path) -> dict[str, Any]:
    """Every directory, and every file with its bytes; also the folder itself, if it is there."""
    paths = [path for path in (folder, *folder.rglob("*")) if path.exists()]
    return {str(path.relative_to(folder)): path.is_file() and path.read_bytes() for path in paths}


@pytest.mark.parametrize("executor", ["local", "ray"])
def test_a_model_that_does_not_load_leaves_no_claim_and_the_mended_one_is_no_other_job(
    executor: str, single_label: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if executor == "ray":
        request.getfixturevalue("local_ray")
    world = World(tmp_path, single_label)
    model = world.own_checkpoint()
    edit_weights(model, lambda weights: weights.pop("classifier.bias"))
    world.job["output"]["path"] = str(world.out / "deep" / "down")
    result = world.run(f"run.executor={executor}")
    assert "has no trained weights for classifier.bias" in refusal(result)
    assert result.exit_code == 2
    assert not world.out.exists()
    shutil.copy(single_label / "model.safetensors", model)
    assert world.run().exit_code == 0


@pytest.mark.usefixtures("modules")
def test_a_finished_output_stays_finished_when_the_model_no_longer_loads(
    make_job: MakeJob, shards: Path, single_label: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = with_code(single_label, tmp_path / "own")
    fails = "if 'NOT_TODAY' in os.environ: raise RuntimeError('not today')"
    init = f"    def __init__(self, config):\n        {fails}\n        super().__init__(config)\n\n    def forward"
    (own / "modeling_own.py").write_text("import os\n" + MODELING.replace("    def forward", init))
    job = make_job(model={"name": str(own), "trust_remote_code": True}, run={"split_rows": 10})
    run(job)
    pq.write_table(rows_of(100, 25), shards / "a.parquet", row_group_size=10)  # its parts are to be kept until then
    pq.write_table(rows_of(200, 9), shards / "new.parquet")
    before = contents(tmp_path / "out")
    assert {"_SUCCESS", "_shardlabel/manifest.json", "_shardlabel/index.pq"} < set(before)
    monkeypatch.setenv("NOT_TODAY", "1")
    with pytest.raises(ModelError, match=r"does not load as AutoModel.* \(RuntimeError: not today\)"):
        run(job)
    assert contents(tmp_path / "out") == before
    monkeypatch.delenv("NOT_TODAY")
    assert run(job).new_rows == 34


def refuse_after(
    act: Callable[[], object], plan: Plan, *, is_begun: bool = True, error: BaseException | None = None
) -> None:
    """A run that finds the request wrong, or is stopped, after something has happened to the directory."""
    with undone_if_refused(plan, manifest.read_committed(plan)) as before:
        before.is_begun = is_begun
        act()
        raise error or ConfigError("wrong")


def test_what_was_written_meanwhile_is_not_taken_back(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job(run={"split_rows": 10})
    plan = make_plan(job)
    with pytest.raises(JobError, match=r"the run stopped: wrong; the parts written until now stay") as caught:
        refuse_after(lambda: run(job), plan)
    assert caught.value.exit_status == 1
    assert len(manifest.read_committed(plan).records) == 6
    assert (tmp_path / "out" / "_SUCCESS").exists()


def test_the_claim_of_another_job_is_not_taken_back(make_job: MakeJob, tmp_path: Path) -> None:
    plan = make_plan(make_job())
    with pytest.raises(ConfigError, match="wrong"):
        refuse_after(lambda: manifest.begin(plan.output, plan.fingerprint | {"task.name": "another"}), plan)
    with pytest.raises(FingerprintError, match=r"task\.name was 'another'"):
        manifest.begin(plan.output, plan.fingerprint)
    assert sorted(contents(tmp_path / "out")) == [".", "_shardlabel", "_shardlabel/manifest.json"]


def test_a_second_job_that_comes_too_late_takes_back_no_sign_of_the_first(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job()
    run(job)
    storage.write(locate(job.output.path).join("_shardlabel/attempts/a.parquet.0"), b"")
    before = contents(tmp_path / "out")
    with pytest.raises(FingerprintError):
        manifest.begin(locate(job.output.path), make_plan(job).fingerprint | {"model.dtype": "bfloat16"})
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("error", [Stopped(), ConfigError("wrong")], ids=["stopped", "refused"])
@pytest.mark.parametrize("is_begun", [True, False])
def test_a_run_takes_back_what_it_began_and_not_what_another_one_of_the_same_job_did(
    make_job: MakeJob, tmp_path: Path, error: BaseException, *, is_begun: bool
) -> None:
    plan = make_plan(make_job())
    with pytest.raises(type(error)):
        refuse_after(lambda: manifest.begin(plan.output, plan.fingerprint), plan, is_begun=is_begun, error=error)
    assert (tmp_path / "out" / "_shardlabel" / "manifest.json").exists() == (not is_begun)


def test_a_stopped_run_does_not_take_back_the_claim_of_another_job(make_job: MakeJob) -> None:
    plan = make_plan(make_job())
    other = plan.fingerprint | {"task.name": "another"}
    with pytest.raises(Stopped):
        refuse_after(lambda: manifest.begin(plan.output, other), plan, error=Stopped())
    assert manifest.read_fingerprint(plan.output) == other
