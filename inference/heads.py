"""A base model's hidden states -> its head's answer, and one vector per sequence of joined sequences.

No torch at module level: the tasks import this, and the driver imports the tasks.
"""

from copy import copy
from typing import Any

from inference.batch import Batch


def answering(module: Any, answer: Any) -> Any:
    """The model whose base model answers at once with `answer`, whatever it is asked.

    A copy without its weights: a hook on the base model would be seen by other threads.
    """
    base, head = copy(module.base_model), copy(module)
    base.forward = lambda *_, **__: answer
    vars(head)["_modules"] = {**module._modules, module.base_model_prefix: base}  # noqa: SLF001 - a copy shares it
    return head


def sequence_logits(batch: Batch) -> Any:
    """The logits of a head that makes one vector of a sequence: shape (sequences, labels)."""
    module = batch.module
    if batch.bounds is None:
        return module(**batch.inputs).logits
    answer = module.base_model(**batch.inputs)
    # ModernBERT's head may take the mean, all others take the first token; of a sequence of one token both are it.
    how = getattr(module.config, "classifier_pooling", "cls")
    hidden = pool_packed(answer.last_hidden_state, batch, how).to(answer.last_hidden_state.dtype)[:, None]
    answer.last_hidden_state = hidden
    if getattr(module.base_model, "pooler", None) is not None:
        answer.pooler_output = _pooled(module.base_model, hidden)
    ids = batch.inputs["input_ids"][0, : len(hidden), None]
    return answering(module, answer)(input_ids=ids, attention_mask=ids.new_ones(ids.shape)).logits


def reads_first(module: Any) -> bool:
    """Whether a head over sequences reads nothing but the state of their first token."""
    return getattr(module.config, "classifier_pooling", "cls") == "cls"


def _pooled(base: Any, hidden: Any) -> Any:
    if hasattr(base, "pooler_activation"):  # ALBERT
        return base.pooler_activation(base.pooler(hidden[:, 0]))
    return base.pooler(hidden)


def pool_packed(hidden: Any, batch: Batch, how: str) -> Any:
    """One vector per sequence of joined sequences.

    Args:
        hidden: floating-point tensor of shape (1, tokens, width), or of first tokens where the batch says so.
        batch: whose sequences they are.
        how: cls or last, the vector of that token, or mean or max.

    Returns:
        float32 tensor of shape (sequences, width).
    """
    import torch

    if batch.is_trimmed:
        return hidden[0, : len(batch.lengths)].float()
    bounds = batch.bounds[: len(batch.lengths) + 1]
    if how == "cls":
        return hidden[0].index_select(0, bounds[:-1]).float()
    if how == "last":
        return hidden[0].index_select(0, bounds[1:] - 1).float()
    # `unsafe` leaves out checks of the lengths, for which the device would be waited for.
    real = hidden[0, : len(batch.ids)].float()
    return torch.segment_reduce(real, how, lengths=bounds.diff().long(), axis=0, unsafe=True)
