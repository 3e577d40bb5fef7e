"""The GPU table: each model on its workload, by the model alone and end to end, against its peers, in ten minutes.

`python benchmarks/gpu.py --out gpu.json` on a machine with torch, transformers, sentence-transformers and pyarrow; no
Ray, no network. `--device cpu --tiny` runs all of it on toys, to see that it runs. Every number is the median of three
rounds in which the contestants take turns; MFU is useful FLOPs (no padding, no embeddings, no heads) over the bfloat16
matmul rate of this run, also for fp8.
"""

import argparse
import gc
import importlib.metadata
import json
import os
import platform
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

from benchmarks.gpu_bench import Bench, tokenizer_processes, wait
from benchmarks.gpu_rows import ROWS, Texts, build, train_tokenizer


def matmul_rate(device: str, dtype: torch.dtype, size: int) -> float:
    """The best of ten dense matmuls of size^3, in FLOP/s."""
    one, other = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        wait(device)
        started = time.perf_counter()
        for _ in range(5):
            one @ other
        wait(device)
        best = min(best, (time.perf_counter() - started) / 5)
    return 2 * size**3 / best


def show(result: dict[str, Any]) -> None:
    print(
        f"\n{result['row']}: {result['rows']} rows of {result['mean_tokens']:.0f} tokens; goal {result['goal'] or '-'}"
    )
    for name, run in result.get("runs", {}).items():
        spread = max(run["seconds"]) / min(run["seconds"]) - 1
        print(
            f"  {name:28} {run['tokens_per_second'] / 1e6:8.3f} Mtok/s {run['rows_per_second']:10.0f} rows/s "
            f"{run['mfu']:6.1%} MFU  spread {spread:.0%}"
        )
    for name, note in result["notes"].items():
        print(f"  {name}: {note}")


def main() -> None:
    """Run what is asked for and write what was seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--tiny", action="store_true", help="toy models and 16 rows of each workload")
    parser.add_argument("--only", default="", help="rows whose names contain this")
    parser.add_argument("--minutes", type=float, default=8.5, help="no row is begun after so many")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("there is no GPU here; --device cpu --tiny shows that everything runs")
    started = time.perf_counter()
    dtype = torch.bfloat16 if options.device == "cuda" else torch.float32
    rate = matmul_rate(options.device, dtype, 256 if options.tiny else 8192)
    names = ("torch", "transformers", "tokenizers", "sentence-transformers", "triton", "numpy", "pyarrow")
    installed = {package.metadata["Name"]: package.version for package in importlib.metadata.distributions()}
    report: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name() if options.device == "cuda" else platform.processor(),
        "versions": {name: installed.get(name) for name in names},
        "matmul_teraflops": rate / 1e12,
        "rows": [],
    }
    print(f"{report['device']}: {dtype} matmul {rate / 1e12:.1f} TFLOP/s; {report['versions']}")
    texts = Texts(500 if options.tiny else 30_000)
    tokenizer = train_tokenizer(texts)
    with tempfile.TemporaryDirectory() as folder, tokenizer_processes(tiny=options.tiny) as pool:
        for row in ROWS:
            if options.only not in row.name:
                continue
            if time.perf_counter() - started > 60 * options.minutes:
                report["rows"].append({"row": row.name, "notes": {"skipped": "out of time"}})
                continue
            path = build(row, Path(folder), tokenizer, tiny=options.tiny, device=options.device)
            table = texts.table(row.workload, 16 if options.tiny else row.num_rows)
            bench = Bench(row, path, table, options.device, options.tiny, pool)
            bench.measure()
            report["rows"].append(bench.results(rate))
            show(report["rows"][-1])
            options.out.write_text(json.dumps(report, indent=2))
            del bench
            gc.collect()
            if options.device == "cuda":
                torch.cuda.empty_cache()
    print(f"\n{time.perf_counter() - started:.0f} s; {options.out}")


if __name__ == "__main__":
    main()
