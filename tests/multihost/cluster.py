"""What a job needs on several hosts: a store, a Ray cluster that asks for a token, and somebody who submits."""

import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from tests.families import WORDS
from tests.jobs.s3_server import ENVIRONMENT, SERVER_ENVIRONMENT, server_command
from tests.multihost.hosts import LOCAL, Host, Network

NUM_SHARDS, ROWS_PER_SHARD, SPLIT_ROWS = 8, 100, 10
NUM_PARTS = NUM_SHARDS * ROWS_PER_SHARD // SPLIT_ROWS

_REPOSITORY = Path(__file__).parents[2]

HOST_ENVIRONMENT = {
    **ENVIRONMENT,
    "PYTHONPATH": str(_REPOSITORY),
    "HF_HUB_OFFLINE": "1",
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    # As docs/reliability.md advises whoever starts a cluster.
    "RAY_prestart_worker_first_driver": "0",
    # A host that does not answer is lost after some 10 s; Ray's own 3 s, 10 s and 5 make that a minute.
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "5",
}

_HOOK = '''"""Logits as they are, after the seconds that the host's file `slow` says, a line each in `labelled`."""
import time
from pathlib import Path

LOCAL = Path("/srv")


def hook(logits):
    if (LOCAL / "slow").exists():
        time.sleep(float((LOCAL / "slow").read_text()))
    with (LOCAL / "labelled").open("a") as file:
        file.write("a micro-batch\\n")
    return logits
'''


class Cluster:
    """Four hosts, one of them the client's, and the store; more workers can be added."""

    def __init__(self, network: Network, checkpoint: Path) -> None:
        """Switch the hosts on, each with its own copy of the model, and start the store and the head."""
        self._network, self._checkpoint = network, checkpoint
        self._token = secrets.token_hex(32)
        self.store, self.head, self.client = (network.add(name) for name in ("store", "head", "client"))
        for host in (self.head, self.client):
            self._equip(host)
        self._start_store()
        self._write_job(self.client.folder / "job")
        serving = ["--head", "--port=6379", f"--dashboard-host={self.head.address}", "--dashboard-port=8265"]
        self._start_ray(self.head, 0, serving)
        self.wait_for(self.head)

    @property
    def gcs(self) -> str:
        """Where a node or a driver joins."""
        return f"{self.head.address}:6379"

    @property
    def dashboard(self) -> str:
        """Where a job is submitted."""
        return f"http://{self.head.address}:8265"

    def uri(self, path: str) -> str:
        """`bucket/path` in the store."""
        return f"s3://{path}?scheme=http&endpoint_override={self.store.address}:9000"

    def add_worker(self, name: str) -> tuple[Host, subprocess.Popen[bytes]]:
        """A new host that joins the cluster with two logical CPUs, and its `ray start`; it joins when it can."""
        host = self._network.add(name)
        self._equip(host)
        slow_down(host, 1)
        return host, self.join(host, num_cpus=2)

    def join(self, host: Host, num_cpus: int) -> subprocess.Popen[bytes]:
        """Make a host a node of the cluster."""
        return self._start_ray(host, num_cpus, [f"--address={self.gcs}"])

    def wait_for(self, host: Host) -> None:
        """Wait until a host is a node of the cluster."""
        wait_until(lambda: "Ray runtime started" in host.read("ray.log"), 400, f"{host.name} is a node")

    def has_lost(self, host: Host) -> bool:
        """Whether the head has given a node up."""
        (log,) = self.head.folder.glob("ray/session_2*/logs/gcs_server.out")
        return any("health check" in line and host.address in line for line in log.read_text().splitlines())

    def _equip(self, host: Host) -> None:
        shutil.copytree(self._checkpoint, host.folder / "checkpoint")
        token = host.folder / "home/.ray/auth_token"
        token.parent.mkdir()
        token.touch(mode=0o600)
        token.write_text(self._token)

    def _start_store(self) -> None:
        _write_shards(self.store.folder / "buckets/corpus/in")
        (self.store.folder / "buckets/labels").mkdir()
        serving = server_command(LOCAL / "buckets", "127.0.0.1:9001")
        self.store.start(serving, "rclone.log", environment=SERVER_ENVIRONMENT)
        # It mends what rclone does other than S3.
        self.store.start(["python", "-m", "tests.jobs.faulty_proxy", "9001", self.store.address, "9000"], "proxy.log")

    def _start_ray(self, host: Host, num_cpus: int, options: list[str]) -> subprocess.Popen[bytes]:
        settings = [f"--node-ip-address={host.address}", f"--num-cpus={num_cpus}", "--object-store-memory=120000000"]
        command = ["ray", "start", *options, *settings, f"--temp-dir={LOCAL}/ray", "--block"]
        # A node that is not up after 30 s gives up (ray/_private/node.py:428, 2.60), which a machine at work can take.
        patiently = 'until grep -q "Ray runtime started" ray.log; do "$@"; done'
        return host.start(["sh", "-c", patiently, "sh", *command], "ray.log")

    def _write_job(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "slow.py").write_text(_HOOK)
        content = {
            "input": {"path": self.uri("corpus/in")},
            "output": {"path": "unset"},
            "model": {"name": str(LOCAL / "checkpoint"), "dtype": "float32"},
            "task": {"options": {"postprocess": "slow:hook"}},
            "run": {"num_actors": 3, "threads_per_actor": 1, "split_rows": SPLIT_ROWS},
        }
        (folder / "job.yaml").write_text(yaml.safe_dump(content))


def _write_shards(folder: Path) -> None:
    folder.mkdir(parents=True)
    for shard in range(NUM_SHARDS):
        ids = range(shard * ROWS_PER_SHARD, (shard + 1) * ROWS_PER_SHARD)
        texts = [" ".join(WORDS[(i * 7 + k) % len(WORDS)] for k in range(1 + i % 29)) for i in ids]
        path = folder / f"{shard:02d}.parquet"
        pq.write_table(pa.table({"id": list(ids), "text": texts}), path)
        os.utime(
            path, (1_800_000_000, 1_800_000_000)
        )  # of parts of a second, rclone says one thing here, another there


def slow_down(host: Host, seconds: float) -> None:
    """Make a micro-batch take so long on a host."""
    unnoticed = host.folder / "new"
    unnoticed.write_text(str(seconds))
    unnoticed.rename(host.folder / "slow")


def contents_of(folder: Path) -> dict[str, bytes]:
    """Name and content of every part below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.parquet"))}


def wait_until(is_so: Callable[[], bool], seconds: float, what: str) -> float:
    """Wait for something that another host does; returns how long it took.

    Raises:
        TimeoutError: it did not happen.
    """
    started = time.monotonic()
    while not is_so():
        if time.monotonic() - started > seconds:
            msg = f"not after {seconds:.0f} s: {what}"
            raise TimeoutError(msg)
        time.sleep(0.1)
    return time.monotonic() - started
