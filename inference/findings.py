"""What checks find before a run: fine, worth a look, or in the way. Each check goes on where another found an error."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

from inference.errors import ShardlabelError

Level = Literal["ok", "warning", "error", "skipped"]
"""`error`: the run would fail or its output be of no use; `skipped`: nobody could look, and the message says why."""

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one check says."""

    check: str
    """What was looked at, in a word or two."""
    level: Level
    message: str
    advice: str = ""
    """What to do; empty where there is nothing to do."""

    def as_dict(self) -> dict[str, str]:
        """For JSON."""
        return dataclasses.asdict(self)


class Notes:
    """The findings until now, in the order in which they were made."""

    def __init__(self) -> None:
        """Nothing is found yet."""
        self._findings: list[Finding] = []

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All of them."""
        return tuple(self._findings)

    def ok(self, check: str, message: str) -> None:
        """Note that something is as it should be."""
        self._add(Finding(check=check, level="ok", message=message))

    def warn(self, check: str, message: str, advice: str) -> None:
        """Note what may spoil the output, or the run."""
        self._add(Finding(check=check, level="warning", message=message, advice=advice))

    def error(self, check: str, message: str, advice: str) -> None:
        """Note what makes the run fail."""
        self._add(Finding(check=check, level="error", message=message, advice=advice))

    def skip(self, check: str, reason: str) -> None:
        """Note what could not be looked at."""
        self._add(Finding(check=check, level="skipped", message=reason))

    def attempt(self, check: str, look: Callable[[], Result]) -> Result | None:
        """What `look` returns; when it refuses the request, that is a finding, and the result is None."""
        try:
            return look()
        except ShardlabelError as refusal:
            self._add(_refused(check, str(refusal)))
            return None

    def _add(self, finding: Finding) -> None:
        """Keep it, unless another check has met the same error before."""
        known = {(each.message, each.advice) for each in self._findings if each.level == "error"}
        if (finding.message, finding.advice) not in known:
            self._findings.append(finding)


def _refused(check: str, sentence: str) -> Finding:
    """Our sentences end with what to do, behind the last semicolon that is not within brackets."""
    message, _, advice = sentence.rpartition("; ")
    is_whole = not message or advice.count("(") != advice.count(")")
    return Finding(
        check=check, level="error", message=sentence if is_whole else message, advice="" if is_whole else advice
    )
