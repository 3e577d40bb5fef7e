"""job.yaml and `key=value` overrides -> one frozen `JobConfig`; unknown keys are errors that name the nearest."""

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BeforeValidator,
    Field,
    PositiveFloat,
    PositiveInt,
    TypeAdapter,
    ValidationError,
    WrapValidator,
    model_validator,
)

from inference.config import Frozen, ModelConfig, TaskConfig, check_bounds
from inference.errors import ConfigError
from inference.explain import explain_validation_error


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


PathText = Annotated[str, Field(min_length=1, pattern=r"^[^\x00]*$")]
Paths = Annotated[tuple[PathText, ...], Field(min_length=1)]


_SEVERAL = TypeAdapter(tuple[ModelConfig, ...])


def _one_or_several(value: Any, _: Any) -> ModelConfig | tuple[ModelConfig, ...]:
    """A mapping, or a list of them; only that which it is, lest pydantic says what is wrong with it as the other."""
    is_list = isinstance(value, list | tuple)
    models = _SEVERAL.validate_python(value) if is_list else (ModelConfig.model_validate(value),)
    if not models:
        msg = "a list of models needs at least one"
        raise ValueError(msg)
    check_bounds(models)
    return models if len(models) > 1 else models[0]


class InputConfig(Frozen):
    """Which shards to read."""

    path: Annotated[Paths, BeforeValidator(_as_tuple, json_schema_input_type=PathText | Paths)]
    """Files, directories or globs; local, or any URI of pyarrow.fs (s3://, gs://, …)."""
    columns: dict[str, str] = Field(default_factory=dict)
    """What the task calls a column -> its name in the shards; default: the same name."""


class OutputConfig(Frozen):
    """Where the parts go and what they keep."""

    path: PathText
    """A directory, local or a URI of pyarrow.fs; it belongs to this job alone."""
    keep_columns: tuple[str, ...] | None = None
    """Input columns to keep; default: all."""
    scores: bool = False
    """Also every class's score."""
    logits: bool = False
    """Also the logits: the raw ones, or what `task.options.postprocess` made of them."""


class TaskSection(Frozen):
    """What the model does."""

    name: str = "text-classification"
    """Its Hugging Face name."""
    options: dict[str, Any] = Field(default_factory=dict)
    """The task's own options."""


class ActorRange(Frozen):
    """A pool that grows with the work."""

    min: PositiveInt = 1
    max: PositiveInt

    @model_validator(mode="after")
    def _check_order(self) -> "ActorRange":
        if self.min > self.max:
            msg = f"min {self.min} is more than max {self.max}"
            raise ValueError(msg)
        return self


class RunConfig(Frozen):
    """How to run; nothing here changes a label."""

    executor: Literal["ray", "local"] = "ray"
    """`ray`, or `local`: in this process, without Ray."""
    address: Annotated[str, Field(min_length=1)] | None = None
    """HOST:PORT of the head of a Ray cluster to join, or `auto`; None is RAY_ADDRESS, else a Ray of this job's own."""
    num_actors: PositiveInt | ActorRange | Literal["auto"] = "auto"
    """How many Predictors; auto: one per GPU, else one per core up to eight."""
    gpus_per_actor: PositiveFloat | Literal["auto", 0] = "auto"
    """auto: 1 where there are GPUs, else 0."""
    split_rows: PositiveInt = 32768
    """Rows of a split at most: whole row groups where they are smaller."""
    threads_per_actor: PositiveInt | Literal["auto"] = "auto"
    """torch threads of a Predictor; auto: the cores shared out evenly. Two runs are bit-equal only if this is equal."""
    max_failed_fraction: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Of all rows; when more fail, the job stops with the commonest errors."""

    @model_validator(mode="after")
    def _check_address(self) -> "RunConfig":
        if self.address is not None and self.executor == "local":
            msg = "address names a Ray cluster, and executor local runs without Ray; leave one of the two out"
            raise ValueError(msg)
        return self


class JobConfig(Frozen):
    """One job."""

    input: InputConfig
    output: OutputConfig
    model: Annotated[ModelConfig | tuple[ModelConfig, ...], WrapValidator(_one_or_several)]
    """One, or a list of several, the cheapest first: see `inference/cascade.py`."""
    task: TaskSection = TaskSection()
    run: RunConfig = RunConfig()

    @property
    def models(self) -> tuple[ModelConfig, ...]:
        """One, or several in the order in which a row is shown to them."""
        return self.model if isinstance(self.model, tuple) else (self.model,)

    @property
    def task_config(self) -> TaskConfig:
        """The task as the inference side takes it."""
        return TaskConfig(
            name=self.task.name,
            options=self.task.options,
            columns=self.input.columns,
            scores=self.output.scores,
            logits=self.output.logits,
        )


class _Loader(yaml.SafeLoader):
    """Plain data only, and neither of what makes a job file say something else than it seems to."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        # Ten lines of aliases are a billion values, and one is a circle.
        if self.check_event(yaml.AliasEvent):
            msg = "a job file has no aliases, so write the value out"
            raise yaml.composer.ComposerError(problem=msg, problem_mark=self.get_mark())
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := [key for key in keys if keys.count(key) > 1]:
            problem = f"the key {twice[0]!r} stands twice"
            raise yaml.constructor.ConstructorError(problem=problem, problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


def _parse(text: str) -> Any:
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader
    except RecursionError as error:
        msg = "nested too deeply"
        raise yaml.YAMLError(msg) from error
    except ValueError as error:  # 2026-99-99 looks like a date
        raise yaml.YAMLError(str(error)) from error


def load_job(path: Path, overrides: list[str]) -> JobConfig:
    """Read a job file and apply `dotted.key=value` overrides, whose values are YAML.

    Raises:
        ConfigError: no such file, not YAML, an unknown key or a wrong value.
    """
    content = read_yaml(path, "job", "input, output and model")
    for override in overrides:
        content = apply_override(content, override)
    return check_job(content)


def check_job(content: Any) -> JobConfig:
    """The job that a file's content describes.

    Raises:
        ConfigError: an unknown key or a wrong value.
    """
    try:
        return JobConfig.model_validate(content)
    except ValidationError as error:
        raise ConfigError(explain_validation_error(error, JobConfig)) from error


def read_yaml(path: Path, what: str, keys: str) -> dict[Any, Any]:
    """The mapping in a YAML file of the user.

    Args:
        path: of the file.
        what: the file is called by, as in "the job file".
        keys: that it may have.

    Raises:
        ConfigError: no such file, not YAML, or no mapping.
    """
    try:
        content = _parse(path.read_text())
    except OSError as error:
        msg = f"{path}: cannot read the {what} file ({error.strerror}); give the path of a YAML file"
        raise ConfigError(msg) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        msg = f"{path}: not YAML ({' '.join(str(error).split())})"
        raise ConfigError(msg) from error
    if not isinstance(content, dict):
        msg = f"{path}: holds {type(content).__name__}, expected a mapping with the keys {keys}"
        raise ConfigError(msg)
    return content


def apply_override(content: dict[Any, Any], override: str) -> dict[Any, Any]:
    """A copy of `content` with one value replaced."""
    key, separator, value = override.partition("=")
    if not separator or not key:
        msg = f"{override!r}: expected an override of the form section.key=value, such as model.max_length=128"
        raise ConfigError(msg)
    try:
        parsed = _parse(value)
    except yaml.YAMLError as error:
        msg = f"{override!r}: the value is not YAML ({' '.join(str(error).split())})"
        raise ConfigError(msg) from error
    try:
        replaced: dict[Any, Any] = _replaced(content, key.split("."), parsed)
    except IndexError as error:
        msg = f"{override!r}: {error}"
        raise ConfigError(msg) from error
    return replaced


def _replaced(content: Any, path: list[str], value: Any) -> Any:
    """A copy with the value at a path replaced; a list has numbers, a mapping has keys, and nothing else has any."""
    if not path:
        return value
    step, *rest = path
    if isinstance(content, list):
        if not step.isdecimal() or int(step) >= len(content):
            msg = f"a list of {len(content)} needs the number of an item, from 0, where {step!r} stands"
            raise IndexError(msg)
        return [_replaced(item, rest, value) if i == int(step) else item for i, item in enumerate(content)]
    section = dict(content) if isinstance(content, dict) else {}
    section[step] = _replaced(section.get(step), rest, value)
    return section
