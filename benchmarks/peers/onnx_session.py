"""ONNX Runtime in float32 (its CPU provider has no bfloat16 matrix product), fed with our own sorted batches."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from batches import Classifier, Exported, Inputs, example
from numpy.typing import NDArray
from worker import serve


class OnnxRuntime:
    """One session with all threads."""

    candidates = [{"max_batch_tokens": budget} for budget in (512, 1024, 2048)]

    def __init__(self, setting: dict[str, Any]) -> None:
        """Export the checkpoint, unless that was done before."""
        self.classifier = Classifier(setting["model"])
        file = Path(setting["exports"]) / "model.onnx"
        if not file.exists():
            names, values = example(self.classifier)
            axes = {name: {0: "rows", 1: "tokens"} for name in names}
            with torch.no_grad():
                torch.onnx.export(
                    Exported(setting["model"]),
                    values,
                    str(file),
                    input_names=names,
                    output_names=["logits"],
                    dynamic_axes={**axes, "logits": {0: "rows"}},
                    opset_version=17,
                    dynamo=False,
                )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = setting["threads"]
        self.session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self.names = {argument.name for argument in self.session.get_inputs()}

    def run(
        self, inputs: list[Path], output: Path, max_length: int, *, logits: bool, max_batch_tokens: int = 1024
    ) -> dict[str, Any]:
        """Label the shards."""

        def forward(batches: Iterator[Inputs]) -> Iterator[NDArray[np.float32]]:
            for batch in batches:
                given = {name: values for name, values in batch.items() if name in self.names}
                yield self.session.run(None, given)[0]

        return self.classifier.run(forward, inputs, output, max_length, max_batch_tokens, logits=logits)


if __name__ == "__main__":
    serve(OnnxRuntime)
