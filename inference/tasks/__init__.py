"""The registry is this folder: a task is the one file that bears its name and defines one `Task`."""

import logging
import re
from contextlib import suppress
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import pyarrow as pa
from pydantic import ValidationError

from inference.checkpoint import Checkpoint
from inference.config import TaskConfig
from inference.errors import ConfigError, InputError, ModelError
from inference.explain import explain_validation_error
from inference.tasks.base import Task

# What transformers writes for a checkpoint whose author named no labels.
_GENERIC_LABEL = re.compile(r"LABEL_\d+")


@cache
def _warn(message: str) -> None:
    """Once per process, though every stage loads the task."""
    logging.getLogger(__name__).warning(message)


def available_tasks() -> list[str]:
    """Names of all tasks, sorted."""
    return sorted(module.name.replace("_", "-") for module in iter_modules(__path__) if module.name != "base")


def task_class(name: str) -> type[Task]:
    """The class of a task.

    Raises:
        ConfigError: there is no such task.
    """
    names = available_tasks()
    if name not in names:
        near = get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(names)}"
        msg = f"task.name: there is no task {name!r}; {hint}"
        raise ConfigError(msg)
    module = import_module(f"{__name__}.{name.replace('-', '_')}")
    found = [item for item in vars(module).values() if isinstance(item, type) and item.__module__ == module.__name__]
    return next(item for item in found if issubclass(item, Task))


def load_task(config: TaskConfig, checkpoint: Checkpoint) -> Task:
    """Validate a task's options and bind it to a checkpoint.

    Raises:
        ConfigError: unknown task, unknown or unfit option, unknown column role.
        ModelError: the checkpoint was trained for something else.
    """
    cls = task_class(config.name)
    roles = (*cls.columns, *cls.optional_columns)
    for role in config.columns:
        if role not in roles:
            msg = f"input.columns: {config.name} reads no column {role!r}; expected {' or '.join(roles)}"
            raise ConfigError(msg)
    architectures = checkpoint.architectures
    if architectures and cls.heads and not any(name.endswith(cls.heads) for name in architectures):
        msg = (
            f"model.name: {checkpoint.path} is a {', '.join(architectures)} checkpoint without a trained head for "
            f"{config.name}; choose one whose architecture ends in {' or '.join(cls.heads)}"
        )
        raise ModelError(msg)
    if cls.uses_labels and are_generic(checkpoint.labels):
        _warn(f"model.name: {checkpoint.path} names its labels {checkpoint.labels[0]} …; they are used as they are")
    return cls(config, read_options(cls, config.options), checkpoint)


def read_options(cls: type[Task], options: dict[str, Any]) -> Any:
    """A task's options, validated.

    Raises:
        ConfigError: one is unknown, or of another type.
    """
    try:
        return cls.options_class.model_validate(options)
    except ValidationError as error:
        raise ConfigError(explain_validation_error(error, cls.options_class, "task.options")) from error


def are_generic(labels: tuple[str, ...]) -> bool:
    """Whether several labels have the names that transformers gives where the author gave none."""
    return len(labels) > 1 and all(map(_GENERIC_LABEL.fullmatch, labels))


def fitting_tasks(checkpoint: Checkpoint) -> list[str]:
    """The tasks that take a checkpoint as it is, those that ask for a head of their own first."""
    fitting = []
    for name in available_tasks():
        with suppress(ConfigError, ModelError):
            load_task(TaskConfig(name=name), checkpoint)
            fitting.append(name)
    return sorted(fitting, key=lambda name: not task_class(name).heads)


def text_columns(task: Task | type[Task], names: dict[str, str], schema: pa.Schema) -> dict[str, str]:
    """The columns that the task reads, checked to be there and to be text: the task's name -> the table's.

    Args:
        task: whose columns; a class, where there is no checkpoint to bind it to.
        names: the task's name of a column -> the table's, where they differ.
        schema: the table's.

    Raises:
        InputError: one is missing or of another type.
    """
    free = [name for name in schema.names if name not in names.values()]
    optional = [role for role in task.optional_columns if role in names or role in free]
    wanted = {role: names.get(role, role) for role in (*task.columns, *optional)}
    for role, name in wanted.items():
        if name not in schema.names:
            msg = (
                f"input.columns: {task.name} needs a column {name!r}, and there are {', '.join(schema.names)}; "
                f"name the right one, as in input.columns.{role}={schema.names[0] if schema.names else '…'}"
            )
            raise InputError(msg)
        kind = schema.field(name).type
        may_be_list = role in task.list_columns
        if not is_text(kind) and not (may_be_list and _is_list(kind) and is_text(kind.value_type)):
            expected = "text (string or large_string)" + (" or lists of it" if may_be_list else "")
            msg = f"input.columns: column {name!r} holds {kind}, expected {expected}"
            raise InputError(msg)
    return wanted


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type can be read as text."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    # A column of nulls alone has no other type; its rows fail by themselves.
    checks = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    return any(check(kind) for check in checks)


def _is_list(kind: pa.DataType) -> bool:
    return any(check(kind) for check in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list))
