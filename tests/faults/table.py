"""What became of the faults of a campaign, as a Markdown table."""

from collections.abc import Sequence

from tests.faults.campaign import Fault
from tests.faults.kinds import EXECUTORS, KINDS

_PLACES = {"local": "in process", "ray": "Ray of its own", "cluster": "Ray cluster"}


def table(faults: Sequence[Fault]) -> str:
    """One line per kind and executor."""
    lines = [
        "| fault | where | faults | the run went on | runs again | output | hangs, crashes, tracebacks, status 2 |",
        "|---|---|---:|---:|---:|---|---:|",
    ]
    for kind in KINDS:
        for executor in EXECUTORS:
            some = [fault for fault in faults if fault.kind is kind and fault.executor == executor]
            if some:
                lines.append(f"| {kind.name} | {_PLACES[executor]} | {_counts(some)} |")
    return "\n".join([*lines, f"| all | | {_counts(faults)} |"])


def _counts(faults: Sequence[Fault]) -> str:
    went_on = sum(fault.reruns == 0 for fault in faults)
    wrong = sum(bool(fault.differences) for fault in faults)
    outcome = f"{wrong} differ" if wrong else "identical"
    findings = sum(len(fault.findings) for fault in faults)
    return f"{len(faults)} | {went_on} | {sum(fault.reruns for fault in faults)} | {outcome} | {findings}"
