"""Every command of cluster.yaml that does not need AWS, run as Ray's launcher runs it; the cluster that comes of it."""

import json
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
import torch

from tests.cluster.machine import Machine
from tests.cluster.test_cluster_yaml import CLUSTER, TYPES

pytestmark = pytest.mark.skipif(
    sys.version_info[:2] != (3, 11), reason="the machines have Python 3.11 and borrow this one's packages"
)
TASK = """
import ray

ray.init(log_to_driver=False)
placed = ray.get(ray.remote(lambda: ray.get_runtime_context().get_node_id()).remote())
print("PLACED", placed == ray.get_runtime_context().get_node_id(), ray.cluster_resources().get("CPU"))
"""


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """A machine on which the common setup commands have run."""
    folder = Path(tempfile.mkdtemp(prefix="sl"))  # short: Ray's sockets lie in it
    (folder / "laptop").mkdir()
    ray = str(Path(sys.executable).parent / "ray")
    subprocess.run([ray, "get-auth-token", "--generate"], env={"HOME": str(folder / "laptop")}, check=True)
    found = Machine(folder / "home", folder / "laptop")
    for command in CLUSTER["setup_commands"]:
        done = found.run(command)
        assert done.returncode == 0, done.stderr
    found.lend_packages()
    yield found
    shutil.rmtree(folder)


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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def on_one_host(command: str, folder: Path, **ports: int) -> str:
    """A start command as it is, but for what two machines on one host share: ports and a folder."""
    for name, port in ports.items():
        option = f"--{name.replace('_', '-')}"
        command = re.sub(rf"{option}=\d+|$", f" {option}={port}", command, count=1)
    return f"{command} --block --temp-dir={folder}"


def resources(kind: str) -> str:
    """What the launcher tells a machine of its type to offer; as small as the machine that runs the tests."""
    offered = TYPES[kind]["resources"]
    return json.dumps(offered | {"CPU": min(offered["CPU"], 1), "object_store_memory": 10**8})


def answer(url: str, token: str | None) -> int:
    """The HTTP status of a request, or 0 when nobody listens."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=10) as got:  # noqa: S310
            return int(got.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def listeners(port: int) -> set[str]:
    """The addresses at which this machine listens on a port, as the kernel writes them."""
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()[1:]]
    return {line[1].split(":")[0] for line in lines if line[3] == "0A" and int(line[1].split(":")[1], 16) == port}


def until_jobs_are_taken(url: str, token: str, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while answer(f"{url}/api/jobs/", token) != 200:
        assert process.poll() is None, "ray start ended"
        assert time.monotonic() < deadline
        time.sleep(0.5)


@pytest.mark.timeout(400)
def test_the_cluster_runs_a_job_of_who_has_the_token_on_a_worker_and_turns_others_away(machine: Machine) -> None:
    from ray.autoscaler._private.monitor import BASE_READONLY_CONFIG  # noqa: PLC0415 - ray is dear

    port, web, folder = free_port(), free_port(), machine.home / "r"
    (machine.home / "ray_bootstrap_config.yaml").write_text(json.dumps(BASE_READONLY_CONFIG))
    url, token = f"http://127.0.0.1:{web}", (machine.home / ".ray/auth_token").read_text()
    head = on_one_host(
        CLUSTER["head_start_ray_commands"][1],
        folder,
        port=port,
        object_manager_port=0,
        dashboard_port=web,
        ray_client_server_port=free_port(),
    )
    worker = on_one_host(
        CLUSTER["worker_start_ray_commands"][1], folder, object_manager_port=0, dashboard_agent_listen_port=0
    ).replace(":6379", f":{port}")
    (machine.home / "task.py").write_text(TASK)
    with machine.running(head, RAY_OVERRIDE_RESOURCES=resources("head")) as process:
        until_jobs_are_taken(url, token, process)
        with machine.running(worker, RAY_OVERRIDE_RESOURCES=resources("cpu"), RAY_HEAD_IP="127.0.0.1"):
            done = machine.run(f"ray job submit --address {url} -- python ~/task.py")
            assert "PLACED False 1.0" in done.stdout, done.stdout + done.stderr
        assert listeners(web) == {"0100007F"}
        assert (answer(f"{url}/api/jobs/", None), answer(f"{url}/api/jobs/", "0" * 64)) == (401, 403)
        stranger = machine.run(f"RAY_AUTH_MODE=disabled RAY_ADDRESS=127.0.0.1:{port} python ~/task.py")
        assert stranger.returncode != 0
        assert "auth" in stranger.stderr.lower()
        assert "PLACED" not in stranger.stdout
