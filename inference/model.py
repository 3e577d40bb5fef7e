"""A loaded checkpoint: a micro-batch of sequences in, what the task keeps of it out.

Loading refuses what would give wrong numbers: weights missing from the file, labels that differ from the plan's.
"""

from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from safetensors import SafetensorError

from inference import fused
from inference.batching import pad
from inference.checkpoint import Checkpoint
from inference.config import ModelConfig
from inference.errors import ModelError
from inference.hardware import Device, resolve_dtype
from inference.remote_code import advice, guarded, import_code
from inference.sequences import Sequences
from inference.tasks.base import Batch, Outputs, Task
from inference.tokenization import load_tokenizer

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def count_gpus() -> int:
    """GPUs this process may use."""
    return torch.cuda.device_count()


class Model:
    """Weights on a device, and the task they serve."""

    def __init__(self, config: ModelConfig, checkpoint: Checkpoint, task: Task) -> None:
        """Load the weights.

        Raises:
            ModelError: they do not load, the checkpoint lacks weights of the task's head, or its tokenizer has tokens
                that its embedding lacks.
        """
        self.device: Device = "cuda" if count_gpus() else "cpu"
        self.dtype = resolve_dtype(config.dtype, self.device)
        self.tokenizer = load_tokenizer(checkpoint)
        self._task = task
        self._module = _load(checkpoint, task, self.dtype).to(self.device)
        _check_vocabulary(checkpoint, self.tokenizer, self._module)
        is_foreign = checkpoint.trusts_code and bool(checkpoint.code)  # nobody knows what it does with its layers
        kind = (self.device, self.dtype)
        if config.fused and kind == ("cpu", "bfloat16") and not is_foreign and fused.is_available():
            fused.fuse(self._module)
        pad_token_id = self._module.config.pad_token_id
        # The mask hides padding from attention, so where a checkpoint names no padding id any valid one will do.
        self._pad_token_id = 0 if pad_token_id is None else int(pad_token_id)

    def forward(self, sequences: Sequences, indices: NDArray[np.int64]) -> Outputs:
        """Run the chosen sequences as one micro-batch and keep what the task keeps, as NumPy arrays (see `Outputs`)."""
        padded, is_token = pad(sequences.ids, sequences.offsets, indices, self._pad_token_id)
        arrays = {"input_ids": padded}
        if not is_token.all():
            arrays["attention_mask"] = is_token.astype(np.int64)
        if "type_ids" in sequences.features:
            arrays["token_type_ids"] = pad(sequences.features["type_ids"], sequences.offsets, indices, 0)[0]
        inputs = {name: torch.from_numpy(array).to(self.device) for name, array in arrays.items()}
        mask = torch.from_numpy(is_token).to(self.device)
        with torch.inference_mode():
            outputs = self._task.forward(Batch(self._module, inputs, mask, self.tokenizer))
        counts = np.ones(len(indices), dtype=np.int64) if outputs.counts is None else np.asarray(outputs.counts)
        return Outputs({name: _to_numpy(value) for name, value in outputs.values.items()}, counts)

    def release_memory(self) -> None:
        """Give back what the device's allocator holds in reserve."""
        if self.device == "cuda":
            torch.cuda.empty_cache()


def _to_numpy(value: Any) -> NDArray[Any]:
    if isinstance(value, torch.Tensor):
        value = (value.float() if value.is_floating_point() else value).cpu().numpy()
    array: NDArray[Any] = value
    return array


def _load(checkpoint: Checkpoint, task: Task, dtype: str) -> Any:
    module, info = _from_pretrained(checkpoint, task.auto_class, _DTYPES[dtype])
    lacking = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    lacking = [key for key in lacking if not key.startswith(task.unused_weights)]
    if lacking:
        msg = (
            f"model.name: {checkpoint.path} has no trained weights for {', '.join(lacking[:5])}, which "
            f"{task.auto_class} needs; choose a checkpoint that was trained for the task"
        )
        raise ModelError(msg)
    labels = tuple(str(module.config.id2label[i]) for i in range(module.config.num_labels))
    if labels != checkpoint.labels:
        msg = f"model.name: {checkpoint.path} loads with the labels {labels}, its config.json says {checkpoint.labels}"
        raise ModelError(msg)
    _cast_strays(module, _DTYPES[dtype])
    return module.eval()


def _check_vocabulary(checkpoint: Checkpoint, tokenizer: Any, module: Any) -> None:
    """Refuse ids without an embedding: on a GPU one of them would take its process along.

    The embedding may be longer: T5's is padded to 32,128 rows for 32,100 tokens, DeBERTa-v3's to 128,100 for 128,001.
    """
    try:
        weight = getattr(module.get_input_embeddings(), "weight", None)
    except NotImplementedError:  # a model of the checkpoint's own code need not say
        return
    num_ids = max(tokenizer.get_vocab().values(), default=-1) + 1  # ids may have gaps
    if weight is not None and num_ids > len(weight):
        msg = (
            f"model.name: the tokenizer of {checkpoint.path} has ids up to {num_ids - 1:,}, its model has embeddings "
            f"for {len(weight):,}; they are not of one checkpoint, or resize_token_embeddings was forgotten"
        )
        raise ModelError(msg)


def _from_pretrained(checkpoint: Checkpoint, auto_class: str, dtype: torch.dtype) -> tuple[Any, dict[str, Any]]:
    classes = ("AutoConfig", auto_class)
    own = import_code(checkpoint.path, checkpoint.code, classes) if checkpoint.trusts_code else {}
    what = f"model.name: {checkpoint.path} does not load as {auto_class}"
    with guarded(what, runs_code=checkpoint.trusts_code):
        try:
            config = {"config": own["AutoConfig"].from_pretrained(checkpoint.path)} if "AutoConfig" in own else {}
            module, info = own.get(auto_class, getattr(transformers, auto_class)).from_pretrained(
                checkpoint.path,
                **config,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=checkpoint.trusts_code,
                output_loading_info=True,
            )
        except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
            reason = str(error).strip().splitlines()[0]
            msg = f"{what} ({reason}){advice(checkpoint.code, classes, is_trusted=checkpoint.trusts_code)}"
            raise ModelError(msg) from error
    return module, info


def _cast_strays(module: Any, dtype: torch.dtype) -> None:
    """Cast parameters that loading left in float32 by mistake, not by a family's wish.

    DeBERTa makes `q_bias` and `v_bias` in float32 whatever is asked for, and then multiplies them with the rest
    (transformers 5.23, modeling_deberta.py:160); T5 keeps `wo` in float32 on purpose, lest float16 overflows.
    """
    if not module._keep_in_fp32_modules:  # noqa: SLF001 - there is no public name for it
        for parameter in module.parameters():
            if parameter.is_floating_point():
                parameter.data = parameter.data.to(dtype)
