"""Telling a slow split from a hang. In: what is done, as it comes, and signs of life. Out: the same, or a JobError."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.pool import AsyncResult, ThreadPool
from threading import Event, Thread
from typing import TypeVar

from inference.errors import JobError, OutputError
from jobs import storage
from jobs.stopping import POLL_SECONDS
from jobs.storage import Location

Item = TypeVar("Item")

_BEAT_SECONDS = 60.0
"""Between two signs of life of a process at work."""

DEAD_SECONDS = 3 * _BEAT_SECONDS
"""A note that has not changed for so long is what remains of a process that died."""

CHECK_SECONDS = 900.0
"""Between two looks for signs of life: a run that has stood still is stopped after 30 minutes."""

_GIVE_UP_SECONDS = 10.0

_UNSEEN = object()


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


def wait_patiently(
    items: Iterator[Item],
    signs_of_life: Callable[[], object],
    is_to_end: Callable[[], bool] = lambda: False,
    give_up: Callable[[], None] = lambda: None,
) -> Iterator[Item]:
    """Hand on what comes, as long as something comes or changes.

    Ray Data's own limit is 30 minutes, whatever its actors do; a split of 32,768 long texts takes hours on a core.

    Args:
        items: whose next may never come.
        signs_of_life: something that changes as long as work is going on.
        is_to_end: asked several times a second; nothing more is waited for when it says so.
        give_up: called in the end, however it came; makes an item that is still waited for fail, or be the last.

    Raises:
        JobError: nothing came, and nothing changed between two looks.
    """
    with ThreadPool(1) as pool:  # whose thread, other than that of an executor, keeps no process from ending
        answer: AsyncResult[Item | None] | None = None
        try:
            while not is_to_end():
                answer = pool.apply_async(next, (items, None))
                if not _await(answer, signs_of_life, is_to_end):
                    return
                item = answer.get()
                if item is None:
                    pool.close()
                    pool.join()  # Ray is not to be shut down while a thread that used it ends
                    return
                yield item
        finally:
            give_up()
            if answer is not None:
                answer.wait(_GIVE_UP_SECONDS)


def _await(
    answer: "AsyncResult[Item | None]", signs_of_life: Callable[[], object], is_to_end: Callable[[], bool]
) -> bool:
    """Wait for an answer; False when nothing more is to be waited for."""
    look_at = time.monotonic() + CHECK_SECONDS
    seen: object = _UNSEEN
    while not answer.ready():
        answer.wait(POLL_SECONDS)
        if is_to_end():
            return False
        if time.monotonic() < look_at or answer.ready():
            continue
        signs = signs_of_life()
        if signs == seen and not answer.ready():
            minutes = CHECK_SECONDS / 60
            msg = (
                f"the run stopped: for {minutes:.0f} minutes or more no split was done and no Predictor was at work, "
                "because the cluster has too few CPUs or GPUs perhaps, or because Ray lost its way; the parts written "
                "until now stay, run again to finish"
            )
            raise JobError(msg)
        look_at, seen = time.monotonic() + CHECK_SECONDS, signs
    return True
