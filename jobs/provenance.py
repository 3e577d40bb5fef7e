"""What made a part, for whoever finds it in a year: the model's name and commit, and the versions of the software."""

import platform
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from inference.config import ModelConfig

_PACKAGES = ("shardlabel", "torch", "transformers", "tokenizers", "pyarrow", "ray", "numpy")


def provenance(models: Sequence[ModelConfig]) -> dict[str, Any]:
    """The same on every machine with the same software, so that it does not spoil the equality of bytes."""
    first, *later = [{"name": model.name, "revision": model.revision} for model in models]
    return {"model": first, **({"later_models": later} if later else {}), "software": software()}


def relabelled_from(made: dict[str, Any], fingerprint: str) -> dict[str, Any]:
    """What made the logits, and then for each relabelling which labels were there before, and what made others.

    Args:
        made: the provenance of the part that is relabelled.
        fingerprint: of its job, as `status` shows it.
    """
    redone = {"fingerprint": fingerprint, "software": software()}
    return made | {"relabelled_from": [*made.get("relabelled_from", []), redone]}


def software() -> dict[str, str | None]:
    """The versions of what determines a label, in this process; None is not installed."""
    return dict(_versions())


@cache
def _versions() -> tuple[tuple[str, str | None], ...]:
    return (("python", platform.python_version()), *((name, _version(name)) for name in _PACKAGES))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:  # run from a checkout that is not installed
        return None
