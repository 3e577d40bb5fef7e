"""A Ray to run on: the one that this process has, a cluster that is joined, or a local one, started and stopped."""

import logging
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from inference.errors import ConfigError, JobError
from jobs.environment import runtime_env
from jobs.resources import available_cpus

# Ray tries for two minutes (2.60: 20 times a connection's 30 s). What is here is read when ray is imported.
_PATIENCE = {
    "RAY_NUM_REDIS_GET_RETRIES": "1",
    "RAY_py_gcs_connect_timeout_s": "10",
    "RAY_gcs_server_request_timeout_seconds": "20",
    # A host that is cut off closes no connection, and what was asked of it is waited for even when the cluster has
    # given the host up (ray#63405): for 300 s and 120 s in Ray 2.60, and no part is written meanwhile.
    "RAY_grpc_client_keepalive_time_ms": "30000",
    "RAY_grpc_client_keepalive_timeout_ms": "30000",
}

_CONNECT_SECONDS = 5.0

_ADVICE = "give HOST:PORT of its head as `ray status` on the head shows it, or see whether it is up"
_FROM_OUTSIDE = (
    "on a machine outside of the cluster, use "
    "`ray job submit --address http://HEAD:8265 --working-dir . -- shardlabel run JOB.yaml`"
)


@contextmanager
def connected(max_actors: int, address: str | None, hook: str | None) -> Iterator[None]:
    """Ray: the one that this process has, else that of the address, else that of RAY_ADDRESS, else one started here.

    Args:
        max_actors: a Ray that is started here has room for so many Predictors; it is stopped in the end.
        address: HOST:PORT of a cluster's head, or `auto`; such a cluster is joined, never started or stopped. (Ray's
            client, ray://, is refused: Ray Data 2.60 does not run on it, block_ref_counter.py:29.)
        hook: `task.options.postprocess`, which the workers of such a cluster get with its folder.

    Raises:
        ConfigError: the address is none, or the hook lies in a folder with too much in it.
        JobError: the cluster does not answer, or a local Ray did not start.
    """
    # An iterator abandoned by an exception would otherwise start a new Ray at exit and hang there.
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"
    address = address or os.environ.get("RAY_ADDRESS")
    if address:
        for name, value in _PATIENCE.items():
            os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        yield
        return
    # A thread of Ray prints there what becomes of dead workers (ray/_private/worker.py:2482, 2.60), also with
    # log_to_driver off; whoever parses our report would find it in front.
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        logging.getLogger("ray").setLevel(logging.CRITICAL)
        # Ray Data's actor pools always print an error-like line about their own arguments (ray#53727).
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        try:  # a signal may end the start halfway
            if address:
                with runtime_env(hook) as environment:
                    _join(address, environment)
            else:
                _start_local_ray(max_actors)
            yield
        finally:
            ray.shutdown()


def _join(address: str, environment: dict[str, Any]) -> None:
    import ray

    if address != "auto":
        _knock(address)
    try:
        with _muted_stderr():  # Ray's core writes a line per attempt
            ray.init(address=address, runtime_env=environment, log_to_driver=False, configure_logging=False)
    except Exception as error:
        reason = str(error.__cause__ or error).strip().splitlines()[-1]
        msg = f"run.address: no Ray cluster answers at {address} ({reason}); {_ADVICE}"
        if "No node info found" in reason:  # ray/_private/services.py:588
            msg = f"run.address: this machine is no node of the cluster at {address}; {_FROM_OUTSIDE}"
        elif "Version mismatch" in str(error):  # ray/_private/utils.py:1439, of Ray or Python, in six lines
            said = " ".join(str(error).partition(": ")[2].split())
            msg = f"run.address: the cluster at {address} has other versions ({said}); install the same on both"
        raise JobError(msg) from error


def _knock(address: str) -> None:
    """Refuse at once what Ray would try for half a minute."""
    if "://" in address:
        msg = f"run.address: {address} is no HOST:PORT of a cluster's head; {_FROM_OUTSIDE}"
        raise ConfigError(msg)
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        msg = f"run.address: {address!r} is neither HOST:PORT nor auto"
        raise ConfigError(msg)
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        msg = f"run.address: no Ray cluster answers at {address} ({error}); {_ADVICE}"
        raise JobError(msg) from error


def end_execution(name: str) -> None:
    """End what Ray Data still does for the dataset of this name.

    Ray is not to be shut down under it: whoever then finds its raylet gone ends the process, without a word and with
    status 1 (`QuickExit` in ray's raylet connection). There is no public way to the thread before the first record.
    """
    for thread in threading.enumerate():
        if thread.name.startswith(f"StreamingExecutor-{name}"):
            thread.shutdown(force=True)  # type: ignore[attr-defined]


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
    try:
        with _muted_stderr():  # Ray's core prints a line about its log level
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
