"""One run of a job: plan, compare with what is committed, label the rest, finish."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from inference.errors import FingerprintError, JobError, OutputError
from inference.hardware import MAX_BATCH_TOKENS, Device, check_fp8, resolve_dtype
from inference.packing import resolve_packed
from jobs import manifest
from jobs.config import JobConfig
from jobs.failures import FailureLimit
from jobs.index import Index
from jobs.parts import Origin, PartRecord
from jobs.pipeline import LocalExecutor, RayExecutor, Work
from jobs.plan import Plan, make_plan
from jobs.provenance import provenance
from jobs.report import RunReport, summarise
from jobs.resources import Resources, resolve_resources
from jobs.undo import undone_if_refused


def run_job(
    job: JobConfig,
    on_start: Callable[[Plan, manifest.Committed], None],
    on_record: Callable[[PartRecord], None],
    *,
    retry_failed: bool = False,
    prune: bool = False,
) -> RunReport:
    """Label every split that is not committed yet.

    Args:
        job: what to do.
        on_start: called once, when it is known what there is to do.
        on_record: called for every split that is done, or whose shard could not be read.
        retry_failed: label the splits that have failed rows again.
        prune: in the end, remove the parts of shards that the input no longer has.

    Raises:
        ShardlabelError: the request is wrong, or the run failed; the parts written until then stay and count.
    """
    started = time.perf_counter()
    plan = make_plan(job)
    committed = manifest.read_committed(plan, retry_failed=retry_failed)
    index = Index(plan.output, plan.splits, committed.pending, committed.identities)
    on_start(plan, committed)
    new: list[PartRecord] = []
    num_rows = sum(split.num_rows for split in plan.splits)
    limit = FailureLimit(job.run.max_failed_fraction, num_rows, committed.records)
    failed = {shard.name: str(shard.error) for shard in plan.bad_shards}
    fingerprint = committed.fingerprint
    if committed.pending:
        executing = RayExecutor(job.run) if job.run.executor == "ray" else LocalExecutor()
        with undone_if_refused(plan, committed), executing as executor:
            work = _prepare(plan, committed, resolve_resources(job.run, *executor.devices()))
            fingerprint = work.origin.fingerprint
            with _fails_the_run():
                manifest.begin(plan.output, fingerprint)
                index.begin()
            for record in _execute(executor, committed, work):
                on_record(record)
                if record.error is None:
                    new.append(record)
                    with _fails_the_run():
                        manifest.check_claim(plan.output, fingerprint)
                        index.add(record.part)
                    limit.add(record)
                else:
                    failed[record.part] = record.error
    report = summarise(
        earlier=committed.records,
        new=new,
        seconds=time.perf_counter() - started,
        fingerprint=fingerprint,
        num_splits=len(plan.splits),
        executor=job.run.executor,
        output=job.output.path,
        failed_shards=failed,
        vanished_shards=list(committed.vanished),
    )
    pruned = committed.vanished if prune else {}
    with _fails_the_run():
        index.remove(pruned)
        index.publish()
    limit.finish()
    doomed = [*committed.stale, *(part for parts in pruned.values() for part in parts)]
    if committed.pending or doomed or not manifest.is_complete(plan.output):
        with _fails_the_run():
            index.drop_copies()
            manifest.finish(plan.output, doomed, report.as_dict(), is_complete=not failed)
    return report


def _prepare(plan: Plan, committed: manifest.Committed, resources: Resources) -> Work:
    """Settle what the hardware decides of the model, unless the output's first run settled it."""
    device: Device = "cuda" if resources.gpus_per_actor else "cpu"
    dtype = resolve_dtype(committed.fingerprint["model.dtype"], device)
    check_fp8(plan.model.fp8, plan.model_type, dtype)
    max_batch_tokens = committed.fingerprint["model.max_batch_tokens"] or MAX_BATCH_TOKENS[device]
    packed = resolve_packed(committed.fingerprint["model.packed"], plan.model_type, device, dtype)
    settled = {"dtype": dtype, "max_batch_tokens": max_batch_tokens, "packed": packed}
    fingerprint = committed.fingerprint | {f"model.{key}": value for key, value in settled.items()}
    return Work(
        model=plan.model.model_copy(update=settled),
        task=plan.task,
        resources=resources,
        read_schema=plan.read_schema,
        output_schema=plan.output_schema,
        output=plan.output,
        origin=Origin(fingerprint=fingerprint, provenance=provenance(plan.model)),
    )


def _execute(executor: RayExecutor | LocalExecutor, committed: manifest.Committed, work: Work) -> Iterator[PartRecord]:
    with _fails_the_run():
        yield from executor.run(committed.pending, work)


@contextmanager
def _fails_the_run() -> Iterator[None]:
    """The directory was read when the run began, so it is the run that failed: a full disk perhaps, or a lost store."""
    try:
        yield
    except FingerprintError:
        raise  # another job claimed the directory meanwhile
    except OutputError as error:
        msg = f"the run stopped: {error}; the parts written until now stay, run again to finish"
        raise JobError(msg) from error
