"""Where bytes live: local paths and every URI that pyarrow.fs understands, read and written the same way.

A file appears under its final name whole or not at all.
"""

import os
import re
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Self

import pyarrow as pa
import pyarrow.fs as pafs
from fsspec.utils import glob_translate

from inference.errors import OutputError
from jobs import stores

TEMPORARY_SUFFIX = ".shardlabel-tmp"
"""How the names of unfinished local files end; a killed writer leaves one behind."""


_MAX_WRITES = 5


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
        InputError: the URI's scheme is unknown or its store cannot be opened.
    """
    return Location(uri, _open(uri)[1])


@cache
def _open(uri: str) -> tuple[pafs.FileSystem, str]:
    if "://" not in uri:
        return pafs.LocalFileSystem(), Path(uri).expanduser().absolute().as_posix()
    return stores.open_store(uri)


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


def check_reachable(location: Location) -> None:
    """Ask the store for a file, there or not.

    Raises:
        OutputError: there is no answer.
    """
    with _explained(location, "read"):
        location.filesystem.get_file_info(location.path)


def write(location: Location, content: pa.Buffer | bytes) -> None:
    """Write a file atomically; whoever reads it sees the old content or the new.

    An object store shows an object when its upload ends; on a local disk the bytes go to a unique temporary name
    beside it, are synced and renamed.

    Raises:
        OutputError: it could not be written.
    """
    with _explained(location, "written"):
        if isinstance(location.filesystem, pafs.LocalFileSystem):
            _write_local(Path(location.path), content)
        else:
            stores.upload(location.filesystem, location.path, content)


def create(location: Location, content: bytes) -> bool:
    """Write a file unless it is there, and say whether it was written; on a local disk only one of many is told so.

    Raises:
        OutputError: it could not be written.
    """
    if read_text(location) is not None:
        return False
    if not isinstance(location.filesystem, pafs.LocalFileSystem):
        # pyarrow has no conditional put: of two jobs that begin in the same moment, neither is told.
        write(location, content)
        return True
    # As hidden as what `write` leaves behind when killed, but not swept away by a run that ends meanwhile.
    draft = replace(location, path=str(Path(location.path).with_name(f".{uuid.uuid4().hex}")))
    with _explained(location, "written"):
        _write_local(Path(draft.path), content)
    try:
        with _explained(location, "written"), suppress(FileExistsError):
            Path(location.path).hardlink_to(draft.path)
            return True
    finally:
        delete(draft)
    return False


def _write_local(path: Path, content: pa.Buffer | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(_MAX_WRITES - 1):
        with suppress(FileNotFoundError):  # another run of the job ended and swept the unfinished file away
            _write_and_rename(path, content)
            return
    _write_and_rename(path, content)


def _write_and_rename(path: Path, content: pa.Buffer | bytes) -> None:
    # Without the file's own name: that may be as long as a name may be.
    temporary = path.with_name(f".{uuid.uuid4().hex}{TEMPORARY_SUFFIX}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


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
            for path in Path(directory.path).rglob(f".*{TEMPORARY_SUFFIX}"):
                path.unlink(missing_ok=True)
