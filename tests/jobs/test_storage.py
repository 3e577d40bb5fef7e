"""Listing and atomic writing."""

import errno
import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from inference.errors import InputError, OutputError
from jobs import storage
from jobs.listing import find
from jobs.storage import TEMPORARY_SUFFIX, locate


def names(uri: str) -> list[str]:
    return [name for name, _ in find(locate(uri))]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b.parquet", "a.parquet", "x/c.parquet", "x/y/d e ü.parquet", "_tmp/e.parquet", ".f.parquet", "x/_g"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"1")
    return tmp_path


def test_a_directory_is_listed_deep_and_sorted_without_hidden_names(tree: Path) -> None:
    assert names(str(tree)) == ["a.parquet", "b.parquet", "x/c.parquet", "x/y/d e ü.parquet"]


def test_a_glob_names_files_below_its_fixed_part(tree: Path) -> None:
    assert names(f"{tree}/*.parquet") == ["a.parquet", "b.parquet"]
    assert names(f"{tree}/x/**/*.parquet") == ["c.parquet", "y/d e ü.parquet"]
    assert names(f"{tree}/[a]*.parquet") == ["a.parquet"]


def test_a_file_is_taken_whatever_it_is_called(tree: Path) -> None:
    assert names(f"{tree}/_tmp/e.parquet") == ["e.parquet"]
    assert names(f"{tree}/x/_g") == ["_g"]


def test_a_name_with_glob_characters_is_a_name_when_there_is_such_a_file(tree: Path) -> None:
    (tree / "q[1].parquet").write_bytes(b"1")
    assert names(f"{tree}/q[1].parquet") == ["q[1].parquet"]


def test_what_is_not_there_is_empty(tree: Path) -> None:
    assert names(f"{tree}/none") == []
    assert names(f"{tree}/none/*.parquet") == []


def test_a_uri_lists_what_a_path_lists(tree: Path) -> None:
    assert names(f"file://{tree}") == names(str(tree))
    assert str(locate(f"file://{tree}").join("a")) == f"file://{tree}/a"


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(InputError, match="nope://bucket: cannot be opened"):
        locate("nope://bucket")


def test_a_write_replaces_the_whole_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    target = locate(str(tmp_path / "new" / "file"))
    storage.write(target, b"first, longer")
    storage.write(target, b"second")
    assert storage.read_text(target) == "second"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file"]


def test_a_failed_write_raises_and_keeps_the_old_content(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "child").touch()
    with pytest.raises(OutputError, match="file: cannot be written"):
        storage.write(locate(str(tmp_path / "file")), b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_filesystem_without_rename_gets_the_file_in_one_piece(tmp_path: Path) -> None:
    location = locate(f"mock://{tmp_path}/out/file")
    location.filesystem.create_dir(str(Path(location.path).parent), recursive=True)
    assert not isinstance(location.filesystem, pafs.LocalFileSystem)
    storage.write(location, b"whole")
    assert storage.read_text(location) == "whole"
    storage.delete(location)
    assert storage.read_text(location) is None


def test_the_leftovers_of_killed_writers_are_swept_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    leftover = tmp_path / "deep" / f".part.parquet.0123{TEMPORARY_SUFFIX}"
    part = tmp_path / "deep" / "part.parquet"
    for path in (leftover, part):
        path.touch()
    storage.sweep(locate(str(tmp_path)))
    assert (leftover.exists(), part.exists()) == (False, True)


def test_what_a_writer_leaves_that_is_killed_while_it_creates_a_file_is_swept(tmp_path: Path) -> None:
    location = locate(str(tmp_path / "deep" / "file"))
    code = (
        "import os, signal; from pathlib import Path; from jobs import storage; from jobs.storage import Location\n"
        "Path.hardlink_to = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"storage.create(Location({location.uri!r}, {location.path!r}), b'x')"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert len(list((tmp_path / "deep").iterdir())) == 1
    storage.sweep(locate(str(tmp_path)))
    assert list((tmp_path / "deep").iterdir()) == []
    assert storage.create(location, b"x")
    assert not storage.create(location, b"y")
    assert [path.read_bytes() for path in (tmp_path / "deep").iterdir()] == [b"x"]


def test_a_file_is_created_where_there_are_no_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    monkeypatch.setattr(storage, "SETTLE_SECONDS", 0.0)
    location = locate(str(tmp_path / "file"))
    assert storage.create(location, b"one")
    assert not storage.create(location, b"two")
    assert (tmp_path / "file").read_bytes() == b"one"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("link", ["real", "raise OSError(errno.EXDEV, 'Invalid cross-device link')"])
def test_a_copy_of_a_large_file_takes_little_memory_and_stays_when_the_file_is_replaced(
    tmp_path: Path, link: str
) -> None:
    piece = os.urandom(2**20)
    with (tmp_path / "old").open("wb") as file:
        for _ in range(256):
            file.write(piece)
    code = f"""
import errno, re
from pathlib import Path
from jobs import storage
real = Path.hardlink_to
def link(*how):
    {link}
    real(*how)
Path.hardlink_to = link
peak = lambda: int(re.search("VmHWM: *([0-9]+)", Path("/proc/self/status").read_text().replace(chr(9), " "))[1])
place, before = storage.locate({str(tmp_path)!r}), peak()
assert storage.copy(place.join("old"), place.join("deep/copy"))
print(peak() - before)
storage.write(place.join("old"), b"new")
assert not storage.copy(place.join("none"), place.join("deep/none"))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert int(done.stdout) < 32 * 2**10  # KiB
    assert (tmp_path / "old").read_bytes() == b"new"
    assert hashlib.sha256((tmp_path / "deep" / "copy").read_bytes()).digest() == hashlib.sha256(piece * 256).digest()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["copy"]


def test_a_home_of_nobody_is_said() -> None:
    with pytest.raises(InputError, match="~nobody-is-called-so/x: there is no such user"):
        locate("~nobody-is-called-so/x")
