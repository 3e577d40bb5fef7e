"""What is remembered of footers spares reading them and never hides a part that was replaced."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from inference.errors import OutputError
from jobs import footers
from jobs.footers import REMEMBERED, read_footers, remember
from jobs.storage import locate
from jobs.stores import read_each
from tests.jobs.conftest import MakeJob, part_bytes, read_parts, rows_of, run

SPLITS = {"split_rows": 10}


@pytest.fixture(autouse=True)
def few_and_new(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remember also a few parts, and such as were written just now."""
    monkeypatch.setattr(footers, "_MIN_NEWS", 1)
    monkeypatch.setattr(footers, "_SETTLED_NS", 0)


@pytest.fixture
def output(make_job: MakeJob) -> Path:
    """Six parts that a second run has remembered."""
    run(make_job(run=SPLITS))
    time.sleep(0.01)  # the clock of files has ticks of some milliseconds
    path = Path(make_job().output.path)
    assert not (path / REMEMBERED).exists()
    run(make_job(run=SPLITS))
    assert (path / REMEMBERED).exists()
    return path


def num_read(output: Path) -> int:
    return read_footers(locate(str(output))).num_read


def test_what_is_remembered_is_what_the_footers_say(output: Path) -> None:
    remembered = read_footers(locate(str(output)))
    (output / REMEMBERED).unlink()
    read = read_footers(locate(str(output)))
    assert (remembered.num_read, read.num_read) == (0, 6)
    assert list(remembered.identities.items()) == list(read.identities.items())
    assert all(identity is not None for identity in read.identities.values())
    assert len({id(identity.fingerprint) for identity in read.identities.values() if identity}) == 1


def test_a_part_that_another_run_removes_after_it_was_listed_is_nobody_elses(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (output / REMEMBERED).unlink()

    def remove_first(read: Callable[[str], object], names: list[str]) -> list[object]:
        (output / "a-00002.parquet").unlink()
        return read_each(read, names)

    monkeypatch.setattr(footers, "read_each", remove_first)
    found = read_footers(locate(str(output)))
    assert "a-00002.parquet" not in found.identities
    assert len(found.identities) == 5
    assert None not in found.identities.values()


def test_a_part_replaced_by_another_of_the_same_size_is_read_and_made_again(make_job: MakeJob, output: Path) -> None:
    before = part_bytes(str(output))
    one, other = output / "a-00000.parquet", output / "a-00001.parquet"
    content = other.read_bytes()
    one.write_bytes(content + b"\0" * (one.stat().st_size - len(content)))  # torn or not, it is not what it was
    assert num_read(output) == 1
    assert run(make_job(run=SPLITS)).new_rows == 10
    assert part_bytes(str(output)) == before


def test_a_part_of_another_size_with_the_old_time_is_read_again(output: Path) -> None:
    path = output / "a-00002.parquet"
    stamp = path.stat()
    shutil.copy(output / "b.parquet", path)
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert path.stat().st_size != stamp.st_size
    assert num_read(output) == 1


def test_a_file_of_somebody_else_is_never_remembered(make_job: MakeJob, output: Path) -> None:
    pq.write_table(rows_of(0, 1), output / "mine.parquet")
    for _ in range(2):
        with pytest.raises(OutputError, match=r"holds mine\.parquet, which shardlabel did not write"):
            run(make_job(run=SPLITS))
    assert num_read(output) == 1


def test_a_part_that_is_gone_is_made_again_and_a_new_one_is_read(make_job: MakeJob, output: Path) -> None:
    (output / "a-00001.parquet").unlink()
    assert num_read(output) == 0
    assert run(make_job(run=SPLITS)).new_rows == 10
    assert num_read(output) == 1
    assert [row["id"] for row in read_parts(str(output))] == list(range(45))


@pytest.mark.parametrize("damage", [b"", b"PAR1 nonsense"])
def test_a_damaged_memory_is_none(make_job: MakeJob, output: Path, damage: bytes) -> None:
    (output / REMEMBERED).write_bytes(damage)
    assert num_read(output) == 6
    assert run(make_job(run=SPLITS)).new_rows == 0
    assert num_read(output) == 0


def test_what_changed_just_before_the_listing_is_not_remembered(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (output / REMEMBERED).unlink()
    monkeypatch.setattr(footers, "_SETTLED_NS", 60 * 10**9)
    old = output / "b.parquet"
    os.utime(old, (1, 1))
    remember(locate(str(output)), read_footers(locate(str(output))))
    assert num_read(output) == 5
