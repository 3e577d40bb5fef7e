"""The JSON of a run -> the tables of `docs/performance.md`: each stands between two comments that name it.

What is outside the comments is written by people and stays. With matplotlib installed there is also a plot.
"""

import json
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.budget import BUDGETS
from benchmarks.catalog import PEERS
from benchmarks.compare import Results
from benchmarks.jobs_cold import share
from benchmarks.plots import write_plot
from benchmarks.schedule import CORE_MODELS, CORE_WORKLOADS
from benchmarks.summary import Summary, geometric_mean
from benchmarks.workloads import ROOT

_GOALS = {
    "pipeline": 8,
    "ray-data": 8,
    "pipeline-tuned": 3.5,
    "encode": 2.7,
    "openvino": 1.15,
    "onnxruntime": 3.5,
}


def write_tables(source: Path, page: Path) -> None:
    """Replace the tables of the page by those of the JSON."""
    results = Results(**json.loads(source.read_text()))
    summary = Summary(results)
    text = (page if page.exists() else ROOT / "docs" / "performance.md").read_text()
    for name, table in TABLES.items():
        text = fill(text, name, table(summary))
    page.write_text(text)
    write_plot(summary, page.with_name("performance.svg"))


def fill(text: str, name: str, content: str) -> str:
    """The text of a page with new content between the two comments of a name."""
    pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
    return re.sub(pattern, lambda match: f"{match[1]}\n{content.strip()}\n\n{match[2]}", text, flags=re.DOTALL)


def write_section(file: Path, page: Path, name: str, facts: dict[str, Any], content: str) -> None:
    """Write the facts as JSON, and one section of a page, which is made from the project's own where there is none."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(facts, indent=1))
    source = page if page.exists() else ROOT / "docs" / "performance.md"
    page.write_text(fill(source.read_text(), name, content))
    print(f"{file} and {page} are written")


def rows(header: list[str], body: list[list[str]]) -> str:
    """A Markdown table: the first column left, the others right."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *body))


def machine(summary: Summary) -> str:
    """Where and when, with what."""
    facts = summary.results.extra["machine"]
    peaks = ", ".join(f"{rate / 1e9:,.0f} GFLOP/s in {dtype}" for dtype, rate in sorted(summary.results.peaks.items()))
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    discarded, total = summary.discarded()
    return (
        f"{facts['date']}; {facts['processor']}, {summary.results.threads} cores, {facts['memory_gb']} GB; best matrix "
        f"product of the run {peaks}. Python {facts['python']}, {versions}.\n\n"
        f"{total} timings, of which {discarded} were discarded because the peak beside them was more than 10 % off the "
        f"best. Pressure on the processor at the end (PSI): `{summary.results.extra.get('pressure', '')}`."
    )


def speedups(summary: Summary) -> str:
    """The table of the goals."""
    body = []
    for name in _ordered(summary):
        if name == PEERS[name].rival or name == "shardlabel-embeddings":
            continue
        ratios = {
            (model, workload): summary.ratio(name, model, workload)
            for model in CORE_MODELS
            for workload in CORE_WORKLOADS
        }
        known = [ratio for ratio in ratios.values() if ratio is not None]
        goal = f"{_GOALS[name]} x" if name in _GOALS else ""
        if known:
            cells = [f"{geometric_mean(known):.2f} x", f"{min(known):.2f}", f"{max(known):.2f}", str(len(known)), goal]
            body.append([PEERS[name].title, *cells])
    return rows(["against", "faster by, geometric mean", "least", "most", "of 9 cells", "goal"], body)


def throughput(summary: Summary) -> str:
    """A table for every model: useful tokens per second, median over the rounds, and the spread."""
    parts = []
    for model in summary.models():
        workloads = summary.workloads(model)
        body = []
        for name in _ordered(summary):
            cells = [_rate(summary, name, model, workload) for workload in workloads]
            if any(cells):
                body.append([PEERS[name].title, *cells])
        parts.append(f"**{model}**\n\n" + rows(["tokens/s", *workloads], body))
    return "\n\n".join(parts)


def _rate(summary: Summary, name: str, model: str, workload: str) -> str:
    found = summary.cell(name, model, workload)
    if found is None:
        return ""
    mark = "*" if found.all_disturbed else ""
    return f"{found.tokens_per_second:,.0f}{mark} ± {found.spread:.0%}"


def details(summary: Summary) -> str:
    """One row for each peer, model and workload."""
    body = []
    for model in summary.models():
        for workload in summary.workloads(model):
            for name in _ordered(summary):
                if found := summary.cell(name, model, workload):
                    check = summary.check(name, model, workload)
                    body.append(
                        [
                            f"{model}, {workload}, {name}",
                            f"{found.rows:,}",
                            f"{found.rows_per_second:,.0f}",
                            f"{found.mfu:.1%}",
                            _number(check.get("padding"), ".2f"),
                            _number(check.get("host_share"), ".0%"),
                            f"{found.tree_mb:,.0f}",
                            f"{found.load_seconds:.1f}",
                            _number(check.get("agreement"), ".1%"),
                            _number(check.get("clear_agreement"), ".1%"),
                            _number(check.get("max_delta"), ".3f"),
                            f"{found.rounds} of {found.all_rounds}",
                            " ".join(f"{key} {value}" for key, value in found.options.items()),
                        ]
                    )
    header = ["model, workload, who", "rows", "rows/s", "MFU", "padded / useful", "host share", "peak MB", "start s"]
    header += ["labels agree", "where clear", "max Δ", "rounds kept", "chosen"]
    return rows(header, body)


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def efficiency(summary: Summary) -> str:
    """The share of the matrix-product peak."""
    names = dict.fromkeys(workload for model in summary.models() for workload in summary.workloads(model))
    body = []
    for model in summary.models():
        cells = [summary.cell("shardlabel", model, workload) for workload in names]
        known = [cell.mfu for cell in cells if cell]
        if known:
            body.append([model, f"{geometric_mean(known):.0%}", *[f"{cell.mfu:.0%}" if cell else "" for cell in cells]])
    return rows(["MFU of shardlabel", "geometric mean", *names], body) if body else "Not measured."


def ray_share(summary: Summary) -> str:
    """Fixed and marginal cost of Ray."""
    if "ray_share" not in summary.results.extra:
        return "Not measured."
    facts = share(summary.results)
    return rows(
        [f"{summary.results.extra['ray_share']['model']}, tweets, whole runs", "local", "ray"],
        [
            ["fixed cost, s", f"{facts['fixed_local']:.1f}", f"{facts['fixed_ray']:.1f}"],
            ["cost of 1,000 rows more, s", f"{facts['marginal_local']:.3f}", f"{facts['marginal_ray']:.3f}"],
            ["marginal overhead of Ray", "", f"{facts['overhead']:+.1%}"],
            ["first part committed after, s", f"{facts['first_part_local']:.1f}", f"{facts['first_part_ray']:.1f}"],
            ["two actors instead of one", "", f"{facts['second_actor']:.2f} x"],
        ],
    )


def cold(summary: Summary) -> str:
    """Whole runs, start to exit."""
    return rows(
        ["reviews, whole run", "rows", "seconds", "of them fixed", "first part after, s"],
        [
            [
                f"{row['model']}, {row['executor']}",
                f"{row['rows']:,}",
                f"{row['seconds']:.1f}",
                f"{row['fixed']:.1f}",
                f"{row['first_part']:.1f}",
            ]
            for row in summary.cold()
        ],
    )


def growth(summary: Summary) -> str:
    """Rows, labels, length."""
    found = summary.results.extra.get("growth")
    if not found:
        return "Not measured."
    first = found["rows"][0]
    by_rows = [
        [
            f"{row['rows']:,} rows",
            f"{row['seconds']:.2f}",
            f"{row['seconds'] / row['rows'] / (first['seconds'] / first['rows']):.2f} per row",
        ]
        for row in found["rows"]
    ]
    few = found["labels"][0]
    by_labels = [
        [f"{row['labels']:,} labels", f"{row['seconds']:.2f}", f"{row['seconds'] / few['seconds']:.2f} of the time"]
        for row in found["labels"]
    ]
    short = found["length"][0]
    by_length = [
        [
            f"{row['length']} tokens, {row['rows']:,} rows",
            f"{row['seconds']:.2f}",
            f"{row['seconds'] / row['flops'] / (short['seconds'] / short['flops']):.2f} per FLOP",
        ]
        for row in found["length"]
    ]
    return rows(["shardlabel, warm", "seconds", "against the first"], by_rows + by_labels + by_length)


def budget(summary: Summary) -> str:
    """Tokens per second by token budget."""
    timings = summary.results.extra.get("budget")
    if not timings:
        return "Not measured."
    body = []
    for model in dict.fromkeys(entry["model"] for entry in timings):
        cells = []
        for tokens in BUDGETS:
            found = [entry for entry in timings if (entry["model"], entry["budget"]) == (model, tokens)]
            quiet = [entry for entry in found if not summary.results.is_disturbed(entry)]
            rate = statistics.median(entry["tokens_per_second"] for entry in quiet or found)
            cells.append(f"{rate:,.0f}{'' if quiet else '*'}")
        body.append([model, *cells])
    return rows(["tokens/s of reviews, by `model.max_batch_tokens`", *(f"{tokens:,}" for tokens in BUDGETS)], body)


def not_measured(summary: Summary) -> str:
    """What is missing, and why."""
    missing = [
        [" ".join(f"{value}" for key, value in entry.items() if key != "reason"), entry["reason"]]
        for entry in summary.results.not_measured
    ]
    grouped: dict[tuple[str, str], list[str]] = {}
    for failure in summary.results.failures:
        where = grouped.setdefault((failure["peer"], failure["error"]), [])
        where.append(f"{failure['model']}/{failure['workload']}")
    missing += [[f"{peer} on {', '.join(dict.fromkeys(where))}", reason] for (peer, reason), where in grouped.items()]
    return rows(["not measured", "why"], [[what, why.replace("|", "/")] for what, why in missing]).replace(
        "---:", "---"
    )


def workloads(summary: Summary) -> str:
    """What the texts are: deciles of tokens after truncation, by the model's own tokenizer."""
    body = [
        [
            f"{cell['workload']}, {cell['model']}",
            f"{cell['rows']:,}",
            f"{cell['tokens']:,}",
            f"{cell['tokens'] / cell['rows']:.0f}",
            " ".join(map(str, cell["deciles"])),
        ]
        for cell in summary.results.cells
    ]
    return rows(["workload, model", "rows", "tokens", "mean", "deciles 0, 10 … 100 % of tokens"], body)


TABLES: dict[str, Callable[[Summary], str]] = {
    "machine": machine,
    "speedups": speedups,
    "efficiency": efficiency,
    "throughput": throughput,
    "ray-share": ray_share,
    "cold": cold,
    "growth": growth,
    "budget": budget,
    "not-measured": not_measured,
    "workloads": workloads,
    "details": details,
}


def _ordered(summary: Summary) -> list[str]:
    known: set[Any] = {entry["peer"] for entry in summary.results.measurements}
    return [name for name in PEERS if name in known]
