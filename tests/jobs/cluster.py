"""A Ray cluster in a process of its own: a head that runs nothing, and nodes with GPUs that are only numbers."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_CODE = """
import json, sys
from ray.cluster_utils import Cluster

head, *nodes = json.loads(sys.argv[1])
small = {"object_store_memory": 100 * 2**20}
cluster = Cluster(initialize_head=True, head_node_args={**small, **head})
made = [cluster.head_node, *(cluster.add_node(**small, **node) for node in nodes)]
about = {"address": cluster.address, "nodes": [node.node_id for node in made]}
print(json.dumps(about), flush=True)
for line in sys.stdin:
    cluster.add_node(**small, **json.loads(line))
cluster.shutdown()
"""


@dataclass(frozen=True, kw_only=True)
class Running:
    """Where it is."""

    address: str
    nodes: list[str]
    """Ids: the head's, then the others'."""
    environment: dict[str, str]
    """For a driver."""
    process: "subprocess.Popen[str]"

    def add_node(self, **settings: Any) -> None:
        """Have one more, in a while."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(settings) + "\n")
        self.process.stdin.flush()


@contextmanager
def running(folder: Path, *nodes: dict[str, Any], prelude: str = "") -> Iterator[Running]:
    """Start it, with its files in `folder`, whose path is short; the first node is the head.

    Args:
        folder: of its own.
        nodes: what each offers.
        prelude: lines that its process runs first.
    """
    (folder / "ray").mkdir()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RAY_", "HF_"))},
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "RAY_TMPDIR": str(folder),
        "RAY_AUTH_MODE": "disabled",
        "RAY_BACKEND_LOG_LEVEL": "fatal",
        "RAY_prestart_worker_first_driver": "0",
    }
    command = [sys.executable, "-c", prelude + _CODE, json.dumps(nodes)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, cwd=folder, env=environment, text=True, **pipes) as process:  # type: ignore[call-overload]
        try:
            line = next(line for line in process.stdout if line.startswith("{"))
            yield Running(environment=environment, process=process, **json.loads(line))
        finally:
            process.stdin.close()
            process.wait(60)
