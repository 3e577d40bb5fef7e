"""Long texts, cut by characters before they are tokenized, where that provably changes no token that is kept.

In: what a tokenizer consists of, and a text. Out: a beginning of the text, and how far its tokens are beyond doubt.

A text is cut before a single space between a letter or digit on either side. There, in the tokenizers that `is_local`
lets through, the normalizer changes nothing across, the pre-tokenizer splits, and the model looks at one piece at a
time. So what comes after the space can change the word before it at most, and the guard lies at least one word further
left. Tokens that end before the guard are those of the whole text.
"""

import json
import re
from typing import Any

# Not the Hangul fillers: they count as letters, and NFKC makes them disappear.
_LETTER = r"[^\W_\u115f\u1160\u3164\uffa0]"
_SEAM = re.compile(f"(?<={_LETTER}) (?={_LETTER})")

# English has four to five characters a token, so that few texts must be done again.
CHARACTERS_PER_TOKEN = 6
_WINDOW = 256  # characters before the limit in which both places are looked for, or a quarter where that is less

# A space is a boundary of normalization (UAX 15), and none of these takes away letters or looks further than one word.
_NORMALIZERS = {"BertNormalizer", "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Strip", "Precompiled"}
_PATTERNS = ("``", "''", " {2,}", r"\s{2,}|[\n\r\t]")
_SPLITTERS = {"BertPreTokenizer", "Whitespace", "WhitespaceSplit", "ByteLevel", "Metaspace"}
_MODELS = {"WordPiece", "WordLevel", "BPE", "Unigram"}


def is_local(tokenizer: str) -> bool:
    """Whether a tokenizer, given as JSON, is made of parts that the argument above holds for.

    It does not hold where a model sees the whole text as one piece (a Metaspace without `split`, or no pre-tokenizer
    as in Gemma), for patterns that are not listed here, for added tokens with a space inside, and for dropout.
    """
    parts = json.loads(tokenizer)
    normalizers = _flat(parts["normalizer"], "normalizers")
    splitters = _flat(parts["pre_tokenizer"], "pretokenizers")
    model = parts["model"]
    return (
        all(_is_local_normalizer(part) for part in normalizers)
        and all(part["type"] in _SPLITTERS | {"Punctuation", "Digits"} for part in splitters)
        and any(_splits_at_spaces(part) for part in splitters)
        and model["type"] in _MODELS
        and not any(model.get(key) for key in ("dropout", "alpha", "nbest_size"))
        and not any(re.search(r"\S\s", token["content"]) for token in parts["added_tokens"])
    )


def cut(text: str, limit: int) -> tuple[str, int] | None:
    """A beginning of at most `limit` characters, and its guard; None where there is no good place for either."""
    seams = [match.start() for match in _SEAM.finditer(text, limit - min(_WINDOW, limit // 4), limit)]
    return (text[: seams[-1]], seams[0]) if len(seams) > 1 else None


def _flat(part: Any, key: str) -> list[Any]:
    """A part, or those of a Sequence, or none."""
    if part is None:
        return []
    return [one for inner in part[key] for one in _flat(inner, key)] if part["type"] == "Sequence" else [part]


def _is_local_normalizer(part: Any) -> bool:
    if part["type"] == "Replace":
        return next(iter(part["pattern"].values())) in _PATTERNS
    return part["type"] in _NORMALIZERS


def _splits_at_spaces(part: Any) -> bool:
    return part["type"] in _SPLITTERS and part.get("split", True) and part.get("use_regex", True)
