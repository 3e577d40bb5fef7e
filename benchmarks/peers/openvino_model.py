"""OpenVINO, fed with our own sorted token-budget batches; best of two layouts and four budgets."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import torch
from batches import Classifier, Exported, Inputs, example
from numpy.typing import NDArray
from worker import serve


class OpenVino:
    """The compiled model, once as one stream with all threads and once as a stream per thread."""

    candidates = [
        {"streams": streams, "max_batch_tokens": budget} for streams in (1, 2) for budget in (512, 1024, 2048, 4096)
    ]

    def __init__(self, setting: dict[str, Any]) -> None:
        """Convert the checkpoint, unless that was done before."""
        self.classifier = Classifier(setting["model"])
        file = Path(setting["exports"]) / "openvino.xml"
        if not file.exists():
            _, values = example(self.classifier)
            with torch.no_grad():
                converted = openvino.convert_model(Exported(setting["model"]), example_input=values)
            openvino.save_model(converted, file, compress_to_fp16=False)
        self.core, self.model = openvino.Core(), openvino.Core().read_model(file)
        self.precision = {"bfloat16": "bf16", "float32": "f32"}[setting["dtype"]]
        self.threads = setting["threads"]
        self.compiled: dict[int, Any] = {}

    def run(  # noqa: PLR0913 - a request, taken apart
        self,
        inputs: list[Path],
        output: Path,
        max_length: int,
        *,
        logits: bool,
        streams: int = 1,
        max_batch_tokens: int = 2048,
    ) -> dict[str, Any]:
        """Label the shards."""
        if streams not in self.compiled:
            self.compiled = {streams: self._compile(streams)}  # one at a time: each holds the weights

        def forward(batches: Iterator[Inputs]) -> Iterator[NDArray[np.float32]]:
            return self._forward(self.compiled[streams], list(batches), streams)

        return self.classifier.run(forward, inputs, output, max_length, max_batch_tokens, logits=logits)

    def _compile(self, streams: int) -> Any:
        hint = "LATENCY" if streams == 1 else "THROUGHPUT"
        settings = {"INFERENCE_PRECISION_HINT": self.precision, "INFERENCE_NUM_THREADS": self.threads}
        return self.core.compile_model(
            self.model, "CPU", {**settings, "PERFORMANCE_HINT": hint, "NUM_STREAMS": streams}
        )

    @staticmethod
    def _forward(compiled: Any, batches: list[Inputs], streams: int) -> Iterator[NDArray[np.float32]]:
        if streams == 1:
            request = compiled.create_infer_request()
            for batch in batches:
                yield request.infer(list(batch.values()))[0].copy()
            return
        found: list[Any] = [None] * len(batches)
        queue = openvino.AsyncInferQueue(compiled, streams)
        queue.set_callback(lambda request, index: found.__setitem__(index, request.get_output_tensor(0).data.copy()))
        for index, batch in enumerate(batches):
            queue.start_async(list(batch.values()), index)
        queue.wait_all()
        yield from found


if __name__ == "__main__":
    serve(OpenVino)
