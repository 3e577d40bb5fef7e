"""What may be wrong with a checkpoint though it opens: its code, labels, problem type, head and tokenizer.

In: a `Checkpoint` and a task. Out: findings. No weights are loaded but those of the head; without torch and
transformers the head and the tokenizer are left out.
"""

import re
from importlib.util import find_spec
from typing import Any

import numpy as np

from inference.checkpoint import Checkpoint, length_limits, read_config
from inference.findings import Notes
from inference.tasks import are_generic
from inference.tasks.base import Task
from inference.weights import Needed, Weights, needed_parameters, read_values

# Words that make another, exclusive label of a label: "very positive" is no "positive", "not spam" no "spam".
_EXCLUDING = {"no", "non", "not", "un", "very", "extremely", "highly", "somewhat", "slightly", "mildly", "less", "more"}

_NUM_NAMES = 5


def check_code(checkpoint: Checkpoint, notes: Notes) -> None:
    """Whether code comes with it, and whether it would run."""
    if not checkpoint.code:
        notes.ok("remote code", "none comes with the checkpoint")
    elif checkpoint.trusts_code:
        message = f"code of the checkpoint will run with all your rights ({', '.join(checkpoint.code)})"
        notes.warn("remote code", message, "read its *.py files before you run the job")
    else:
        message = f"the checkpoint brings code of its own ({', '.join(checkpoint.code)}), which does not run"
        advice = "if it does not load without, read its *.py files and set model.trust_remote_code: true"
        notes.warn("remote code", message, advice)


def check_labels(checkpoint: Checkpoint, notes: Notes) -> None:
    """Whether the names of the labels say which class a row is in."""
    labels, label2id = checkpoint.labels, read_config(checkpoint).get("label2id")
    expected = {label: str(i) for i, label in enumerate(labels)}
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        message = (
            f"id2label names {labels.count(twice[0])} classes {twice[0]!r}, and the output could not tell them apart"
        )
        notes.error("labels", message, "give every class in id2label of config.json a name of its own")
    elif are_generic(labels):
        message = f"they are called {labels[0]} to {labels[-1]}, as if nobody had named them"
        advice = "write their names into id2label of config.json before the first run: they are part of the output"
        notes.warn("labels", message, advice)
    elif label2id is not None and _as_text(label2id) != expected:
        said = _shortened(label2id) if isinstance(label2id, dict) else repr(label2id)
        message = f"label2id of config.json is {said}, which is not id2label the other way round"
        notes.warn("labels", message, "find out which of the two the model was trained with; id2label is used")
    else:
        notes.ok("labels", f"{len(labels)}: {_shortened(labels)}")


def check_problem_type(checkpoint: Checkpoint, notes: Notes) -> None:
    """What is assumed of a classifier that does not say how its logits are meant."""
    labels = checkpoint.labels
    if checkpoint.problem_type is not None:
        notes.ok("problem type", checkpoint.problem_type)
    elif len(labels) == 1:
        message = "config.json has no problem_type; with one label, the score is the sigmoid of its logit (0 to 1)"
        notes.warn("problem type", message, "if the score is the logit itself, set problem_type: regression there")
    elif pair := _refined(labels):
        message = (
            f"config.json has no problem_type, so each row gets one label (softmax), though {pair[0]!r} and "
            f"{pair[1]!r} look as if both could hold"
        )
        advice = "if a row can have several labels, set problem_type: multi_label_classification there"
        notes.warn("problem type", message, advice)
    else:
        notes.ok("problem type", f"not given: each row gets one of {len(labels)} labels (softmax)")


def _refined(labels: tuple[str, ...]) -> tuple[str, str] | None:
    """Two labels of which one has all words of the other and more, such as toxic and severe_toxic."""
    words = {label: set(re.findall(r"[a-z]+", label.lower())) for label in labels}
    for one, fewer in words.items():
        for other, more in words.items():
            if fewer and fewer < more and not (more - fewer) & _EXCLUDING:
                return one, other
    return None


def check_head(checkpoint: Checkpoint, task: Task | type[Task], weights: Weights, notes: Notes) -> None:
    """Whether the task's head is in the files, in the sizes that config.json says, and looks trained."""
    if not task.heads:
        notes.ok("head", f"{task.name} needs none")
        return
    if find_spec("torch") is None or find_spec("transformers") is None:
        notes.skip("head", "torch or transformers is not installed here, so nobody knows what the model's class needs")
        return
    if checkpoint.trusts_code and checkpoint.code:
        notes.skip("head", "what code of the checkpoint needs is not known without running it; --forward does")
        return
    needed = notes.attempt("head", lambda: needed_parameters(checkpoint, task.auto_class))
    if needed is None:
        return
    lacking = sorted(name for name in needed.head if not _is_there(name, weights))
    if lacking:
        message = f"the files lack {_shortened(lacking)}, which {task.auto_class} needs"
        notes.error("head", message, "choose a checkpoint that was trained for the task")
    elif other := [name for name, shape in needed.shapes.items() if weights.shapes.get(name, shape) != shape]:
        name = other[0]
        message = f"{name} has the shape {weights.shapes[name]} in the file, and {needed.shapes[name]} by config.json"
        notes.error("head", message, "use the config.json that was saved with the weights")
    else:
        _check_values(needed, weights, notes)


def _is_there(name: str, weights: Weights) -> bool:
    """As it is called, or as TensorFlow called it, which transformers renames."""
    old = name.removesuffix("weight") + "gamma" if name.endswith("weight") else name.removesuffix("bias") + "beta"
    return name in weights.shapes or old in weights.shapes


def _check_values(needed: Needed, weights: Weights, notes: Notes) -> None:
    head = {name: read_values(weights, name) for name in sorted(needed.head) if name in weights.shapes}
    broken = [name for name, values in head.items() if not np.isfinite(values).all()]
    constant = [name for name, values in head.items() if values.ndim > 1 and values.size > 1 and np.ptp(values) == 0]
    biases = [values for name, values in head.items() if name.endswith("bias")]
    if broken:
        message = f"{_shortened(broken)} has values that are not finite, so every row would fail"
        notes.error("head", message, "choose another checkpoint of the training run")
    elif constant:
        message = f"all values of {_shortened(constant)} are equal, so that it cannot tell rows apart"
        notes.warn("head", message, "see whether the head was trained and saved")
    elif biases and not any(values.any() for values in biases):
        message = f"every bias is 0, as before any training ({_shortened(sorted(head))})"
        notes.warn("head", message, "see whether the head was trained and saved; --forward shows what it says")
    else:
        notes.ok("head", f"in the files: {_shortened(sorted(head))}")


def check_tokenizer(checkpoint: Checkpoint, notes: Notes) -> None:
    """Whether the tokenizer loads, is a fast one, and fits the model."""
    _check_length(checkpoint, notes)
    if find_spec("transformers") is None:
        notes.skip("tokenizer", "transformers is not installed here, so it cannot be loaded")
        return
    from inference.tokenization import load_tokenizer  # noqa: PLC0415 - it imports transformers

    tokenizer = notes.attempt("tokenizer", lambda: load_tokenizer(checkpoint))
    if tokenizer is None:
        return
    config = read_config(checkpoint)
    num_ids = max(tokenizer.get_vocab().values(), default=-1) + 1  # ids may have gaps
    num_rows = int(config.get("vocab_size") or num_ids)
    if num_ids > num_rows:
        message = f"it has ids up to {num_ids - 1:,}, and the model has embeddings for {num_rows:,}"
        advice = "use the tokenizer that the model was trained with, or resize_token_embeddings before saving"
        notes.error("tokenizer", message, advice)
    else:
        notes.ok("tokenizer", f"{type(tokenizer).__name__}, {num_ids:,} tokens for {num_rows:,} embeddings")
    _check_padding(tokenizer.pad_token_id, config.get("pad_token_id"), notes)


def _check_padding(of_tokenizer: int | None, of_config: int | None, notes: Notes) -> None:
    if of_config is None and of_tokenizer is None:
        message = "neither the tokenizer nor config.json names a token for padding"
        notes.warn("padding", message, "set pad_token_id in config.json to the one that the model was trained with")
    elif of_config is not None and of_tokenizer is not None and of_config != of_tokenizer:
        message = (
            f"config.json pads with id {of_config}, the tokenizer with {of_tokenizer}; that of config.json is used"
        )
        notes.warn("padding", message, "make both what the model was trained with")
    else:
        notes.ok("padding", f"id {of_tokenizer if of_config is None else of_config}")


def _check_length(checkpoint: Checkpoint, notes: Notes) -> None:
    of_tokenizer, of_positions = length_limits(checkpoint)
    used = f"{checkpoint.max_length:,} tokens are used"
    if of_tokenizer is not None and of_positions is not None and of_tokenizer > of_positions:
        message = f"the tokenizer allows {of_tokenizer:,} tokens, the model has positions for {of_positions:,}; {used}"
        notes.warn("length", message, "set model_max_length in tokenizer_config.json to what the model can")
    elif of_tokenizer is None and of_positions is None:
        notes.ok("length", f"neither the tokenizer nor positions limit it; {used}")
    else:
        limits = [("tokenizer", of_tokenizer), ("positions", of_positions)]
        said = ", ".join(f"{name} {limit:,}" for name, limit in limits if limit is not None)
        notes.ok("length", f"{used} ({said})")


def _as_text(label2id: Any) -> Any:
    return {str(label): str(i) for label, i in label2id.items()} if isinstance(label2id, dict) else label2id


def _shortened(items: Any) -> str:
    """A few of them."""
    pairs = [f"{key}: {value}" for key, value in items.items()] if isinstance(items, dict) else list(map(str, items))
    return ", ".join([*pairs[:_NUM_NAMES], *(["…"] if len(pairs) > _NUM_NAMES else [])])
