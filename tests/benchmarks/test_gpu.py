"""The GPU benchmark on toys: it runs through without Ray, and its arithmetic is that of the published table."""

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.gpu_rows import ROWS, flops

FILE = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


@pytest.mark.parametrize(
    ("name", "length", "millions"),
    # FLOPs per token and layer sums written out by hand, for sequences of one length.
    [
        ("BERT-base reviews", 128, 174.6),
        ("BERT-large SQuAD mix", 384, 641.7),
        ("MiniLM-L6 reviews", 512, 26.0),
        ("DistilBERT reviews", 32, 85.5),
        ("ModernBERT-base long", 128, 229.2),
        ("ModernBERT-base long", 512, 238.7),
        ("DeBERTa-v3-base 2,000 characters", 256, 198.2),
        ("T5-small encoder reviews", 256, 40.9),
    ],
)
def test_flops_per_token_are_those_of_the_table(name: str, length: int, millions: float) -> None:
    (row,) = [row for row in ROWS if row.name == name]
    found = flops(row, np.array([length, length]), tiny=False) / (2 * length) / 1e6
    assert found == pytest.approx(millions, rel=2e-3)


def test_a_trimmed_last_layer_costs_keys_values_and_one_token() -> None:
    (row,) = [row for row in ROWS if row.name == "BERT-base reviews"]
    lengths = np.array([100, 7])
    left = sum(2 * 2 * 768**2 * length + 4 * 768 * length + 2 * (2 * 768**2 + 2 * 768 * 3072) for length in (100, 7))
    found = flops(row, lengths, tiny=False, is_trimmed=True)
    assert found == pytest.approx(flops(row, lengths, tiny=False) * 11 / 12 + left, rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "contestants"),
    [
        (
            "DistilBERT",
            {"padded, torch's kernels", "packed, torch's kernels", "packed and fused", "end to end", "pipeline"},
        ),
        (
            "BERT-large",
            {"padded, torch's kernels", "packed, torch's kernels", "packed and fused", "in fp8", "end to end"},
        ),
    ],
)
def test_toys_run_through_without_ray_and_leave_every_number(name: str, contestants: set[str], tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    script = f"import sys, runpy; sys.modules['ray'] = None; runpy.run_path({str(FILE)!r}, run_name='__main__')"
    command = [sys.executable, "-c", script, "--device", "cpu", "--tiny", "--only", name, "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(out.read_text())["rows"]
    assert set(row["runs"]) == contestants
    if name == "DistilBERT":
        assert row["notes"]["labels against float32"] == "100.0% of 16 the same"
    else:
        note = row["notes"]["logits in fp8 against float32"]
        assert re.fullmatch(r".* where values reach .*, \d\.\de-0[1-4] of the norm", note)
    for run in row["runs"].values():
        assert len(run["seconds"]) == 3
        assert run["tokens_per_second"] > 0
        assert 0 < run["mfu"] < 1
    assert row["padding_ratio_when_sorted"] >= 1


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "argv", [str(FILE)])
    with pytest.raises(SystemExit, match="there is no GPU here") as ended:  # a text: Python shows it and ends with 1
        runpy.run_path(str(FILE), run_name="__main__")
    assert isinstance(ended.value.code, str)
    assert capsys.readouterr().out == ""
