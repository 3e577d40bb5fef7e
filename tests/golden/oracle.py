"""What the scripts of this folder share: checkpoints of transformers 5 opened by 4.57.6, and JSON out.

Nothing here or in the scripts may import the project: they run where only torch and transformers 4.57.6 are installed.
"""

import argparse
import hashlib
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers

Built = dict[str, dict[str, Any]]
"""Name of a checkpoint -> how it was built, as `build_checkpoints` wrote it."""


def arguments(description: str | None) -> argparse.Namespace:
    """The command line: `folder` of checkpoints and `output`, the JSON to write."""
    parser = argparse.ArgumentParser(description=(description or "").split("\n", maxsplit=1)[0])
    parser.add_argument("folder", type=Path, help="from tests.golden.build_checkpoints")
    parser.add_argument("output", type=Path, help="the JSON to write")
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call] # of the project's transformers
    torch.set_num_threads(1)
    return parser.parse_args()


def checkpoints(folder: Path, head: str) -> Built:
    """Those of a folder that have the head."""
    built: Built = json.loads((folder / "checkpoints.json").read_text(encoding="utf-8"))
    return {name: how for name, how in built.items() if how["build"]["head"] == head}


def versions() -> dict[str, str]:
    """What computed the numbers."""
    names = ["torch", "transformers", "tokenizers", "numpy"]
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def open_pipeline(task: str, path: Path, how: dict[str, Any]) -> Any:
    """A pipeline in float32; the tokenizer by its file, because 4.57 knows other classes than wrote it."""
    config = json.loads((path / "tokenizer_config.json").read_text(encoding="utf-8"))
    open_file: Any = transformers.PreTrainedTokenizerFast
    tokenizer = open_file(
        tokenizer_file=str(path / "tokenizer.json"),
        model_max_length=config["model_max_length"],
        model_input_names=how["model_input_names"],
        **{key: value for key, value in config.items() if key.endswith("_token")},
    )
    make_pipeline: Any = transformers.pipeline
    return make_pipeline(task, model=str(path), tokenizer=tokenizer, device="cpu", dtype=torch.float32)


def digest(encodings: list[Any]) -> str:
    """SHA-256 of [token ids, offsets] of every encoding, as JSON without spaces."""
    pairs = [[encoding["input_ids"], encoding["offset_mapping"]] for encoding in encodings]
    return hashlib.sha256(json.dumps(pairs, separators=(",", ":")).encode()).hexdigest()


def write(golden: dict[str, Any], path: Path) -> None:
    """Write JSON with one line for each row and each result: small, and readable in a diff."""
    path.write_text(_lines(golden, 3) + "\n", encoding="utf-8")


def _lines(value: Any, depth: int) -> str:
    if not depth or not value or not isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, dict):
        items = [f"{json.dumps(key)}: {_lines(item, depth - 1)}" for key, item in value.items()]
    else:
        items = [_lines(item, depth - 1) for item in value]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return opening + "\n" + ",\n".join(items) + "\n" + closing
