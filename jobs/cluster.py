"""A Ray to run on: the one that this process has, that of RAY_ADDRESS, or a local one that is started and stopped."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

from inference.errors import JobError
from jobs.resources import available_cpus


@contextmanager
def connected(max_actors: int) -> Iterator[None]:
    """Ray, with room for so many Predictors where it is started here; what was started here is stopped.

    Raises:
        JobError: a local Ray did not start.
    """
    # An iterator abandoned by an exception would otherwise start a new Ray at exit and hang there.
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"
    import ray

    if ray.is_initialized():
        yield
        return
    # A thread of Ray prints there what becomes of dead workers (ray/_private/worker.py:2482, 2.60), also with
    # log_to_driver off; whoever parses our report would find it in front.
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        logging.getLogger("ray").setLevel(logging.CRITICAL)
        try:  # a signal may end the start halfway
            if "RAY_ADDRESS" in os.environ:
                ray.init(log_to_driver=False, configure_logging=False)
            else:
                _start_local_ray(max_actors)
            yield
        finally:
            ray.shutdown()


def count_cluster_gpus() -> float:
    """GPUs of the whole cluster."""
    import ray

    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return resources.get("GPU", 0.0)


def tell_to_stop(run_id: str) -> None:
    """Tell the workers of a run to begin no more splits, through the store that a cluster keeps beside its head."""
    from ray.experimental import internal_kv

    internal_kv._internal_kv_put(_stop_key(run_id), b"1")  # noqa: SLF001 - there is no public name for it


def is_told_to_stop(run_id: str) -> bool:
    """Whether a worker is to begin no more splits of a run; costs a millisecond."""
    from ray.experimental import internal_kv

    return is_on_ray() and bool(internal_kv._internal_kv_exists(_stop_key(run_id)))  # noqa: SLF001


def is_on_ray() -> bool:
    """Whether this process has a Ray: tests call the stages without one."""
    import ray

    return bool(ray.is_initialized())


def _stop_key(run_id: str) -> str:
    return f"shardlabel-stop-{run_id}"


def _start_local_ray(max_actors: int) -> None:
    import ray

    # Without this a local Ray writes an access token into the home directory.
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    # ray.init would wait for ever for a worker that is started in advance and dies before it is ready (ray#40131).
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
    # Ray Data's actor pools always print an error-like line about their own arguments (ray#53727) ...
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        with _muted_stderr():  # ... and Ray's core prints a line about that variable.
            ray.init(
                address="local",
                # Logical: Predictors that held every CPU would leave none for the tasks that feed them (ray#44687).
                num_cpus=max_actors + available_cpus(),
                include_dashboard=False,
                log_to_driver=False,
                configure_logging=False,
            )
    except Exception as error:
        reason = str(error).partition("\n")[0]
        msg = f"a local Ray did not start ({reason}); run again, or use run.executor=local"
        raise JobError(msg) from error


@contextmanager
def _muted_stderr() -> Iterator[None]:
    """Send what C++ code writes to the process's standard error nowhere; exceptions are not affected."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
