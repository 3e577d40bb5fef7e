"""Ending a run before its work is done: a signal or the clock asks for it, and the run stops between two splits.

What is committed stays, what was begun may come to its end within `GRACE_SECONDS`, and the next run does the rest.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from types import FrameType
from typing import TypeVar

Result = TypeVar("Result")

GRACE_SECONDS = 20.0
"""For splits that are being labelled; Kubernetes gives 30 s before it kills, a spot instance 30 to 120 s."""

POLL_SECONDS = 0.2
"""Between two looks whether a run is to stop, where it waits for splits."""

_LOOK_SECONDS = 1.0
"""Between two looks whether splits are still being labelled."""

_WRITE_SECONDS = 10.0
"""How long the part of a split that is labelled may take to be written; nothing shows that it is under way."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(BaseException):
    """The run was asked to stop where nothing is lost by it; no `Exception`, lest it is taken for a row's failure."""


class Stop:
    """Whether a run is to stop, and why; one per run."""

    def __init__(self, max_seconds: float | None = None) -> None:
        """Ask for the stop in so many seconds from now; None is never."""
        self._deadline = None if max_seconds is None else time.monotonic() + max_seconds
        self._asked_at = 0.0
        self._reason: str | None = None
        self._raises = self._is_listening = False

    @property
    def reason(self) -> str | None:
        """The name of the signal, or `max_seconds`; None as long as nobody asked."""
        if self._reason is None and self._deadline is not None and time.monotonic() >= self._deadline:
            self.ask("max_seconds")
        return self._reason

    @property
    def is_over(self) -> bool:
        """Whether what was begun has had its time."""
        return self.reason is not None and time.monotonic() > self._asked_at + GRACE_SECONDS

    def ask(self, reason: str) -> None:
        """Begin no more splits from now on."""
        self._asked_at = time.monotonic()
        self._reason = reason

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGTERM and SIGINT, the first of them; the second ends the process. Only the main thread hears them."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        self._is_listening = True
        for number in _SIGNALS:
            signal.signal(number, self._on_signal)
        try:
            yield
        finally:
            self._is_listening = False
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self._take(number)
        if self._raises:
            raise Stopped

    def _take(self, number: int) -> None:
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        self.ask(signal.Signals(number).name)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Around what writes nothing and may take long: a signal ends it in the middle.

        Raises:
            Stopped: a signal has come.
        """
        self._raises = self._is_listening and threading.current_thread() is threading.main_thread()
        try:
            if self._raises and self._reason is not None:
                raise Stopped
            yield
        finally:
            self._raises = False

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Around `ray.init`, which replaces the handler of SIGTERM by one that exits (ray/_private/worker.py, 2.60).

        Raises:
            Stopped: SIGTERM came meanwhile, and Ray did not start.
        """
        try:
            yield
        except SystemExit as ended:
            if not self._is_listening or ended.code != signal.SIGTERM:
                raise
            # Ray's handler in C++ (absl's, which prints a stack too) has set an alarm that aborts in 3 s.
            signal.alarm(0)
            self._take(signal.SIGTERM)
            raise Stopped from ended
        if self._is_listening:
            # SIGINT's, which Ray leaves alone, is as SIGTERM's was: ours, or the default since a signal has come.
            signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))


class Drain:
    """After a stop, whether all that was begun before, elsewhere, has come to its end."""

    def __init__(self, stop: Stop, tell: Callable[[], None], find_work: Callable[[], object]) -> None:
        """Watch.

        Args:
            stop: what may ask.
            tell: told once that no more is to be begun.
            find_work: something that is empty when no split is being labelled.
        """
        self._stop, self._tell, self._find_work = stop, tell, find_work
        self._worked_at: float | None = None
        self._look_at = 0.0

    def saw_work(self) -> None:
        """Learn that a split came to its end: others may be about to."""
        if self._worked_at is not None:
            self._worked_at = time.monotonic()

    def is_done(self) -> bool:
        """Whether nothing more is to be waited for; False as long as nobody asks for a stop."""
        if self._stop.reason is None:
            return False
        now = time.monotonic()
        if self._worked_at is None:
            self._tell()
            self._worked_at = now
        if now >= self._look_at:
            self._look_at = now + _LOOK_SECONDS
            self._worked_at = now if self._find_work() else self._worked_at
        return self._stop.is_over or now - self._worked_at > _WRITE_SECONDS


def as_done(futures: Sequence[Future[Result]], stop: Stop) -> Iterator[Future[Result]]:
    """As `concurrent.futures.as_completed`, until a stop: then those that run, for as long as they have time."""
    done = SimpleQueue[Future[Result]]()
    for future in futures:
        future.add_done_callback(done.put)
    num_left, is_cancelled = len(futures), False
    while num_left and not stop.is_over:
        if stop.reason is not None and not is_cancelled:
            is_cancelled = True
            for future in futures:
                future.cancel()
        with suppress(Empty):
            future = done.get(timeout=POLL_SECONDS)
            num_left -= 1
            if not future.cancelled():
                yield future
