"""What was measured on: the machine, its versions and the day, as the results say it."""

import datetime as dt
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

from benchmarks.catalog import PEERS
from benchmarks.workloads import ROOT


def describe_machine() -> dict[str, Any]:
    """Of this machine, with the versions here and those that the peers are pinned to."""
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in cpuinfo if line.startswith("model name")]
    packages = ("torch", "transformers", "tokenizers", "pyarrow", "ray", "shardlabel")
    return {
        "processor": names[0] if names else platform.processor(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in packages} | _peer_versions(),
        "date": dt.datetime.now(tz=dt.UTC).date().isoformat(),
    }


def _peer_versions() -> dict[str, str]:
    lines = [line for peer in PEERS.values() if peer.environment for line in _requirements(peer.environment)]
    pinned = dict(line.split("==") for line in lines if "==" in line)
    return {name: pinned[name] for name in ("sentence-transformers", "daft", "onnxruntime", "openvino")}


def _requirements(environment: str) -> list[str]:
    return (ROOT / "benchmarks" / "peers" / "requirements" / f"{environment}.txt").read_text().split()
