"""A small job that a test may spoil, run through the command line in this process."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from typer.testing import CliRunner, Result

from jobs.cli import app

RUNNER = CliRunner()
NUM_ROWS = 150
"""Of the good shard; few enough to be quick, enough that one failed row is below `max_failed_fraction`."""


@dataclass
class World:
    """A folder with `in/good.parquet`, a checkpoint and a job over them."""

    folder: Path
    checkpoint: Path
    job: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Write the shard and the job."""
        self.write_shard("good.parquet", ["the good film"] * NUM_ROWS)
        self.job |= {
            "input": {"path": str(self.folder / "in")},
            "output": {"path": str(self.out)},
            "model": {"name": str(self.checkpoint), "dtype": "float32"},
            "run": {"executor": "local", "threads_per_actor": 1, "num_actors": 1},
        }

    @property
    def out(self) -> Path:
        """The output directory."""
        return self.folder / "out"

    def write_shard(self, name: str, texts: Any, **columns: Any) -> Path:
        """Add a shard."""
        path = self.folder / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"text": texts, **columns}), path)
        return path

    def own_checkpoint(self) -> Path:
        """A copy of the checkpoint that may be spoilt; it becomes the job's."""
        copy = Path(shutil.copytree(self.checkpoint, self.folder / "model"))
        self.job["model"]["name"] = str(copy)
        return copy

    def run(self, *overrides: str) -> Result:
        """`shardlabel run` of the job."""
        path = self.folder / "job.yaml"
        path.write_text(yaml.safe_dump(self.job))
        return run_file(path, *overrides)

    def rows(self, name: str) -> list[dict[str, Any]]:
        """The labelled rows of a shard."""
        rows: list[dict[str, Any]] = pq.ParquetFile(self.out / name).read().to_pylist()
        return rows


def run_file(path: Path, *overrides: str) -> Result:
    """`shardlabel run` of a job file."""
    return RUNNER.invoke(app, ["run", str(path), *overrides])


def refusal(result: Result) -> str:
    """The one message of a run that failed: one line, no traceback, nothing of Python's in it."""
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    assert "Traceback" not in result.output
    (message,) = [line for line in result.stderr.splitlines() if line.startswith("shardlabel: ")]
    assert len(message) < 1000, message
    return message
