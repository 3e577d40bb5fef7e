"""A JOB.yaml with a comment on every line: what is set, and all other keys with their defaults, from the models."""

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import yaml
from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from jobs.config import JobConfig
from jobs.keys import describe

# Where comments start, and where lines end.
_COLUMN = 36
_WIDTH = 120


@dataclass(frozen=True, slots=True)
class JobWriter:
    """Writes job files: the keys that are set, and as comments those that are not."""

    options: type[BaseModel]
    """Of the task: what stands below `task.options`."""
    notes: Mapping[str, str]
    """Dotted key -> a comment that takes the place of what the model says of the key."""

    def write(self, content: Mapping[str, Any], header: list[str]) -> str:
        """The text of a job file.

        Args:
            content: the keys that are set, in their sections.
            header: lines that come first, as comments.
        """
        lines = [f"# {line}" for line in header]
        for name, field in JobConfig.model_fields.items():
            if model := model_in(field.annotation):
                lines += ["", *self._section(name, model, content.get(name))]
        return "\n".join(lines) + "\n"

    def _section(
        self, key: str, model: type[BaseModel], given: Mapping[str, Any] | None, commented_at: int | None = None
    ) -> Iterator[str]:
        """Its own line and those of its keys; what is not set is commented out, from one column on."""
        depth = 2 * key.count(".")
        if given is None and commented_at is None:
            commented_at = depth
        yield from _line(f"{'':{depth}}{key.rpartition('.')[2]}:", describe(model.__doc__ or ""), commented_at)
        for name, field in model.model_fields.items():
            dotted, text = f"{key}.{name}", f"{'':{depth + 2}}{name}: "
            doc = self.notes.get(dotted, describe(field.description or ""))
            if given is not None and name in given:
                yield from _line(text + _plain(given[name]), doc, None)
            elif dotted == "task.options":
                yield from self._section(dotted, self.options, None, commented_at)
            elif not field.is_required():
                default = _plain(field.get_default(call_default_factory=True))
                yield from _line(text + default, doc, depth + 2 if commented_at is None else commented_at)


def _line(text: str, doc: str, commented_at: int | None) -> Iterator[str]:
    """One key, and what is said of it beside it, on as many lines as that needs."""
    if commented_at is not None:
        text = f"{text[:commented_at]}# {text[commented_at:]}"
    first, *others = textwrap.wrap(doc, _WIDTH - _COLUMN - 2, break_on_hyphens=False) or [""]
    yield f"{text:{_COLUMN - 1}} # {first}" if first else text
    yield from (f"{'':{_COLUMN}}# {line}" for line in others)


def _plain(value: Any) -> str:
    """A value in YAML, on one line."""
    dumped: str = yaml.safe_dump(
        to_jsonable_python(value), default_flow_style=True, allow_unicode=True, width=10**6, sort_keys=False
    )
    return dumped.strip().removesuffix("...").strip()


def model_in(annotation: Any) -> type[BaseModel] | None:
    """The model of a section; of one that may be written in several ways, the first."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for each in get_args(annotation) if (found := model_in(each))), None)
