"""What `shardlabel init` says: what it took for what, and what else it could have been."""

from jobs.draft import NO_MODEL, Draft
from jobs.wording import short

_NUM_OTHERS = 3
_WIDTH = 56


def drafted(draft: Draft, file: str) -> str:
    """The guesses, with a row to look at, and the next command."""
    task, others = draft.job.task.name, [f"{look.name} ({look})" for look in draft.others]
    lines = [f"{file} is written, from {draft.num_sampled:,} rows of {draft.job.input.path[0]}"]
    for role, look in draft.columns.items():
        lines += ["", f"{role:10} column {look.name}, {look}", f"           {short(look.example, _WIDTH)!r}"]
    lines += [f"{'or' if i == 0 else '':10} column {text}" for i, text in enumerate(others[:_NUM_OTHERS])]
    if len(others) > _NUM_OTHERS:
        lines += [f"{'':10} {len(others) - _NUM_OTHERS} other columns of strings"]
    lines += ["", f"task       {task}{f', for the model is a {draft.architecture}' if draft.architecture else ''}"]
    if draft.labels:
        lines += [f"           {len(draft.labels)} labels: {short(', '.join(draft.labels), _WIDTH)}"]
    lines += [f"or         {name}" for name in draft.other_tasks]
    lines += [f"output     {draft.job.output.path}"]
    if not draft.has_model:
        lines += ["", f"No model is named: write its folder or hub id in the place of {NO_MODEL}"]
    return "\n".join([*lines, "", f"next       shardlabel run {file}"])
