"""The frame of a peer: a process that loads a model, then answers one JSON line on standard input after the other.

It is started as `PEER.py SETTING`, SETTING being JSON: model (a folder), exports
(a folder for what is converted), dtype, threads, variant. It prints `@@` and JSON: first
`{"ready": true}`, then an answer to every request. A request has `inputs` (Parquet shards), `output` (a folder),
`max_length`, and what to do:

- `run`: all rows, Parquet to Parquet, timed. Answer: `seconds`, and what the peer knows of itself.
- `tune`: each of the peer's `candidates` over the inputs, twice; the answer is the fastest, for later runs.
- `check`: as `run`, also with logits, and with every forward of a transformers model watched: how many tokens,
  padding included, and how many seconds. Slower, so never timed.
"""

import json
import resource
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq


class Peer(Protocol):
    """What is measured."""

    candidates: list[dict[str, Any]]
    """Options among which `tune` chooses; empty where there is nothing to choose."""

    def run(self, inputs: list[Path], output: Path, max_length: int, *, logits: bool, **options: Any) -> dict[str, Any]:
        """Read the shards, write one part for each; return facts. `seconds` among them replaces the frame's clock."""


def serve(load: Callable[[dict[str, Any]], Peer]) -> None:
    """Answer requests until standard input ends."""
    peer = load(json.loads(sys.argv[1]))
    _say({"ready": True})
    for line in sys.stdin:
        request = json.loads(line)
        action = {"run": _run, "tune": _tune, "check": _check}[request.pop("do")]
        arguments = request | {"inputs": [Path(name) for name in request["inputs"]], "output": Path(request["output"])}
        arguments["output"].mkdir(parents=True, exist_ok=True)
        try:
            answer = action(peer, **arguments)
        except Exception as error:  # noqa: BLE001 - whatever a peer raises is a result: the table says why it cannot run
            traceback.print_exc()
            answer = {"error": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
        _say(answer)


def _run(peer: Peer, *, logits: bool = False, **arguments: Any) -> dict[str, Any]:
    started = time.perf_counter()
    facts = peer.run(logits=logits, **arguments)
    seconds = time.perf_counter() - started
    peak_kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds, "peak_mb": peak_kilobytes / 1024, **facts}


def _tune(peer: Peer, **arguments: Any) -> dict[str, Any]:
    def seconds(options: dict[str, Any]) -> float:
        return float(min(_run(peer, **arguments, **options)["seconds"] for _ in range(2)))

    return {"options": min(peer.candidates, key=seconds) if peer.candidates else {}}


def _check(peer: Peer, **arguments: Any) -> dict[str, Any]:
    # shardlabel loads the model anew for logits, and tries it on a few sequences when it has: those do not count.
    first = arguments["output"].with_name("check-first")
    first.mkdir(exist_ok=True)
    _run(peer, logits=True, **(arguments | {"output": first}))
    with _watched_forwards() as seen:
        facts = _run(peer, logits=True, **arguments)
    return {**seen, **facts}


@contextmanager
def _watched_forwards() -> Iterator[dict[str, float]]:
    """Count the tokens that enter transformers models, and the seconds until they are out again."""
    seen = {"padded_tokens": 0.0, "forward_seconds": 0.0}
    if "torch" not in sys.modules or "transformers" not in sys.modules:
        yield seen
        return
    from torch import nn
    from torch.nn.modules import module as hooks
    from transformers import PreTrainedModel

    inside: dict[int, list[float]] = {}  # by thread

    def before(module: nn.Module, inputs: Any) -> None:
        if isinstance(module, PreTrainedModel):
            inside.setdefault(threading.get_ident(), []).append(time.perf_counter())
        if isinstance(module, nn.Embedding) and module.num_embeddings > 1000 and inputs:
            seen["padded_tokens"] += inputs[0].numel()

    def after(module: nn.Module, _inputs: Any, _outputs: Any) -> None:
        if isinstance(module, PreTrainedModel):
            nested = inside[threading.get_ident()]
            started = nested.pop()
            if not nested:
                seen["forward_seconds"] += time.perf_counter() - started

    handles = [hooks.register_module_forward_pre_hook(before), hooks.register_module_forward_hook(after)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _say(answer: dict[str, Any]) -> None:
    print(f"@@{json.dumps(answer)}", flush=True)


def read(file: Path) -> tuple[pa.Table, list[Any]]:
    """The ids of a shard and its texts, "" where null; pairs as tuples."""
    table = pq.read_table(file)
    texts = [text or "" for text in table["text"].to_pylist()]
    if "text_pair" in table.column_names:
        return table.select(["id"]), list(zip(texts, table["text_pair"].to_pylist(), strict=True))
    return table.select(["id"]), texts


def write(output: Path, file: Path, ids: pa.Table, columns: dict[str, Any]) -> None:
    """One part, named as its shard."""
    for name, values in columns.items():
        ids = ids.append_column(name, pa.array(values) if isinstance(values, list) else values)
    pq.write_table(ids, output / file.name, compression="zstd")
