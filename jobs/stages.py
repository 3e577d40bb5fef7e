"""What happens to a split on its way: `read_and_tokenize` -> `Predict` -> `write`; a bundle of splits in, a bundle out.

Ray calls these in its workers (`jobs/pipeline.py` puts them in their order); none of them needs a Ray to run.
"""

import dataclasses
import json
import logging
import math
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import pyarrow as pa

import inference
from inference.config import ModelConfig, TaskConfig
from inference.errors import DeviceError, InputError, ShardlabelError
from jobs import manifest, storage
from jobs.bundles import Carried, note_name, pack, unpack
from jobs.cluster import is_on_ray, is_told_to_stop
from jobs.metrics import ActorMetrics
from jobs.nodes import Expected, check_here, expected_checkpoints
from jobs.parts import Origin, PartRecord, write_part
from jobs.patience import beating
from jobs.reading import read_split
from jobs.resources import Resources
from jobs.shards import Split
from jobs.storage import Location

Result = TypeVar("Result")

STAGES = ("read", "predict", "write")
"""What `PartRecord.seconds` tells apart; tokenizing is part of the first."""

# Of one bundle, at once: each waits for a request to a store, or for a disk to sync.
_IO_THREADS = 8


@dataclass(frozen=True, kw_only=True)
class Work:
    """What the stages need to know of the job."""

    models: tuple[ModelConfig, ...]
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

    @property
    def checkpoints(self) -> Expected:
        """What every node should have."""
        return expected_checkpoints(self.models, self.origin.fingerprint)

    def load_tokenizer(self) -> "inference.Tokenizer":
        """What turns the rows of a split into token ids, of several models the first one's."""
        return inference.Tokenizer(self.models[0], self.task)

    def load_predictor(self) -> "inference.Predictor | inference.Cascade":
        """The weights, on the device of this process."""
        num_threads = self.resources.threads_per_actor
        if len(self.models) > 1:
            return inference.Cascade(self.models, self.task, num_threads=num_threads)
        return inference.Predictor(self.models[0], self.task, num_threads=num_threads)


def read_and_tokenize(row: pa.Table, work: Work) -> pa.Table:
    """The splits of a bundle with their rows as the model takes them; a split that cannot be read says why."""

    def read(item: Carried) -> Carried:
        started = time.perf_counter()
        try:
            rows = read_split(item.split, work.read_schema)
        except InputError as error:
            return Carried(item.split, error=str(error))
        return Carried(item.split, rows, seconds=(time.perf_counter() - started,))

    def tokenize(item: Carried) -> Carried:
        if item.rows is None:
            return item
        started, (reading,) = time.perf_counter(), item.seconds
        rows = tokenizer(item.rows)
        return Carried(item.split, rows, seconds=(reading + time.perf_counter() - started,))

    check_here(work.checkpoints, work.known_nodes)
    tokenizer = _tokenizer(work)
    return pack(map(tokenize, _at_once(read, unpack(row))))


def _at_once(function: Callable[[Carried], Result], carried: Sequence[Carried]) -> list[Result]:
    """Small files wait for the disk or the store, not for the CPU; a large one is alone."""
    if len(carried) == 1:
        return [function(carried[0])]
    with ThreadPoolExecutor(_IO_THREADS) as pool:
        return list(pool.map(function, carried))


_tokenizers: dict[str, "inference.Tokenizer"] = {}


def _tokenizer(work: Work) -> "inference.Tokenizer":
    """One per worker process and job."""
    # Its task has one CPU; without this the library takes all of the node's, in each of the tasks there.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    key = work.models[0].model_dump_json() + work.task.model_dump_json()
    if key not in _tokenizers:
        _tokenizers[key] = work.load_tokenizer()
    return _tokenizers[key]


# A split that has taken its process with it so often is set aside; Ray itself would try it for ever.
_MAX_ATTEMPTS = 3

# Between two looks whether the run is to stop; it has 20 s to end (jobs/stopping.py).
_LOOK_SECONDS = 0.5

NOT_BEGUN = "not begun, since the run is to stop"


class Predict:
    """The actor: one Predictor for its life."""

    def __init__(self, work: Work) -> None:
        """Load the weights."""
        self._output, self._run_id = work.output, work.run_id
        self._is_stopped, self._looked_at = False, -math.inf
        self._error: ShardlabelError | None = None
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # as in `_tokenizer`: a Cascade has some of its own
        try:
            check_here(work.checkpoints, work.known_nodes)
            self._predictor = work.load_predictor()
            self._metrics = ActorMetrics(str(work.output), work.origin.fingerprint) if is_on_ray() else None
        except ShardlabelError as error:
            self._error = error  # raised by the first call: Ray keeps only the text of what a constructor raises

    def __call__(self, row: pa.Table) -> pa.Table:
        """Label the splits of a bundle; one that has killed its process too often says so instead."""
        if self._error is not None:
            raise self._error
        carried = unpack(row)
        if self._is_to_stop():
            return pack([Carried(item.split, error=NOT_BEGUN) for item in carried])
        # A bundle has one note for all its splits, until its process has died once: then each has its own.
        note = manifest.note_attempt(self._output, note_name(carried), 1) if len(carried) > 1 else None
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
        if self._is_to_stop():
            return Carried(item.split, error=NOT_BEGUN)
        before, started = self._predictor.stats, time.perf_counter()
        labelled = self._predictor(item.rows)
        seconds = (*item.seconds, time.perf_counter() - started)
        if self._metrics is not None:
            self._metrics.add(labelled, self._predictor.stats.since(before))
        return Carried(item.split, labelled, seconds=seconds)

    def _is_to_stop(self) -> bool:
        """Looked up now and then: small splits take less time than to ask."""
        if not self._is_stopped and time.monotonic() > self._looked_at + _LOOK_SECONDS:
            self._is_stopped, self._looked_at = is_told_to_stop(self._run_id), time.monotonic()
        return self._is_stopped

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


def write(row: pa.Table, work: Work) -> pa.Table:
    """A part for each split of a bundle; their records are what is left."""

    def part_of(item: Carried) -> PartRecord:
        if item.rows is None:
            return PartRecord(part=item.split.part, error=item.error)
        return write_split(item.split, item.rows, work, item.seconds)

    return pa.table({"record": [json.dumps(dataclasses.asdict(record)) for record in _at_once(part_of, unpack(row))]})


def write_split(split: Split, table: pa.Table, work: Work, seconds: tuple[float, ...]) -> PartRecord:
    """A split's part; its record says what this stage and those before took."""
    started = time.perf_counter()
    record = write_part(work.output, split, table, work.output_schema, work.origin)
    took = (*seconds, time.perf_counter() - started)
    return dataclasses.replace(record, seconds=dict(zip(STAGES, took, strict=True)))
