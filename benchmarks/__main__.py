"""`python -m benchmarks`: measure, write the JSON, write the tables. `make bench` calls it with its defaults."""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.catalog import PEERS
from benchmarks.compare import Results
from benchmarks.environments import install
from benchmarks.machine import describe_machine
from benchmarks.models import MODELS
from benchmarks.schedule import Request, Schedule
from benchmarks.tables import write_tables
from benchmarks.workloads import BUILD, ROOT, WORKLOADS
from inference.hardware import resolve_dtype

_PARTS = ("compare", "ray", "cold", "growth", "budget")


def main(arguments: list[str]) -> int:
    """Measure what is asked for, within the time that is given."""
    options = _parser().parse_args(arguments)
    file = Path(options.json)
    if options.tables_only:
        write_tables(file, Path(options.page))
        return 0
    affinity = sorted(os.sched_getaffinity(0))[: options.threads or None]
    os.sched_setaffinity(0, affinity)
    import torch

    torch.set_num_threads(len(affinity))
    BUILD.mkdir(parents=True, exist_ok=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    if not options.no_install:
        install(options.peers)
    if options.install_only:
        return 0
    results = Results(threads=len(affinity), dtype=resolve_dtype("auto", "cpu"), scale=options.scale)
    machine = describe_machine()
    if options.add:
        results = _earlier(file, machine, options)
    results.extra["machine"] = machine
    begun = time.perf_counter()

    def say(line: str) -> None:
        print(f"{(time.perf_counter() - begun) / 60:6.1f} min  {line}", flush=True)

    def save() -> None:
        results.extra["pressure"] = _pressure()
        results.save(file)

    request = Request(
        models=options.models,
        workloads=options.workloads,
        peers=[name for name in PEERS if name in options.peers],
        rounds=options.rounds,
        seconds=60 * options.minutes,
        parts=options.parts,
    )
    Schedule(request, results, save, say).run()
    results.extra["minutes"] = results.extra.get("minutes", 0.0) + (time.perf_counter() - begun) / 60
    save()
    write_tables(file, Path(options.page))
    print(f"{file} and {options.page} are written")
    return 0


def _earlier(file: Path, machine: dict[str, Any], options: argparse.Namespace) -> Results:
    """What an earlier run measured; what it could not, this one may."""
    results = Results(**json.loads(file.read_text()))
    if results.extra["machine"] | {"date": ""} != machine | {"date": ""} or results.scale != options.scale:
        sys.exit(f"{file} is of another machine, other versions or another --scale; start anew, without --add")
    missing = results.not_measured
    results.not_measured = [entry for entry in missing if "model" in entry and entry["model"] not in options.models]
    failures = results.failures
    results.failures = [f for f in failures if f["model"] not in options.models or f["peer"] not in options.peers]
    if options.again:
        results.measurements = [entry for entry in results.measurements if not _is_asked_for(entry, options)]
        for part in options.parts:
            results.extra.pop({"ray": "ray_share"}.get(part, part), None)
    return results


def _is_asked_for(entry: dict[str, Any], options: argparse.Namespace) -> bool:
    is_chosen = entry["model"] in options.models and entry["workload"] in options.workloads
    return "compare" in options.parts and is_chosen and entry["peer"] in options.peers


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    models = list(MODELS)
    parser.add_argument("--models", nargs="+", choices=[*models, "demo"], default=models, metavar="NAME")
    parser.add_argument("--workloads", nargs="+", choices=list(WORKLOADS), default=list(WORKLOADS), metavar="NAME")
    parser.add_argument("--peers", nargs="+", choices=list(PEERS), default=list(PEERS), metavar="NAME")
    parser.add_argument("--parts", nargs="+", choices=_PARTS, default=list(_PARTS), metavar="NAME")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=150, help="what does not fit is left out and listed")
    parser.add_argument("--threads", type=int, default=0, help="cores that everybody gets; 0 for all")
    parser.add_argument("--scale", type=float, default=1.0, help="more or fewer rows than some five seconds a timing")
    parser.add_argument("--json", default=str(BUILD / "results.json"))
    parser.add_argument("--page", default=str(ROOT / "docs" / "performance.md"), help="the page that holds the tables")
    parser.add_argument("--add", action="store_true", help="keep what the JSON holds of this machine, and add to it")
    parser.add_argument("--again", action="store_true", help="with --add: what is asked for replaces what is there")
    parser.add_argument("--no-install", action="store_true", help="measure only the peers that are installed")
    parser.add_argument("--install-only", action="store_true", help="install the peers and stop")
    parser.add_argument("--tables-only", action="store_true", help="write the tables again from the JSON")
    return parser


def _pressure() -> str:
    file = Path("/proc/pressure/cpu")
    return file.read_text().splitlines()[0] if file.exists() else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
