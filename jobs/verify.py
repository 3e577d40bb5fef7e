"""Whether an output can be trusted: `shardlabel verify JOB.yaml`.

The parts are compared with the input, their footers, the index and each other (`verify_output.py`, `verify_parts.py`);
a sample of the rows is recomputed (`verify_values.py`).
"""

import dataclasses
import logging
import random
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from inference.checkpoint import open_checkpoint
from inference.columns import CASCADE_FIELDS, accounting_fields
from inference.errors import FingerprintError, OutputError
from inference.tasks import load_task
from jobs import manifest
from jobs.config import JobConfig
from jobs.footers import read_footers
from jobs.models import prefixes
from jobs.plan import Plan, make_plan
from jobs.report import hash_fingerprint
from jobs.shards import Split
from jobs.verify_output import Listing, check_listing
from jobs.verify_parts import Contract, Problem, as_written, check_part
from jobs.verify_values import TOLERANCES, Tolerance, ValueReport, Values

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much is looked at, and what still counts as the same."""

    sample: int
    """Rows to recompute."""
    seed: int = 0
    """Of the choice of rows and parts."""
    parts: int | None = None
    """Parts to read; None is all."""
    min_agreement: float | None = None
    max_difference: float | None = None
    """None is what suits the precision of the output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What was looked at, and what is wrong."""

    output: str
    is_sound: bool
    """Whether nothing is wrong; shards that changed since, or are new, are no fault of the output."""
    fingerprint: str
    dtype: str
    """Of the model; of several, those that differ."""
    num_splits: int
    num_parts: int
    """Splits with a part that is theirs."""
    num_read: int
    """Parts whose rows were read."""
    num_rows: int
    """In those."""
    seed: int
    compared_columns: tuple[str, ...]
    """By which rows were matched with the input's; none where the output keeps no input column."""
    problems: tuple[Problem, ...]
    stale_shards: tuple[str, ...]
    new_shards: tuple[str, ...]
    vanished_shards: tuple[str, ...]
    values: ValueReport | None
    """None when no row was to be recomputed."""

    def as_dict(self) -> dict[str, Any]:
        """What `--json` prints."""
        return dataclasses.asdict(self)


def verify_job(job: JobConfig, effort: Effort) -> Verification:
    """Read an output again and recompute some of its rows.

    Raises:
        FingerprintError: the directory holds the output of another job.
        OutputError: it holds none, or cannot be read.
        ShardlabelError: the request is wrong, as for a run.
    """
    plan = make_plan(job)
    footers = read_footers(plan.output)
    claimed = manifest.read_fingerprint(plan.output)
    found = next((identity.fingerprint for identity in footers.identities.values() if identity is not None), None)
    fingerprint = _settled(plan, claimed or found)
    listing = check_listing(plan, fingerprint, footers)
    chosen = listing.readable
    if effort.parts is not None and effort.parts < len(chosen):
        picked = set(_dice(effort.seed).sample(range(len(chosen)), effort.parts))
        chosen = [split for i, split in enumerate(chosen) if i in picked]
    dtypes = list(dict.fromkeys(fingerprint[f"{prefix}.dtype"] for prefix in prefixes(len(plan.models))))
    tolerance = _tolerance(effort, dtypes)
    contract = _contract(plan)
    num_read, num_rows, values = _read_parts(plan, contract, chosen, listing, effort, tolerance)
    report = values.finish() if effort.sample else None
    return Verification(
        output=job.output.path,
        is_sound=not listing.problems and (report is None or report.is_within),
        fingerprint=hash_fingerprint(fingerprint),
        dtype=", ".join(dtypes),
        num_splits=len(plan.splits),
        num_parts=len(listing.readable),
        num_read=num_read,
        num_rows=num_rows,
        seed=effort.seed,
        compared_columns=contract.kept,
        problems=tuple(listing.problems),
        stale_shards=tuple(listing.stale),
        new_shards=tuple(listing.new),
        vanished_shards=tuple(listing.vanished),
        values=report,
    )


def _read_parts(  # noqa: PLR0913, PLR0917 - what is read, and how
    plan: Plan,
    contract: Contract,
    chosen: Sequence[Split],
    listing: Listing,
    effort: Effort,
    tolerance: Tolerance,
) -> tuple[int, int, Values]:
    """Read parts one after the other; what is wrong with them goes to the others' problems."""
    rows = _choose_rows(chosen, effort)
    num_sampled = sum(map(len, rows.values()))
    _log.info("reading %s of %s parts, recomputing %s rows", len(chosen), len(plan.splits), num_sampled)
    values, first_row, num_rows = Values(plan, tolerance, num_sampled), _first_rows(plan.splits), 0
    for split in chosen:
        check = check_part(plan.output, split, contract, rows.get(split.part, ()))
        listing.problems += check.problems
        num_rows += check.num_rows
        values.add(split.shard, first_row[split.part], check.sampled)
    return len(chosen), num_rows, values


def _settled(plan: Plan, existing: dict[str, Any] | None) -> dict[str, Any]:
    """The job's fingerprint, with what the hardware decided as the output has it."""
    if existing is None:
        msg = f"output.path: {plan.output} holds no output yet; run the job first"
        raise OutputError(msg)
    fingerprint, changes = manifest.settle(plan.fingerprint, existing)
    if changes:
        msg = (
            f"output.path: {plan.output} holds the output of another job ({'; '.join(changes)}); verify it with the "
            "job file and the model that made it"
        )
        raise FingerprintError(msg)
    return fingerprint


def _contract(plan: Plan) -> Contract:
    task = load_task(plan.task, open_checkpoint(plan.models[0]))
    predicted, hooked = [field.name for field in task.fields()], {field.name for field in task.hook.fields}
    more = CASCADE_FIELDS if len(plan.models) > 1 else ()
    added = {*predicted, *(field.name for field in (*accounting_fields(task), *more))}
    return Contract(
        read_schema=plan.read_schema,
        schema=as_written(plan.output_schema),
        kept=tuple(name for name in plan.output_schema.names if name not in added),
        predicted=tuple(name for name in predicted if name not in hooked),
        optional=task.optional_fields,
        texts=plan.fingerprint["input.columns"],
        bounds=tuple(model.escalate_below for model in plan.models if model.escalate_below is not None),
    )


def _tolerance(effort: Effort, dtypes: Sequence[str]) -> Tolerance:
    """What is asked for, or what suits the coarsest precision."""
    default = max((TOLERANCES[dtype] for dtype in dtypes), key=lambda tolerance: tolerance.max_difference)
    return Tolerance(
        default.min_agreement if effort.min_agreement is None else effort.min_agreement,
        default.max_difference if effort.max_difference is None else effort.max_difference,
    )


def _choose_rows(splits: Sequence[Split], effort: Effort) -> dict[str, list[int]]:
    """Rows to be recomputed, each as likely as any other: part -> rows of its split, ascending."""
    ends = list(accumulate(split.num_rows for split in splits))
    total = ends[-1] if ends else 0
    chosen: dict[str, list[int]] = {}
    for row in sorted(_dice(effort.seed).sample(range(total), min(effort.sample, total))):
        i = bisect_right(ends, row)
        chosen.setdefault(splits[i].part, []).append(row - (ends[i] - splits[i].num_rows))
    return chosen


def _first_rows(splits: Sequence[Split]) -> dict[str, int]:
    """Where in its shard each split begins."""
    first: dict[str, int] = {}
    seen: dict[str, int] = {}
    for split in splits:
        first[split.part] = seen.get(split.shard, 0)
        seen[split.shard] = first[split.part] + split.num_rows
    return first


def _dice(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - the same sample for the same seed
