"""Sequence-to-sequence models without labels: what the decoder says of a micro-batch that the encoder has read once.

In: a micro-batch. Out: the first step's best tokens, generated tokens with their log-probabilities, or likelihoods of
given texts. Logits are made for so many rows at a time that they stay below `_MAX_LOGITS` values; all are float32.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache, EncoderDecoderCache, GenerationConfig
from transformers.modeling_outputs import BaseModelOutput

from inference.batch import Batch
from inference.errors import ConfigError, ModelError
from inference.tasks.base import Outputs

# Rows x steps x vocabulary: 256 MiB of float32, 32 rows of 64 steps over T5's 32,128 tokens.
_MAX_LOGITS = 2**26
# Rows x beams x generated tokens whose keys and values are kept: 4.8 GB of a T5-base in bfloat16.
_MAX_CACHED_TOKENS = 2**17


@dataclass(frozen=True, slots=True)
class Encoded:
    """A micro-batch, or some rows of it, after the encoder."""

    module: Any
    states: torch.Tensor
    """(rows, tokens, width)."""
    mask: torch.Tensor
    """(rows, tokens): 1 on real tokens."""

    def parts(self, max_rows: int) -> Iterator["Encoded"]:
        """The rows in order, `max_rows` at a time and at least one."""
        size = max(max_rows, 1)
        for start in range(0, len(self.states), size):
            yield Encoded(self.module, self.states[start : start + size], self.mask[start : start + size])

    def logits(self, targets: torch.Tensor, cache: EncoderDecoderCache | None = None) -> torch.Tensor:
        """What the decoder expects at each step when it was fed all targets before that step.

        Args:
            targets: ids of shape (rows, steps).
            cache: an empty one; its cross-attention half may hold these rows' keys and values already, or will.

        Returns:
            float32 of shape (rows, steps, vocabulary).
        """
        start = torch.full_like(targets[:, :1], start_token(self.module))
        outputs = self.module(
            encoder_outputs=BaseModelOutput(last_hidden_state=self.states),
            attention_mask=self.mask,
            # Without ids for the decoder T5 raises, and BART silently takes the input's.
            decoder_input_ids=torch.cat([start, targets[:, :-1]], dim=1),
            past_key_values=cache,
            use_cache=cache is not None,
        )
        logits: torch.Tensor = outputs.logits.float()
        return logits


def encode(batch: Batch) -> Encoded:
    """Run the encoder, with the mask spelt out: a `<pad>` in a text is no padding."""
    mask = batch.mask.long()
    outputs = batch.module.get_encoder()(input_ids=batch.inputs["input_ids"], attention_mask=mask)
    return Encoded(batch.module, outputs.last_hidden_state, mask)


def start_token(module: Any) -> int:
    """The id that the decoder is fed first.

    Raises:
        ModelError: the checkpoint names none.
    """
    named = (module.generation_config.decoder_start_token_id, getattr(module.config, "decoder_start_token_id", None))
    found = next((value for value in named if value is not None), None)
    if found is None:
        msg = "model.name: config.json has no decoder_start_token_id, so the decoder has nothing to start from; add it"
        raise ModelError(msg)
    return int(found)


def first_step(batch: Batch, k: int) -> Outputs:
    """The `k` best first tokens, best first: `ids`, `logits` and `confidences` (softmax over the vocabulary)."""
    return Outputs(_join([_best(logits, k) for logits in _first_logits(batch)]))


def first_logits(batch: Batch, ids: list[int]) -> Outputs:
    """`logits` of some tokens at the first step, of shape (rows, ids)."""
    return Outputs(_join([{"logits": logits[:, ids]} for logits in _first_logits(batch)]))


def likelihoods(batch: Batch, candidates: list[list[int]], *, mean: bool) -> Outputs:
    """`logits`: log-likelihoods of each row's candidates, of shape (rows, candidates).

    Args:
        batch: the rows.
        candidates: token ids, with the end-of-sequence token where a candidate shall end there.
        mean: whether a candidate's log-probabilities are averaged over its tokens rather than summed.
    """
    longest = max(map(len, candidates))
    parts = encode(batch).parts(_MAX_LOGITS // (_vocabulary(batch.module) * longest))
    return Outputs(_join([{"logits": _likelihoods(part, candidates, mean=mean)} for part in parts]))


def generate(
    batch: Batch, *, max_new_tokens: int, num_beams: int, length_penalty: float, k: int | None = None
) -> Outputs:
    """Each row's best continuation by greedy or beam search, token by token, the end-of-sequence token included.

    Values per token: `ids`; `log_probabilities`, the model's own, whatever the search or a forced token made of them;
    `is_end`; with `k` also `top_ids` and `top_logits`, the best tokens of the step, of shape (tokens, k).

    Raises:
        ConfigError: the decoder has no positions for so many tokens.
    """
    module, vocabulary = batch.module, _vocabulary(batch.module)
    positions = getattr(module.config, "max_position_embeddings", None)
    if positions is not None and max_new_tokens > positions:  # on a GPU the embedding's index error ends the process
        msg = f"task.options.max_new_tokens: {max_new_tokens} exceeds the decoder's {positions} positions; lower it"
        raise ConfigError(msg)
    config = _generation_config(module, max_new_tokens, num_beams, length_penalty)
    ends = torch.tensor(_as_list(config.eos_token_id), dtype=torch.long, device=batch.mask.device)
    # Beams multiply the keys and values of a row, so that many fewer rows go at a time.
    max_rows = min(_MAX_LOGITS // vocabulary, _MAX_CACHED_TOKENS // max_new_tokens, len(batch.mask)) // num_beams
    found, counts = list[dict[str, torch.Tensor]](), list[torch.Tensor]()
    for part in encode(batch).parts(max_rows):
        states = BaseModelOutput(last_hidden_state=part.states)
        tokens = module.generate(encoder_outputs=states, attention_mask=part.mask, generation_config=config)[:, 1:]
        size = max(_MAX_LOGITS // (vocabulary * tokens.shape[1]), 1)
        for start, rows in zip(range(0, len(tokens), size), part.parts(size), strict=True):
            targets = tokens[start : start + size]
            is_end = torch.isin(targets, ends)
            # What follows the first end is filling, and not always the padding token.
            is_generated = is_end.cumsum(1) - is_end.long() == 0
            counts.append(is_generated.sum(1))
            found.append(_scored(rows, targets, is_generated, k) | {"is_end": is_end[is_generated]})
    return Outputs(_join(found), torch.cat(counts).cpu().numpy())


def _scored(part: Encoded, tokens: torch.Tensor, is_generated: torch.Tensor, k: int | None) -> dict[str, torch.Tensor]:
    """Generated tokens of some rows, flat, with what one pass over all their steps says of them."""
    logits = part.logits(tokens)
    values = {"ids": tokens[is_generated].int(), "log_probabilities": _log_probabilities(logits, tokens)[is_generated]}
    if k:
        top = logits.topk(min(k, logits.shape[-1]))
        values |= {"top_ids": top.indices[is_generated].int(), "top_logits": top.values[is_generated]}
    return values


def _likelihoods(part: Encoded, candidates: list[list[int]], *, mean: bool) -> torch.Tensor:
    # The first candidate fills it: the encoder's states become keys and values once, not once per candidate.
    cross_attention = DynamicCache()
    columns = []
    for ids in candidates:
        targets = torch.tensor(ids, device=part.states.device).expand(len(part.states), -1)
        logits = part.logits(targets, EncoderDecoderCache(DynamicCache(), cross_attention))
        log_probabilities = _log_probabilities(logits, targets)
        columns.append(log_probabilities.mean(1) if mean else log_probabilities.sum(1))
    return torch.stack(columns, dim=1)


def _first_logits(batch: Batch) -> Iterator[torch.Tensor]:
    """Logits of the first step, of shape (rows, vocabulary), some rows at a time."""
    for part in encode(batch).parts(_MAX_LOGITS // _vocabulary(batch.module)):
        yield part.logits(torch.zeros_like(part.mask[:, :1]))[:, 0]


def _log_probabilities(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Of the targets, (rows, steps), by softmax over the vocabulary."""
    return logits.gather(-1, targets[..., None])[..., 0] - logits.logsumexp(-1)


def _best(logits: torch.Tensor, k: int) -> dict[str, torch.Tensor]:
    """The `k` best of the last dimension, best first, and their softmax over all of it."""
    top = logits.topk(min(k, logits.shape[-1]))
    confidences = (top.values - logits.logsumexp(-1, keepdim=True)).exp()
    return {"ids": top.indices.int(), "logits": top.values, "confidences": confidences}


def _generation_config(module: Any, max_new_tokens: int, num_beams: int, length_penalty: float) -> GenerationConfig:
    """The search that was asked for; of the checkpoint's own settings only its special tokens."""
    published = module.generation_config
    special = {name: getattr(published, name) for name in ("forced_bos_token_id", "forced_eos_token_id")}
    for name in ("eos_token_id", "pad_token_id"):
        value = getattr(published, name)
        special[name] = getattr(module.config, name, None) if value is None else value
    config = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False,
        max_new_tokens=max_new_tokens,
        num_beams=num_beams,
        length_penalty=length_penalty,
        decoder_start_token_id=start_token(module),
        **special,
    )
    # generate() takes from here whatever the config it is given leaves open (5.23, `_prepare_generation_config`), such
    # as the no_repeat_ngram_size and min_length of a summariser's generation_config.json.
    module.generation_config = config
    return config


def _as_list(token_ids: int | list[int] | None) -> list[int]:
    if token_ids is None:
        return []
    return token_ids if isinstance(token_ids, list) else [token_ids]


def _vocabulary(module: Any) -> int:
    return int(module.config.vocab_size)


def _join(parts: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
