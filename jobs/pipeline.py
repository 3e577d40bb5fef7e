"""The flow of a job: splits -> read and tokenize -> predict -> write -> records. The only file that imports ray.data.

A split is one row of the Dataset and one part from end to end; the in-process twin calls the same four functions.
"""

import dataclasses
import json
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Self

import pyarrow as pa

import inference
from inference.config import ModelConfig, TaskConfig
from inference.errors import DeviceError, InputError, JobError, ShardlabelError
from jobs import manifest, storage
from jobs.cluster import connected
from jobs.config import RunConfig
from jobs.nodes import check_here, check_nodes, list_nodes
from jobs.parts import Origin, PartRecord, write_part
from jobs.patience import beating, wait_patiently
from jobs.reading import read_split
from jobs.resources import Node, Resources, available_cpus, resolve_resources
from jobs.shards import Split
from jobs.storage import Location


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

    def load_predictor(self) -> "inference.Predictor":
        """The weights, on the device of this process."""
        return inference.Predictor(self.model, self.task, num_threads=self.resources.threads_per_actor)


class LocalExecutor:
    """The in-process twin: threads that share one Predictor. torch and the tokenizer release the interpreter lock."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def nodes(self) -> list[Node]:
        """This machine."""
        return [Node(cpus=available_cpus(), gpus=inference.count_gpus())]

    def run(self, splits: Sequence[Split], work: Work) -> Iterator[PartRecord]:
        """Yield the record of every split, in the order in which they are done."""
        tokenizer = inference.Tokenizer(work.model, work.task)
        predictor = work.load_predictor()

        def process(split: Split) -> PartRecord:
            try:
                table = read_split(split, work.read_schema)
            except InputError as error:
                return PartRecord(part=split.part, error=str(error))
            return _write_part(split, predictor(tokenizer(table)), work)

        with ThreadPoolExecutor(work.resources.max_actors) as pool:
            futures = [pool.submit(process, split) for split in splits]
            try:
                for future in as_completed(futures):
                    yield future.result()
            finally:
                pool.shutdown(cancel_futures=True)


class RayExecutor:
    """Ray Data: tasks that read and tokenize, a pool of Predictors, tasks that write."""

    def __init__(self, run: RunConfig, hook: str | None = None) -> None:
        """Keep how many Predictors are wanted: a local Ray is started with room for them. See `cluster.connected`."""
        self._stack = ExitStack()
        here = resolve_resources(run.model_copy(update={"gpus_per_actor": 0}), [Node(cpus=available_cpus(), gpus=0)])
        self._connection = connected(here.max_actors, run.address, hook)

    def __enter__(self) -> Self:
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
        rows = pa.table({"split": [json.dumps(dataclasses.asdict(split)) for split in splits]})
        pool = ray.data.ActorPoolStrategy(
            min_size=resources.min_actors, initial_size=resources.initial_actors, max_size=resources.max_actors
        )
        one_split: dict[str, Any] = {"batch_size": 1, "batch_format": "pyarrow"}
        records = (
            ray.data.from_arrow(rows)
            .repartition(target_num_rows_per_block=1)
            .map_batches(partial(_read_and_tokenize, work=work), num_cpus=1, **one_split)
            # On a CPU, Ray runs this stage inside the next one's actor, since both ask for one CPU: no tokens travel.
            .map_batches(
                _Predict,
                fn_constructor_kwargs={"work": work},
                compute=pool,
                num_cpus=0 if resources.gpus_per_actor else 1,
                num_gpus=resources.gpus_per_actor or None,
                **one_split,
            )
            .map_batches(partial(_write, work=work), num_cpus=1, **one_split)
        )
        try:
            batches: Iterable[Any] = records.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
            for batch in wait_patiently(iter(batches), partial(manifest.read_attempts, work.output)):
                yield from (PartRecord(**json.loads(record)) for record in batch.column("record").to_pylist())
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, ShardlabelError):
                # Ray appends advice of its own below our one line.
                raise type(cause)(str(cause).partition("\n")[0]) from error
            msg = f"the run failed in Ray: {cause or error}; the parts written until now stay, run again to finish"
            raise JobError(msg) from error


def _read_and_tokenize(row: pa.Table, work: Work) -> pa.Table:
    split = _split_of(row)
    check_here(work.model, work.origin.fingerprint["model.weights"], work.known_nodes)
    try:
        table = read_split(split, work.read_schema)
    except InputError as error:
        return _nest(split, pa.table({}), str(error))
    return _nest(split, _tokenizer(work.model.model_dump_json(), work.task.model_dump_json())(table))


@cache
def _tokenizer(model: str, task: str) -> "inference.Tokenizer":
    """One per worker process and job."""
    # Its task has one CPU; without this the library takes all of the node's, in each of the tasks there.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return inference.Tokenizer(ModelConfig.model_validate_json(model), TaskConfig.model_validate_json(task))


# A split that has taken its process with it so often is set aside; Ray itself would try it for ever.
_MAX_ATTEMPTS = 3


class _Predict:
    """The actor: one Predictor for its life."""

    def __init__(self, work: Work) -> None:
        self._output = work.output
        self._error: ShardlabelError | None = None
        try:
            check_here(work.model, work.origin.fingerprint["model.weights"], work.known_nodes)
            self._predictor = work.load_predictor()
        except ShardlabelError as error:
            self._error = error  # raised by the first call: Ray keeps only the text of what a constructor raises

    def __call__(self, row: pa.Table) -> pa.Table:
        if self._error is not None:
            raise self._error
        split, table, error = _unnest(row)
        if error is not None:
            return row
        note = manifest.note_attempt(self._output, split.part, _MAX_ATTEMPTS)
        if note is None:
            return _nest(split, pa.table({}), f"its process died {_MAX_ATTEMPTS} times while it was labelled")
        try:
            with beating(note):
                done = _nest(split, self._predictor(table))
        except DeviceError as lost:
            logging.getLogger(__name__).warning("%s: %s", split.part, lost)
            os._exit(1)  # anything else leaves Ray with an actor that fails whatever it is given
        # From here on it is the next split's doing if the process dies, even if Ray has to have this one done again.
        storage.delete(note)
        return done


def _write(row: pa.Table, work: Work) -> pa.Table:
    split, table, error = _unnest(row)
    record = _write_part(split, table, work) if error is None else PartRecord(part=split.part, error=error)
    return pa.table({"record": [json.dumps(dataclasses.asdict(record))]})


def _write_part(split: Split, table: pa.Table, work: Work) -> PartRecord:
    return write_part(work.output, split, table, work.output_schema, work.origin)


def _nest(split: Split, table: pa.Table, error: str | None = None) -> pa.Table:
    """One row that carries a split's identity and its rows: its Arrow buffers wrapped, not copied."""
    rows = table.combine_chunks().to_struct_array().combine_chunks()
    nested = pa.LargeListArray.from_arrays(pa.array([0, len(rows)], pa.int64()), rows)
    identity = json.dumps(dataclasses.asdict(split))
    return pa.table({"split": [identity], "error": pa.array([error], pa.string()), "rows": nested})


def _unnest(row: pa.Table) -> tuple[Split, pa.Table, str | None]:
    rows: Any = row.column("rows").combine_chunks()
    return _split_of(row), pa.Table.from_struct_array(rows.flatten()), row.column("error")[0].as_py()


def _split_of(row: pa.Table) -> Split:
    return Split(**json.loads(str(row.column("split")[0])))
