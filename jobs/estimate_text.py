"""What `shardlabel plan` prints for people."""

from jobs.cost import Cost
from jobs.estimate import Estimate
from jobs.lengths import Lengths
from jobs.todo import Todo
from jobs.wording import counted, few, size

_BAR = 40
_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_INDENT = " " * 11


def describe_estimate(found: Estimate) -> str:
    """All of it, a line for each thing."""
    lines = [*_todo(found.todo), *_output(found)]
    if found.lengths:
        lines += _lengths(found.lengths, found.todo.pending_rows)
        lines += _speed(found)
    if found.cost:
        lines += _cost(found.cost, found)
    lines += [f"problem    {problem}" for problem in found.problems]
    return "\n".join(lines)


def _todo(todo: Todo) -> list[str]:
    bad = f", and {_names(list(todo.bad_shards))} that cannot be read" if todo.bad_shards else ""
    lines = [
        f"input      {counted(todo.num_shards, 'shard')}, {counted(todo.num_rows, 'row')}, {size(todo.num_bytes)}{bad}",
        f"to do      {todo.num_pending:,} of {todo.num_splits:,} splits, {todo.pending_rows:,} rows"
        + (f": {todo.num_new:,} new, {todo.num_changed:,} of shards that changed" if todo.num_pending else ""),
    ]
    if todo.num_committed:
        lines.append(f"done       {counted(todo.num_committed, 'split')}, {counted(todo.committed_rows, 'row')}")
    if todo.num_failed_rows:
        again = f"retry would label {todo.num_retry_splits:,} splits again, {todo.retry_rows:,} rows"
        lines.append(f"failed     {todo.num_failed_rows:,} rows; {again}")
    if todo.vanished_shards:
        parts = f"{todo.num_vanished_parts:,} parts stay, run --prune removes them"
        lines.append(f"vanished   {_names(todo.vanished_shards)}; {parts}")
    if todo.num_stale_parts:
        lines.append(f"stale      {todo.num_stale_parts:,} parts that a run removes")
    return lines


def _output(found: Estimate) -> list[str]:
    is_complete = found.is_complete and not found.todo.num_pending
    state = "complete" if is_complete else f"{found.num_parts:,} parts" if found.num_parts else "nothing there yet"
    names = [f"{name} {kind}" for name, kind in found.columns.items()]
    model = found.model
    budget = f"micro-batches of {model.max_batch_tokens:,} tokens, {'packed' if model.packed else 'padded'}"
    device = {"cpu": "CPUs", "cuda": "GPUs"}[found.device]
    return [
        f"output     {found.output}: {state}",
        f"columns    {', '.join(names)}",
        f"model      {model.dtype} on {device}, at most {model.max_length:,} tokens, {budget}",
    ]


def _lengths(lengths: Lengths, num_rows: int) -> list[str]:
    widest = max((each.share for each in lengths.histogram), default=1)
    labels = [f"{each.first:,}-{each.last:,}" for each in lengths.histogram]
    width = max(map(len, labels), default=0)
    bound = lengths.num_tokens_bound / max(lengths.num_tokens, 1)
    lines = [
        f"sample     {lengths.num_rows:,} of {num_rows:,} rows to do, from {lengths.num_splits:,} splits",
        f"tokens     about {_count(lengths.num_tokens)} in all (± {bound:.1%})",
        f"a row      mean {lengths.mean:.1f}, median {lengths.median:,}, p95 {lengths.p95:,}, most {lengths.max:,}",
        *(
            f"{_INDENT}{label:>{width}} {each.share:6.1%} {'█' * round(_BAR * each.share / widest)}".rstrip()
            for label, each in zip(labels, lengths.histogram, strict=True)
        ),
    ]
    if lengths.mean_windows is None:
        lines.append(f"truncated  {lengths.truncated_share:.1%} of the rows")
    else:
        cut = f"{lengths.windowed_share:.1%} of the rows are cut in several"
        lines.append(f"windows    {lengths.mean_windows:.2f} a row on average, {cut}")
    lines.append(f"padding    {lengths.padding_share:.1%} of what is computed; {lengths.repeated_share:.1%} repeats")
    if lengths.failed_share:
        lines.append(f"fail       {lengths.failed_share:.1%} of the rows (± {lengths.failed_bound:.1%})")
    return [*lines, *(f"{_INDENT}{count:,} x {message}" for message, count in lengths.errors.items())]


def _speed(found: Estimate) -> list[str]:
    speed = found.speed
    if speed is None:
        return ["speed      not known: give --tokens-per-second of one actor, or call plan where the job would run"]
    one = f"about {speed.tokens_per_second:,.0f} tokens/s an actor"
    if not speed.is_measured or speed.threads_per_actor is None:
        return [f"speed      {one}, as given"]
    each = counted(speed.threads_per_actor, "thread")
    how = f"{speed.num_predictors} at once, {each} each" if speed.num_predictors > 1 else f"one of {each}"
    return [f"speed      {one} (± {speed.error:.1%}), measured here: {how}, for {speed.measured_seconds:.0f} s"]


def _cost(cost: Cost, found: Estimate) -> list[str]:
    low, high = cost.seconds * (1 - cost.error), cost.seconds * (1 + cost.error)
    actors = counted(cost.num_actors, "actor")
    hours = f"{cost.gpu_hours:,.3g} GPU-hours" if cost.gpu_hours else f"{cost.actor_hours:,.3g} actor-hours"
    span = f"about {_time(cost.seconds)} ({_time(low)} to {_time(high)})"
    lines = [f"time       {span} with {actors}, {cost.rows_per_second:,.0f} rows/s, {hours}"]
    if cost.price is not None:
        low, high = cost.price * (1 - cost.error), cost.price * (1 + cost.error)
        lines.append(f"price      about {_money(cost.price)} ({_money(low)} to {_money(high)})")
    if cost.fixed_seconds is not None:
        price = f", {_money(cost.fixed_price)}" if cost.fixed_price is not None else ""
        lines.append(f"before     about {_time(cost.fixed_seconds)} to load the model{price}, as measured here")
    left_out = ["starting Ray"] if found.executor == "ray" else []
    left_out += ["reading and writing"]
    if not found.speed or cost.num_actors > found.speed.num_predictors:
        left_out += ["what more actors than were measured take from one another"]
    left_out += ["other work on the machines", "machines that are lost"]
    return [
        *lines,
        f"{_INDENT}These are estimates; their bounds are those of the sample and of the rounds that were measured.",
        f"{_INDENT}Not in them: {', '.join(left_out)}.",
    ]


def _time(seconds: float) -> str:
    seconds = max(seconds, 0)
    if seconds < 2 * _MINUTE:
        return f"{seconds:.3g} s" if seconds < _MINUTE else f"{seconds:.0f} s"
    if seconds < 2 * _HOUR:
        return f"{seconds / _MINUTE:.0f} min"
    return f"{seconds / _HOUR:.1f} h" if seconds < 2 * _DAY else f"{seconds / _DAY:.1f} days"


def _money(amount: float) -> str:
    amount = max(amount, 0)
    return f"{amount:,.2f}" if amount >= 1 else f"{amount:.3g}"


def _count(number: int) -> str:
    """Three digits are more than an estimate has."""
    for unit, name in ((10**12, "trillion"), (10**9, "billion"), (10**6, "million")):
        if number >= unit:
            return f"{number / unit:.3g} {name}"
    return f"{number:,}"


def _names(shards: list[str]) -> str:
    return f"{counted(len(shards), 'shard')} ({few(shards)})"
