"""A loaded checkpoint: a micro-batch of sequences in, what the task keeps of it out.

How it computes is tried when it is loaded: what says something else than plain torch is left out, or refused.
"""

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from inference import fused, fused_gpu
from inference.attention import PACKED
from inference.batch import Batch
from inference.batching import pad
from inference.checkpoint import Checkpoint
from inference.config import ModelConfig
from inference.errors import ModelError
from inference.fp8 import use_fp8
from inference.hardware import Device, check_fp8, resolve_dtype, resolve_max_batch_tokens
from inference.heads import reads_first, sequence_logits
from inference.loading import check_vocabulary, load_module
from inference.packing import Packing, resolve_packed
from inference.sequences import Sequences
from inference.tasks.base import Outputs, Task
from inference.tokenization import load_tokenizer
from inference.trimmed import can_trim, restore, trim

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# What other kernels may change, as the norm of the difference over the norm: the rounding of two ways to add up. What a
# model changes by itself may be more (BERT-base with random weights in bfloat16: 0.042 between a micro-batch and its
# sequences one by one), then twice that; but never what sequences that see one another change in a tiny model.
_TOLERANCES = {"float32": 1e-4, "float16": 5e-3, "bfloat16": 4e-2}
_TOO_MUCH = 0.1

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
        self._module = load_module(checkpoint, task, _DTYPES[self.dtype]).to(self.device)
        check_vocabulary(checkpoint, self.tokenizer, self._module)
        pad_token_id = self._module.config.pad_token_id
        # The mask hides padding from attention, so where a checkpoint names no padding id any valid one will do.
        self._pad_token_id = 0 if pad_token_id is None else int(pad_token_id)
        self.is_trimmed = False
        is_foreign = checkpoint.trusts_code and bool(checkpoint.code)  # nobody knows what it does with its layers
        self.is_fused = config.fused and not is_foreign and self._fuse(checkpoint, is_fp8=config.fp8)
        self._attend = fused.attend if self.is_fused and self.device == "cpu" else None
        self.is_packed = resolve_packed(config.packed, checkpoint.model_type, self.device, self.dtype)
        if self.is_packed:
            budget = resolve_max_batch_tokens(config.max_batch_tokens, self.device, checkpoint.hidden_size)
            self._pack = Packing(checkpoint, self._pad_token_id, budget if self.device == "cuda" else None)
            self.is_packed = self._packs_rightly(checkpoint)
        # Now: a difference of one bit may round to another fp8 value, which would blur what packing is compared by.
        self.fp8_error = self._use_fp8(checkpoint) if config.fp8 else None
        if config.trimmed is not False and task.reads_first and not is_foreign and self.dtype != "float32":
            self.is_trimmed = self._trim(checkpoint, _FP8_TOLERANCE if config.fp8 else _TOLERANCES[self.dtype])

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
            is_trimmed=self.is_trimmed,
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
            is_trimmed=self.is_trimmed,
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

    def _fuse(self, checkpoint: Checkpoint, *, is_fp8: bool) -> bool:
        """Put faster kernels in place where there are some; on a GPU they stay if they are seen to say the same."""
        if self.dtype == "float32" or (self.device == "cpu" and is_fp8):
            return False
        if self.device == "cpu":
            is_possible = self.dtype == "bfloat16" and fused.is_available()
            if is_possible:
                fused.fuse(self._module)
            return is_possible
        if self._module.config.is_encoder_decoder:  # T5's norms are others
            return False
        sequences, order = self._tried_sequences(checkpoint)
        with torch.inference_mode():
            batch = self._padded(sequences, order)
            expected = self._probe(batch)
            allowed = self._allowed(expected, self._alone(sequences, order))
            fused_gpu.fuse(self._module, with_gelu=not is_fp8)
            try:
                error = _difference(self._probe(batch), expected)
            except fused_gpu.failures() as failure:
                reason = f"do not run ({type(failure).__name__}: {failure})"
            else:
                if error <= allowed:
                    return True
                reason = f"differ by {error:.1e}"
        self._module = load_module(checkpoint, self._task, _DTYPES[self.dtype]).to(self.device)
        logger.warning("model.fused: with this checkpoint, faster kernels %s; torch's own are used", reason)
        return False

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
                self._module.set_attn_implementation(usual)
                alone = self._alone(sequences, order)  # eight forwards more, so only in doubt
                if error <= self._allowed(expected, alone):
                    self._module.set_attn_implementation(PACKED)
                    return True
                reason = f"differ by {error:.1e}"
        self._module.set_attn_implementation(usual)
        logger.warning("model.packed: with this checkpoint, sequences without padding %s; they are padded", reason)
        return False

    def _trim(self, checkpoint: Checkpoint, tolerance: float) -> bool:
        """Try the last layer for first tokens alone, and leave it as it was where answers are others."""
        is_head = self._task.auto_class == "AutoModelForSequenceClassification"
        if not can_trim(self._module) or (is_head and not reads_first(self._module)):
            return False
        sequences, order = self._tried_sequences(checkpoint)
        form = self._packed if self.is_packed else self._padded
        with torch.inference_mode():
            expected = self._answers(form(sequences, order))
            try:
                trim(self._module)
                error = _difference(self._answers(replace(form(sequences, order), is_trimmed=True)), expected)
                reason = f"differs by {error:.1e}"
            except (AttributeError, TypeError, ValueError, RuntimeError) as failure:
                error, reason = float("nan"), f"does not run ({type(failure).__name__}: {failure})"
            restore(self._module)
            if not error <= tolerance:  # in doubt
                alone = [self._answers(form(sequences, one)) for one in np.split(order, len(order))]
                tolerance = self._allowed(expected, alone)
            if error <= tolerance:
                trim(self._module)
                return True
        logger.warning(
            "model.trimmed: with this checkpoint, the last layer of first tokens %s; all are computed", reason
        )
        return False

    def _answers(self, batch: Batch) -> list[torch.Tensor]:
        return [value.float() for value in self._task.forward(batch).values.values()]

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

    def _allowed(self, together: list[torch.Tensor], alone: list[list[torch.Tensor]]) -> float:
        """By how much kernels may differ: the precision's tolerance, or what the model differs by from itself."""
        noise = _difference([torch.cat(values) for values in zip(*alone, strict=True)], together)
        return min(max(_TOLERANCES[self.dtype], 2 * noise), _TOO_MUCH)

    def _alone(self, sequences: Sequences, order: NDArray[np.int64]) -> list[list[torch.Tensor]]:
        return [self._probe(self._padded(sequences, one)) for one in np.split(order, len(order))]

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
