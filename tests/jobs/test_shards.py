"""Listing shards, cutting them into splits, reading a split."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.errors import ConfigError, InputError
from jobs.reading import read_split
from jobs.shards import RowGroup, Shard, Split, cut, list_shards, unify
from jobs.storage import Location
from tests.jobs.conftest import ROWS_PER_SHARD, rows_of


def make_shard(*groups: int, name: str = "x/s.parquet", num_bytes: int = 1) -> Shard:
    row_groups = tuple(RowGroup(num_rows=rows, num_bytes=num_bytes) for rows in groups)
    place = Location("/in", f"/in/{name}")
    return Shard(name=name, location=place, size=1, mtime_ns=2, schema=pa.schema([]), row_groups=row_groups)


def test_every_shard_is_found_with_its_rows(shards: Path) -> None:
    found = list_shards([str(shards)])
    assert {shard.name: sum(group.num_rows for group in shard.row_groups) for shard in found} == ROWS_PER_SHARD


def test_other_files_of_a_directory_are_left_alone(shards: Path) -> None:
    (shards / "README.txt").write_text("not data")
    assert [shard.name for shard in list_shards([str(shards)])] == sorted(ROWS_PER_SHARD)


def test_an_empty_directory_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"input.path: {tmp_path} holds no Parquet file"):
        list_shards([str(tmp_path)])


def test_two_shards_that_would_become_one_part_are_refused(shards: Path, tmp_path: Path) -> None:
    pq.write_table(rows_of(0, 1), tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match=r"would both become the part a\.parquet"):
        list_shards([str(shards), str(tmp_path / "a.parquet")])


def test_a_shard_named_twice_is_read_once(shards: Path) -> None:
    assert len(list_shards([str(shards), str(shards)])) == len(ROWS_PER_SHARD)


def test_a_shard_that_two_paths_find_under_two_names_is_refused(shards: Path) -> None:
    """It would be labelled twice."""
    for paths in ([str(shards), str(shards / "deep")], [str(shards / "deep"), f"{shards}/*/*.parquet", str(shards)]):
        with pytest.raises(ConfigError, match=r"c d\.parquet is found twice, as .*c d\.parquet"):
            list_shards(paths)


def test_a_shard_whose_part_would_be_hidden_is_refused(shards: Path) -> None:
    hidden = (shards / "b.parquet").rename(shards / "_b.parquet")
    assert "_b.parquet" not in [shard.name for shard in list_shards([str(shards)])]
    with pytest.raises(ConfigError, match=r"a part called _b\.parquet would be hidden"):
        list_shards([str(hidden)])


def test_shards_of_pandas_share_one_schema_however_many_rows_they_have(tmp_path: Path) -> None:
    """Pandas notes the number of rows in a schema's metadata."""
    for number in range(1, 21):
        noted = {"pandas": f'{{"index_columns": [{{"kind": "range", "stop": {number}}}]}}'}
        pq.write_table(rows_of(0, number).replace_schema_metadata(noted), tmp_path / f"{number}.parquet")
    found = list_shards([str(tmp_path)])
    assert len(found) == 20
    assert len({id(shard.schema) for shard in found}) == 1


def test_a_corrupt_shard_says_so_and_harms_no_other(shards: Path) -> None:
    (shards / "b.parquet").write_bytes(b"PAR1 nonsense")
    errors = {shard.name: shard.error for shard in list_shards([str(shards)])}
    assert "not a readable Parquet file" in str(errors.pop("b.parquet"))
    assert set(errors.values()) == {None}


def test_a_shard_that_is_one_split_gives_its_own_name_to_its_part() -> None:
    assert [split.part for split in cut(make_shard(10, 10), 20)] == ["x/s.parquet"]


def test_splits_are_numbered_runs_of_row_groups() -> None:
    splits = cut(make_shard(10, 10, 10, 5), 20)
    assert [split.part for split in splits] == ["x/s-00000.parquet", "x/s-00001.parquet"]
    assert [(split.first_row_group, split.num_row_groups, split.num_rows) for split in splits] == [
        (0, 2, 20),
        (2, 2, 15),
    ]


def test_a_split_holds_at_most_64_mib() -> None:
    assert [split.num_row_groups for split in cut(make_shard(1, 1, 1, num_bytes=40 * 2**20), 100)] == [1, 1, 1]


def test_a_shard_without_rows_is_one_split_too() -> None:
    assert [(split.part, split.num_rows) for split in cut(make_shard(), 10)] == [("x/s.parquet", 0)]


def rows_covered(split: Split, groups: Sequence[int]) -> list[tuple[int, int]]:
    """The rows of a split as pairs of a row group and a place in it."""
    if split.first_row is not None:
        assert split.num_row_groups == 1
        return [(split.first_row_group, split.first_row + i) for i in range(split.num_rows)]
    indices = range(split.first_row_group, split.first_row_group + split.num_row_groups)
    return [(index, i) for index in indices for i in range(groups[index])]


@given(st.lists(st.integers(0, 200), max_size=30), st.integers(1, 60))
def test_splits_cover_every_row_once_and_in_order(groups: list[int], split_rows: int) -> None:
    splits = cut(make_shard(*groups), split_rows)
    covered = [rows_covered(split, groups) for split in splits]
    assert [row for rows in covered for row in rows] == [(g, i) for g, rows in enumerate(groups) for i in range(rows)]
    assert [len(rows) for rows in covered] == [split.num_rows for split in splits]
    assert all(split.num_rows <= split_rows for split in splits)
    assert len({split.part for split in splits}) == len(splits)


def test_a_large_row_group_is_cut_in_equal_pieces_between_whole_ones() -> None:
    splits = cut(make_shard(10, 70, 5, 5), 20)
    assert [(split.first_row_group, split.num_row_groups, split.first_row, split.num_rows) for split in splits] == [
        (0, 1, None, 10),
        (1, 1, 0, 18),
        (1, 1, 18, 18),
        (1, 1, 36, 18),
        (1, 1, 54, 16),
        (2, 2, None, 10),
    ]


def test_a_row_group_of_few_but_large_rows_is_cut_by_its_bytes() -> None:
    assert [split.num_rows for split in cut(make_shard(5, num_bytes=150 * 2**20), 100)] == [2, 2, 1]
    assert [split.num_rows for split in cut(make_shard(1, num_bytes=150 * 2**20), 100)] == [1]


@pytest.mark.parametrize("split_rows", [1, 7, 999, 70_000])
def test_the_pieces_of_a_cut_row_group_are_its_rows(tmp_path: Path, split_rows: int) -> None:
    table = rows_of(0, 1000) if split_rows < 1000 else rows_of(0, 150_000)  # pyarrow reads 65,536 rows at a time
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=len(table))
    shard = list_shards([str(tmp_path)])[0]
    splits = cut(shard, split_rows)
    assert len(splits) == -(-len(table) // split_rows)
    for split in splits[:: 1 + len(splits) // 20]:
        assert split.first_row is not None
        assert read_split(split, table.schema).equals(table.slice(split.first_row, split.num_rows))


def test_the_splits_of_a_shard_read_back_its_rows_in_order(shards: Path) -> None:
    shard = list_shards([str(shards)])[0]
    tables = [read_split(split, shard.schema.remove_metadata()) for split in cut(shard, 10)]
    assert [len(table) for table in tables] == [10, 10, 5]
    assert pa.concat_tables(tables).equals(rows_of(0, 25))


def test_shards_that_drift_share_the_wider_schema(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": pa.array([1], pa.int32()), "text": ["a"]}), tmp_path / "1.parquet")
    pq.write_table(
        pa.table({"id": pa.array([2], pa.int64()), "text": pa.nulls(1), "new": [True]}), tmp_path / "2.parquet"
    )
    found = list_shards([str(tmp_path)])
    schema = unify(found, None)
    assert schema == pa.schema([("id", pa.int64()), ("text", pa.string()), ("new", pa.bool_())])
    rows = [read_split(cut(shard, 10)[0], schema).to_pylist()[0] for shard in found]
    assert rows == [{"id": 1, "text": "a", "new": None}, {"id": 2, "text": None, "new": True}]


def test_shards_that_contradict_each_other_are_refused_by_name(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"id": ["one"]}), tmp_path / "2.parquet")
    with pytest.raises(InputError, match=r"shard 2\.parquet does not fit"):
        unify(list_shards([str(tmp_path)]), None)


def test_columns_to_keep_keep_their_order_and_must_exist(shards: Path) -> None:
    found = list_shards([str(shards)])
    assert unify(found, ["text", "id"]).names == ["text", "id"]
    with pytest.raises(InputError, match="the input has no column 'ident', only id, text"):
        unify(found, ["ident"])


def test_a_shard_that_shrank_since_the_plan_is_an_error(shards: Path) -> None:
    shard = list_shards([str(shards)])[0]
    pq.write_table(rows_of(0, 24), shards / "a.parquet")
    with pytest.raises(InputError, match=r"^changed since it was listed; run again"):
        read_split(cut(shard, 100)[0], shard.schema)
