"""pydantic's validation errors as one readable sentence: which key, what was given, what was expected."""

from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError


def explain_validation_error(error: ValidationError, model: type[BaseModel], prefix: str = "") -> str:
    """Describe every wrong key of `model`; a key it does not have is answered with the nearest that it has."""
    return "; ".join(_explain(item, model, prefix) for item in error.errors())


def _explain(item: Any, model: type[BaseModel], prefix: str) -> str:
    path = [str(step) for step in item["loc"]]
    where = ".".join([prefix, *path] if prefix else path)
    if item["type"] != "extra_forbidden":
        reason = item["msg"].removeprefix("Value error, ")
        return f"{where}: {reason}" + ("" if item["type"] == "missing" else f", but got {item['input']!r}")
    known = list(_model_at(model, path[:-1]).model_fields)
    near = get_close_matches(path[-1], known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(known)}"
    return f"{where}: unknown key; {hint}"


def _model_at(model: type[BaseModel], path: list[str]) -> type[BaseModel]:
    for step in path:
        if step not in model.model_fields:  # a union's member, which pydantic adds to the path
            continue
        annotation = model.model_fields[step].annotation
        candidates = [annotation, *get_args(annotation)]
        model = next((item for item in candidates if isinstance(item, type) and issubclass(item, BaseModel)), model)
    return model
