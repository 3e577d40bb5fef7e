"""Telling a slow split from a hang. In: what is done, as it comes, and signs of life. Out: the same, or a JobError."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.pool import ThreadPool
from threading import Event, Thread
from typing import TypeVar

from inference.errors import JobError, OutputError
from jobs import storage
from jobs.storage import Location

Item = TypeVar("Item")

_BEAT_SECONDS = 60.0
"""Between two signs of life of a process at work."""

CHECK_SECONDS = 900.0
"""Between two looks for signs of life: a run that has stood still is stopped after 30 minutes."""


@contextmanager
def beating(note: Location) -> Iterator[None]:
    """Rewrite a note every minute, as a sign that its split is being worked on."""
    is_done = Event()

    def beat() -> None:
        while not is_done.wait(_BEAT_SECONDS):
            with suppress(OutputError):  # the part, which is next, says what is wrong with the output
                storage.write(note, b"")

    thread = Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_done.set()
        thread.join()


def wait_patiently(items: Iterator[Item], signs_of_life: Callable[[], object]) -> Iterator[Item]:
    """Hand on what comes, as long as something comes or changes.

    Ray Data's own limit is 30 minutes, whatever its actors do; a split of 32,768 long texts takes hours on a core.

    Args:
        items: whose next may never come.
        signs_of_life: something that changes as long as work is going on.

    Raises:
        JobError: nothing came, and nothing changed between two looks.
    """
    with ThreadPool(1) as pool:  # whose thread, other than that of an executor, keeps no process from ending
        while True:
            answer = pool.apply_async(next, (items, None))
            answer.wait(CHECK_SECONDS)
            seen = None if answer.ready() else signs_of_life()
            while not answer.ready():
                answer.wait(CHECK_SECONDS)
                signs = signs_of_life()
                if not answer.ready() and signs == seen:
                    minutes = CHECK_SECONDS / 60
                    msg = (
                        f"the run stopped: for {minutes:.0f} minutes or more no split was done and no Predictor was at "
                        "work, because the cluster has too few CPUs or GPUs perhaps, or because Ray lost its way; the "
                        "parts written until now stay, run again to finish"
                    )
                    raise JobError(msg)
                seen = signs
            item = answer.get()
            if item is None:
                pool.close()
                pool.join()  # Ray is not to be shut down while a thread that used it ends
                return
            yield item
