"""Build the checkpoints behind the golden values, in this project's environment.

    .venv/bin/python -m tests.golden.build_checkpoints FOLDER

Each goes into a folder of its own; `checkpoints.json` beside them says how each was built and what its tokenizer feeds.
"""

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from tests.families import build_checkpoint

CHECKPOINTS: dict[str, dict[str, Any]] = {
    "bert": {"family": "bert", "head": "question-answering"},
    "roberta": {"family": "roberta", "head": "question-answering"},
    "xlm-roberta": {"family": "xlm-roberta", "head": "question-answering"},
    "deberta-v2": {"family": "deberta-v2", "head": "question-answering"},
    "t5": {"family": "t5", "head": "seq2seq-lm"},
    "flan-t5": {
        "family": "t5",
        "head": "seq2seq-lm",
        "tie_word_embeddings": False,
        "feed_forward_proj": "gated-gelu",
    },
}
"""Name -> arguments of `build_checkpoint` after the folder."""


def main() -> None:
    """Build all of `CHECKPOINTS`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    built = {name: describe(folder / name, arguments) for name, arguments in CHECKPOINTS.items()}
    (folder / "checkpoints.json").write_text(json.dumps(built, indent=1), encoding="utf-8")


def describe(path: Path, arguments: dict[str, Any]) -> dict[str, Any]:
    """Build one checkpoint and say what an older transformers cannot read off its files."""
    build_checkpoint(path, **arguments)
    return {
        "build": arguments,
        "weights": hashlib.sha256((path / "model.safetensors").read_bytes()).hexdigest(),
        "model_input_names": AutoTokenizer.from_pretrained(path).model_input_names,
    }


if __name__ == "__main__":
    main()
