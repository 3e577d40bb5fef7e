"""How one driver bears many splits: `python -m benchmarks.scale [--splits 1000 10000 100000]`.

Writes build/bench/scale.json as it goes, and from it the tables of docs/scale.md. A model that costs nothing labels
shards of four rows, so what is left is what a split costs besides its labels. 100,000 splits take some ten minutes on
two cores.
"""

import argparse
import datetime as dt
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.scale_tables import write_page
from benchmarks.workloads import BUILD, ROOT
from jobs import storage
from jobs.storage import locate
from tests.jobs.s3_server import ENVIRONMENT, serve

FOLDER = BUILD / "scale"
RESULTS = BUILD / "scale.json"
PER_FOLDER = 1000
RESUMED = 100
"""One part of so many is deleted before a run is resumed."""

_ALONE = 2_000
_S3 = 10_000
_WRITTEN = 1_750_000_000


class Runner:
    """Measurements, each in a process of its own, until the time is over."""

    def __init__(self, minutes: float) -> None:
        """Start the clock."""
        self._deadline = time.monotonic() + 60 * minutes
        self.results: dict[str, Any] = {"machine": _machine(), "runs": [], "not_measured": []}

    def measure(self, kind: str, **settings: Any) -> dict[str, Any] | None:
        """One run of the stub job; None when it failed or the time was over."""
        try:
            facts = self._run(settings)
        except ValueError as error:
            self.results["not_measured"].append({"kind": kind, **settings, "reason": str(error)[:300]})
            facts = None
        else:
            self.results["runs"].append({"kind": kind, **facts})
            print(f"{kind} {facts['splits']:,}: {json.dumps(facts)}", flush=True)
        self.write()
        return facts

    def _run(self, settings: dict[str, Any]) -> dict[str, Any]:
        left = self._deadline - time.monotonic()
        if left < 0:
            msg = "the time was over"
            raise ValueError(msg)
        command = [sys.executable, "-m", "benchmarks.stub_job", json.dumps(settings)]
        environment = os.environ | ENVIRONMENT | {"PYTHONPATH": str(ROOT)}
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=left, check=False
            )
        except subprocess.TimeoutExpired as error:
            msg = "the time was over before it ended"
            raise ValueError(msg) from error
        if done.returncode:
            raise ValueError(done.stderr.strip().rpartition("\n")[2])
        facts: dict[str, Any] = json.loads(done.stdout.rpartition("@@")[2])
        return facts

    def write(self) -> None:
        """What is known until now."""
        RESULTS.write_text(json.dumps(self.results, indent=1))


def _machine() -> dict[str, Any]:
    names = {line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")}
    return {
        "processor": ", ".join(sorted(names)) or platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "date": dt.datetime.now(tz=dt.UTC).date().isoformat(),
        "versions": {"Python": platform.python_version(), **{name: version(name) for name in ("ray", "pyarrow")}},
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def make_shards(count: int) -> Path:
    """Shards of four rows, a thousand in a folder."""
    folder, sink = FOLDER / f"in{count}", io.BytesIO()
    if (folder / ".complete").exists():
        return folder
    texts = ["a short text", "another one", "a third", "the last"]
    pq.write_table(pa.table({"id": range(len(texts)), "text": texts}), sink)
    for number in range(count):
        path = folder / f"{number // PER_FOLDER:03d}" / f"{number:06d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sink.getvalue())
        os.utime(path, (_WRITTEN, _WRITTEN))  # rclone rounds fractions in one answer that it cuts off in another
    (folder / ".complete").touch()
    return folder


def measure_local(runner: Runner, count: int) -> None:
    """A whole run through Ray; then two that resume, the first reading every footer, the second remembering them."""
    source, output = make_shards(count), FOLDER / "out"
    shutil.rmtree(output, ignore_errors=True)
    facts = runner.measure("ray", shards=count, input=str(source), output=str(output), executor="ray")
    if facts is None:
        return
    parts = sorted(output.glob("*/*.parquet"))
    an_hour_ago = time.time() - 3600
    for part in parts:  # what was written in the last minute is not remembered
        os.utime(part, (an_hour_ago, an_hour_ago))
    for kind in ("resume", "resume again"):
        for part in parts[::RESUMED]:
            part.unlink()
        runner.measure(kind, shards=count, input=str(source), output=str(output), executor="local")
    files = {name: (output / "_shardlabel" / name).stat().st_size for name in _kept(output)}
    runner.results.setdefault("files", []).append({"splits": count, **files})
    runner.write()


def _kept(output: Path) -> list[str]:
    return sorted(path.name for path in (output / "_shardlabel").iterdir() if path.is_file())


def measure_alone(runner: Runner, count: int) -> None:
    """Every split in a row of its own, as large ones are: what Ray costs for each."""
    output = FOLDER / "alone"
    shutil.rmtree(output, ignore_errors=True)
    source = make_shards(count)
    runner.measure("alone", shards=count, input=str(source), output=str(output), executor="ray", max_splits=1)


def measure_s3(runner: Runner, count: int) -> None:
    """Input and output on an S3 server: planning, writing and resuming."""
    make_shards(count)
    shutil.rmtree(FOLDER / "s3", ignore_errors=True)
    os.environ |= ENVIRONMENT
    with serve(BUILD) as store:
        # Output through the tests' proxy: it keeps pyarrow's folder markers from rclone, which makes files of them.
        places = {"input": store.uri(f"scale/in{count}", store.server_port), "output": store.uri("scale/s3")}
        if runner.measure("s3", shards=count, **places, executor="ray") is None:
            return
        for kind in ("s3 resume", "s3 resume again"):
            output = locate(places["output"])
            for part in sorted((FOLDER / "s3").glob("*/*.parquet"))[::RESUMED]:
                storage.delete(output.join(str(part.relative_to(FOLDER / "s3"))))  # rclone remembers what it listed
            runner.measure(kind, shards=count, **places, executor="local")


def main() -> None:
    """Measure, write, say where."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--splits", type=int, nargs="*", default=[1_000, 10_000, 100_000])
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--tables", action="store_true", help="only write the tables of docs/scale.md anew")
    arguments = parser.parse_args()
    if not arguments.tables:
        FOLDER.mkdir(parents=True, exist_ok=True)
        runner = Runner(arguments.minutes)
        steps: list[tuple[Callable[[Runner, int], None], int]] = [
            (measure_alone, _ALONE),
            *((measure_local, count) for count in sorted(arguments.splits)[:2]),
            (measure_s3, _S3),
            *((measure_local, count) for count in sorted(arguments.splits)[2:]),
        ]
        for step, count in steps:
            step(runner, count)
    write_page(RESULTS, ROOT / "docs" / "scale.md")
    print(f"{RESULTS} and docs/scale.md are written")


if __name__ == "__main__":
    main()
