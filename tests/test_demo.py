"""`make demo`, as the README promises it, and once more: the second time there is nothing left to do."""

import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parent.parent


def run_demo(folder: Path) -> str:
    command = [sys.executable, "docs/demo/demo.py", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_demo_labels_real_docstrings_and_then_finds_its_work_done(tmp_path: Path) -> None:
    first = run_demo(tmp_path)
    rows = pq.read_table(tmp_path / "labels", columns=["id", "library", "held_out", "label"])
    shards = pq.read_table(tmp_path / "docstrings", columns=["id"])
    assert rows["id"].to_pylist() == shards["id"].to_pylist()
    assert len(rows) > 20_000
    hits = [row["label"] == row["library"] for row in rows.to_pylist()]
    assert f"accuracy {sum(hits) / len(hits):.1%} of {len(rows):,} rows" in first
    assert re.search(r"[\d,]+ rows/s, [\d,]+ tokens/s", first)
    assert sum(hits) / len(hits) > 0.8
    assert "nothing to do" in run_demo(tmp_path)
