"""Which files a path names: a file, a directory or a glob; local, or in any store of pyarrow.fs."""

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

import pyarrow.fs as pafs
from fsspec.utils import glob_translate

from inference.errors import OutputError
from jobs.storage import Location


def find(location: Location) -> list[tuple[str, pafs.FileInfo]]:
    """Files that a file, a directory or a glob names, each with its name below that directory, sorted by it.

    Names with a part that starts with `.` or `_` are left out, as Spark and Hive do, unless the location is the file.
    A glob that matches directories names the files in them.
    """
    filesystem, path = location.filesystem, location.path
    info = filesystem.get_file_info(path)
    if info.type == pafs.FileType.File:
        return [(info.base_name, info)]
    root = path
    if info.type == pafs.FileType.NotFound and (wildcard := min((path.find(c) for c in "*?[" if c in path), default=0)):
        root = path[:wildcard].rpartition("/")[0]
        infos = _glob(filesystem, root, path)
    else:
        infos = _list(filesystem, path)
    files = {info.path[len(root) :].lstrip("/"): info for info in infos if info.type != pafs.FileType.Directory}
    return [(name, files[name]) for name in sorted(files) if not is_hidden(name)]


def find_in_output(location: Location) -> list[tuple[str, pafs.FileInfo]]:
    """The same below a directory of an output.

    Raises:
        OutputError: it cannot be listed.
    """
    try:
        return find(location)
    except OSError as error:
        msg = f"output.path: {location} cannot be listed ({error}); check permissions and credentials"
        raise OutputError(msg) from error


def _list(filesystem: pafs.FileSystem, directory: str) -> list[pafs.FileInfo]:
    if isinstance(filesystem, pafs.LocalFileSystem):
        infos: list[pafs.FileInfo] = filesystem.get_file_info(_each_once(_walk(directory)))
        return infos
    return list(filesystem.get_file_info(pafs.FileSelector(directory, recursive=True, allow_not_found=True)))


def _glob(filesystem: pafs.FileSystem, root: str, pattern: str) -> list[pafs.FileInfo]:
    if not isinstance(filesystem, pafs.LocalFileSystem):
        # One listing, 1,000 names a request on S3: to ask for every match would be one request each.
        finds = re.compile(glob_translate(pattern)).match
        infos = _list(filesystem, root)
        return [info for info in infos if any(finds(str(p)) for p in (info.path, *PurePosixPath(info.path).parents))]
    # pathlib does not follow links for `**`, fsspec goes in circles
    matches = _each_once(str(path) for path in Path(root).glob(pattern[len(root) :].strip("/")))
    infos = filesystem.get_file_info(matches)
    below = [inner for info in infos if info.type == pafs.FileType.Directory for inner in _list(filesystem, info.path)]
    return [*infos, *below]


def _walk(root: str) -> Iterator[str]:
    """Files below a local directory; a linked directory after the others, and none of them twice: so a circle ends."""
    above = os.path.realpath(root)
    seen, queue = set[str](), [root]
    for top in queue:  # which grows
        for directory, names, files in os.walk(top, onerror=_raise):
            real = os.path.realpath(directory)
            if real in seen or (real != above and Path(above).is_relative_to(real)):
                names.clear()
                continue
            seen.add(real)
            queue += [str(path) for name in sorted(names) if (path := Path(directory, name)).is_symlink()]
            yield from (str(Path(directory, name)) for name in files)


def _each_once(paths: Iterable[str]) -> list[str]:
    """The paths without links to files that are among them anyway."""
    are_links = {path: Path(path).is_symlink() for path in paths}
    if not any(are_links.values()):
        return list(are_links)
    found = {os.path.realpath(path) for path, is_link in are_links.items() if not is_link}
    return [path for path, is_link in are_links.items() if not is_link or os.path.realpath(path) not in found]


def _raise(error: OSError) -> None:
    """What os.walk would pass over: a directory that may not be listed holds rows all the same."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def is_hidden(name: str) -> bool:
    """Spark's rule: a Hive partition whose key starts with `_` is not hidden."""
    return any(part.startswith(".") or (part.startswith("_") and "=" not in part) for part in name.split("/"))
