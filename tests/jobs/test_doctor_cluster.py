"""The doctor on a cluster: real nodes are asked what they have, and what they say is compared with what is expected."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml

from inference.findings import Finding, Notes
from jobs.doctor import examine
from jobs.doctor_cluster import compare_versions
from jobs.nodes import node_software
from jobs.provenance import software
from tests.jobs.cluster import running
from tests.jobs.conftest import MakeJob

RAY = {"executor": "ray", "address": "auto"}


def compared(found: dict[str, dict[str, str | None] | str], here: dict[str, str | None]) -> Finding:
    notes = Notes()
    compare_versions(found, here, notes)
    (finding,) = notes.findings
    return finding


@pytest.mark.usefixtures("local_ray")
def test_a_cluster_of_the_same_software_with_the_checkpoint_is_fine(make_job: MakeJob) -> None:
    found = {finding.check: finding for finding in examine(make_job(run=RAY)).findings}
    assert {name: found[name].level for name in ("ray", "versions", "copies", "actors")} == dict.fromkeys(
        ("ray", "versions", "copies", "actors"), "ok"
    )
    assert "1 nodes with 4 CPUs and 0 GPUs" in found["ray"].message
    assert f"python {sys.version.split()[0]}" in found["versions"].message
    assert "devices" not in found, "this machine is not where the models run"


@pytest.mark.usefixtures("local_ray")
def test_what_a_real_node_has_is_compared_with_what_the_driver_has() -> None:
    found, here = node_software(), software()
    assert list(found.values()) == [here]
    assert compared(found, here).level == "ok"
    old = compared(found, here | {"transformers": "4.0.0"})
    assert old.level == "warning"
    assert f"transformers {here['transformers']} instead of 4.0.0" in old.message
    assert compared(found, here | {"torch": None, "transformers": None}).level == "ok"  # a driver without them


def test_nodes_are_compared_with_one_another_where_the_driver_has_nothing() -> None:
    one: dict[str, str | None] = {"torch": "2.13.0", "ray": "2.60.0"}
    driver: dict[str, str | None] = {"torch": None, "ray": "2.60.0"}
    assert compared({"a": one, "b": one}, driver).level == "ok"
    other = compared({"a": one, "b": one | {"torch": "2.12.0"}}, driver)
    assert (other.level, "1 of 2 nodes have other versions: b has torch 2.12.0 instead of 2.13.0") == (
        "warning",
        other.message,
    )


@pytest.mark.usefixtures("local_ray")
def test_a_request_for_gpus_that_no_node_has_is_an_error(make_job: MakeJob) -> None:
    found = examine(make_job(run=RAY | {"gpus_per_actor": 1})).findings
    (actors,) = [finding for finding in found if finding.check == "actors"]
    assert actors.level == "error"
    assert "none can hold a Predictor with 1 GPUs" in actors.message


def test_a_pool_that_this_machine_has_no_gpus_for_is_an_error(make_job: MakeJob) -> None:
    job = make_job(run={"executor": "ray", "gpus_per_actor": 1, "num_actors": 2})
    (actors,) = [finding for finding in examine(job).findings if finding.check == "actors"]
    assert (actors.level, actors.message) == ("error", "2 Predictors with 1 GPUs are wanted, and there is room for 0")


def test_a_ray_of_the_jobs_own_is_announced_and_not_started(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    code = (
        "import json, sys; sys.modules |= dict.fromkeys(['torch', 'transformers']);"  # not needed here, and slow
        "from jobs.config import JobConfig; from jobs.doctor import examine;"
        "found = examine(JobConfig.model_validate(json.loads(sys.argv[1])));"
        "print(json.dumps([[f.check, f.level] for f in found.findings if f.check == 'ray']), 'ray' in sys.modules)"
    )
    job = make_job(run={"executor": "ray"}).model_dump_json()
    done = subprocess.run([sys.executable, "-c", code, job], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == '[["ray", "ok"]] False'


def doctor(job: Path, environment: dict[str, str], *arguments: str) -> tuple[int, dict[str, dict[str, str]]]:
    """The command in a process of its own: its exit status, and its checks by name."""
    command = [sys.executable, "-m", "jobs", "doctor", str(job), "--json", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=170, check=False)
    return done.returncode, {check["check"]: check for check in json.loads(done.stdout)["checks"]}


def test_a_cluster_that_does_not_answer_is_an_error_and_the_rest_is_looked_at(
    make_job: MakeJob, tmp_path: Path
) -> None:
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(make_job(run={"executor": "ray"}).model_dump(mode="json")))
    status, found = doctor(tmp_path / "job.yaml", dict(os.environ), "--address", "127.0.0.1:1")
    assert status == 1
    assert [name for name, check in found.items() if check["level"] == "error"] == ["ray"]
    assert "no Ray cluster answers at 127.0.0.1:1" in found["ray"]["message"]
    assert {found[name]["level"] for name in ("checkpoint", "input", "owner", "writing")} == {"ok"}


@pytest.mark.slow
def test_a_cluster_of_another_ray_is_told_apart_from_one_that_is_down(make_job: MakeJob, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(make_job(run={"executor": "ray"}).model_dump(mode="json")))
    with tempfile.TemporaryDirectory(prefix="d", dir="/tmp") as folder:
        # What a head says of itself is its process's ray.__version__ (ray/_private/utils.py:1342).
        old = "import ray\nray.__version__ = '2.1.0'\n"
        with running(Path(folder), {"num_cpus": 1, "include_dashboard": False}, prelude=old) as cluster:
            status, found = doctor(tmp_path / "job.yaml", cluster.environment, "--address", cluster.address)
    assert status == 1
    assert found["ray"]["level"] == "error"
    assert (
        f"the cluster at {cluster.address} has other versions (The cluster was started with: Ray: 2.1.0"
        in (found["ray"]["message"])
    )
