"""An output with other labels, made of its own logits: `shardlabel relabel OUT NEW_OUT`; no model, no GPU.

The new output is what a run of the job with the new options would leave: the same parts with the same fingerprint. So
a run of that job finds nothing to do there, and what is committed is not made again.
"""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

import pyarrow as pa

from inference.columns import scatter
from inference.errors import JobError
from inference.labelling import Labelling
from jobs import manifest, storage
from jobs.cli_text import idle, label_lines, page_line
from jobs.failures import fails_the_run
from jobs.footers import remember
from jobs.heartbeat import Heartbeat, RunNote
from jobs.index import Index
from jobs.kept_logits import LOGITS, matrix
from jobs.labels import end_run
from jobs.parts import Origin, PartRecord, parse_part, write_part
from jobs.provenance import relabelled_from
from jobs.relabelling import Relabelling, relabelled_schema
from jobs.report import RunReport, hash_fingerprint, summarise
from jobs.resources import available_cpus
from jobs.shards import UNREADABLE, Split
from jobs.stopping import Stop, Stopped, as_done

_MAX_WORKERS = 8


def relabel(
    plan: Relabelling,
    on_start: Callable[[Relabelling, manifest.Committed], None],
    on_record: Callable[[PartRecord], None],
    *,
    num_workers: int | None = None,
    stop: Stop | None = None,
) -> RunReport:
    """Make every part that is not committed yet.

    Args:
        plan: what to do.
        on_start: called once, when it is known what there is to do.
        on_record: called for every part that is made.
        num_workers: threads, each with a part in memory; None is one per core, up to eight.
        stop: ends it early; the report says so, and the next call makes the rest.

    Raises:
        FingerprintError: the new directory holds the output of another job.
        OutputError: it cannot be used.
        JobError: it was begun and failed; the parts written until then stay and count.
    """
    stop, started = stop or Stop(), time.perf_counter()
    committed = _committed(plan)
    index = Index(plan.output, plan.splits, committed.pending, committed.identities)
    on_start(plan, committed)
    made: list[PartRecord] = []

    def add(record: PartRecord) -> None:
        made.append(record)
        index.add(record.part)
        on_record(record)

    with fails_the_run("relabelling", "relabel"), suppress(Stopped):
        if committed.pending:
            if stop.reason is not None:
                raise Stopped
            _make(plan, committed, index, add, num_workers or min(available_cpus(), _MAX_WORKERS), stop)
        index.publish()
        remember(plan.output, committed.footers)
    num_left = len(committed.pending) - len(made)
    report = summarise(
        earlier=committed.records,
        new=made,
        seconds=time.perf_counter() - started,
        fingerprint=plan.fingerprint,
        is_complete=plan.is_complete and not num_left,
        stopped=stop.reason if num_left else None,
        num_splits=len(plan.splits),
        num_pending=num_left,
        executor="relabel",
        output=plan.output.uri,
        failed_shards={},
        vanished_shards=list(committed.vanished),
    )
    if not num_left and (made or committed.stale or not manifest.is_complete(plan.output)):
        with fails_the_run("relabelling", "relabel"):
            index.drop_copies()
            end_run(plan.output, committed.stale, report)
    return report


def _committed(plan: Relabelling) -> manifest.Committed:
    """The new output as it is; a part whose source was made again with other rows failing is pending too.

    A part with fewer failed rows than its source was labelled again here, and stays.
    """
    committed = manifest.read_committed(plan)
    sources = {record.part: plan.identities[record.part].record for record in committed.records}
    current = [
        record
        for record in committed.records
        if record == sources[record.part] or record.num_failed < sources[record.part].num_failed
    ]
    parts = {record.part for record in current}
    pending = tuple(split for split in plan.splits if split.part not in parts)
    return replace(committed, records=tuple(current), pending=pending)


def _make(  # noqa: PLR0913, PLR0917 - one step of `relabel`, with what it has at hand
    plan: Relabelling,
    committed: manifest.Committed,
    index: Index,
    add: Callable[[PartRecord], None],
    num_workers: int,
    stop: Stop,
) -> None:
    """Make the pending parts, several at once.

    Raises:
        Stopped: some are left.
    """
    manifest.begin(plan.output, plan.fingerprint)
    index.begin(stop)
    claim = manifest.ClaimCheck(plan.output, plan.fingerprint)
    num_left, pool = len(committed.pending), ThreadPoolExecutor(num_workers)
    with Heartbeat(plan.output, _note(plan, committed)) as heartbeat:
        try:
            for future in as_done([pool.submit(_relabel_part, plan, split) for split in committed.pending], stop):
                record = future.result()
                claim.look()
                heartbeat.add(record, record.num_rows)
                add(record)
                num_left -= 1
        finally:
            pool.shutdown(wait=not stop.is_over, cancel_futures=True)
        claim.look(is_last=True)
        if num_left:
            index.publish()
            raise Stopped


def _relabel_part(plan: Relabelling, split: Split) -> PartRecord:
    """Write the new part of a split."""
    place, identity = plan.source.join(split.part), plan.identities[split.part]
    content = storage.read_bytes(place)
    parsed = None if content is None else parse_part(content)
    if parsed is None or parsed[0] != identity:
        msg = f"{place} changed meanwhile; relabel again when the run there has ended, what is done stays"
        raise JobError(msg)
    try:
        table = parsed[1].read()
    except UNREADABLE as error:
        msg = f"{place} cannot be read ({' '.join(str(error).split())}); delete it and run the job again"
        raise JobError(msg) from error
    new = relabelled(table, plan.before, plan.after)
    made = relabelled_from(identity.provenance, hash_fingerprint(identity.fingerprint))
    return write_part(plan.output, split, new, new.schema, Origin(fingerprint=plan.fingerprint, provenance=made))


def relabelled(table: pa.Table, before: Labelling, after: Labelling) -> pa.Table:
    """The rows of a part with other label columns; failed rows stay null in all of them."""
    schema = relabelled_schema(table.schema.remove_metadata(), before, after)
    column = table.column(LOGITS)
    logits = matrix(column, after.num_logits)
    predicted = pa.table(after.columns(logits, after.scores(logits)), pa.schema(after.fields()))
    columns = {name: table.column(name) for name in table.column_names}
    rows = scatter(predicted, column.is_valid().combine_chunks())
    columns |= dict(zip(rows.column_names, rows.columns, strict=True))
    return pa.table([columns[name] for name in schema.names], schema)


def describe(report: RunReport, labels: Mapping[str, int] | None = None) -> str:
    """What a relabelling says to people in the end; see `summary`."""
    speed = f"{report.rows_per_second:,.0f} rows/s, {report.seconds:.1f} s" if report.new_rows else idle(report)
    lines = [
        f"rows       {report.num_rows:,} ({report.new_rows:,} in this run), {report.num_failed:,} failed",
        f"speed      {speed}",
        f"parts      {report.num_parts} of {report.num_splits} in {report.output}",
        *label_lines(labels),
    ]
    if report.vanished_shards:
        names = ", ".join(report.vanished_shards)
        lines.append(f"vanished   {names}: still here, no longer in the old output")
    return "\n".join([*lines, *page_line(report, labels)])


def _note(plan: Relabelling, committed: manifest.Committed) -> RunNote:
    now = time.time()
    return RunNote(
        run_id="relabel",
        started=now,
        updated=now,
        num_splits=len(plan.splits),
        num_rows=sum(split.num_rows for split in plan.splits),
        num_pending=len(committed.pending),
        pending_rows=sum(split.num_rows for split in committed.pending),
    )
