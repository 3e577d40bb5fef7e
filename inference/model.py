"""A loaded checkpoint: padded ids in, logits out. The only file that runs a forward.

Loading refuses what would give wrong numbers: weights missing from the file, labels that differ from the plan's.
"""

from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from safetensors import SafetensorError

from inference.batching import pad
from inference.checkpoint import Checkpoint
from inference.config import ModelConfig
from inference.errors import ModelError
from inference.hardware import Device, resolve_dtype

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def count_gpus() -> int:
    """GPUs this process may use."""
    return torch.cuda.device_count()


class Model:
    """Weights on a device."""

    def __init__(self, config: ModelConfig, checkpoint: Checkpoint, auto_class: str) -> None:
        """Load the weights.

        Raises:
            ModelError: they do not load, or the checkpoint lacks weights of the task's head.
        """
        self.device: Device = "cuda" if count_gpus() else "cpu"
        self.dtype = resolve_dtype(config.dtype, self.device)
        self._module = _load(checkpoint, auto_class, self.dtype).to(self.device)
        self.num_labels = len(checkpoint.labels)
        pad_token_id = self._module.config.pad_token_id
        # The mask hides padding from attention, so where a checkpoint names no padding id any valid one will do.
        self._pad_token_id = 0 if pad_token_id is None else int(pad_token_id)

    def forward(
        self,
        ids: NDArray[np.int32],
        type_ids: NDArray[np.int32] | None,
        offsets: NDArray[np.int64],
        indices: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        """Logits of shape (len(indices), num_labels) for the chosen sequences of a ragged batch (see `pad`)."""
        padded, mask = pad(ids, offsets, indices, self._pad_token_id)
        inputs = {"input_ids": padded}
        if not mask.all():
            inputs["attention_mask"] = mask.astype(np.int64)
        if type_ids is not None:
            inputs["token_type_ids"] = pad(type_ids, offsets, indices, 0)[0]
        with torch.inference_mode():
            output = self._module(**{name: torch.from_numpy(value).to(self.device) for name, value in inputs.items()})
        logits: NDArray[np.float32] = output.logits.float().cpu().numpy()
        return logits


def _load(checkpoint: Checkpoint, auto_class: str, dtype: str) -> Any:
    try:
        module, info = getattr(transformers, auto_class).from_pretrained(
            checkpoint.path,
            dtype=_DTYPES[dtype],
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        msg = f"model.name: {checkpoint.path} does not load as {auto_class} ({reason})"
        raise ModelError(msg) from error
    lacking = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if lacking:
        msg = (
            f"model.name: {checkpoint.path} has no trained weights for {', '.join(lacking[:5])}, which {auto_class} "
            "needs; choose a checkpoint that was trained for the task"
        )
        raise ModelError(msg)
    labels = tuple(str(module.config.id2label[i]) for i in range(module.config.num_labels))
    if labels != checkpoint.labels:
        msg = f"model.name: {checkpoint.path} loads with the labels {labels}, its config.json says {checkpoint.labels}"
        raise ModelError(msg)
    return module.eval()
