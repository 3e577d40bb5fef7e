"""How the page of a report writes numbers and draws charts: the filters of its templates."""

import base64
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from jinja2 import Undefined

from jobs.label_report import NO_LABEL

UNKNOWN = "–"  # noqa: RUF001 - the dash of tables

_MAX_BARS = 60
_NUM_TICKS = 6


def is_unknown(value: Any) -> bool:
    """Whether there is nothing to show: absent, null, or not finite."""
    return value is None or isinstance(value, Undefined) or (isinstance(value, float) and not math.isfinite(value))


def count(value: float | None) -> str:
    """12345 -> 12,345."""
    return UNKNOWN if is_unknown(value) else f"{value:,.0f}"


def percent(value: float | None) -> str:
    """0.1234 -> 12.3%."""
    return UNKNOWN if is_unknown(value) else f"{value:,.1%}"


def of(value: float | None, whole: float | None) -> str:
    """The percentage that a part is of a whole; unknown of nothing."""
    return UNKNOWN if value is None or is_unknown(value) or not whole else percent(value / whole)


def decimal(value: float | None, digits: int = 2) -> str:
    """1234.567 -> 1,234.57."""
    return UNKNOWN if is_unknown(value) else f"{value:,.{digits}f}"


def short(value: float | None) -> str:
    """A number with the digits it needs, four at most: 0.05, 128, 1,500."""
    if value is None or is_unknown(value):
        return UNKNOWN
    return f"{value:,.0f}" if value == round(value) else f"{value:,.4g}"


def duration(value: float | None) -> str:
    """Seconds as a person says them: 9.5 s, 12 min 5 s, 3 h 20 min."""
    if value is None or is_unknown(value):
        return UNKNOWN
    if value < 60:  # noqa: PLR2004 - seconds of a minute
        return f"{value:.1f} s"
    minutes, seconds = divmod(round(value), 60)
    hours, rest = divmod(minutes, 60)
    return f"{hours:,} h {rest} min" if hours else f"{minutes} min {seconds} s"


def moment(value: str | None) -> str:
    """2026-11-26T00:52:07Z -> 2026-11-26 00:52 UTC."""
    if value is None or is_unknown(value):
        return UNKNOWN
    return f"{datetime.fromisoformat(value).astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def name(label: str | None) -> str:
    """A label, or that there is none."""
    return NO_LABEL if label is None else label


def compact(value: Any) -> str:
    """As JSON."""
    return json.dumps(value, ensure_ascii=False)


def digest(source: str) -> str:
    """How a content security policy names a script: what else runs on the page is refused."""
    return f"sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}"


def trimmed(histogram: dict[str, Any]) -> dict[str, Any]:
    """A histogram without the empty bins at its ends."""
    counts = histogram["counts"]
    filled = [i for i, n in enumerate(counts) if n]
    first, last = (filled[0], filled[-1] + 1) if filled else (0, 0)
    return histogram | {"counts": counts[first:last], "edges": histogram["edges"][first : last + 1]}


def ticks(histogram: dict[str, Any]) -> list[tuple[float, float]]:
    """Some edges to write below a histogram of bars of equal width: at how many percent of the width, and the edge."""
    edges = histogram["edges"]
    num_bars = len(edges) - 1
    marked = sorted({round(i * num_bars / (_NUM_TICKS - 1)) for i in range(_NUM_TICKS)})
    return [(100 * i / num_bars, edges[i]) for i in marked]


def arrivals(run: dict[str, Any]) -> dict[str, Any]:
    """The points of a run as a histogram over its seconds, some intervals to a bar where there are many."""
    ends = [point["at"] for point in run["points"]]
    num_intervals = max(math.ceil(max(ends) / run["interval_seconds"] - 1e-9), 1)
    per_bar = math.ceil(num_intervals / _MAX_BARS)
    seconds = per_bar * run["interval_seconds"]
    counts = [0] * math.ceil(num_intervals / per_bar)
    for point in run["points"]:
        counts[max(math.ceil(point["at"] / seconds - 1e-9) - 1, 0)] += point["rows"]
    return {"counts": counts, "edges": [i * seconds for i in range(len(counts) + 1)], "seconds": seconds}


def steps(counts: Sequence[float], width: float = 100, height: float = 40) -> str:
    """The SVG path of a histogram, its highest bar as high as the chart; nothing is drawn where nothing was counted."""
    top, step = max(counts, default=0), width / max(len(counts), 1)
    bars = ((i * step, n * height / top) for i, n in enumerate(counts) if n)
    return "".join(f"M{x:.2f} {height}v{-high:.2f}h{step * 0.88:.2f}V{height}z" for x, high in bars)


def curve(bins: Sequence[dict[str, Any]], size: float = 100) -> str:
    """The SVG path of a calibration curve, through the bins that hold something."""
    points = [(each["mean_confidence"], each["accuracy"]) for each in bins if each["count"]]
    return "M" + "L".join(f"{x * size:.2f} {(1 - y) * size:.2f}" for x, y in points) if points else ""


FILTERS: tuple[Callable[..., Any], ...] = (
    count,
    percent,
    of,
    decimal,
    short,
    duration,
    moment,
    name,
    compact,
    digest,
    trimmed,
    ticks,
    arrivals,
    steps,
    curve,
)
