"""A checkpoint as its files describe it: labels, problem type, length limit, identity. No torch, no weights loaded.

In: a `ModelConfig`. Out: a `Checkpoint` on the local disk, a hub id resolved to one commit.
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from inference.config import ModelConfig
from inference.errors import ConfigError, ModelError
from inference.remote_code import References, check_code, find_code, guarded

_FILES = ("*.json", "*.safetensors", "*.model", "*.txt")

_VOCABULARIES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "spm.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)

# Families that number positions from pad_token_id + 1, so that max_position_embeddings is 2 more than the real limit
# (RoBERTa's 514 allow 512 tokens; the 513th raises an index error in the embedding).
OFFSET_POSITIONS = {
    "camembert",
    "data2vec-text",
    "esm",
    "ibert",
    "lilt",
    "longformer",
    "luke",
    "markuplm",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
}

# Families with relative positions: the length is limited by memory, not by an embedding table.
_RELATIVE_POSITIONS = {"deberta", "deberta-v2", "mt5", "t5", "umt5"}
# Those that have such a table beside them, unless config.json says that they do not (published DeBERTas do).
_PERHAPS_ABSOLUTE = {"deberta", "deberta-v2"}

# transformers writes int(1e30) for "no limit known" (tokenization_utils_base.py, VERY_LARGE_INTEGER).
_NO_LIMIT = 10**6

# What a model with relative positions gets when nobody says: the length T5 and DeBERTa were trained with.
_DEFAULT_RELATIVE_LENGTH = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What the job needs to know of a checkpoint before a weight is read."""

    path: Path
    """The local folder."""
    revision: str | None
    """The hub commit; None for a local folder, whose identity is `weights_digest`."""
    model_type: str
    architectures: tuple[str, ...]
    labels: tuple[str, ...]
    """`id2label` in the order of the logits."""
    problem_type: str | None
    max_length: int
    """Tokens of the longest sequence that will be fed, special tokens included."""
    hidden_size: int | None = None
    """Values of a token's vector; None where config.json does not say."""
    num_layers: int | None = None
    """Blocks of the encoder; None where config.json does not say."""
    code: References = field(default_factory=dict)
    """Classes of its own."""
    trusts_code: bool = False
    """Whether they may run."""


def open_checkpoint(model: ModelConfig) -> Checkpoint:
    """Find the checkpoint on disk (downloading a hub id once per node) and read its description.

    Raises:
        ModelError: it is not there, not readable, or not in safetensors format.
        ConfigError: `model.max_length` is more than it allows.
    """
    path, revision = _locate(model)
    config, tokenizer_config = _read_json(path / "config.json"), _tokenizer_config(path)
    if not any(path.glob("*.safetensors")):
        msg = f"model.name: {model.name} has no *.safetensors file; only that format is loaded, so convert the weights"
        raise ModelError(msg)
    if not any((path / name).exists() for name in _VOCABULARIES):
        # transformers 5 would make a tokenizer of special tokens alone, to which every word is unknown.
        msg = f"model.name: {model.name} has no vocabulary (tokenizer.json); save its tokenizer beside the weights"
        raise ModelError(msg)
    code = find_code(config, tokenizer_config)
    if model.trust_remote_code:
        check_code(model.name, code)
    with guarded(f"model.name: {path / 'config.json'} has a value that it cannot have"):
        return Checkpoint(
            path=path,
            revision=revision,
            model_type=config.get("model_type", ""),
            architectures=tuple(config.get("architectures") or ()),
            labels=_labels(config, model.name),
            problem_type=config.get("problem_type"),
            max_length=_max_length(model, config, path),
            code=code,
            trusts_code=model.trust_remote_code,
            hidden_size=_first_of(config, "hidden_size", "d_model", "dim", "emb_dim"),
            num_layers=_first_of(config, "encoder_layers", "num_hidden_layers", "n_layers", "num_layers"),
        )


def weights_digest(checkpoint: Checkpoint) -> str:
    """SHA-256 over the names and bytes of the files that determine the output; a hub commit stands for itself."""
    if checkpoint.revision is not None:
        return checkpoint.revision
    digest = hashlib.sha256()
    for path in sorted({path for pattern in _FILES for path in checkpoint.path.glob(pattern)}):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def read_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """The whole of its config.json."""
    return _read_json(checkpoint.path / "config.json")


def length_limits(checkpoint: Checkpoint) -> tuple[int | None, int | None]:
    """Tokens of a sequence that its tokenizer allows, and that it has positions for; None is no limit."""
    return _tokenizer_limit(checkpoint.path), _position_limit(read_config(checkpoint), checkpoint.path)


def mask_token(checkpoint: Checkpoint) -> str | None:
    """The token that stands for a missing one, as the tokenizer's files name it; None where they do not."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        file = checkpoint.path / name
        token = _read_json(file).get("mask_token") if file.exists() else None
        if token:
            return str(token["content"] if isinstance(token, dict) else token)
    # Older checkpoints (bert-base-uncased, roberta-base) leave it to the tokenizer's class, which has one of these two.
    file = checkpoint.path / "tokenizer.json"
    added = _read_json(file).get("added_tokens") or [] if file.exists() else []
    return next((token["content"] for token in added if token["content"] in {"[MASK]", "<mask>"}), None)


def _locate(model: ModelConfig) -> tuple[Path, str | None]:
    if Path(model.name).is_dir():
        if model.revision is not None:
            msg = f"model.revision: {model.name} is a local folder, and only hub ids have revisions; remove it"
            raise ConfigError(msg)
        return Path(model.name).resolve(), None
    if model.name.startswith((".", "/", "~")) or model.name.count("/") > 1:
        msg = f"model.name: there is no folder {model.name}; give a checkpoint's folder or a hub id such as owner/model"
        raise ModelError(msg)
    try:
        patterns = [*_FILES, *(["*.py"] if model.trust_remote_code else [])]
        path = snapshot_download(model.name, revision=model.revision, allow_patterns=patterns)
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError, OSError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        msg = (
            f"model.name: {model.name} is neither a local folder nor a checkpoint that the hub or its local cache "
            f"has at revision {model.revision or 'main'} ({reason})"
        )
        raise ModelError(msg) from error
    return Path(path), Path(path).name


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError as error:
        msg = f"model.name: {path.parent} has no {path.name}, so it is not a checkpoint"
        raise ModelError(msg) from error
    except ValueError as error:
        msg = f"model.name: {path} is not JSON ({error})"
        raise ModelError(msg) from error
    if not isinstance(content, dict):
        msg = f"model.name: {path} holds a {type(content).__name__}, expected a JSON object"
        raise ModelError(msg)
    return content


def _tokenizer_config(path: Path) -> dict[str, Any]:
    file = path / "tokenizer_config.json"
    return _read_json(file) if file.exists() else {}


def _first_of(config: dict[str, Any], *keys: str) -> int | None:
    """What the families call by different names."""
    return next((int(config[key]) for key in keys if config.get(key) is not None), None)


def _labels(config: dict[str, Any], name: str) -> tuple[str, ...]:
    # transformers writes neither id2label nor num_labels for its default of two generic labels.
    id2label = config.get("id2label") or {i: f"LABEL_{i}" for i in range(config.get("num_labels") or 2)}
    try:
        by_id = {int(key): str(label) for key, label in id2label.items()}
    except (ValueError, AttributeError) as error:
        msg = (
            f"model.name: id2label of {name} is {id2label!r}, expected an object that maps each label's id to its name"
        )
        raise ModelError(msg) from error
    if sorted(by_id) != list(range(len(by_id))):
        msg = f"model.name: id2label of {name} has the ids {sorted(by_id)}, expected 0 to {len(by_id) - 1}"
        raise ModelError(msg)
    return tuple(by_id[i] for i in range(len(by_id)))


def _max_length(model: ModelConfig, config: dict[str, Any], path: Path) -> int:
    tokenizer_limit = _tokenizer_limit(path)
    position_limit = _position_limit(config, path)
    limits = [limit for limit in (tokenizer_limit, position_limit) if limit is not None]
    relative = config.get("model_type") in _RELATIVE_POSITIONS
    if model.max_length is None:
        if limits or relative:
            return min(limits, default=_DEFAULT_RELATIVE_LENGTH)
        msg = f"model.max_length: {model.name} does not say how long a sequence may be; set it"
        raise ConfigError(msg)
    if position_limit is not None and model.max_length > position_limit:
        msg = (
            f"model.max_length: {model.max_length} exceeds the checkpoint's limit of {position_limit} tokens; lower it"
        )
        raise ConfigError(msg)
    return model.max_length


def _tokenizer_limit(path: Path) -> int | None:
    limit = _tokenizer_config(path).get("model_max_length")
    number = _number(limit, "model_max_length", path / "tokenizer_config.json")
    return int(number) if number is not None and number < _NO_LIMIT else None


def _position_limit(config: dict[str, Any], path: Path) -> int | None:
    family = config.get("model_type")
    positions = config.get("max_position_embeddings")
    is_absolute = family in _PERHAPS_ABSOLUTE and config.get("position_biased_input", True)
    if positions is None or (family in _RELATIVE_POSITIONS and not is_absolute):
        return None
    pad_token_id = config.get("pad_token_id")
    pad_token_id = 1 if pad_token_id is None else pad_token_id
    limit = _number(positions, "max_position_embeddings", path / "config.json") or 0
    return int(limit) - (pad_token_id + 1 if family in OFFSET_POSITIONS else 0)


def _number(value: Any, key: str, file: Path) -> float | None:
    if value is None or isinstance(value, int | float):
        return value
    msg = f"model.name: {key} in {file} is {value!r}, expected a number"
    raise ModelError(msg)
