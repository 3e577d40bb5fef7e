"""A Ray cluster of three nodes on this machine that the campaign owns, and whose worker nodes it may kill."""

import os
import random
import signal
from pathlib import Path
from typing import Any, Self


class Nodes:
    """A head that is left alone and two nodes beside it, two logical CPUs each."""

    def __init__(self, root: Path) -> None:
        """Choose the folder of its files."""
        self._root = root
        self._cluster: Any = None

    def __enter__(self) -> Self:
        # Read when ray is imported, or inherited by the processes it starts.
        os.environ |= {
            "RAY_TMPDIR": str(self._root),
            "RAY_AUTH_MODE": "disabled",
            "RAY_ENABLE_AUTO_CONNECT": "0",
            "RAY_BACKEND_LOG_LEVEL": "fatal",
            # As docs/reliability.md advises whoever starts a cluster.
            "RAY_prestart_worker_first_driver": "0",
        }
        (self._root / "ray").mkdir(exist_ok=True)
        return self

    @property
    def address(self) -> str:
        """Where a driver connects; the cluster is started when it is first asked for."""
        if self._cluster is None:
            from ray.cluster_utils import Cluster  # noqa: PLC0415 - the variables above come first

            settings = {"num_cpus": 2, "object_store_memory": 150 * 2**20, "include_dashboard": False}
            self._cluster = Cluster(initialize_head=True, head_node_args=settings)
            for _ in range(2):
                self._add()
        return str(self._cluster.address)

    @property
    def pids(self) -> set[int]:
        """Its processes; their descendants are the cluster's too."""
        if self._cluster is None:
            return set()
        infos = [info for node in self._cluster.list_all_nodes() for info in node.all_processes.values()]
        return {info.process.pid for each in infos for info in each}

    def kill_one(self, rng: random.Random) -> str:
        """SIGKILL the raylet of a node that is not the head, and add another node."""
        node = rng.choice(sorted(self._cluster.worker_nodes, key=lambda node: node.node_ip_address + node.unique_id))
        pid = node.all_processes["raylet"][0].process.pid
        os.kill(pid, signal.SIGKILL)
        self._cluster.remove_node(node, allow_graceful=False)
        self._add()
        return f"raylet {pid}"

    def _add(self) -> None:
        self._cluster.add_node(num_cpus=2, object_store_memory=150 * 2**20)

    def __exit__(self, *_: object) -> None:
        if self._cluster is not None:
            self._cluster.shutdown()
