"""`python -m benchmarks.pools`: how a pool of Predictors grows and how full the object store gets, for workers.md.

A Ray cluster of several nodes on this machine whose GPUs are only numbers; rows stand for splits, and Predictors sleep:
what is looked at is Ray's scheduling under the pipeline's own settings, not this machine's speed.
"""

import logging
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.machine import describe_machine
from benchmarks.tables import fill, rows
from benchmarks.workloads import ROOT

PAGE = ROOT / "docs" / "workers.md"
POOLS: list[tuple[int, dict[str, int]]] = [
    (80, {"min_size": 1, "max_size": 4}),
    (80, {"min_size": 1, "initial_size": 4, "max_size": 4}),
    (80, {"min_size": 4, "max_size": 4}),
    (40, {"min_size": 1, "max_size": 16}),
    (40, {"min_size": 1, "initial_size": 16, "max_size": 16}),
]
STORE_MB, SPLIT_MB, NUM_SPLITS = 80, (4, 8), 60
_POOL_SECONDS, _STORE_SECONDS = 0.5, 0.4
"""That a Predictor takes for a split."""
_MB = 2**20


class Sleeper:
    """In the place of a Predictor."""

    def __init__(self, seconds: float) -> None:
        """Sleep so long for a split."""
        self._seconds = seconds

    def __call__(self, _: pa.Table) -> pa.Table:
        """Say who did it and when."""
        time.sleep(self._seconds)
        return pa.table({"process": [os.getpid()], "time": [time.time()]})


def _tokens(_: pa.Table, num_mb: int) -> pa.Table:
    ids = pa.array(np.arange(num_mb * _MB // 4, dtype=np.int32))
    return pa.table({"ids": pa.LargeListArray.from_arrays(pa.array([0, len(ids)], pa.int64()), ids)})


@contextmanager
def _cluster(*nodes: dict[str, int]) -> Iterator[str]:
    """The address of a cluster of these nodes, which is stopped again."""
    import ray
    from ray.cluster_utils import Cluster

    store = {"object_store_memory": STORE_MB * _MB}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False, **store})  # type: ignore[no-untyped-call]
    for node in nodes:
        cluster.add_node(**node, **store)  # type: ignore[no-untyped-call]
    ray.init(address=cluster.address, log_to_driver=False)
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    try:
        yield cluster.address
    finally:
        ray.shutdown()
        cluster.shutdown()  # type: ignore[no-untyped-call]


def _run(num_splits: int, num_mb: int, seconds: float, **pool: int) -> tuple[float, dict[int, float]]:
    """Seconds of a run with the pipeline's stages and settings, and when each Predictor had done its first split."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = None
    one: dict[str, Any] = {"batch_size": 1, "batch_format": "pyarrow"}
    records = (
        ray.data.from_arrow(pa.table({"split": list(range(num_splits))}))
        .repartition(target_num_rows_per_block=1)
        .map_batches(_tokens, fn_kwargs={"num_mb": num_mb}, num_cpus=1, **one)
        .map_batches(
            Sleeper,
            fn_constructor_args=(seconds,),
            compute=ray.data.ActorPoolStrategy(**pool),
            num_cpus=0,
            num_gpus=1,
            **one,
        )
        .map_batches(lambda record: record, num_cpus=1, **one)
    )
    begun, first = time.time(), dict[int, float]()
    for batch in records.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for record in batch.to_pylist():  # type: ignore[attr-defined]
            first.setdefault(record["process"], record["time"] - begun)
    return time.time() - begun, first


@contextmanager
def _watched(address: str) -> Iterator[list[int]]:
    """The most bytes in the object stores, and the bytes spilled, looked at three times a second."""
    from ray._private.internal_api import get_memory_info_reply, get_state_from_address

    state, peaks, is_done = get_state_from_address(address), [0, 0], threading.Event()

    def watch() -> None:
        while not is_done.wait(0.3):
            stats = get_memory_info_reply(state).store_stats
            peaks[0] = max(peaks[0], stats.object_store_bytes_used)
            peaks[1] = max(peaks[1], stats.spilled_bytes_total)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peaks
    finally:
        is_done.set()
        thread.join()


def _name(pool: dict[str, int]) -> str:
    started = pool.get("initial_size", pool["min_size"])
    return f"`{{min: {pool['min_size']}, max: {pool['max_size']}}}`, started with {started}"


def main() -> None:
    """Measure, print and write the tables."""
    grown, filled = [], []
    with _cluster({"num_cpus": 2, "num_gpus": 2}, {"num_cpus": 2, "num_gpus": 2}):
        _run(8, 0, 0, min_size=1, max_size=1)  # the first use of a cluster is slower
        for num_splits, pool in POOLS:
            seconds, first = _run(num_splits, 0, _POOL_SECONDS, **pool)
            begun = ", ".join(f"{each:.1f}" for each in sorted(first.values()))
            grown.append([_name(pool), f"{num_splits}", f"{seconds:.1f} s", f"{begun} s"])
            print(*grown[-1], flush=True)
    with _cluster({"num_cpus": 4, "num_gpus": 1}) as address:
        for num_mb in SPLIT_MB:
            with _watched(address) as peaks:
                _run(NUM_SPLITS, num_mb, _STORE_SECONDS, min_size=1, max_size=1)
            filled.append(
                [f"{NUM_SPLITS} splits of {num_mb} MB", f"{peaks[0] / _MB:.0f} MB", f"{peaks[1] / _MB:.0f} MB"]
            )
            print(*filled[-1], flush=True)
    machine = describe_machine()
    where = f"{machine['date']}; {machine['processor']}, {os.cpu_count()} cores; ray {machine['versions']['ray']}."
    pools = rows(["pool, four GPUs", "splits of 0.5 s", "all done after", "first split of each Predictor done"], grown)
    store = rows([f"two object stores of {STORE_MB} MB", "held at most", "spilled"], filled)
    PAGE.write_text(fill(PAGE.read_text(), "pools", f"{where}\n\n{pools}\n\n{store}"))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="sl") as folder:  # short: Ray makes sockets below it
        (Path(folder) / "ray").mkdir()
        os.environ |= {"RAY_TMPDIR": folder, "RAY_AUTH_MODE": "disabled", "RAY_ENABLE_AUTO_CONNECT": "0"}
        main()
