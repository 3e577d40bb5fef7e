"""One run of a job: plan, compare with what is committed, label the rest, finish."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

from inference.config import ModelConfig
from inference.errors import JobError
from inference.hardware import Device, check_fp8, resolve_dtype, resolve_max_batch_tokens
from inference.packing import resolve_packed
from jobs import manifest, storage
from jobs.config import JobConfig
from jobs.failures import FailureLimit, fails_the_run
from jobs.footers import remember
from jobs.heartbeat import Heartbeat, RunNote
from jobs.index import Index
from jobs.labels import end_run
from jobs.models import prefixes
from jobs.parts import Origin, PartRecord
from jobs.pipeline import LocalExecutor, RayExecutor
from jobs.plan import Plan, make_plan
from jobs.provenance import provenance
from jobs.report import RunReport, summarise
from jobs.resources import Resources, resolve_resources
from jobs.run_log import RunLog
from jobs.stages import Work
from jobs.stopping import Stop, Stopped
from jobs.undo import undone_if_refused


def run_job(  # noqa: PLR0913 - all but the job have defaults or are called back
    job: JobConfig,
    on_start: Callable[[Plan, manifest.Committed], None],
    on_record: Callable[[PartRecord], None],
    *,
    retry_failed: bool = False,
    prune: bool = False,
    stop: Stop | None = None,
) -> RunReport:
    """Label every split that is not committed yet.

    Args:
        job: what to do.
        on_start: called once, when it is known what there is to do.
        on_record: called for every split that is done, or whose shard could not be read.
        retry_failed: label the splits that have failed rows again.
        prune: in the end, remove the parts of shards that the input no longer has.
        stop: ends the run early; the report says so and how many splits are left, which the next run labels.

    Raises:
        Stopped: a signal came before it was known what there is to do.
        ShardlabelError: the request is wrong, or the run failed; the parts written until then stay and count.
    """
    stop, started = stop or Stop(), time.perf_counter()
    with stop.at_once():
        plan = make_plan(job)
        committed = manifest.read_committed(plan, retry_failed=retry_failed)
        run = _Run(job, plan, committed, started)
    on_start(plan, committed)
    with run.ending:
        if not committed.pending:
            remember(plan.output, committed.footers)
        elif stop.reason is None:
            with suppress(Stopped):
                run.label(on_record, stop)
        return run.finish(stop.reason, prune=prune)


def _choose_executor(job: JobConfig, stop: Stop) -> RayExecutor | LocalExecutor:
    if job.run.executor == "local":
        return LocalExecutor(stop)
    return RayExecutor(job.run, job.task.options.get("postprocess"), stop)


class _Run:
    """What one run has done until now."""

    def __init__(self, job: JobConfig, plan: Plan, committed: manifest.Committed, started: float) -> None:
        self._started, self._job, self._plan, self._committed = started, job, plan, committed
        self._fingerprint = committed.fingerprint
        self._new: list[PartRecord] = []
        self._failed = {shard.name: str(shard.error) for shard in plan.bad_shards}
        self._pending_rows = {split.part: split.num_rows for split in committed.pending}
        self._num_rows = sum(split.num_rows for split in plan.splits)
        self._limit = FailureLimit(job.run.max_failed_fraction, self._num_rows, committed.records)
        self._index = Index(plan.output, plan.splits, committed.pending, committed.identities)
        self.ending = ExitStack()
        """Ends the note of a run that has labelled all; what fails until then fails the run."""

    def label(self, on_record: Callable[[PartRecord], None], stop: Stop) -> None:
        """Label what is pending.

        Raises:
            ShardlabelError: the request is wrong, or the run failed.
            Stopped: it was asked to stop, and some is left.
        """
        plan, committed = self._plan, self._committed
        with undone_if_refused(plan, committed) as before, _choose_executor(self._job, stop) as executor:
            work = prepare(plan, committed, resolve_resources(self._job.run, executor.nodes()))
            self._fingerprint = work.origin.fingerprint
            if stop.reason is not None:
                raise Stopped  # while Ray started: nothing is touched yet
            before.is_begun = True
            _begin(plan, committed, self._index, self._fingerprint, stop)
            with ExitStack() as stack:
                heartbeat = stack.enter_context(Heartbeat(plan.output, self._note(work.run_id)))
                with RunLog(plan.output, work.run_id) as log:
                    for record in _execute(executor, committed, work):
                        heartbeat.add(record, self._pending_rows.pop(record.part))
                        log.add(record)
                        on_record(record)
                        self._add(record)
                if self._pending_rows and stop.reason is None:
                    left = f"{len(self._pending_rows):,} of {len(plan.splits):,} splits"
                    msg = f"the run ended with {left} left, though nobody stopped it; run again to label them"
                    raise JobError(msg)
                if self._pending_rows:
                    raise Stopped
                self.ending.push(stack.pop_all())

    def finish(self, stopped_by: str | None, *, prune: bool) -> RunReport:
        """Publish what was labelled, and if that is all, tidy up and say that it is complete."""
        plan, committed, report = self._plan, self._committed, self._report(stopped_by)
        is_stopped = report.stopped is not None
        pruned = committed.vanished if prune and not is_stopped else {}
        if report.new_parts or not is_stopped:
            with fails_the_run():
                self._index.remove(pruned)
                self._index.publish()
        if is_stopped:
            return report
        self._limit.finish()
        if self._index.is_shared and report.is_complete:
            self._compare_again()
        doomed = [*self._replaced(), *(part for parts in pruned.values() for part in parts)]
        is_settled = report.is_complete and manifest.is_complete(plan.output)
        if committed.pending or doomed or not is_settled:
            with fails_the_run():
                self._index.drop_copies()
                end_run(plan.output, doomed, report, self.ending.close)
        return report

    def _replaced(self) -> list[str]:
        """Stale parts that others have replaced; while a split of their shard fails, they are what there is of it."""
        made = self._committed.identities
        return [part for part in self._committed.stale if (old := made[part]) and self._index.is_done(old.shard)]

    def _compare_again(self) -> None:
        """Another run of the job was at work: what it wrote over or left beside the parts must not count as complete.

        Raises:
            JobError: it cut shards otherwise, or saw others.
        """
        with fails_the_run():
            again = manifest.read_committed(self._plan)
            num_odd = len(again.pending) + len({*again.stale} - {*self._committed.stale})
            if not num_odd:
                return
            storage.delete(self._plan.output.join(manifest.SUCCESS))
        msg = (
            f"another run of this job was at work at {self._plan.output}, and {num_odd} parts are not as this one saw "
            "the input or run.split_rows; run again"
        )
        raise JobError(msg)

    def _add(self, record: PartRecord) -> None:
        if record.error is not None:
            self._failed[record.part] = record.error
            return
        self._new.append(record)
        with fails_the_run():
            self._index.add(record.part)
        self._limit.add(record)

    def _note(self, run_id: str) -> RunNote:
        now = time.time()
        return RunNote(
            run_id=run_id,
            started=now,
            updated=now,
            num_splits=len(self._plan.splits),
            num_rows=self._num_rows,
            num_pending=len(self._pending_rows),
            pending_rows=sum(self._pending_rows.values()),
        )

    def _report(self, stopped_by: str | None) -> RunReport:
        """Add it up; what asked for a stop stopped the run only if something is left."""
        num_pending = len(self._pending_rows)
        return summarise(
            earlier=self._committed.records,
            new=self._new,
            seconds=time.perf_counter() - self._started,
            fingerprint=self._fingerprint,
            is_complete=not self._failed and not num_pending,
            stopped=stopped_by if num_pending else None,
            num_splits=len(self._plan.splits),
            num_pending=num_pending,
            executor=self._job.run.executor,
            output=self._job.output.path,
            failed_shards=self._failed,
            vanished_shards=list(self._committed.vanished),
        )


def prepare(plan: Plan, committed: manifest.Committed, resources: Resources) -> Work:
    """Settle what the hardware decides of the models, unless the output's first run settled it."""
    device: Device = "cuda" if resources.gpus_per_actor else "cpu"
    fingerprint, models = dict(committed.fingerprint), list[ModelConfig]()
    for prefix, model, checkpoint in zip(prefixes(len(plan.models)), plan.models, plan.checkpoints, strict=True):
        family, budget = checkpoint.model_type, fingerprint[f"{prefix}.max_batch_tokens"]
        dtype = resolve_dtype(fingerprint[f"{prefix}.dtype"], device)
        check_fp8(model.fp8, family, dtype)
        settled = {
            "dtype": dtype,
            "max_batch_tokens": resolve_max_batch_tokens(budget, device, checkpoint.hidden_size),
            "packed": resolve_packed(fingerprint[f"{prefix}.packed"], family, device, dtype),
            "trimmed": fingerprint[f"{prefix}.trimmed"] is not False,
        }
        fingerprint |= {f"{prefix}.{key}": value for key, value in settled.items()}
        models.append(model.model_copy(update=settled))
    return Work(
        models=tuple(models),
        task=plan.task,
        resources=resources,
        read_schema=plan.read_schema,
        output_schema=plan.output_schema,
        output=plan.output,
        origin=Origin(fingerprint=fingerprint, provenance=provenance(models)),
    )


def _begin(plan: Plan, committed: manifest.Committed, index: Index, fingerprint: dict[str, Any], stop: Stop) -> None:
    with fails_the_run():
        manifest.begin(plan.output, fingerprint)
        index.begin(stop)
    remember(plan.output, committed.footers)


def _execute(executor: RayExecutor | LocalExecutor, committed: manifest.Committed, work: Work) -> Iterator[PartRecord]:
    claim = manifest.ClaimCheck(work.output, work.origin.fingerprint)
    with fails_the_run():
        for record in executor.run(committed.pending, work):
            claim.look()
            yield record
        claim.look(is_last=True)
