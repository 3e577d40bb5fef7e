"""pydantic's validation errors as one readable sentence: which key, what was given, what was expected."""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError


def explain_validation_error(error: ValidationError, model: type[BaseModel], prefix: str = "") -> str:
    """Describe every wrong key of `model`; a key it does not have is answered with the nearest that it has.

    A value that may be of several types has an error for each of them, which are one here.
    """
    found: dict[tuple[str, str], list[str]] = {}
    for item in error.errors():
        path, last = _keys(model, item["loc"], item["type"])
        where = ".".join([prefix, *path] if prefix else path)
        given = "" if item["type"] in {"missing", "extra_forbidden"} else f", but got {item['input']!r}"
        reasons = found.setdefault((where, given), [])
        if (reason := _reason(item, path, last)) not in reasons:
            reasons.append(reason)
    return "; ".join(f"{where}: {' or '.join(reasons)}{given}" for (where, given), reasons in found.items())


def _reason(item: Any, path: Sequence[str], last: type[BaseModel]) -> str:
    if item["type"] != "extra_forbidden":
        return str(item["msg"].removeprefix("Value error, "))
    known = list(last.model_fields)
    near = get_close_matches(path[-1], known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(known)}"
    return f"unknown key; {hint}"


def _keys(model: type[BaseModel], steps: Sequence[int | str], kind: str) -> tuple[list[str], type[BaseModel]]:
    """The keys of a path, and the model that the last one is looked for in.

    Behind a value of several types pydantic names the one that was tried, which is no key. What is a key is told by the
    annotations, for a label may be called "float".
    """
    path, last = list[str](), model
    annotation: Any = model
    for number, step in enumerate(steps):
        members = _members(annotation)
        models = [member for member in members if isinstance(member, type) and issubclass(member, BaseModel)]
        known = next((each for each in models if step in each.model_fields), None)
        is_unknown = kind == "extra_forbidden" and number == len(steps) - 1
        if len(members) > 1 and not (isinstance(step, int) or known or is_unknown):
            # The member itself is what follows: without it, a key of its mapping would be taken for another member.
            annotation = _named(members, str(step))
            continue
        path.append(str(step))
        last = known or (models[0] if models else last)
        annotation = known.model_fields[str(step)].annotation if known else _inside(members)
    return path, last


def _members(annotation: Any) -> list[Any]:
    """The types that a value may have, None left out."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in {Union, UnionType}:
        return [each for member in get_args(annotation) if member is not type(None) for each in _members(member)]
    return [annotation]


def _named(members: Sequence[Any], name: str) -> Any:
    """The member that pydantic calls by this name; None of one in which there are no keys."""
    for member in members:
        own = getattr(get_origin(member) or member, "__name__", "")
        # `dict[str,float]`, `Oven`, or `function-after[check(), Oven]` of a model with a rule of its own.
        if own and re.search(rf"(^|, ){re.escape(own)}\b", name):
            return member
    return None


def _inside(members: Sequence[Any]) -> Any:
    """The type of the values of a mapping or of a list."""
    containers = [each for each in members if get_args(each) and get_origin(each) is not Literal]
    return get_args(containers[0])[get_origin(containers[0]) is dict] if containers else None
