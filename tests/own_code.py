"""A checkpoint with a configuration and a model of its own, in two files beside the weights."""

import json
import shutil
from pathlib import Path

CONFIGURATION = """from transformers import BertConfig

class OwnConfig(BertConfig):
    model_type = "own"
"""

MODELING = """from transformers import BertForSequenceClassification

from .configuration_own import OwnConfig

class OwnForSequenceClassification(BertForSequenceClassification):
    config_class = OwnConfig

    def forward(self, **inputs):
        output = super().forward(**inputs)
        output.logits = -output.logits
        return output
"""
"""A BERT that says the opposite."""


def with_code(bert: Path, folder: Path, *, repository: str = "") -> Path:
    """Copy a BERT classifier into `folder` as one whose code is its own."""
    shutil.copytree(bert, folder)
    config = json.loads((folder / "config.json").read_text()) | {
        "model_type": "own",
        "architectures": ["OwnForSequenceClassification"],
        "auto_map": {
            "AutoConfig": f"{repository}configuration_own.OwnConfig",
            "AutoModelForSequenceClassification": f"{repository}modeling_own.OwnForSequenceClassification",
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "configuration_own.py").write_text(CONFIGURATION)
    (folder / "modeling_own.py").write_text(MODELING)
    return folder
