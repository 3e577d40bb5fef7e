"""build/bench/scale.json -> the tables of docs/scale.md, each between two comments that name it."""

import json
import re
from pathlib import Path
from typing import Any

from benchmarks.tables import rows

Run = dict[str, Any]


def write_page(source: Path, page: Path) -> None:
    """Replace the tables of the page; what is outside the comments is written by people."""
    results, text = json.loads(source.read_text()), page.read_text()
    for name, table in TABLES.items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
        content = table(results)
        text = re.sub(pattern, lambda match, new=content: f"{match[1]}\n{new}\n\n{match[2]}", text, flags=re.DOTALL)
    page.write_text(text)


def _runs(results: Run, kind: str) -> list[Run]:
    return sorted((run for run in results["runs"] if run["kind"] == kind), key=lambda run: int(run["splits"]))


def machine(results: Run) -> str:
    """Where and when, with what, and what is missing."""
    facts = results["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    said = f"{facts['date']}; {facts['processor']}, {facts['cores']} cores, load {facts['load']:.1f} at the start; "
    missing = [
        f"\n\nNot measured: {entry['kind']}, {entry['shards']:,} splits: {entry['reason']}."
        for entry in results["not_measured"]
    ]
    return f"{said}{versions}.{''.join(missing)}"


def driver(results: Run) -> str:
    """What the driver does for a split, between the first and the last record."""
    body = []
    for kind, title in (("alone", "alone"), ("ray", "in bundles"), ("s3", "in bundles, on S3")):
        for run in _runs(results, kind):
            done = run["done"] - run["first"]
            daemons = sum(run["ray_cpu_s"].values())
            body.append(
                [
                    f"{run['splits']:,}, {title}",
                    f"{done / run['run_s']:,.0f}",
                    f"{run['run_cpu_s'] / done * 1e3:.2f}",
                    f"{daemons / done * 1e3:.2f}",
                    f"{run['run_mb'] / done * 1e3:.1f}",
                    " / ".join(f"{run['ray_mb'].get(name, 0):.0f}" for name in ("raylet", "gcs_server")),
                    f"{run['until_first_s']:.0f}",
                ]
            )
    header = ["splits", "splits/s", "driver, ms of CPU a split", "Ray's daemons, ms of CPU a split"]
    header += ["driver grew, kB a split", "raylet / gcs at their highest, MB", "s until the first"]
    return rows(header, body)


def start(results: Run) -> str:
    """Planning and resuming, before the first split is done."""
    body = []
    titles = {"ray": "nothing is done", "resume": "99 % is done", "resume again": "again, footers remembered"}
    for where, prefix in (("local", ""), ("S3", "s3 ")):
        for kind, title in titles.items():
            for run in _runs(results, "s3" if prefix and kind == "ray" else prefix + kind):
                cells = [f"{run[f'{phase}_{of}']:.1f}" for phase in ("plan", "start") for of in ("s", "cpu_s")]
                megabytes = run["plan_mb"] + run["start_mb"]
                body.append([f"{run['splits']:,} on {where}, {title}", *cells, f"{megabytes:.0f}"])
    return rows(["shards", "planning, s", "of CPU", "planning and resuming, s", "of CPU", "driver grew, MB"], body)


def files(results: Run) -> str:
    """What is kept beside the parts."""
    found = results.get("files", [])
    names = sorted({name for entry in found for name in entry} - {"splits"})
    body = [[f"{entry['splits']:,}", *[f"{entry.get(name, 0) / 1e3:,.0f}" for name in names]] for entry in found]
    return rows(["splits", *[f"{name}, kB" for name in names]], body)


TABLES = {"machine": machine, "driver": driver, "start": start, "files": files}
