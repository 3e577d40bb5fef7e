"""What the doctor prints for people: a line for each finding, what to do below it, and the sum."""

from collections import Counter
from collections.abc import Sequence

from inference.findings import Finding
from jobs.wording import counted


def findings_text(findings: Sequence[Finding]) -> str:
    """All findings, in the order in which they were made."""
    width = max(len(finding.check) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.level:<8} {finding.check:<{width}}  {finding.message}")
        if finding.advice:
            lines.append(f"{'':<8} {'':<{width}}  -> {finding.advice}")
    counts = Counter(finding.level for finding in findings)
    said = [counted(counts["error"], "error"), counted(counts["warning"], "warning"), f"{counts['ok']} ok"]
    if counts["skipped"]:
        said.append(f"{counts['skipped']} skipped")
    return "\n".join([*lines, "", ", ".join(said)])
