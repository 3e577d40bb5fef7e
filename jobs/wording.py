"""Numbers and names as people read them: sizes, counts with their noun, a few names of many, a text on one line."""

from collections.abc import Sequence

_UNITS = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB"))
_NUM_NAMES = 3

# A terminal has 80 columns, and 13 of them stand before the longest thing that is cut.
_WIDTH = 66


def size(num_bytes: float) -> str:
    """12.0 MB, 1.5 GB; decimal units, as disks and clouds have them."""
    unit, name = next(((unit, name) for unit, name in _UNITS if num_bytes >= unit), (1, "bytes"))
    return f"{num_bytes / unit:,.1f} {name}" if unit > 1 else f"{num_bytes:,.0f} bytes"


def counted(number: int, noun: str) -> str:
    """1 part, 2,000 parts."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def escalated(num_rows: int, num_escalated: Sequence[int]) -> list[str]:
    """A line of how many rows went on to each model but the first; none of a single model."""
    shares = [f"{number:,} ({number / max(num_rows, 1):.1%})" for number in num_escalated]
    return [f"escalated  {', then '.join(shares)}"] if shares else []


def few(names: Sequence[str]) -> str:
    """The first three of them, and a sign that there are more."""
    return ", ".join([*(short(name) for name in names[:_NUM_NAMES]), *(["…"] if names[_NUM_NAMES:] else [])])


def short(text: str, width: int = _WIDTH) -> str:
    """A text on one line of at most `width` characters."""
    return cut(" ".join(text.split()), width)


def cut(text: str, width: int) -> str:
    """A text as it is, of at most `width` characters."""
    return text if len(text) <= width else text[: width - 1] + "…"
