"""A URI -> the filesystem it names and the path on it: credentials refused, retries set. And what stores do oddly."""

import os
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar
from urllib.parse import parse_qsl

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from inference.errors import ConfigError, InputError

Item = TypeVar("Item")
Result = TypeVar("Result")

# Up to 20 s apart, with jitter: 80 to 100 s until a store that stays away is given up.
_MAX_ATTEMPTS = 10

# Files that are read or copied at once: they wait for the disk or the store, not for the CPU.
_NUM_THREADS = 16

# Of an object that goes through this machine on its way to another name.
_PIECE_BYTES = 2**22

_PARQUET = pads.ParquetFileFormat()

_SECRET_OPTION = re.compile(r"secret|token|password|signature|^sig$|(access|account)_?key", re.IGNORECASE)


def open_store(uri: str) -> tuple[pafs.FileSystem, str]:
    """Open the filesystem of a URI.

    Raises:
        ConfigError: the URI holds credentials.
        InputError: its scheme is unknown, or its store cannot be opened.
    """
    _refuse_credentials(uri)
    try:
        filesystem, path = pafs.FileSystem.from_uri(uri)
        if isinstance(filesystem, pafs.S3FileSystem):
            filesystem = _patient(filesystem)
    except (pa.ArrowException, ValueError, OSError) as error:
        msg = f"{uri}: cannot be opened ({error}); expected a local path or a URI such as s3://bucket/folder"
        raise InputError(msg) from error
    return filesystem, path.rstrip("/")


def _refuse_credentials(uri: str) -> None:
    """Refuse passwords and keys: a URI ends up in logs, in the report and in the shell's history.

    The text is searched, not parsed: a key that holds a `/` makes a URI that no parser takes, and its error shows it.
    """
    scheme, _, rest = uri.partition("://")
    place, _, query = rest.partition("?")
    before, at, after = place.rpartition("@")
    user = before.partition("/")[0]
    is_port = scheme != "s3" and "/" in before and user.rpartition(":")[2].isdigit()
    is_access_key = scheme == "s3" and at and "/" not in before
    options = [name for name, _ in parse_qsl(query, keep_blank_values=True) if _SECRET_OPTION.search(name)]
    if is_access_key or (":" in user and not is_port):
        msg = f"{scheme}://…@{after}: holds credentials"
    elif options:
        msg = f"{scheme}://{place}: holds credentials in {', '.join(options)}"
    else:
        return
    msg += "; leave them out, the environment (AWS_ACCESS_KEY_ID, AWS_PROFILE, …) and ~/.aws are read"
    raise ConfigError(msg)


def _patient(filesystem: pafs.S3FileSystem) -> pafs.S3FileSystem:
    """The same store with what a URI cannot ask for, by way of what pickling keeps of a filesystem.

    From a URI, pyarrow gives a request up after 6 s, whatever the store says (30 retries, 0.2 s apart). Delayed opening
    makes a write of less than 5 MB one request in place of three, and leaves no unfinished upload when it is killed.
    """
    rebuild, (options,) = filesystem.__reduce__()
    attempts = os.environ.get("AWS_MAX_ATTEMPTS", "")
    strategy = pafs.AwsStandardS3RetryStrategy(max_attempts=int(attempts) if attempts.isdecimal() else _MAX_ATTEMPTS)
    patient: pafs.S3FileSystem = rebuild(options | {"retry_strategy": strategy, "allow_delayed_open": True})
    return patient


def read_footer(filesystem: pafs.FileSystem, path: str, size: int) -> pq.FileMetaData:
    """A Parquet file's footer, in one request where a store would be asked for the size too.

    Raises:
        OSError: it cannot be read.
        ArrowException: it is no Parquet file of this size.
    """
    return _PARQUET.make_fragment(path, filesystem, file_size=size).metadata


def read_each(read: Callable[[Item], Result], items: Iterable[Item], num_threads: int = _NUM_THREADS) -> list[Result]:
    """What a function reads for each, many at once, in their order; a signal halfway waits only for what has begun."""
    pool = ThreadPoolExecutor(num_threads)
    try:
        return list(pool.map(read, items))
    finally:
        pool.shutdown(cancel_futures=True)


def upload(filesystem: pafs.FileSystem, path: str, content: pa.Buffer | bytes) -> None:
    """Write an object, whole or not at all."""
    try:
        _upload(filesystem, path, content)
    except OSError as error:
        # The answer to the request that ended the upload was lost, and its retry finds no upload to end.
        if "NO_SUCH_UPLOAD" not in str(error):
            raise
        _upload(filesystem, path, content)


def _upload(filesystem: pafs.FileSystem, path: str, content: pa.Buffer | bytes) -> None:
    with filesystem.open_output_stream(path) as stream:
        stream.write(content)


def copy_file(filesystem: pafs.FileSystem, path: str, to: str) -> None:
    """Copy an object: the store itself does it, or it goes through this machine in pieces.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be copied.
    """
    try:
        filesystem.copy_file(path, to)
    except (OSError, NotImplementedError):  # more than 5 GB on S3, a store that cannot, or none to copy
        with (
            filesystem.open_input_stream(path, compression=None) as source,
            filesystem.open_output_stream(to, compression=None) as target,
        ):
            while piece := source.read(_PIECE_BYTES):
                target.write(piece)


def delete_file(filesystem: pafs.FileSystem, path: str) -> None:
    """Delete a file that is there."""
    try:
        filesystem.delete_file(path)
    except OSError:
        # On S3 pyarrow then writes the folder as an empty object; a store may refuse that, but the file is gone.
        if filesystem.get_file_info(path).type == pafs.FileType.File:
            raise


def delete_directory(filesystem: pafs.FileSystem, path: str) -> None:
    """Delete a directory that is there and all in it."""
    try:
        filesystem.delete_dir(path)
    except OSError:
        # pyarrow also asks for the folders to be deleted, of which a store may have no object and may say so.
        selector = pafs.FileSelector(path, recursive=True, allow_not_found=True)
        if any(info.type == pafs.FileType.File for info in filesystem.get_file_info(selector)):
            raise


def mtime_ns(filesystem: pafs.FileSystem, info: pafs.FileInfo) -> int:
    """When a file was changed; on S3 in whole seconds, since a listing may say milliseconds but a `HEAD` cannot."""
    changed: int = info.mtime_ns or 0
    return changed - changed % 10**9 if isinstance(filesystem, pafs.S3FileSystem) else changed
