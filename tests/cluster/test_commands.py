"""Commands of cluster.yaml, run as Ray's launcher runs them (docs/cluster.md: which); the cluster that comes of it."""

import re
import time
from importlib import metadata
from pathlib import Path

import pytest
import torch

from tests.cluster.conftest import Running, answer
from tests.cluster.machine import Machine
from tests.cluster.test_cluster_yaml import CLUSTER, TYPES
from tests.cluster.test_kubernetes import driver, hook, wait_for

pytestmark = pytest.mark.slow

TASK = """
import ray

ray.init(log_to_driver=False)
placed = ray.get(ray.remote(lambda: ray.get_runtime_context().get_node_id()).remote())
print("PLACED", placed == ray.get_runtime_context().get_node_id(), ray.cluster_resources().get("CPU"))
"""


def test_the_token_is_its_owners_alone(machine: Machine) -> None:
    token = machine.home / ".ray/auth_token"
    assert token.stat().st_mode & 0o777 == 0o600
    assert len(token.read_text()) == 64


def test_the_mounted_files_are_all_that_the_pinned_install_needs(machine: Machine) -> None:
    pins = machine.home / "shardlabel/constraints.txt"
    for command in CLUSTER["head_setup_commands"][:2]:
        done = machine.run(command)
        assert done.returncode == 0, done.stderr
    (new,) = re.findall(r"Successfully installed (.*)", done.stdout)
    own = f"shardlabel-{metadata.version('shardlabel')}"
    assert re.fullmatch(rf"(setuptools-\S+ )?{own}", new)  # which no pin names, and torch wants newer than ensurepip's
    assert f"ray=={metadata.version('ray')}\n" in pins.read_text()
    shown = machine.run("cd / && shardlabel run --help")
    assert "JOB.yaml" in shown.stdout, shown.stderr


def test_a_gpu_machine_whose_torch_sees_no_gpu_is_not_taken_into_the_cluster(machine: Machine) -> None:
    done = machine.run(TYPES["gpu"]["worker_setup_commands"][-1])
    assert (done.returncode == 0) is torch.cuda.is_available()
    assert ("torch sees no GPU" in done.stderr) is not torch.cuda.is_available()


def test_the_autoscaler_finds_its_boto3(machine: Machine) -> None:
    done = machine.run(CLUSTER["head_setup_commands"][2])
    assert done.returncode == 0, done.stderr
    checked = machine.run("python -c 'import ray.autoscaler._private.aws.node_provider, pandas'")
    assert checked.returncode == 0, checked.stderr


def listeners(port: int) -> set[str]:
    """The addresses at which this machine listens on a port, as the kernel writes them."""
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()[1:]]
    return {line[1].split(":")[0] for line in lines if line[3] == "0A" and int(line[1].split(":")[1], 16) == port}


@pytest.mark.timeout(400)
def test_who_has_the_token_submits_a_job_and_its_tasks_run_on_a_worker(cluster: Running) -> None:
    script = cluster.machine.home / "task.py"
    script.write_text(TASK)
    done = cluster.submit(script)
    assert "PLACED False 1.0" in done.stdout, done.stdout + done.stderr


def test_others_are_turned_away(cluster: Running) -> None:
    jobs = f"{cluster.url}/api/jobs/"
    assert [answer(jobs, token) for token in (None, "0" * 64, cluster.token)] == [401, 403, 200]
    script = cluster.machine.home / "task.py"
    script.write_text(TASK)
    stranger = cluster.machine.run(f"RAY_AUTH_MODE=disabled RAY_ADDRESS=127.0.0.1:{cluster.port} python {script}")
    assert stranger.returncode != 0
    assert "PLACED" not in stranger.stdout
    assert "auth" in stranger.stderr.lower(), stranger.stderr


def test_the_dashboard_listens_on_loopback_only(cluster: Running) -> None:
    assert listeners(int(cluster.url.rpartition(":")[2])) == {"0100007F"}


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("who_asks", "recorded"), [("ray job stop", ("STOPPED", None)), ("the preStop hook", ("FAILED", 3))]
)
def test_a_driver_that_is_asked_to_stop_has_the_time_to_do_it(
    who_asks: str, recorded: tuple[str, int | None], cluster: Running, tmp_path: Path
) -> None:
    """Ray would kill it after 3 s. KubeRay makes another attempt of what has FAILED, and of nothing else."""
    from ray.job_submission import JobSubmissionClient  # noqa: PLC0415 - ray is dear

    command, started = driver(tmp_path, seconds=5)
    name = who_asks.replace(" ", "-")
    submit = f"ray job submit --no-wait --submission-id={name} --address {cluster.url}"
    submitted = cluster.machine.run(f"{submit} -- {command}")
    assert submitted.returncode == 0, submitted.stderr
    wait_for(started)
    if who_asks == "ray job stop":
        done = cluster.machine.run(f"ray job stop --address {cluster.url} {name}")
    else:
        (cluster.machine.home / "hook.py").write_text(hook(tmp_path))
        done = cluster.machine.run("python ~/hook.py")
    assert done.returncode == 0, done.stderr
    assert started.read_text() == "stopped in its own time"
    client = JobSubmissionClient(cluster.url, headers={"Authorization": f"Bearer {cluster.token}"})
    deadline = time.monotonic() + 60
    while not (job := client.get_job_info(name)).status.is_terminal():
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert (job.status, job.driver_exit_code) == recorded
