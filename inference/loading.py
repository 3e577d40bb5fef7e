"""Weights from a checkpoint's files: a module of transformers that has all of them, and nothing that is not theirs.

Loading refuses what would give wrong numbers: weights missing from the file, labels that differ from the plan's.
"""

from typing import Any

import torch
import transformers

from inference.checkpoint import Checkpoint
from inference.errors import ModelError
from inference.remote_code import advice, guarded, import_code
from inference.tasks.base import Task


def load_module(checkpoint: Checkpoint, task: Task, dtype: torch.dtype) -> Any:
    """The task's model in this precision, on the CPU.

    Raises:
        ModelError: the weights do not load, some are missing, or the labels differ from what `config.json` says.
    """
    module, info = _from_pretrained(checkpoint, task.auto_class, dtype)
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
    _cast_strays(module, dtype)
    attend_fully(module)
    return module.eval()


def check_vocabulary(checkpoint: Checkpoint, tokenizer: Any, module: Any) -> None:
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


def attend_fully(module: Any) -> None:
    """Let every token of a BigBird see all others from the start, in long texts too.

    Its sparse attention becomes full with the first short micro-batch, for good and for all threads (transformers 5.23,
    modeling_big_bird.py:1591): what a long text gets would depend on whether a short one came before.
    """
    for part in list(module.modules()):  # BigBird-Pegasus has it in its encoder alone
        if hasattr(part, "set_attention_type"):
            part.set_attention_type("original_full")


def _from_pretrained(checkpoint: Checkpoint, auto_class: str, dtype: torch.dtype) -> tuple[Any, dict[str, Any]]:
    classes = ("AutoConfig", auto_class)
    own = import_code(checkpoint.path, checkpoint.code, classes) if checkpoint.trusts_code else {}
    hint = advice(checkpoint.code, classes, is_trusted=checkpoint.trusts_code)
    with guarded(f"model.name: {checkpoint.path} does not load as {auto_class}", hint):
        config = {"config": own["AutoConfig"].from_pretrained(checkpoint.path)} if "AutoConfig" in own else {}
        module, info = own.get(auto_class, getattr(transformers, auto_class)).from_pretrained(
            checkpoint.path,
            **config,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=checkpoint.trusts_code,
            output_loading_info=True,
        )
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
