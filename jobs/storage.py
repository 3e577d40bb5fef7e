"""Where bytes live: local paths and every URI that pyarrow.fs understands, read and written the same way.

A file appears under its final name whole or not at all.
"""

import errno
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Self

import pyarrow as pa
import pyarrow.fs as pafs
from fsspec.utils import glob_translate

from inference.errors import InputError, OutputError
from jobs import stores

TEMPORARY_SUFFIX = ".shardlabel-tmp"
"""How the names of unfinished local files end; a killed writer leaves one behind."""


_MAX_WRITES = 5

# What a filesystem without hard links says, as some that are mounted over a network, and one that ends in between.
_NO_LINKS = {errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.EXDEV}

SETTLE_SECONDS = 1.0
"""How long `create` waits for others that want to write the same object; an upload takes a tenth of it."""


@dataclass(frozen=True, slots=True)
class Location:
    """A file or a directory."""

    uri: str
    """What opens its filesystem: the path or URI the user wrote."""
    path: str
    """Its path on that filesystem."""

    @property
    def filesystem(self) -> pafs.FileSystem:
        """The filesystem, opened once per process."""
        return _open(self.uri)[0]

    def join(self, name: str) -> Self:
        """A place below this directory."""
        return replace(self, path=f"{self.path}/{name}")

    def __str__(self) -> str:
        """The path, with the scheme where there is one; the options of a URI are left out."""
        scheme, separator, _ = self.uri.partition("://")
        return f"{scheme}://{self.path}" if separator else self.path


def locate(uri: str) -> Location:
    """The place that a local path or a URI names.

    Raises:
        ConfigError: the URI holds credentials.
        InputError: the URI's scheme is unknown, its store cannot be opened, or a path's `~user` does not exist.
    """
    return Location(uri, _open(uri)[1])


@cache
def _open(uri: str) -> tuple[pafs.FileSystem, str]:
    if "://" in uri:
        return stores.open_store(uri)
    try:
        return pafs.LocalFileSystem(), Path(uri).expanduser().absolute().as_posix()
    except RuntimeError as error:
        msg = f"{uri}: there is no such user; expected a path such as ~/folder"
        raise InputError(msg) from error


def overlap(one: Location, other: Location) -> bool:
    """Whether two places are the same or one lies in the other, links and `..` seen through."""
    if one.filesystem.type_name != other.filesystem.type_name:
        return False
    a, b = _real_path(one), _real_path(other)
    return a.is_relative_to(b) or b.is_relative_to(a)


def globs(pattern: Location, places: Iterable[Location]) -> bool:
    """Whether a path, read as a glob, finds one of these places or a directory above it."""
    if not any(character in pattern.path for character in "*?["):
        return False
    finds = re.compile(glob_translate(str(_real_path(pattern)))).match
    paths = map(_real_path, places)
    return any(finds(path) for path in {str(found) for path in paths for found in (path, *path.parents)})


def _real_path(place: Location) -> PurePosixPath:
    is_local = isinstance(place.filesystem, pafs.LocalFileSystem)
    return PurePosixPath(os.path.realpath(place.path) if is_local else place.path)


def read_bytes(location: Location) -> bytes | None:
    """The content of a file of an output, in one request; None when there is none.

    Raises:
        OutputError: it cannot be read, because the output is a file perhaps.
    """
    try:
        with location.filesystem.open_input_stream(location.path, compression=None) as stream:
            return bytes(stream.read())
    except FileNotFoundError:
        return None
    except OSError as error:
        msg = f"output.path: {location} cannot be read ({error}); give a directory of its own"
        raise OutputError(msg) from error


def read_text(location: Location) -> str | None:
    """The content of a small text file of an output; None when there is none.

    Raises:
        OutputError: it cannot be read, or is no text.
    """
    content = read_bytes(location)
    try:
        return None if content is None else content.decode()
    except UnicodeDecodeError as error:
        msg = f"output.path: {location} cannot be read ({error}); give a directory of its own"
        raise OutputError(msg) from error


@contextmanager
def _explained(location: Location, verb: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        msg = f"{location}: cannot be {verb} ({' '.join(str(error).split())}); check space, permissions and credentials"
        raise OutputError(msg) from error


def look(location: Location) -> pafs.FileInfo:
    """What the store says of a file now, there or not.

    Raises:
        OutputError: there is no answer.
    """
    with _explained(location, "read"):
        return location.filesystem.get_file_info(location.path)


def write(location: Location, content: pa.Buffer | bytes) -> None:
    """Write a file atomically; whoever reads it sees the old content or the new.

    An object store shows an object when its upload ends; on a local disk the bytes go to a unique temporary name
    beside it, are synced and renamed.

    Raises:
        OutputError: it could not be written.
    """
    with _explained(location, "written"):
        if isinstance(location.filesystem, pafs.LocalFileSystem):
            _write_local(Path(location.path), content, Path.replace)
        else:
            stores.upload(location.filesystem, location.path, content)


def create(location: Location, content: bytes) -> bool:
    """Write a file unless it is there, and say whether it was written.

    On a local disk with hard links only one of many is told so. pyarrow has no conditional put, so an object is
    written, left for a while, and read again: of several that looked before any had written, the last one finds its own
    content, if none takes longer than `SETTLE_SECONDS` from its look to the end of its upload.

    Raises:
        OutputError: it could not be written.
    """
    if read_bytes(location) is not None:
        return False
    if isinstance(location.filesystem, pafs.LocalFileSystem):
        with _explained(location, "written"):
            try:
                _write_local(Path(location.path), content, lambda temporary, path: path.hardlink_to(temporary))
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
            else:
                return True
    write(location, content)
    time.sleep(SETTLE_SECONDS)
    return read_bytes(location) == content


def _write_local(path: Path, content: pa.Buffer | bytes, give_name: Callable[[Path, Path], object]) -> None:
    for _ in range(_MAX_WRITES - 1):
        with suppress(FileNotFoundError):  # another run of the job ended and swept the unfinished file away
            _write_once(path, content, give_name)
            return
    _write_once(path, content, give_name)


def _write_once(path: Path, content: pa.Buffer | bytes, give_name: Callable[[Path, Path], object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without the file's own name: that may be as long as a name may be.
    temporary = path.with_name(f".{uuid.uuid4().hex}{TEMPORARY_SUFFIX}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        give_name(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def copy(location: Location, to: Location) -> bool:
    """Keep a file's bytes at a place of their own when it is written over, and say whether there was one.

    For a place that nobody knows yet, since half a copy may be seen there. A local disk with hard links gives the bytes
    a second name: `write` leaves them as they are and makes others.

    Raises:
        OutputError: it could not be copied.
    """
    with _explained(to, "written"):
        try:
            if isinstance(location.filesystem, pafs.LocalFileSystem):
                _copy_local(Path(location.path).resolve(), Path(to.path))
            else:
                stores.copy_file(location.filesystem, location.path, to.path)
        except FileNotFoundError:
            return False
    return True


def _copy_local(path: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    try:
        to.hardlink_to(path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        with path.open("rb") as source, to.open("wb") as target:
            shutil.copyfileobj(source, target)
            target.flush()
            os.fsync(target.fileno())


def delete(location: Location) -> None:
    """Delete a file; none is fine too.

    Raises:
        OutputError: it is still there.
    """
    filesystem, path = location.filesystem, location.path
    with _explained(location, "deleted"):
        if filesystem.get_file_info(path).type == pafs.FileType.File:
            stores.delete_file(filesystem, path)


def delete_directory(location: Location) -> None:
    """Delete a directory and all in it; none is fine too.

    Raises:
        OutputError: some of it is still there.
    """
    with _explained(location, "deleted"):
        if location.filesystem.get_file_info(location.path).type == pafs.FileType.Directory:
            stores.delete_directory(location.filesystem, location.path)


def sweep(directory: Location) -> None:
    """Delete what killed writers left below a local directory.

    A writer that is still alive, in another run of the job, writes again.
    """
    if isinstance(directory.filesystem, pafs.LocalFileSystem):
        with _explained(directory, "cleared of temporary files"):
            for folder, _, names in os.walk(directory.path):  # which passes over what is removed meanwhile
                for name in names:
                    if name.startswith(".") and name.endswith(TEMPORARY_SUFFIX):
                        Path(folder, name).unlink(missing_ok=True)
