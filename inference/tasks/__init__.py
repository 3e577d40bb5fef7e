"""The registry is this folder: a task is the one file that bears its name and defines one `Task`."""

from difflib import get_close_matches
from importlib import import_module
from pkgutil import iter_modules

import pyarrow as pa
from pydantic import ValidationError

from inference.checkpoint import Checkpoint
from inference.config import TaskConfig
from inference.errors import ConfigError, InputError, ModelError
from inference.explain import explain_validation_error
from inference.tasks.base import Task


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
    if checkpoint.architectures and not any(name.endswith(cls.head) for name in checkpoint.architectures):
        msg = (
            f"model.name: {checkpoint.path} is a {', '.join(checkpoint.architectures)} checkpoint without a trained "
            f"head for {config.name}; choose one whose architecture ends in {cls.head}"
        )
        raise ModelError(msg)
    try:
        options = cls.options_class.model_validate(config.options)
    except ValidationError as error:
        raise ConfigError(explain_validation_error(error, cls.options_class, "task.options")) from error
    return cls(config, options, checkpoint)


def text_columns(task: Task, names: dict[str, str], schema: pa.Schema) -> list[str]:
    """The table's names of the columns that the task reads, checked to be there and to be text.

    Args:
        task: whose columns.
        names: the task's name of a column -> the table's, where they differ.
        schema: the table's.

    Raises:
        InputError: one is missing or of another type.
    """
    wanted = [names.get(role, role) for role in task.columns]
    wanted += [names.get(role, role) for role in task.optional_columns if role in names or role in schema.names]
    for name in wanted:
        if name not in schema.names:
            msg = (
                f"input.columns: {task.name} needs a column {name!r}, and there are {', '.join(schema.names)}; "
                f"name the right one, as in input.columns.{task.columns[0]}={schema.names[0] if schema.names else '…'}"
            )
            raise InputError(msg)
        kind = schema.field(name).type
        value = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not (pa.types.is_string(value) or pa.types.is_large_string(value) or pa.types.is_string_view(value)):
            msg = f"input.columns: column {name!r} holds {kind}, expected text (string or large_string)"
            raise InputError(msg)
    return wanted
