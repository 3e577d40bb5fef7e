"""What the shell completes: keys of the job and their values, for the KEY=VALUE of a command line."""

import json
import os
from pathlib import Path

import typer

from inference.errors import ShardlabelError
from jobs.config import JobConfig, load_job
from jobs.keys import Schema, describe, keys, values

_TASK, _OPTIONS = "task.name", "task.options."


def complete_override(context: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Continue `model.dty` with keys and `model.dtype=` with values, each with what it means.

    bash gives the parts of `key=value` as three words, and wants what comes after the sign alone.
    """
    given = context.params.get("overrides") or []
    known = _known(context, given[-2] if given[-1:] == ["="] else incomplete)
    if given[-1:] == ["="]:
        return [(text, "") for text in _listed(*known.get(given[-2], ({}, {})))]
    key, separator, _ = incomplete.partition("=")
    matching = [name for name in known if name.startswith(key)]
    if separator or len(matching) == 1:
        # The bare key too: the shell then stops behind the sign, and sets no space there.
        return [(f"{name}={text}", "") for name in matching[:1] for text in ("", *_listed(*known[name]))]
    return [(f"{name}=", describe(known[name][0].get("description", ""))) for name in matching]


def mend_bash_words() -> None:
    """Behind a sign bash says that the sign is the word to complete; it is the empty one after it."""
    words, number = os.environ.get("COMP_WORDS", "").split("\n"), os.environ.get("COMP_CWORD", "")
    if words[-1] == "=" and number == str(len(words) - 1):
        os.environ["COMP_CWORD"] = str(len(words))


def _known(context: typer.Context, wanted: str) -> dict[str, tuple[Schema, Schema]]:
    """Keys, each with the schema of its values and the whole that the schema refers to."""
    schema = JobConfig.model_json_schema()
    known = {name: (value, schema) for name, value in keys(schema, schema)}
    if not wanted.startswith((_TASK, _OPTIONS)):
        return known
    # Tasks import pyarrow and NumPy, which take longer than all the rest.
    from inference.tasks import available_tasks, task_class  # noqa: PLC0415

    known[_TASK] = (known[_TASK][0] | {"enum": available_tasks()}, schema)
    try:
        job = load_job(Path(context.params.get("job_file") or ""), [])
        options = task_class(job.task.name).options_class.model_json_schema()
    except ShardlabelError:
        return known
    return known | {name: (value, options) for name, value in keys(options, options, _OPTIONS)}


def _listed(schema: Schema, root: Schema) -> list[str]:
    """Values as they are written on a command line."""
    found = values(schema, root) if schema else []
    return [value if isinstance(value, str) else json.dumps(value) for value in found]
