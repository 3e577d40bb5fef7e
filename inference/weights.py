"""What a checkpoint's weights are, by the headers of their files, and what a head needs. Nothing is loaded whole.

In: a `Checkpoint`. Out: names and shapes of the tensors that are there, and of those that the task's class would want.
"""

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from inference.checkpoint import Checkpoint
from inference.errors import ModelError
from inference.remote_code import advice, guarded

Shape = tuple[int, ...]

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """Tensors by name."""

    shapes: dict[str, Shape]
    files: dict[str, Path]
    """Where each lies."""
    dtypes: frozenset[str]
    """As safetensors calls them: F32, BF16, …"""

    @property
    def num_values(self) -> int:
        """Of all tensors together."""
        return sum(prod(shape) for shape in self.shapes.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Needed:
    """The parameters of a checkpoint's class."""

    shapes: dict[str, Shape]
    head: frozenset[str]
    """Those that are the task's own and not the encoder's."""


def read_weights(folder: Path) -> Weights:
    """Read the headers of the files that transformers would load.

    Raises:
        ModelError: one is missing, or no safetensors file.
    """
    shapes, files, dtypes = dict[str, Shape](), dict[str, Path](), set[str]()
    for path in _files(folder):
        try:
            with safe_open(path, framework="np") as file:
                for name in file.keys():  # noqa: SIM118 - no mapping
                    tensor = file.get_slice(name)
                    shapes[name], files[name] = tuple(tensor.get_shape()), path
                    dtypes.add(tensor.get_dtype())
        except (OSError, SafetensorError) as error:
            reason = " ".join(str(error).split())
            msg = f"model.name: {path} is no whole safetensors file ({reason}); copy or download it again"
            raise ModelError(msg) from error
    return Weights(shapes=shapes, files=files, dtypes=frozenset(dtypes))


def _files(folder: Path) -> list[Path]:
    index = folder / _INDEX
    if (folder / _SINGLE).exists():
        return [folder / _SINGLE]
    if not index.exists():
        return sorted(folder.glob("*.safetensors"))
    try:
        return sorted({folder / name for name in json.loads(index.read_text())["weight_map"].values()})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        msg = f"model.name: {index} is no index of weights ({error}); copy or download it again"
        raise ModelError(msg) from error


def read_values(weights: Weights, name: str) -> NDArray[np.float32]:
    """One tensor; by way of torch, since NumPy has no bfloat16."""
    with safe_open(weights.files[name], framework="pt") as file:
        values: NDArray[np.float32] = file.get_tensor(name).float().numpy()
    return values


def needed_parameters(checkpoint: Checkpoint, auto_class: str) -> Needed:
    """What the checkpoint's class for a task would want; it is built without memory for its weights.

    Args:
        checkpoint: of a family that transformers knows; code of its own is not run.
        auto_class: a task's.

    Raises:
        ModelError: its config.json makes no model of that class.
    """
    import torch
    import transformers

    hint = advice(checkpoint.code, ("AutoConfig", auto_class), is_trusted=checkpoint.trusts_code)
    with guarded(f"model.name: {checkpoint.path} does not load as {auto_class}", hint):
        config = transformers.AutoConfig.from_pretrained(checkpoint.path, trust_remote_code=False)
        with torch.device("meta"):
            module: Any = getattr(transformers, auto_class).from_config(config, trust_remote_code=False)
    shapes = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    # T5 has no common beginning of the encoder's names; what is tied to another parameter is in no file.
    encoder = (f"{module.base_model_prefix}.", "shared.", "encoder.", "decoder.")
    head = {name for name in shapes if not name.startswith(encoder) and name not in module.all_tied_weights_keys}
    return Needed(shapes=shapes, head=frozenset(head))
