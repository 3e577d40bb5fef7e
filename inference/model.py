"""A loaded checkpoint: a micro-batch of sequences in, what the task keeps of it out.

Loading refuses what would give wrong numbers: weights missing from the file, labels that differ from the plan's.
"""

import logging
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from safetensors import SafetensorError

from inference import fused
from inference.attention import PACKED
from inference.batch import Batch
from inference.batching import pad
from inference.checkpoint import Checkpoint
from inference.config import ModelConfig
from inference.errors import ModelError
from inference.fp8 import use_fp8
from inference.hardware import MAX_BATCH_TOKENS, Device, check_fp8, resolve_dtype
from inference.heads import sequence_logits
from inference.packing import Packing, resolve_packed
from inference.remote_code import advice, guarded, import_code
from inference.sequences import Sequences
from inference.tasks.base import Outputs, Task
from inference.tokenization import load_tokenizer

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# What packing may change, as the norm of the difference over the norm: the rounding of two ways to add up. Sequences
# that see one another change a tiny model by 0.1 and more.
_TOLERANCES = {"float32": 1e-4, "float16": 5e-3, "bfloat16": 4e-2}

# What fp8 may change, in the same measure: the demo's model moves by 0.013, BERT-base with random weights by 0.07, and
# what is scaled wrongly by 0.5 and more.
_FP8_TOLERANCE = 0.15

# Tokens of the sequences that both are tried with: one alone, equal ones, longer ones than ModernBERT sees at once.
_TRIED_LENGTHS = (300, 33, 33, 17, 16, 5, 2, 1)

logger = logging.getLogger(__name__)


def count_gpus() -> int:
    """GPUs this process may use."""
    return torch.cuda.device_count()


class Model:
    """Weights on a device, and the task they serve."""

    def __init__(self, config: ModelConfig, checkpoint: Checkpoint, task: Task) -> None:
        """Load the weights.

        Raises:
            ModelError: they do not load, the checkpoint lacks weights of the task's head, its tokenizer has tokens that
                its embedding lacks, or fp8 does not run here or moves the model too far.
            ConfigError: fp8 or packing is asked for where it cannot be.
        """
        self.device: Device = "cuda" if count_gpus() else "cpu"
        self.dtype = resolve_dtype(config.dtype, self.device)
        check_fp8(config.fp8, checkpoint.model_type, self.dtype)
        self.tokenizer = load_tokenizer(checkpoint)
        self._task = task
        self._module = _load(checkpoint, task, self.dtype).to(self.device)
        _check_vocabulary(checkpoint, self.tokenizer, self._module)
        is_foreign = checkpoint.trusts_code and bool(checkpoint.code)  # nobody knows what it does with its layers
        on_cpu = (self.device, self.dtype) == ("cpu", "bfloat16")
        is_fused = config.fused and not config.fp8 and on_cpu and not is_foreign and fused.is_available()
        if is_fused:
            fused.fuse(self._module)
        self._attend = fused.attend if is_fused else None
        pad_token_id = self._module.config.pad_token_id
        # The mask hides padding from attention, so where a checkpoint names no padding id any valid one will do.
        self._pad_token_id = 0 if pad_token_id is None else int(pad_token_id)
        self.is_packed = resolve_packed(config.packed, checkpoint.model_type, self.device, self.dtype)
        if self.is_packed:
            budget = config.max_batch_tokens or MAX_BATCH_TOKENS["cuda"]
            self._pack = Packing(checkpoint, self._pad_token_id, budget if self.device == "cuda" else None)
            self.is_packed = self._packs_rightly(checkpoint)
        # Last: a difference of one bit may round to another fp8 value, which would blur what packing is compared by.
        self.fp8_error = self._use_fp8(checkpoint) if config.fp8 else None

    def forward(self, sequences: Sequences, indices: NDArray[np.int64]) -> Outputs:
        """Run the chosen sequences as one micro-batch and keep what the task keeps: tensors that may not be ready yet.

        On a GPU nothing here waits for it; `inference.copies` brings the outputs over.
        """
        with torch.inference_mode():
            batch = self._packed(sequences, indices) if self.is_packed else self._padded(sequences, indices)
            outputs = self._task.forward(batch)
        counts = np.ones(len(indices), dtype=np.int64) if outputs.counts is None else np.asarray(outputs.counts)
        return Outputs(outputs.values, counts)

    def _padded(self, sequences: Sequences, indices: NDArray[np.int64]) -> Batch:
        padded, is_token = pad(sequences.ids, sequences.offsets, indices, self._pad_token_id)
        arrays = {"input_ids": padded}
        has_padding = not is_token.all()
        if has_padding:
            arrays["attention_mask"] = is_token.astype(np.int64)
        if "type_ids" in sequences.features:
            arrays["token_type_ids"] = pad(sequences.features["type_ids"], sequences.offsets, indices, 0)[0]
        return Batch(
            module=self._module,
            inputs={name: self._to_device(array) for name, array in arrays.items()},
            ids=padded[is_token].astype(np.int32),
            lengths=sequences.lengths[indices],
            mask=self._to_device(is_token),
            bounds=None,
            places=np.flatnonzero(is_token) if has_padding else None,
            to_device=self._to_device,
            tokenizer=self.tokenizer,
        )

    def _packed(self, sequences: Sequences, indices: NDArray[np.int64]) -> Batch:
        packed = self._pack(sequences, indices)
        rows = [packed.ids, packed.positions, *([] if packed.types is None else [packed.types])]
        names = ("input_ids", "position_ids", "token_type_ids")
        tensors = self._to_device(np.stack(rows)).long()
        bounds = self._to_device(packed.bounds)
        lengths = sequences.lengths[indices]
        ways: dict[str, Any] = {"cu_seq_lens_q": bounds, "max_length_q": packed.longest}
        if self.device == "cpu":  # a compiled model would be compiled again for other runs
            ways |= {"runs": packed.runs, "attend": self._attend}
        return Batch(
            module=self._module,
            inputs={**{name: row[None] for name, row in zip(names, tensors, strict=False)}, **ways},
            ids=packed.ids[: int(lengths.sum())],
            lengths=lengths,
            mask=None,
            bounds=bounds,
            places=None,
            to_device=self._to_device,
            tokenizer=self.tokenizer,
        )

    def num_slots(self, lengths: NDArray[np.int64]) -> int:
        """Tokens that a micro-batch of sequences of these lengths has when it is padded, or packed and filled up."""
        return self._pack.num_slots(int(lengths.sum())) if self.is_packed else len(lengths) * int(lengths.max())

    def _to_device(self, array: NDArray[Any]) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        # From pinned memory the copy takes its turn behind the kernels that run, and the host goes on.
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device == "cuda" else tensor

    def _packs_rightly(self, checkpoint: Checkpoint) -> bool:
        """Try it on a few sequences, and leave attention as it was where padding says something else."""
        sequences, order = self._tried_sequences(checkpoint)
        usual = self._module.config._attn_implementation  # noqa: SLF001 - there is no public name for it
        with torch.inference_mode():
            expected = self._probe(self._padded(sequences, order))
            try:
                self._module.set_attn_implementation(PACKED)
                found = self._probe(self._packed(sequences, order))
            except (TypeError, ValueError, RuntimeError) as failure:
                reason = f"do not run ({type(failure).__name__}: {failure})"
            else:
                error = _difference(found, expected)
                if error <= _TOLERANCES[self.dtype]:
                    return True
                reason = f"differ by {error:.1e}"
        self._module.set_attn_implementation(usual)
        logger.warning("model.packed: with this checkpoint, sequences without padding %s; they are padded", reason)
        return False

    def _use_fp8(self, checkpoint: Checkpoint) -> float:
        """Put fp8 layers in place; returns by how much that moves what the model says."""
        sequences, order = self._tried_sequences(checkpoint)
        batch = self._packed if self.is_packed else self._padded
        with torch.inference_mode():
            expected = self._probe(batch(sequences, order))
        count = use_fp8(self._module.base_model)
        try:
            with torch.inference_mode():
                error = _difference(self._probe(batch(sequences, order)), expected)
        except (AttributeError, TypeError, ValueError, RuntimeError) as failure:
            msg = f"model.fp8: linear layers do not run in fp8 here ({type(failure).__name__}: {failure}); leave it out"
            raise ModelError(msg) from failure
        if not (count and error <= _FP8_TOLERANCE):  # NaN is too much too
            msg = (
                f"model.fp8: with {count} linear layers of {checkpoint.path} in fp8, outputs differ by {error:.1e} of "
                f"their norm from those in bfloat16, and {_FP8_TOLERANCE} is allowed; leave it out"
            )
            raise ModelError(msg)
        logger.warning("model.fp8: %d linear layers; outputs move by %.1e of their norm", count, error)
        return error

    def _tried_sequences(self, checkpoint: Checkpoint) -> tuple[Sequences, NDArray[np.int64]]:
        lengths = np.minimum(_TRIED_LENGTHS, checkpoint.max_length).astype(np.int64)
        offsets, order = np.concatenate([[0], np.cumsum(lengths)]), np.arange(len(lengths))
        ids = np.random.default_rng(0).integers(self._module.config.vocab_size, size=offsets[-1], dtype=np.int32)
        return Sequences(ids=ids, features={}, offsets=offsets, row_index=order), order

    def _probe(self, batch: Batch) -> list[torch.Tensor]:
        """What the base model and a head over sequences give."""
        values = [batch.of_tokens(self._module.base_model(**batch.inputs).last_hidden_state)]
        if self._task.auto_class == "AutoModelForSequenceClassification":
            values.append(sequence_logits(batch))
        return [value.float() for value in values]

    def release_memory(self) -> None:
        """Give back what the device's allocator holds in reserve."""
        if self.device == "cuda":
            torch.cuda.empty_cache()


def _difference(found: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """The largest norm of a difference, over the norm."""
    # Unlike Python's, this maximum is NaN where one of them is.
    return float(
        np.max([float((one - other).norm() / other.norm()) for one, other in zip(found, expected, strict=True)])
    )


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
