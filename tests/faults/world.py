"""What a campaign disturbs: an input of many small splits, a tiny checkpoint, a job file, and runs of that job."""

import hashlib
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.families import WORDS, build_checkpoint

NUM_SHARDS = 12
ROWS_PER_SHARD = 40
SPLIT_ROWS = 10
NUM_PARTS = NUM_SHARDS * ROWS_PER_SHARD // SPLIT_ROWS

_HOOK = '''"""Logits as they are, slowly; it does what the file `next-fault` in ROOT says, once in all processes."""
import os
import time
from pathlib import Path

from inference.errors import JobError

NEXT, TAKEN = (Path("ROOT", name) for name in ("next-fault", "taken-fault"))


def hook(logits):
    time.sleep(0.1)
    try:
        NEXT.rename(TAKEN)
    except FileNotFoundError:
        return logits
    fault = TAKEN.read_text()
    if fault == "exit":
        os._exit(1)
    raise {"ValueError": ValueError, "MemoryError": MemoryError, "JobError": JobError}[fault]("a fault of the campaign")
'''


class World:
    """A folder with everything that a run needs; runs share it, outputs are elsewhere."""

    def __init__(self, root: Path) -> None:
        """Generate it; the same files every time."""
        self.root = root
        build_checkpoint(root / "checkpoint", "bert", "sequence-classification")
        (root / "in").mkdir()
        for shard in range(NUM_SHARDS):
            ids = range(shard * ROWS_PER_SHARD, (shard + 1) * ROWS_PER_SHARD)
            texts = [" ".join(WORDS[(i * 7 + k) % len(WORDS)] for k in range(1 + i % 29)) for i in ids]
            table = pa.table({"id": list(ids), "text": texts})
            pq.write_table(table, root / "in" / f"{shard:02d}.parquet", row_group_size=SPLIT_ROWS)
        (root / "campaign_hook.py").write_text(_HOOK.replace("ROOT", str(root)))  # workers may have a copy of it
        content = {
            "input": {"path": "in"},
            "output": {"path": "unset"},
            "model": {"name": "checkpoint", "dtype": "float32"},
            "task": {"options": {"postprocess": "campaign_hook:hook"}},
            "run": {"threads_per_actor": 1, "num_actors": 2, "split_rows": SPLIT_ROWS},
        }
        (root / "job.yaml").write_text(json.dumps(content))

    def ask_the_model_to(self, fault: str) -> None:
        """Leave a fault for the next micro-batch; an older one that nobody took is forgotten."""
        (self.root / "taken-fault").unlink(missing_ok=True)
        unnoticed = self.root / "new-fault"
        unnoticed.write_text(fault)
        unnoticed.rename(self.root / "next-fault")

    @property
    def is_fault_pending(self) -> bool:
        """Whether the model was asked for a fault and did not get to it."""
        return (self.root / "next-fault").exists()

    def forget_the_fault(self) -> None:
        """Take it back."""
        (self.root / "next-fault").unlink(missing_ok=True)


class Run:
    """One run of the job, as its users start it: a process of its own."""

    def __init__(self, world: World, output: Path, executor: str, ray_address: str | None) -> None:
        """Start it; on the Ray cluster at `ray_address` where one is given."""
        self.log = world.root / "log.txt"
        environment = {**os.environ, "RAY_TMPDIR": str(world.root)}
        if ray_address is not None:
            environment["RAY_ADDRESS"] = ray_address
        command = [sys.executable, "-m", "jobs", "run", "job.yaml"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, f"output.path={output}", f"run.executor={executor}"],
                cwd=world.root,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )

    @property
    def has_ended(self) -> bool:
        """Whether it has."""
        return self.process.poll() is not None

    def wait(self, seconds: float) -> int | None:
        """The exit status; None when it took longer, and then it is killed."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return None

    def wait_for(self, output: Path, num_parts: int, seconds: float) -> bool:
        """Wait until so many parts are there and then so many seconds; False when the run ends before that."""
        while not self.has_ended and len(parts_of(output)) < num_parts:
            time.sleep(0.005)
        deadline = time.monotonic() + seconds
        while not self.has_ended and time.monotonic() < deadline:
            time.sleep(0.005)
        return not self.has_ended

    @property
    def messages(self) -> str:
        """What it wrote to standard error."""
        return self.log.read_text(errors="replace")


def parts_of(output: Path) -> list[Path]:
    """The parts that are there now, in the order of their names."""
    return sorted(path for path in output.rglob("*.parquet") if not path.name.startswith("."))


@dataclass(frozen=True)
class State:
    """What an output holds."""

    hashes: dict[str, str]
    ids: tuple[int, ...]
    is_complete: bool

    @classmethod
    def of(cls, output: Path) -> "State":
        """Read it."""
        parts = parts_of(output)
        return cls(
            {str(path.relative_to(output)): hashlib.sha256(path.read_bytes()).hexdigest() for path in parts},
            tuple(i for path in parts for i in _ids_of(path)),
            (output / "_SUCCESS").exists(),
        )

    def differences(self, expected: "State") -> list[str]:
        """What is wrong with it, in words."""
        lost, extra = set(expected.ids) - set(self.ids), len(self.ids) - len(set(self.ids))
        changed = [
            name for name in expected.hashes if name in self.hashes and self.hashes[name] != expected.hashes[name]
        ]
        facts = {
            "rows lost": len(lost),
            "rows doubled": extra,
            "parts with other bytes": len(changed),
            "parts too many": len(self.hashes.keys() - expected.hashes.keys()),
            "_SUCCESS missing": int(not self.is_complete),
        }
        return [f"{what}: {count}" for what, count in facts.items() if count]


def _ids_of(part: Path) -> list[int]:
    try:
        ids: list[int] = pq.read_table(part, columns=["id"]).column("id").to_pylist()
    except pa.ArrowInvalid:  # no whole Parquet file: its rows are lost
        return []
    return ids


def leftovers(output: Path) -> list[str]:
    """Hidden files below an output: what a writer that was killed left behind."""
    return [path.name for path in output.rglob(".*")]
