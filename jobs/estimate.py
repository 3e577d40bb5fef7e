"""What a job will do and cost, before it is paid for: `shardlabel plan JOB.yaml`. Nothing is written.

In: a job, and what the user knows of the machines that it will run on. Out: one `Estimate`.
"""

import dataclasses
import logging
import time
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import pyarrow as pa

from inference.columns import NUM_TOKENS
from inference.config import ModelConfig
from inference.errors import ConfigError
from inference.hardware import Device
from jobs import manifest
from jobs.config import JobConfig
from jobs.cost import Cost, cost_of
from jobs.lengths import Lengths, measure_lengths
from jobs.plan import make_plan
from jobs.pool import Pool, find_pool
from jobs.run import prepare
from jobs.sampling import Sample, draw_sample
from jobs.shards import Split
from jobs.speed import Speed, measure_speed
from jobs.stages import Work
from jobs.todo import Todo, count_todo

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What the user says."""

    sample_rows: int = 2000
    calibrate: bool | None = None
    """Whether to measure here how fast it is; None: if the job would run here and no speed is given."""
    tokens_per_second: float | None = None
    """Of one actor."""
    num_actors: int | None = None
    price_per_hour: float | None = None
    """Of one actor, in whatever currency."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Everything that `plan` says."""

    output: str
    num_parts: int
    """That the output has now."""
    is_complete: bool
    """Whether a run has finished there, over the input as it was then."""
    executor: str
    todo: Todo
    columns: dict[str, str]
    """Of the output, in their order -> their types."""
    device: Device
    is_here: bool
    """Whether the job would run on this machine."""
    model: ModelConfig
    """With everything settled that the device settles."""
    lengths: Lengths | None
    """None when nothing is pending, or none of what was drawn could be read."""
    speed: Speed | None
    """None when it was neither given nor measured."""
    cost: Cost | None
    """None without a speed."""
    problems: list[str]
    """Why a run would end with status 1."""
    seconds: float
    """That listing the input and reading the output took here; a run does it too."""

    def as_dict(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {**dataclasses.asdict(self), "model": self.model.model_dump()}


def estimate_job(job: JobConfig, known: Known) -> Estimate:
    """Count, sample, and measure.

    Raises:
        ShardlabelError: the request is wrong, as a run of it would be refused, or what is known contradicts itself.
    """
    started = time.perf_counter()
    plan = make_plan(job)
    if plan.model.trust_remote_code:  # of a list of models it is not known how many rows each would get
        _log.warning("model.trust_remote_code: code that comes with %s runs with all your rights", plan.model.name)
    committed = manifest.read_committed(plan)
    listed = time.perf_counter()
    pool = find_pool(job.run, known.num_actors)  # looks for GPUs, and so imports torch
    imported = time.perf_counter()
    is_measured = _is_to_measure(pool, known)
    todo, work = count_todo(plan, committed), prepare(plan, committed, pool.resources)
    pending = [split for split in committed.pending if split.num_rows]
    lengths = speed = cost = None
    unreadable = todo.bad_shards
    if pending:
        names = dict.fromkeys(plan.fingerprint["input.columns"].values())
        schema = pa.schema([plan.read_schema.field(name) for name in names])
        sample = draw_sample(pending, schema, known.sample_rows)
        unreadable = unreadable | sample.unreadable
        lengths, speed = _look_at(sample, work, pool, pending, imported - listed if is_measured else None)
    if pending and known.tokens_per_second is not None:
        speed = Speed(tokens_per_second=known.tokens_per_second, error=0.0, is_measured=False)
    if lengths and speed:
        cost = cost_of([split.num_rows for split in pending], lengths, speed, pool, known.price_per_hour)
    return Estimate(
        output=str(plan.output),
        num_parts=len(committed.identities),
        is_complete=manifest.is_complete(plan.output),
        executor=job.run.executor,
        todo=todo,
        columns={field.name: str(field.type) for field in plan.output_schema},
        device=pool.device,
        is_here=pool.is_here,
        model=work.models[0],
        lengths=lengths,
        speed=speed,
        cost=cost,
        problems=_find_problems(todo, unreadable, lengths, job.run.max_failed_fraction),
        seconds=listed - started,
    )


def _is_to_measure(pool: Pool, known: Known) -> bool:
    can = pool.is_here and find_spec("torch") is not None
    if known.calibrate and known.tokens_per_second is not None:
        msg = "--calibrate measures what --tokens-per-second gives; leave one of the two out"
        raise ConfigError(msg)
    if known.calibrate and not can:
        msg = (
            "--calibrate: the job would not run on this machine (run.address, RAY_ADDRESS, run.gpus_per_actor, or no "
            "torch here); call plan where it would, or give --tokens-per-second"
        )
        raise ConfigError(msg)
    return can and known.tokens_per_second is None if known.calibrate is None else known.calibrate


def _look_at(
    sample: Sample, work: Work, pool: Pool, pending: list[Split], importing: float | None
) -> tuple[Lengths | None, Speed | None]:
    """Tokenize the sample, and label some of it if it is said how many seconds went into importing torch."""
    if not len(sample.texts):
        return None, None
    started = time.perf_counter()
    tokenizer = work.load_tokenizer()
    loading = time.perf_counter() - started
    tokens = tokenizer(sample.texts)
    lengths = measure_lengths(sample, tokens, work.models[0], pool.device)
    num_tokens = np.asarray(tokens.column(NUM_TOKENS).fill_null(0)).astype(np.float64)
    rows = np.flatnonzero(num_tokens)
    if importing is None or not len(rows):
        return lengths, None
    at_once, texts = min(work.resources.max_actors, len(pending)), sample.texts.take(pa.array(rows))
    speed = measure_speed(
        work,
        tokenizer,
        loading + importing,
        texts,
        num_tokens[rows],
        at_once,
        split_rows=round(sum(split.num_rows for split in pending) / len(pending)),
        is_local=pool.is_local,
    )
    return lengths, speed


def _find_problems(
    todo: Todo, unreadable: dict[str, str], lengths: Lengths | None, max_failed_fraction: float
) -> list[str]:
    """What would end a run with status 1, as far as it can be seen."""
    problems = [f"shard {name} cannot be read: {reason}" for name, reason in unreadable.items()]
    if lengths and todo.num_rows:
        surely = max(lengths.failed_share - lengths.failed_bound, 0) * todo.pending_rows + todo.num_failed_rows
        if surely > max_failed_fraction * todo.num_rows:
            commonest = next(iter(lengths.errors), "see --json")
            problems.append(
                f"{lengths.failed_share:.1%} of the sample's rows fail ({commonest}), and a run stops at "
                f"{max_failed_fraction:.1%}: run.max_failed_fraction"
            )
    return problems
