"""The models of a job as its fingerprint names them: `model.…` is the first or the only one, `model.1.…` the second."""

import re
from collections.abc import Sequence
from typing import Any

from inference.checkpoint import Checkpoint, weights_digest
from inference.config import ModelConfig
from inference.remote_code import code_digest

UNSETTLED: dict[str, str | None] = {"dtype": "auto", "max_batch_tokens": None, "packed": None, "trimmed": None}
"""What the first run of an output decides, by the hardware, and how a job file leaves it open."""

_WEIGHTS = re.compile(r"model(\.\d+)?\.weights")


def prefixes(num_models: int) -> list[str]:
    """How the keys of each model begin."""
    return ["model", *(f"model.{number}" for number in range(1, num_models))]


def count_models(fingerprint: dict[str, Any]) -> int:
    """How many models a fingerprint is of."""
    return sum(_WEIGHTS.fullmatch(key) is not None for key in fingerprint)


def identify(models: Sequence[ModelConfig], checkpoints: Sequence[Checkpoint]) -> dict[str, Any]:
    """What of the models determines the output; what the hardware decides is as the job file has it."""
    found: dict[str, Any] = {}
    for prefix, model, checkpoint in zip(prefixes(len(models)), models, checkpoints, strict=True):
        own: dict[str, Any] = {
            "weights": weights_digest(checkpoint),
            "code": code_digest(checkpoint.path) if checkpoint.trusts_code else None,
            "labels": list(checkpoint.labels),
            "dtype": model.dtype,
            "max_length": checkpoint.max_length,
            "max_batch_tokens": model.max_batch_tokens,
            "deduplicate": model.deduplicate,
            "fused": model.fused,
            "fp8": model.fp8,
            "packed": model.packed,
            "trimmed": model.trimmed,
        }
        if model.escalate_below is not None:
            own["escalate_below"] = model.escalate_below
        found |= {f"{prefix}.{key}": value for key, value in own.items()}
    return found


def located(model: ModelConfig, checkpoint: Checkpoint) -> ModelConfig:
    """With its folder absolute or its revision resolved to a commit, and its length limit as a number."""
    return model.model_copy(
        update={
            "name": str(checkpoint.path) if checkpoint.revision is None else model.name,
            "revision": checkpoint.revision,
            "max_length": checkpoint.max_length,
        }
    )
