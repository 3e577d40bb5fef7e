"""What `shardlabel verify` says to people."""

import math

from jobs.verify import Verification
from jobs.verify_values import RowDifference, ValueReport
from jobs.wording import counted, few

_NUM_PROBLEMS = 20


def verification(found: Verification) -> str:
    """The whole report."""
    lines = ["sound" if found.is_sound else "not sound", _parts(found), _rows(found)]
    lines += [] if found.values is None else _values(found.values, found)
    for label, shards, advice in (
        ("stale", found.stale_shards, "changed, or are cut otherwise, since they were labelled; run the job again"),
        ("new", found.new_shards, "are not labelled yet; run the job again"),
        ("vanished", found.vanished_shards, "are no longer in the input; run --prune removes their parts"),
    ):
        if shards:
            lines.append(f"{label:<11}{counted(len(shards), 'shard')} ({few(shards)}) {advice}")
    lines += [f"{'wrong':<11}{problem.where}: {problem.message}" for problem in found.problems[:_NUM_PROBLEMS]]
    if left := len(found.problems[_NUM_PROBLEMS:]):
        lines.append(f"{'wrong':<11}and {left:,} things more; --json has them all")
    return "\n".join(lines)


def reason(found: Verification) -> str:
    """Why an output is not sound, in one sentence."""
    reasons = [f"{len(found.problems):,} things are wrong"] if found.problems else []
    if found.values is not None and not found.values.is_within:
        values = found.values
        if values.num_faulty:
            reasons.append(f"{values.num_faulty:,} of {values.num_compared:,} recomputed rows are plainly wrong")
        if values.agreement is not None and values.agreement < values.tolerance.min_agreement:
            reasons.append(
                f"{_percent(values.agreement)} of them agree, {_percent(values.tolerance.min_agreement)} must"
            )
        if values.max_difference > values.tolerance.max_difference:
            reasons.append(
                f"they differ by up to {values.max_difference:.2g}, {values.tolerance.max_difference:g} is allowed"
            )
    return f"{found.output} is not sound: {'; '.join(reasons)}"


def _parts(found: Verification) -> str:
    read = "all read" if found.num_read == found.num_splits else f"{found.num_read:,} of them read"
    chosen = f", chosen by seed {found.seed}" if found.num_read < found.num_parts else ""
    return f"parts      {found.num_parts:,} of {found.num_splits:,} in {found.output}, {read}{chosen}"


def _rows(found: Verification) -> str:
    if found.compared_columns:
        how = f"compared with the input by {few(found.compared_columns)}"
    else:
        how = "not compared with the input: output.keep_columns keeps none of its columns"
    return f"rows       {found.num_rows:,}, {how}"


def _values(values: ValueReport, found: Verification) -> list[str]:
    left = values.num_sampled - values.num_compared
    lines = [
        f"values     {values.num_compared:,} rows recomputed in float32, the output is {found.dtype}; seed {found.seed}"
    ]
    if left:
        or_where = ", or whose answered_by is no model" if any(p.kind == "escalation" for p in found.problems) else ""
        lines.append(f"           not recomputed: {left:,} rows of parts whose rows are not in their place{or_where}")
    if values.agreement is None:
        return lines
    limits = values.tolerance
    lines.append(
        f"           {_percent(values.agreement)} agree (at least {_percent(limits.min_agreement)} must), "
        f"{values.num_same:,} of {values.num_compared:,}"
    )
    columns = ", ".join(f"{name} {value:.2g}" for name, value in values.differences.items())
    if columns:
        lines.append(
            f"           differences {values.mean_difference:.2g} on average, {values.max_difference:.2g} at most "
            f"({limits.max_difference:g} is allowed): {columns}"
        )
    for row in values.rows:
        lines += _row(row)
    if more := values.num_different - len(values.rows):
        lines.append(f"differs    and {more:,} rows more")
    return lines


def _row(row: RowDifference) -> list[str]:
    size = "" if row.difference is None else f", {row.difference:.2g} apart"
    lines = [
        f"differs    {row.shard} row {row.row:,}: {row.text}",
        f"             here {row.found}; float32 {row.expected}{size}",
    ]
    return lines + [f"             {fault}" for fault in row.faults]


def _percent(share: float) -> str:
    return f"{math.floor(round(share * 10_000, 6)) / 100:g}%"  # rounded down: 100% is all of them
