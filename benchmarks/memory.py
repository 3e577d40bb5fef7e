"""Peak memory of a job against its number of shards: it should not grow. `python benchmarks/memory.py [10 1000]`.

Prints a line per run: shards, rows, executor, seconds and the peak resident set of the driver process (for `local`,
that is everything) as the kernel counted it.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

ROOT = Path(__file__).parent.parent
ROWS = 200
TEXT = "Return a new array with the given shape, filled with zeros, and raise a ValueError when it is negative. "


def write_shards(folder: Path, num_shards: int) -> None:
    """Shards of ROWS texts of 1 to 40 sentences each: some 400 kB of text."""
    folder.mkdir()
    for shard in range(num_shards):
        texts = [TEXT * (1 + (shard + row) % 40) for row in range(ROWS)]
        pq.write_table(pa.table({"id": range(ROWS), "text": texts}), folder / f"{shard:05d}.parquet")


def peak_megabytes(job: Path) -> tuple[float, float]:
    """Seconds and peak resident megabytes of one run."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "jobs", "run", str(job)], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"the job ended with exit status {process.returncode}")
    return time.perf_counter() - started, usage.ru_maxrss / 1024  # kilobytes on Linux


def main() -> None:
    """Run the shipped model over few and over many shards, in process and on Ray."""
    print("| shards | rows | executor | seconds | peak MB of the driver process |\n|---:|---:|---|---:|---:|")
    for num_shards in map(int, sys.argv[1:] or ["10", "1000"]):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_shards(folder / "in", num_shards)
            for executor in ("local", "ray"):
                job = {
                    "input": {"path": str(folder / "in")},
                    "output": {"path": str(folder / executor)},
                    "model": {"name": str(ROOT / "docs/demo/model"), "max_length": 32},
                    "run": {"executor": executor},
                }
                (folder / "job.yaml").write_text(yaml.safe_dump(job))
                seconds, megabytes = peak_megabytes(folder / "job.yaml")
                print(
                    f"| {num_shards:,} | {num_shards * ROWS:,} | {executor} | {seconds:.0f} | {megabytes:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
