"""Package descriptions, where their folder lies beside the repository: real text that the demo's model never saw."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import pipeline

from jobs.config import JobConfig
from tests.jobs.conftest import read_parts, run

ROOT = Path(__file__).parents[2]
PACKAGES = ROOT.parent / "shared" / "data" / "packages"
MODEL = str(ROOT / "docs" / "demo" / "model")


@pytest.mark.skipif(not PACKAGES.is_dir(), reason="there is no folder shared/data/packages beside the repository")
def test_package_descriptions_are_labelled_in_their_place(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    largest, *_, smallest = sorted(PACKAGES.glob("*.parquet"))
    slices = {path.name: pq.read_table(path).slice(0, count) for path, count in ((largest, 240), (smallest, 90))}
    for name, table in slices.items():
        pq.write_table(table, tmp_path / "in" / name, row_group_size=100)
    job = {
        "input": {"path": str(tmp_path / "in")},
        "output": {"path": str(tmp_path / "out")},
        "model": {"name": MODEL, "dtype": "float32"},
        "run": {"executor": "local", "split_rows": 100},
    }
    report = run(JobConfig.model_validate(job))
    rows, expected = read_parts(str(tmp_path / "out")), pa.concat_tables(slices.values())
    assert (report.num_rows, report.num_failed, report.num_parts) == (330, 0, 4)
    for column in ("package", "section", "tags", "text"):
        assert [row[column] for row in rows] == expected[column].to_pylist(), column
    classify: Any = pipeline("text-classification", model=MODEL, truncation=True, max_length=256)
    texts = [row["text"] for row in rows[::10]]
    assert [row["label"] for row in rows[::10]] == [answer["label"] for answer in classify(texts)]
