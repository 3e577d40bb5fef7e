"""Who is measured: one entry per row of the tables. A peer's file and environment, its precision and its settings."""

import os
from dataclasses import dataclass
from pathlib import Path

from benchmarks.workloads import ROOT, SHARDS, WORKLOADS

PEERS_FOLDER = ROOT / "benchmarks" / "peers"
ENVIRONMENTS = Path(os.environ.get("SHARDLABEL_PEERS", ROOT / "build" / "peers"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One way to label Parquet shards."""

    title: str
    script: str
    variant: str = ""
    environment: str | None = None
    """A file of `peers/requirements/`; None is this project's own environment."""
    is_float32: bool = False
    shards: int = SHARDS
    """Of eight; a slow peer takes fewer rows of the same distribution."""
    rival: str = "shardlabel"
    """Which of ours it is compared with."""
    logits_column: str = "logits"
    settle_seconds: float = 0.0
    """Its own processes need so long to end after a run; until then they would disturb the peak that is measured."""

    @property
    def python(self) -> Path | None:
        """Its interpreter; None for this process's own."""
        return None if self.environment is None else ENVIRONMENTS / self.environment / "bin" / "python"

    def why_not(self, workload: str) -> str | None:
        """Why it does not run here, if so."""
        if self.python is not None and not self.python.exists():
            return f"its environment is not installed (`make bench` installs {self.environment})"
        if self.variant == "pairs" and not WORKLOADS[workload].is_pair:
            return "takes pairs only"
        if self.script in {"daft_udf", "sentence"} and self.variant != "pairs" and WORKLOADS[workload].is_pair:
            return "takes single texts only"
        if self.variant == "embeddings" and WORKLOADS[workload].is_pair:
            return "takes single texts only"
        return None


PEERS = {
    "shardlabel": Peer(title="**shardlabel**, classification", script="shardlabel_local"),
    "pipeline": Peer(
        title="transformers.pipeline as documented (float32, batch size 1)",
        script="transformers_pipeline",
        variant="documented",
        is_float32=True,
        shards=1,
    ),
    "ray-data": Peer(
        title="Ray Data's example as documented (float32, batch size 1)",
        script="ray_data",
        variant="documented",
        is_float32=True,
        settle_seconds=3.0,
        shards=2,  # one for each actor
    ),
    "pipeline-tuned": Peer(
        title="transformers.pipeline, best batch size", script="transformers_pipeline", variant="tuned", shards=2
    ),
    "openvino": Peer(
        title="OpenVINO, our sorted batches, best layout and budget", script="openvino_model", environment="openvino"
    ),
    "onnxruntime": Peer(
        title="ONNX Runtime float32, our sorted batches, best budget",
        script="onnx_session",
        environment="onnxruntime",
        is_float32=True,
        shards=2,
    ),
    "shardlabel-embeddings": Peer(
        title="**shardlabel**, embeddings", script="shardlabel_local", variant="embeddings", logits_column="embedding"
    ),
    "encode": Peer(
        title="sentence-transformers encode, best batch size",
        script="sentence",
        environment="sentence_transformers",
        variant="embeddings",
        shards=4,
        rival="shardlabel-embeddings",
        logits_column="embedding",
    ),
    "ray-data-tuned": Peer(
        title="Ray Data's example, best batch size, sorted by the caller",
        script="ray_data",
        variant="tuned",
        shards=4,
        settle_seconds=3.0,
    ),
    "daft": Peer(
        title="Daft UDF, best batch size, sorted by the caller", script="daft_udf", environment="daft", shards=4
    ),
    "pipeline-sorted": Peer(
        title="transformers.pipeline, best batch size, sorted by the caller",
        script="transformers_pipeline",
        variant="sorted",
        shards=4,
    ),
    "cross-encoder": Peer(
        title="sentence-transformers CrossEncoder, best batch size",
        script="sentence",
        environment="sentence_transformers",
        variant="pairs",
        shards=4,
    ),
}
"""In order of importance: when time is short the last are dropped first."""
