"""What fails a run: an output that is lost, and rows, counted so that a broken model does not cost a whole corpus."""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from inference.errors import FingerprintError, JobError, OutputError
from jobs.parts import PartRecord

# While fewer rows than these are done, the allowance is that of these: a few bad rows at the beginning stop no job.
_MIN_ROWS = 100_000

_NUM_NAMED = 3


class FailureLimit:
    """Adds up the records of a job and stops it when too many rows have failed."""

    def __init__(self, max_failed_fraction: float, num_rows: int, earlier: Iterable[PartRecord]) -> None:
        """Start with the parts that are there.

        Args:
            max_failed_fraction: of all rows, 0 to 1.
            num_rows: rows of the whole job.
            earlier: records of the committed parts.
        """
        self._max_failed_fraction = max_failed_fraction
        self._num_rows = num_rows
        self._num_done = self._num_failed = 0
        self._errors: Counter[str] = Counter()
        for record in earlier:
            self._count(record)

    def add(self, record: PartRecord) -> None:
        """Count a split that is done.

        Raises:
            JobError: too many rows failed, given how many are done.
        """
        self._count(record)
        self._check(max(self._num_done, min(self._num_rows, _MIN_ROWS)))

    def finish(self) -> None:
        """Say so when too many of all rows failed.

        Raises:
            JobError: they did.
        """
        self._check(self._num_done)

    def _count(self, record: PartRecord) -> None:
        self._num_done += record.num_rows
        self._num_failed += record.num_failed
        self._errors.update(record.errors)

    def _check(self, num_rows: int) -> None:
        if self._num_failed <= self._max_failed_fraction * num_rows:
            return
        commonest = "; ".join(f"{message} ({count:,})" for message, count in self._errors.most_common(_NUM_NAMED))
        msg = (
            f"{self._num_failed:,} of {self._num_done:,} rows failed, more than run.max_failed_fraction "
            f"{self._max_failed_fraction:g} allows; commonest: {commonest}. The parts written until now stay: mend the "
            "input or the model and use retry, or raise the limit"
        )
        raise JobError(msg)


@contextmanager
def fails_the_run(what: str = "the run", verb: str = "run") -> Iterator[None]:
    """The directory was read when the run began, so it is the run that failed: a full disk perhaps, or a lost store.

    Raises:
        JobError: in place of an `OutputError`; another job's claim of the directory meanwhile is as it is.
    """
    try:
        yield
    except FingerprintError:
        raise
    except OutputError as error:
        msg = f"{what} stopped: {error}; the parts written until now stay, {verb} again to finish"
        raise JobError(msg) from error
