"""`shardlabel report OUT`: counters of all parts, some rows to read, outliers, and what is asked for beside them.

What is in `_shardlabel/label_report.json` and `report.html` was true when they were written.
"""

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice, pairwise
from typing import Any

import numpy as np

from inference.errors import JobError, OutputError
from jobs import manifest, storage
from jobs.against import compare_with
from jobs.counters import Counters
from jobs.counting import Place
from jobs.examples import read_examples
from jobs.gold import compare_with_gold
from jobs.heartbeat import read_note
from jobs.histograms import CONFIDENCE_BINS, LENGTH_EDGES, MILLION, Lengths, Spread, mean_and_std
from jobs.index import read_index
from jobs.label_report import NO_LABEL, ErrorCounts, Example, Histogram, LabelCounts, LabelReport
from jobs.label_source import Source, find_source
from jobs.outliers import ShardSummary, find_outliers
from jobs.parts import task_of
from jobs.report import RunReport, hash_fingerprint
from jobs.report_page import render
from jobs.run_log import read_runs
from jobs.storage import Location, locate

REPORT, PAGE = "_shardlabel/label_report.json", "_shardlabel/report.html"

MAX_PARTS_AT_END = 2000
"""Their footers are read in a second on a disk, in some seconds from a store."""

_log = logging.getLogger(__name__)

_NUM_ERRORS = 10
_NUM_RUNS = 10
_MERGED_AT_ONCE = 256


def make_report(
    output: Location,
    *,
    gold: str | None = None,
    against: str | None = None,
    is_finished: bool = False,
) -> LabelReport:
    """Read what an output says of its labels.

    Args:
        output: the `output.path` of a job.
        gold: a column of it that holds the right labels.
        against: another output.
        is_finished: at the end of a run: only what is in the index counts.

    Raises:
        OutputError: there is no output of a job, or it cannot be read.
        ConfigError: the gold column or the other output does not fit.
    """
    source = find_source(output, is_finished=is_finished)
    counters, shards = count(source)
    errors = list(counters.errors.items())[:_NUM_ERRORS]
    uncertain, sampled = ([place for _, place in kept] for kept in (counters.least_certain, counters.sample))
    places = [*uncertain, *sampled, *(place for _, each in errors for place in each.places)]
    examples = read_examples(source, places)

    def read(wanted: Iterable[Place]) -> list[Example]:
        return [examples[place] for place in wanted if place in examples]

    note, compared = read_note(output), None
    if against is not None:
        other = find_source(locate(against))
        compared = compare_with(source, counters, other, count(other)[0])
    return LabelReport(
        output=str(output),
        made_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        is_complete=is_finished or manifest.is_complete(output),
        **_made_by(source, counters.num_rows),
        counted=counters.counted,
        num_shards=len(shards),
        num_parts=len(source.parts),
        rows_read=source.rows_read,
        num_rows=counters.num_rows,
        planned_rows=None if note is None else note.num_rows,
        num_failed=counters.num_failed,
        num_truncated=counters.num_truncated,
        num_unlabelled=counters.num_unlabelled,
        num_tokens=counters.tokens.total,
        labels=_label_counts(counters),
        confidence=_confidence(counters),
        token_lengths=_lengths(counters.tokens),
        score=_spread(counters.scores),
        generated_lengths=_lengths(counters.generated) if counters.generated.counts else None,
        errors=[ErrorCounts(message=text, count=each.count, examples=read(each.places)) for text, each in errors],
        least_certain=read(uncertain),
        sample=read(sampled),
        outliers=find_outliers(shards, counters),
        runs=read_runs(output, _NUM_RUNS),
        gold=None if gold is None else compare_with_gold(source, gold),
        against=compared,
        notes=_notes(source, examples.values()),
    )


def write_report(output: Location, report: LabelReport) -> None:
    """Leave the report and its page beside the parts.

    Raises:
        OutputError: they could not be written.
    """
    content = report.as_dict()
    storage.write(output.join(PAGE), render(content).encode())
    storage.write(output.join(REPORT), json.dumps(content, indent=1).encode())


def end_run(
    output: Location, stale: Sequence[str], report: RunReport, close: Callable[[], None] = lambda: None
) -> None:
    """The end of a run: the report of its labels, what `manifest.finish` does, and last of all the sign.

    Args:
        output: where all parts are that the run could make.
        stale: parts that go.
        report: of the run.
        close: what comes before the sign.

    Raises:
        OutputError: a part could not be read, so there is no sign: whoever waits for it would read that part too.
        JobError: the report could not be written, which changes nothing about the rows.
    """
    is_complete = report.is_complete
    try:
        _leave_report(output, report.num_parts, is_complete=is_complete)
    except OutputError:
        is_complete = False
        raise
    finally:
        close()
        manifest.finish(output, stale, report.as_dict(), is_complete=is_complete)


def _leave_report(output: Location, num_parts: int, *, is_complete: bool) -> None:
    """Unless there are so many parts that reading their footers takes long."""
    if num_parts > MAX_PARTS_AT_END:
        _log.info("of %s parts a report takes a while: shardlabel report %s", f"{num_parts:,}", output)
        return
    with _is_for_later(output):  # lest an old one is taken for that of this run if there is no new one
        storage.delete(output.join(REPORT))
    if not read_index(output):
        return  # no shard could be read whole, which is what the run has to say
    report = replace(make_report(output, is_finished=True), is_complete=is_complete)
    with _is_for_later(output):
        write_report(output, report)


@contextmanager
def _is_for_later(output: Location) -> Iterator[None]:
    try:
        yield
    except OutputError as error:
        msg = f"the parts are written, but not their report: {error}; then run: shardlabel report {output}"
        raise JobError(msg) from error


def read_label_counts(output: Location, num_parts: int) -> dict[str, int] | None:
    """How often each label was given or none was, by the report that a run's end left; None where none can be read."""
    with suppress(OutputError, ValueError, KeyError):  # the run is done, whatever becomes of what it says of labels
        content = None if num_parts > MAX_PARTS_AT_END else storage.read_text(output.join(REPORT))
        if content is not None:
            counts = {each["label"]: each["count"] for each in json.loads(content)["labels"]}
            return {NO_LABEL if label is None else label: number for label, number in counts.items()}
    return None


def count(source: Source) -> tuple[Counters, list[ShardSummary]]:
    """The counters of all parts, and a summary of each shard.

    Raises:
        OutputError: a footer cannot be read.
    """
    total, shards = Counters(), list[ShardSummary]()
    read = source.read()
    # Each row may have labels of its own; what is kept does not grow with them.
    while batch := [(shard, counters.cut()) for shard, counters in islice(read, _MERGED_AT_ONCE)]:
        total = Counters.merge([total, *(counters for _, counters in batch)]).cut()
        shards += [ShardSummary.of(shard, counters).within(total.labels) for shard, counters in batch]
    # A label that was common for a while may have been cut since.
    return total, [shard.within(total.labels) for shard in shards]


def _made_by(source: Source, num_rows: int) -> dict[str, Any]:
    maker = source.makers[0] if source.makers else {}
    return {
        "task": task_of(source.fingerprint) or "",
        "model": maker.get("model", {}),
        "models": _models(maker, num_rows, source.num_escalated),
        "software": maker.get("software", {}),
        "num_makers": len(source.makers),
        "fingerprint": hash_fingerprint(source.fingerprint),
        "job": source.fingerprint,
    }


def _models(maker: dict[str, Any], num_rows: int, num_escalated: list[int]) -> list[dict[str, Any]]:
    later = maker.get("later_models", [])
    if not later:
        return []
    steps = pairwise([num_rows, *num_escalated, 0])
    return [
        model | {"shown": shown, "answered": shown - went_on}
        for model, (shown, went_on) in zip([maker["model"], *later], steps, strict=False)
    ]


def _label_counts(counters: Counters) -> list[LabelCounts]:
    if counters.counted is None:
        return []
    total = sum(each.num_values for each in counters.labels.values())
    return [
        LabelCounts(
            label=label,
            count=each.num_values,
            share=each.num_values / total,
            mean_confidence=each.mean,
            histogram=each.bins.tolist(),
        )
        for label, each in sorted(counters.labels.items(), key=lambda item: -item[1].num_values)
    ]


def _confidence(counters: Counters) -> Histogram | None:
    if not counters.labels:
        return None
    counts = counters.confidence_counts
    total = sum(each.millionths for each in counters.labels.values()) / MILLION
    edges = [i / CONFIDENCE_BINS for i in range(CONFIDENCE_BINS + 1)]
    return Histogram(edges=edges, counts=counts, mean=total / sum(counts), std=None)


def _lengths(lengths: Lengths) -> Histogram:
    mean, std = mean_and_std(lengths.num_values, lengths.total, lengths.squares)
    first = next((i for i, each in enumerate(lengths.counts) if each), 0)
    edges = np.append(LENGTH_EDGES, 2 * LENGTH_EDGES[-1])[first : len(lengths.counts) + 1].astype(float).tolist()
    return Histogram(edges=edges, counts=list(lengths.counts[first:]), mean=mean, std=std)


def _spread(spread: Spread) -> Histogram | None:
    if not spread.counts:
        return None
    mean, std = mean_and_std(spread.num_values, spread.total, spread.squares)
    return Histogram(
        edges=spread.edges,
        counts=list(spread.counts),
        mean=mean,
        std=std,
        minimum=spread.minimum,
        maximum=spread.maximum,
    )


def _notes(source: Source, examples: Iterable[Example]) -> list[str]:
    notes = []
    if source.rows_read:
        notes.append(f"{source.rows_read:,} rows are of parts that were written without counters, so they were read")
    if source.num_unfinished:
        notes.append(f"{source.num_unfinished:,} shards are not finished; the parts that they have are counted")
    if source.num_replaced:
        notes.append(f"{source.num_replaced:,} shards are left out, since a run replaces their parts at this moment")
    texts = set((source.fingerprint.get("input.columns") or {}).values())
    if not any(texts & set(example.values) for example in examples):
        notes.append("the output keeps no text of its input: add it to output.keep_columns to read the rows here")
    return notes
