"""The flow of a job: splits -> read and tokenize -> predict -> write -> records. The only file that imports ray.data.

A split is one part, and travels in one row of the Dataset from end to end, alone or with other small ones; the
in-process twin calls the same four functions.
"""

import dataclasses
import json
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any, Self

import inference
from inference.errors import InputError, JobError, ShardlabelError
from jobs import manifest
from jobs.bundles import bundle, planned
from jobs.cluster import connected, end_execution, tell_to_stop
from jobs.config import RunConfig
from jobs.heartbeat import find_work
from jobs.nodes import check_nodes, list_nodes
from jobs.parts import PartRecord
from jobs.patience import wait_patiently
from jobs.reading import read_split
from jobs.resources import Node, available_cpus, resolve_resources
from jobs.shards import Split
from jobs.stages import NOT_BEGUN, Predict, Work, read_and_tokenize, write, write_split
from jobs.stopping import Drain, Stop, as_done


class LocalExecutor:
    """The in-process twin: threads that share one Predictor. torch and the tokenizer release the interpreter lock."""

    def __init__(self, stop: Stop | None = None) -> None:
        """Keep what says when to begin no more splits."""
        self._stop = stop or Stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def nodes(self) -> list[Node]:
        """This machine."""
        return [Node(cpus=available_cpus(), gpus=inference.count_gpus())]

    def run(self, splits: Sequence[Split], work: Work) -> Iterator[PartRecord]:
        """Yield the record of every split, in the order in which they are done."""
        with self._stop.at_once():
            tokenizer = work.load_tokenizer()
            predictor = work.load_predictor()

        def process(split: Split) -> PartRecord:
            started = time.perf_counter()
            try:
                table = read_split(split, work.read_schema)
            except InputError as error:
                return PartRecord(part=split.part, error=str(error))
            tokens = tokenizer(table)
            tokenized = time.perf_counter()
            labelled = predictor(tokens)
            return write_split(split, labelled, work, (tokenized - started, time.perf_counter() - tokenized))

        pool = ThreadPoolExecutor(work.resources.max_actors)
        try:
            for future in as_done([pool.submit(process, split) for split in splits], self._stop):
                yield future.result()
        finally:
            # What has had its time is given up: the process ends without it.
            pool.shutdown(wait=not self._stop.is_over, cancel_futures=True)


class RayExecutor:
    """Ray Data: tasks that read and tokenize, a pool of Predictors, tasks that write."""

    def __init__(self, run: RunConfig, hook: str | None = None, stop: Stop | None = None) -> None:
        """Keep how many Predictors are wanted: a local Ray is started with room for them. See `cluster.connected`."""
        self._stop = stop or Stop()
        self._stack = ExitStack()
        here = resolve_resources(run.model_copy(update={"gpus_per_actor": 0}), [Node(cpus=available_cpus(), gpus=0)])
        self._connection = connected(here.max_actors, run.address, hook)
        self._split_rows = run.split_rows

    def __enter__(self) -> Self:
        with self._stop.kept():
            self._stack.enter_context(self._connection)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def nodes(self) -> list[Node]:
        """The cluster's nodes of the moment."""
        return list_nodes()

    def run(self, splits: Sequence[Split], work: Work) -> Iterator[PartRecord]:
        """Yield the record of every split, in the order in which they are done."""
        import ray.data

        known = check_nodes(work.checkpoints, lambda: self._stop.reason is not None)
        if self._stop.reason is not None:
            return
        work = dataclasses.replace(work, known_nodes=known)
        resources = work.resources
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.raise_original_map_exception = True
        # One task in, one block out: a replayed task that yields another number of blocks hangs Ray (ray#64394).
        context.target_max_block_size = None
        context.execution_no_progress_timeout_s = -1  # jobs/patience.py knows a slow split from a hang
        rows = planned(bundle(splits, self._split_rows, resources.max_actors))
        pool = ray.data.ActorPoolStrategy(
            min_size=resources.min_actors, initial_size=resources.initial_actors, max_size=resources.max_actors
        )
        one_bundle: dict[str, Any] = {"batch_size": 1, "batch_format": "pyarrow"}
        records = (
            ray.data.from_arrow(rows)
            .repartition(target_num_rows_per_block=1)
            .map_batches(partial(read_and_tokenize, work=work), num_cpus=1, **one_bundle)
            # On a CPU, Ray runs this stage inside the next one's actor, since both ask for one CPU: no tokens travel.
            .map_batches(
                Predict,
                fn_constructor_kwargs={"work": work},
                compute=pool,
                num_cpus=0 if resources.gpus_per_actor else 1,
                num_gpus=resources.gpus_per_actor or None,
                **one_bundle,
            )
            .map_batches(partial(write, work=work), num_cpus=1, **one_bundle)
        )
        records.set_name(work.run_id)
        try:
            batches: Iterable[Any] = records.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
            attempts = partial(manifest.read_attempts, work.output)
            drain = Drain(self._stop, partial(tell_to_stop, work.run_id), partial(find_work, work.output))
            for batch in wait_patiently(iter(batches), attempts, drain.is_done, partial(end_execution, work.run_id)):
                found = [PartRecord(**json.loads(record)) for record in batch.column("record").to_pylist()]
                if begun := [record for record in found if record.error != NOT_BEGUN]:
                    drain.saw_work()
                yield from begun
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, ShardlabelError):
                # Ray appends advice of its own below our one line.
                raise type(cause)(str(cause).partition("\n")[0]) from error
            msg = f"the run failed in Ray: {cause or error}; the parts written until now stay, run again to finish"
            raise JobError(msg) from error
