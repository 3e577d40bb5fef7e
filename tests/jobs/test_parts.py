"""Writing parts and reading their identity."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.parts import Origin, PartIdentity, PartRecord, read_identity, write_part
from jobs.shards import Split
from jobs.storage import locate

SPLIT = Split(
    part="x/s-00001.parquet",
    shard="x/s.parquet",
    uri="/in",
    path="/in/x/s.parquet",
    size=11,
    mtime_ns=22,
    first_row_group=1,
    num_row_groups=2,
    num_rows=3,
)
ERRORS = {"InputError: text is null": 1}
TABLE = pa.table(
    {
        "id": [1, 2, 3],
        "label": ["a", None, "b"],
        "num_tokens": pa.array([4, None, 6], pa.int32()),
        "truncated": [False, None, True],
        "error": [None, "InputError: text is null", None],
    }
)
ORIGIN = Origin(
    fingerprint={"model.dtype": "float32", "model.labels": ["a", "b"]},
    provenance={"software": {"torch": "2.13.0"}},
)


def identity_of(path: Path) -> PartIdentity | None:
    return read_identity(locate(str(path)), path.stat().st_size, [])


def test_a_part_holds_its_rows_in_order_and_its_identity(tmp_path: Path) -> None:
    record = write_part(locate(str(tmp_path)), SPLIT, TABLE, TABLE.schema, ORIGIN)
    assert record == PartRecord(
        part=SPLIT.part, num_rows=3, num_failed=1, num_truncated=1, num_tokens=10, errors=ERRORS
    )
    assert pq.read_table(tmp_path / SPLIT.part).equals(TABLE)
    identity = identity_of(tmp_path / SPLIT.part)
    assert identity is not None
    assert (identity.fingerprint, identity.provenance, identity.record) == (
        ORIGIN.fingerprint,
        ORIGIN.provenance,
        record,
    )
    assert identity.is_of(SPLIT)


def test_the_same_rows_make_the_same_bytes_however_they_are_chunked(tmp_path: Path) -> None:
    pieces = pa.concat_tables([TABLE.slice(0, 1), TABLE.slice(1)])
    for name, table in (("one", TABLE), ("two", pieces)):
        write_part(locate(str(tmp_path / name)), SPLIT, table, TABLE.schema, ORIGIN)
    assert (tmp_path / "one" / SPLIT.part).read_bytes() == (tmp_path / "two" / SPLIT.part).read_bytes()


def test_a_part_has_the_declared_columns_in_the_declared_order(tmp_path: Path) -> None:
    schema = pa.schema([*reversed([field for field in TABLE.schema if field.name != "id"])])
    write_part(locate(str(tmp_path)), SPLIT, TABLE, schema, ORIGIN)
    assert pq.read_schema(tmp_path / SPLIT.part).remove_metadata() == schema


def test_a_part_of_no_rows_has_the_same_schema(tmp_path: Path) -> None:
    record = write_part(locate(str(tmp_path)), SPLIT, TABLE.slice(0, 0), TABLE.schema, ORIGIN)
    assert record == PartRecord(part=SPLIT.part)
    assert pq.read_schema(tmp_path / SPLIT.part).remove_metadata() == TABLE.schema


def test_long_errors_that_begin_alike_are_counted_together(tmp_path: Path) -> None:
    errors = pa.array(["x" * 200 + "one", "x" * 200 + "two", "short"])
    table = TABLE.set_column(TABLE.column_names.index("error"), "error", errors)
    record = write_part(locate(str(tmp_path)), SPLIT, table, table.schema, ORIGIN)
    assert record.errors == {"x" * 200: 2, "short": 1}


def test_a_file_of_somebody_else_has_no_identity(tmp_path: Path) -> None:
    pq.write_table(TABLE, tmp_path / "foreign.parquet")
    (tmp_path / "torn.parquet").write_bytes(b"PAR1")
    assert identity_of(tmp_path / "foreign.parquet") is None
    assert identity_of(tmp_path / "torn.parquet") is None


@pytest.mark.parametrize("order", [(1, 3), (3, 1)], ids=["by a larger one", "by a smaller one"])
def test_a_part_that_another_run_replaces_after_it_was_listed_is_read_as_it_is_now(
    tmp_path: Path, order: tuple[int, int]
) -> None:
    sizes = []
    for num_rows in order:
        record = write_part(locate(str(tmp_path)), SPLIT, TABLE.slice(0, num_rows), TABLE.schema, ORIGIN)
        sizes.append((tmp_path / SPLIT.part).stat().st_size)
    assert sizes[0] != sizes[1]
    found = read_identity(locate(str(tmp_path / SPLIT.part)), sizes[0], [])
    assert found is not None
    assert (found.record, found.record.num_rows) == (record, order[1])


def test_what_is_no_part_is_none_whatever_size_it_was_listed_with(tmp_path: Path) -> None:
    pq.write_table(TABLE, tmp_path / "foreign.parquet")
    (tmp_path / "torn.parquet").write_bytes(b"PAR1")
    for name in ("foreign.parquet", "torn.parquet", "gone.parquet"):
        assert read_identity(locate(str(tmp_path / name)), 1000, []) is None
