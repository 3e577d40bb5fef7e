"""Logits -> scores by the float32 formulas of transformers' pipelines (5.23, pipelines/text_classification.py)."""

import numpy as np
from numpy.typing import NDArray


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scores that sum to 1 along the last axis."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True), dtype=np.float32)


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """A score between 0 and 1 for each logit by itself."""
    with np.errstate(over="ignore"):  # exp(-x) is inf below -88, and 1 / inf is the 0 we want
        return np.asarray(1.0 / (1.0 + np.exp(-logits)), dtype=np.float32)
