"""What the doctor prints for people: a line for each finding, what to do below it, and the sum."""

from collections import Counter
from collections.abc import Sequence

from inference.findings import Finding

_UNITS = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"))


def findings_text(findings: Sequence[Finding]) -> str:
    """All findings, in the order in which they were made."""
    width = max(len(finding.check) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.level:<8} {finding.check:<{width}}  {finding.message}")
        if finding.advice:
            lines.append(f"{'':<8} {'':<{width}}  -> {finding.advice}")
    counts = Counter(finding.level for finding in findings)
    said = [_counted(counts["error"], "error"), _counted(counts["warning"], "warning"), f"{counts['ok']} ok"]
    if counts["skipped"]:
        said.append(f"{counts['skipped']} skipped")
    return "\n".join([*lines, "", ", ".join(said)])


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def size_text(num_bytes: float) -> str:
    """A size for people: 12.0 MB, 1.5 GB."""
    unit, name = next(((unit, name) for unit, name in _UNITS if num_bytes >= unit), (10**3, "kB"))
    return f"{num_bytes / unit:,.1f} {name}"
