"""Token ids in, predictions out: `predictor(tokenizer(table))` labels an Arrow table in this process.

model = ModelConfig(name="docs/demo/model")
task = TaskConfig(name="text-classification")
tokenizer, predictor = Tokenizer(model, task), Predictor(model, task)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from inference.config import ModelConfig, TaskConfig
from inference.errors import ShardlabelError

if TYPE_CHECKING:
    from inference.cascade import Cascade
    from inference.model import count_gpus
    from inference.predictor import Predictor
    from inference.tasks import available_tasks
    from inference.tokenization import Tokenizer

__all__ = [
    "Cascade",
    "ModelConfig",
    "Predictor",
    "ShardlabelError",
    "TaskConfig",
    "Tokenizer",
    "available_tasks",
    "count_gpus",
]

# Loaded on first use (PEP 562): torch and transformers take 2 to 4 s that a driver has no need of.
_LAZY = {
    "Cascade": "inference.cascade",
    "Predictor": "inference.predictor",
    "Tokenizer": "inference.tokenization",
    "count_gpus": "inference.model",
    "available_tasks": "inference.tasks",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        msg = f"module 'inference' has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(_LAZY[name]), name)
