"""Ray Data's documented example (docs.ray.io, "Working with text"): a class with a pipeline under `map_batches`.

Every job loads the model anew, so the clock starts when the last actor has loaded it: what Ray then already did, in
reading ahead, counts in Ray's favour. Tuned: bfloat16, the best batch size, and each batch of Ray's, which is a shard,
sorted by length.
"""

import os
import time
from pathlib import Path
from typing import Any

import ray
from classify import classify, load_pipeline
from worker import serve

_PATIENCE = 60.0


class Classifier:
    """What the documentation calls `TextClassifier`, plus truncation, without which a long text raises."""

    def __init__(self, setting: dict[str, Any], loaded: str, call: dict[str, Any]) -> None:
        """Load the pipeline, and leave a file that says when it was loaded."""
        self.pipe = load_pipeline(setting["model"], None if setting["variant"] == "documented" else setting["dtype"])
        self.call = {name: value for name, value in call.items() if name != "actors"}
        Path(loaded, str(os.getpid())).write_text(str(time.time()))
        given_up = time.time() + _PATIENCE
        while len(list(Path(loaded).iterdir())) < call["actors"] and time.time() < given_up:
            time.sleep(0.01)  # or the first actor would work before the clock starts

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Add the columns."""
        texts = [text or "" for text in batch.pop("text")]
        pairs = batch.pop("text_pair", None)
        rows = texts if pairs is None else list(zip(texts, pairs, strict=True))
        return batch | classify(self.pipe, rows, **self.call)


class RayData:
    """A local Ray for the life of the process; two actors, as in the documentation."""

    def __init__(self, setting: dict[str, Any]) -> None:
        """Start Ray with room for the actors and for the tasks that read and write."""
        self.setting = setting
        is_tuned = setting["variant"] != "documented"
        self.candidates = [{"batch_size": size} for size in (1, 8, 32)] if is_tuned else []
        self.actors = min(2, setting["threads"])
        os.environ["OMP_NUM_THREADS"] = str(max(setting["threads"] // self.actors, 1))  # Ray's own choice is 1
        ray.init(num_cpus=2 * setting["threads"], include_dashboard=False, log_to_driver=False)
        ray.data.DataContext.get_current().enable_progress_bars = False

    def run(
        self, inputs: list[Path], output: Path, max_length: int, *, logits: bool, batch_size: int | None = None
    ) -> dict[str, Any]:
        """One job over the shards."""
        loaded = output / "loaded"
        loaded.mkdir(exist_ok=True)
        for file in loaded.iterdir():
            file.unlink()
        is_tuned = batch_size is not None
        call = {"max_length": max_length, "logits": logits, "batch_size": batch_size, "by_length": is_tuned}
        call["actors"] = self.actors
        (
            ray.data.read_parquet([str(file) for file in inputs])
            .map_batches(
                Classifier,
                fn_constructor_args=(self.setting, str(loaded), call),
                compute=ray.data.ActorPoolStrategy(size=self.actors),
            )
            .write_parquet(str(output / "parts"))
        )
        ended = time.time()
        return {"seconds": ended - max(float(file.read_text()) for file in loaded.iterdir())}


if __name__ == "__main__":
    serve(RayData)
