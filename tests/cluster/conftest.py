"""A machine of cluster.yaml's cluster, and such a cluster on this host: for all tests of this folder."""

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
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster.machine import Machine
from tests.cluster.test_cluster_yaml import CLUSTER, TYPES


@pytest.fixture(scope="package")
def machine() -> Iterator[Machine]:
    """A machine on which the common setup commands have run."""
    if sys.version_info[:2] != (3, 11):
        pytest.skip("the machines have Python 3.11 and borrow this one's packages")
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


def answer(url: str, token: str | None, data: bytes | None = None) -> int:
    """The HTTP status of a request, or 0 when nobody listens."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(url, data, headers)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=10) as got:  # noqa: S310
            return int(got.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


@dataclass(frozen=True)
class Running:
    """A head and a worker of cluster.yaml on this host."""

    machine: Machine
    port: int
    url: str
    token: str

    def submit(self, script: Path, *options: str) -> subprocess.CompletedProcess[str]:
        """`ray job submit` of a Python script."""
        return self.machine.run(f"ray job submit {' '.join(options)} --address {self.url} -- python {script}")


@pytest.fixture(scope="package")
def cluster(machine: Machine) -> Iterator[Running]:
    """What the start commands of cluster.yaml start."""
    from ray.autoscaler._private.monitor import BASE_READONLY_CONFIG  # noqa: PLC0415 - ray is dear

    port, web, folder = free_port(), free_port(), machine.home / "r"
    (machine.home / "ray_bootstrap_config.yaml").write_text(json.dumps(BASE_READONLY_CONFIG))
    head = on_one_host(
        CLUSTER["head_start_ray_commands"][1],
        folder,
        port=port,
        object_manager_port=0,
        dashboard_port=web,
        dashboard_agent_listen_port=free_port(),
        ray_client_server_port=free_port(),
    )
    worker = on_one_host(
        CLUSTER["worker_start_ray_commands"][1], folder, object_manager_port=0, dashboard_agent_listen_port=0
    ).replace(":6379", f":{port}")
    found = Running(machine, port, f"http://127.0.0.1:{web}", (machine.home / ".ray/auth_token").read_text())
    with machine.running(head, RAY_OVERRIDE_RESOURCES=resources("head")) as process:
        deadline = time.monotonic() + 120
        while answer(f"{found.url}/api/jobs/", found.token, b'{"entrypoint": "true"}') != 200:  # it takes jobs
            assert process.poll() is None, (machine.home / "output.txt").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.5)
        with machine.running(worker, RAY_OVERRIDE_RESOURCES=resources("cpu"), RAY_HEAD_IP="127.0.0.1"):
            yield found
