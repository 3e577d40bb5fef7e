"""The flow of a job: splits -> read and tokenize -> predict -> write -> records. The only file that imports ray.data.

A split is one part, and travels in one row of the Dataset from end to end, alone or with other small ones; the
in-process twin calls the same four functions.
"""

import dataclasses
import json
import logging
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self, TypeVar

import pyarrow as pa

import inference
from inference.config import ModelConfig, TaskConfig
from inference.errors import DeviceError, InputError, JobError, ShardlabelError
from jobs import manifest, storage
from jobs.bundles import Carried, bundle, pack, planned, unpack
from jobs.cluster import connected, end_execution, is_on_ray, is_told_to_stop, tell_to_stop
from jobs.config import RunConfig
from jobs.metrics import ActorMetrics
from jobs.nodes import check_here, check_nodes, list_nodes
from jobs.parts import Origin, PartRecord, write_part
from jobs.patience import beating, wait_patiently
from jobs.reading import read_split
from jobs.resources import Node, Resources, available_cpus, resolve_resources
from jobs.shards import Split
from jobs.stopping import Drain, Stop, as_done
from jobs.storage import Location

Result = TypeVar("Result")

# Of one bundle, at once: each waits for a request to a store, or for a disk to sync.
_IO_THREADS = 8


@dataclass(frozen=True, kw_only=True)
class Work:
    """What the stages need to know of the job."""

    model: ModelConfig
    task: TaskConfig
    resources: Resources
    read_schema: pa.Schema
    output_schema: pa.Schema
    output: Location
    origin: Origin
    known_nodes: frozenset[str] = frozenset()
    """Nodes of Ray whose copy of the checkpoint was compared when the run began."""
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Of this run alone."""

    def load_tokenizer(self) -> "inference.Tokenizer":
        """What turns the rows of a split into token ids."""
        return inference.Tokenizer(self.model, self.task)

    def load_predictor(self) -> "inference.Predictor":
        """The weights, on the device of this process."""
        return inference.Predictor(self.model, self.task, num_threads=self.resources.threads_per_actor)


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
            try:
                table = read_split(split, work.read_schema)
            except InputError as error:
                return PartRecord(part=split.part, error=str(error))
            return _write_part(split, predictor(tokenizer(table)), work)

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

        if self._stop.reason is not None:
            return
        known = check_nodes(work.model, work.origin.fingerprint["model.weights"])
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
            .map_batches(partial(_read_and_tokenize, work=work), num_cpus=1, **one_bundle)
            # On a CPU, Ray runs this stage inside the next one's actor, since both ask for one CPU: no tokens travel.
            .map_batches(
                _Predict,
                fn_constructor_kwargs={"work": work},
                compute=pool,
                num_cpus=0 if resources.gpus_per_actor else 1,
                num_gpus=resources.gpus_per_actor or None,
                **one_bundle,
            )
            .map_batches(partial(_write, work=work), num_cpus=1, **one_bundle)
        )
        records.set_name(work.run_id)
        try:
            batches: Iterable[Any] = records.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
            attempts = partial(manifest.read_attempts, work.output)
            drain = Drain(self._stop, partial(tell_to_stop, work.run_id), attempts)
            for batch in wait_patiently(iter(batches), attempts, drain.is_done, partial(end_execution, work.run_id)):
                found = [PartRecord(**json.loads(record)) for record in batch.column("record").to_pylist()]
                yield from (record for record in found if record.error != _NOT_BEGUN)
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, ShardlabelError):
                # Ray appends advice of its own below our one line.
                raise type(cause)(str(cause).partition("\n")[0]) from error
            msg = f"the run failed in Ray: {cause or error}; the parts written until now stay, run again to finish"
            raise JobError(msg) from error


def _read_and_tokenize(row: pa.Table, work: Work) -> pa.Table:
    def read(item: Carried) -> Carried:
        try:
            return Carried(item.split, read_split(item.split, work.read_schema))
        except InputError as error:
            return Carried(item.split, error=str(error))

    check_here(work.model, work.origin.fingerprint["model.weights"], work.known_nodes)
    tokenizer = _tokenizer(work)
    return pack(
        Carried(item.split, None if item.rows is None else tokenizer(item.rows), item.error)
        for item in _at_once(read, unpack(row))
    )


def _at_once(function: Callable[[Carried], Result], carried: Sequence[Carried]) -> list[Result]:
    """Small files wait for the disk or the store, not for the CPU; a large one is alone."""
    if len(carried) == 1:
        return [function(carried[0])]
    with ThreadPoolExecutor(_IO_THREADS) as pool:
        return list(pool.map(function, carried))


_tokenizers: dict[str, "inference.Tokenizer"] = {}


def _tokenizer(work: Work) -> "inference.Tokenizer":
    """One per worker process and job."""
    key = work.model.model_dump_json() + work.task.model_dump_json()
    if key not in _tokenizers:
        _tokenizers[key] = work.load_tokenizer()
    return _tokenizers[key]


# A split that has taken its process with it so often is set aside; Ray itself would try it for ever.
_MAX_ATTEMPTS = 3

_NOT_BEGUN = "not begun, since the run is to stop"


class _Predict:
    """The actor: one Predictor for its life."""

    def __init__(self, work: Work) -> None:
        self._output, self._run_id = work.output, work.run_id
        self._error: ShardlabelError | None = None
        try:
            check_here(work.model, work.origin.fingerprint["model.weights"], work.known_nodes)
            self._predictor = work.load_predictor()
            self._metrics = ActorMetrics(str(work.output), work.origin.fingerprint) if is_on_ray() else None
        except ShardlabelError as error:
            self._error = error  # raised by the first call: Ray keeps only the text of what a constructor raises

    def __call__(self, row: pa.Table) -> pa.Table:
        if self._error is not None:
            raise self._error
        carried = unpack(row)
        if is_told_to_stop(self._run_id):
            return pack([Carried(item.split, error=_NOT_BEGUN) for item in carried])
        # A bundle has one note for all its splits, until its process has died once: then each has its own.
        name = f"{carried[0].split.part}.and{len(carried) - 1}"
        note = manifest.note_attempt(self._output, name, 1) if len(carried) > 1 else None
        if note is None:
            return pack([self._predict_noted(item) for item in carried])
        with self._under(note):
            return pack([self._predict(item) for item in carried])

    def _predict_noted(self, item: Carried) -> Carried:
        if item.rows is None:
            return item
        note = manifest.note_attempt(self._output, item.split.part, _MAX_ATTEMPTS)
        if note is None:
            return Carried(item.split, error=f"its process died {_MAX_ATTEMPTS} times while it was labelled")
        with self._under(note):
            return self._predict(item)

    def _predict(self, item: Carried) -> Carried:
        if item.rows is None:
            return item
        before = self._predictor.stats
        labelled = self._predictor(item.rows)
        if self._metrics is not None:
            self._metrics.add(labelled, self._predictor.stats.since(before))
        return Carried(item.split, labelled)

    @contextmanager
    def _under(self, note: Location) -> Iterator[None]:
        try:
            with beating(note):
                yield
        except DeviceError as lost:
            logging.getLogger(__name__).warning("%s: %s", note, lost)
            os._exit(1)  # anything else leaves Ray with an actor that fails whatever it is given
        # From here on it is the next split's doing if the process dies, even if Ray has to have this one done again.
        storage.delete(note)


def _write(row: pa.Table, work: Work) -> pa.Table:
    def write(item: Carried) -> PartRecord:
        if item.rows is None:
            return PartRecord(part=item.split.part, error=item.error)
        return _write_part(item.split, item.rows, work)

    return pa.table({"record": [json.dumps(dataclasses.asdict(record)) for record in _at_once(write, unpack(row))]})


def _write_part(split: Split, table: pa.Table, work: Work) -> PartRecord:
    return write_part(work.output, split, table, work.output_schema, work.origin)
