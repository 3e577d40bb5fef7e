"""One bad row must not take its neighbours along: what raises is halved until the row that does it stands alone."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from inference.errors import DeviceError, InputError, ShardlabelError

Work = Callable[[NDArray[np.int64]], None]


def isolate(
    work: Work,
    indices: NDArray[np.int64],
    errors: dict[int, str],
    on_out_of_memory: Work | None = None,
) -> None:
    """Do some work on all of `indices`, or on as many of them as it can be done on.

    Args:
        work: does it on any of them; doing it again on some is fine.
        indices: of rows or sequences; none is fine.
        errors: takes the class and message of those that fail alone.
        on_out_of_memory: told of several indices that were too many at once, before their halves are tried.

    Raises:
        DeviceError: the accelerator is lost for this process, which is no row's fault.
        ShardlabelError: the request is wrong, which is no row's fault either.
    """
    message, is_too_large = _attempt(work, indices) if len(indices) else (None, False)
    if message is None:
        return
    if len(indices) == 1:
        errors[int(indices[0])] = message
        return
    if is_too_large and on_out_of_memory is not None:
        on_out_of_memory(indices)
    for half in np.array_split(indices, 2):
        isolate(work, half, errors, on_out_of_memory)


@contextmanager
def loses_device() -> Iterator[None]:
    """Say what it means when the accelerator fails, which it may do after the call that broke it.

    Raises:
        DeviceError: it is lost for this process.
    """
    try:
        yield
    except _torch_errors("AcceleratorError") as error:
        msg = f"the accelerator of this process can no longer be used ({str(error).partition(chr(10))[0]})"
        raise DeviceError(msg) from error


def _attempt(work: Work, indices: NDArray[np.int64]) -> tuple[str | None, bool]:
    """Why it failed, as text: the exception itself would keep alive the tensors that did not fit."""
    try:
        with loses_device():
            work(indices)
    except InputError as error:
        return f"InputError: {error}", False
    except ShardlabelError:
        raise
    except Exception as error:  # noqa: BLE001 - the one place where a row's failure becomes its `error`
        return f"{type(error).__name__}: {error}", _is_out_of_memory(error)
    return None, False


def _is_out_of_memory(error: Exception) -> bool:
    # The host's allocator has no exception of its own (torch 2.13, c10/core/impl/alloc_cpu.cpp).
    on_host = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return on_host or isinstance(error, (*_torch_errors("OutOfMemoryError"), MemoryError))


def _torch_errors(name: str) -> tuple[type[Exception], ...]:
    """A class of torch, if it is imported: what only tokenizes, as a driver that plans, may have none."""
    torch = sys.modules.get("torch")
    return () if torch is None else (getattr(torch, name),)
