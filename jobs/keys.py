"""The keys of a JOB.yaml by their dotted names, and what each may be; from the JSON Schema of the models."""

import re
from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]


def describe(text: str) -> str:
    """A docstring of a model for whoever writes YAML: on one line, and what Python calls None is null there."""
    return re.sub(r"\bNone\b", "null", " ".join(text.split()))


def keys(schema: Schema, root: Schema, prefix: str = "") -> Iterator[tuple[str, Schema]]:
    """Every key that may be set, dotted as on the command line, with the part of the schema that says its values.

    Args:
        schema: of an object.
        root: what `$ref` in it refers to.
        prefix: what stands before its keys.
    """
    for name, value in schema.get("properties", {}).items():
        choices = _choices(value, root)
        if any("properties" not in choice for choice in choices):
            yield prefix + name, value
        for choice in choices:
            yield from keys(choice, root, f"{prefix}{name}.")


def values(schema: Schema, root: Schema) -> list[Any]:
    """The values of a key that can be listed, its default first."""
    found = [schema["default"]] if "default" in schema else []
    for choice in _choices(schema, root):
        found += choice.get("enum", [])
        found += [choice["const"]] if "const" in choice else []
        found += [True, False] if choice.get("type") == "boolean" else []
    return [value for i, value in enumerate(found) if not isinstance(value, dict | list) and value not in found[:i]]


def _choices(schema: Schema, root: Schema) -> list[Schema]:
    """The schemas of which a value follows one, what they refer to put in their places."""
    choices = schema.get("anyOf") or schema.get("oneOf") or [schema]
    return [root["$defs"][name_of(choice)] if "$ref" in choice else choice for choice in choices]


def name_of(reference: Schema) -> str:
    """The definition that a `$ref` refers to."""
    return str(reference["$ref"]).rpartition("/")[2]
