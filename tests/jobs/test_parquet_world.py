"""Parquet as it is found: drift, odd types, odd layouts, odd names, links; every row is labelled in its place."""

import datetime as dt
import decimal
import os
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from inference.errors import ConfigError, InputError
from jobs.bundles import Carried, pack, unpack
from jobs.plan import make_plan
from jobs.run import run_job
from jobs.shards import cut, list_shards, unify
from tests.jobs.conftest import MakeJob, part_bytes, read_parts, rows_of, run

D8, D32 = pa.dictionary(pa.int8(), pa.string()), pa.dictionary(pa.int32(), pa.string())
UTC, BERLIN = pa.timestamp("us", "UTC"), pa.timestamp("ms", "Europe/Berlin")
NOON = dt.datetime(2026, 11, 21, 12, tzinfo=dt.UTC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "world").mkdir()
    return tmp_path / "world"


def write(path: Path, texts: Any, /, row_group_size: int = 10, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"text": texts, **columns}), path, row_group_size=row_group_size)
    return path


def labelled(make_job: MakeJob, folder: Path, **sections: Any) -> list[dict[str, Any]]:
    """Label everything below a folder; every part has the same schema, and every row its label."""
    job = make_job(**({"input": {"path": str(folder)}} | sections))
    report = run(job)
    rows = read_parts(job.output.path)
    assert report.failed_shards == {}
    assert len({pq.read_schema(path).remove_metadata() for path in Path(job.output.path).rglob("*.parquet")}) == 1
    assert all((row["label"] is None) == (row["text"] is None) for row in rows)
    return rows


@pytest.mark.parametrize(
    ("one", "other", "kind"),
    [
        (pa.string(), pa.large_string(), pa.large_string()),
        (pa.string(), D32, pa.string()),
        (pa.large_string(), D8, pa.large_string()),
        (pa.string(), pa.string_view(), pa.string()),
        (pa.string_view(), D32, pa.string()),
        (D8, D32, pa.string()),
        (pa.string(), pa.null(), pa.string()),
        (D32, pa.null(), pa.string()),
        (pa.string_view(), pa.null(), pa.string()),
    ],
)
def test_texts_of_any_string_type_are_one_column(
    make_job: MakeJob, folder: Path, one: pa.DataType, other: pa.DataType, kind: pa.DataType
) -> None:
    values = {one: ["the good film", None], other: [None, None] if other == pa.null() else ["a bad tool", None]}
    for name, type_ in zip("abc", (one, other, one), strict=True):
        write(folder / f"{name}.parquet", pa.array(values[type_], type_))
    rows = labelled(make_job, folder)
    assert [row["text"] for row in rows] == [*values[one], *values[other], *values[one]]
    orders = (list_shards([f"{folder}/[{names}].parquet"]) for names in ("ab", "bc"))
    assert [unify(found, None).field("text").type for found in orders] == [kind, kind]


@pytest.mark.parametrize(
    ("one", "other", "kind"),
    [
        (pa.array([1], pa.int32()), pa.array([2**40], pa.int64()), pa.int64()),
        (pa.array([1], pa.int64()), pa.array([0.5]), pa.float64()),
        (pa.nulls(1), pa.array([{"a": 1}]), pa.struct([("a", pa.int64())])),
        (pa.array([{"a": 1}]), pa.array([{"a": 2, "b": "x"}]), pa.struct([("a", pa.int64()), ("b", pa.string())])),
        (pa.array([[1]], pa.list_(pa.int32())), pa.array([[2]], pa.list_(pa.int64())), pa.list_(pa.int64())),
        (pa.array([[]], pa.list_(pa.null())), pa.array([["x"]]), pa.list_(pa.string())),
        (pa.array([NOON], pa.timestamp("s", "UTC")), pa.array([NOON], UTC), UTC),
        (
            pa.array([decimal.Decimal("1.50")], pa.decimal128(10, 2)),
            pa.array([decimal.Decimal("1.505")], pa.decimal128(12, 3)),
            pa.decimal128(12, 3),
        ),
        (pa.array([b"x"]), pa.array(["x"]), pa.binary()),
    ],
)
def test_a_column_that_drifts_takes_the_wider_type(
    make_job: MakeJob, folder: Path, one: pa.Array, other: pa.Array, kind: pa.DataType
) -> None:
    write(folder / "1.parquet", ["the good film"], x=one)
    write(folder / "2.parquet", ["a bad tool"], x=other)
    write(folder / "3.parquet", ["slow"])
    rows = labelled(make_job, folder)
    expected = pa.concat_arrays([one.cast(kind), other.cast(kind), pa.nulls(1, kind)])
    assert [row["x"] for row in rows] == expected.to_pylist()
    assert (
        pq.read_schema(folder.parent / "out" / "3.parquet")
        .field("x")
        .type.equals(pq.read_schema(folder.parent / "out" / "2.parquet").field("x").type)
    )


ODD_COLUMNS: dict[str, pa.Array] = {
    "list": pa.array([["a", None], None, []]),
    "large_list": pa.array([[1], None, []], pa.large_list(pa.int8())),
    "fixed_list": pa.array([[1, 2], None, [3, 4]], pa.list_(pa.int16(), 2)),
    "struct": pa.array([{"a": 1, "b": [{"c": "x"}]}, None, {"a": None, "b": []}]),
    "map": pa.array([[("k", 1)], None, []], pa.map_(pa.string(), pa.int32())),
    "decimal": pa.array([decimal.Decimal("1.23"), None, decimal.Decimal("-9.99")], pa.decimal128(20, 2)),
    "zoned": pa.array([NOON, None, NOON], BERLIN),
    "date": pa.array([dt.date(2026, 11, 21), None, dt.date(1, 1, 1)]),
    "time": pa.array([dt.time(1, 2), None, dt.time(3)]),
    "duration": pa.array([dt.timedelta(1), None, dt.timedelta(0)]),
    "binary": pa.array([b"\xff\x00", None, b""]),
    "fixed_binary": pa.array([b"ab", None, b"cd"], pa.binary(2)),
    "uuid": pa.array([UUID(int=1), None, UUID(int=2)], pa.uuid()),
    "json": pa.array(['{"a": 1}', None, "[]"], pa.json_()),
    "dictionary": pa.array(["x", None, "y"]).dictionary_encode(),
    "null": pa.nulls(3),
    "half": pa.array([1.5, None, float("nan")], pa.float16()),
    "unsigned": pa.array([2**64 - 1, None, 0], pa.uint64()),
    "dots.in.a name": pa.array([1, None, 3]),
    "dots": pa.array([{"in": 1}, None, {"in": 2}]),
    "🎬 ünïcödé ": pa.array([1, None, 3]),
    "": pa.array([1, None, 3]),
}


def test_columns_of_any_type_and_name_pass_through(make_job: MakeJob, folder: Path) -> None:
    table = pa.table({"text": ["the good film", None, "a bad tool"], **ODD_COLUMNS})
    pq.write_table(table, folder / "1.parquet", row_group_size=2)
    expected = pq.read_table(folder / "1.parquet")
    labelled(make_job, folder, run={"split_rows": 1})
    parts = [pq.read_table(path) for path in sorted((folder.parent / "out").rglob("*.parquet"))]
    actual = pa.concat_tables(parts).select(table.column_names)
    assert actual.schema.remove_metadata() == expected.schema.remove_metadata()
    assert repr(actual.to_pylist()) == repr(expected.to_pylist())  # repr, since NaN is not NaN


def test_columns_of_any_type_travel_between_processes(folder: Path) -> None:
    write(folder / "1.parquet", ["a", None, "b"], row_group_size=2, **ODD_COLUMNS)
    table = pq.read_table(folder / "1.parquet").replace_schema_metadata()
    split = cut(list_shards([str(folder)])[0], 10)[0]
    (arrived,) = unpack(pack([Carried(split, table)]))
    assert (arrived.split, arrived.error) == (split, None)
    assert arrived.rows is not None
    assert arrived.rows.schema == table.schema
    assert repr(arrived.rows.to_pylist()) == repr(table.to_pylist())


def test_an_extension_type_that_pickles_is_never_unpickled(make_job: MakeJob, folder: Path) -> None:
    # What pyarrow before 14.0.1 wrote for a Python extension type, and loaded with pickle (CVE-2023-47248).
    pickle = b"cos\nsystem\n(S'touch " + str(folder / "owned").encode() + b"'\ntR."
    field = pa.field(
        "x",
        pa.int64(),
        metadata={b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": pickle},
    )
    table = pa.table([pa.array(["the good film"]), pa.array([1])], pa.schema([pa.field("text", pa.string()), field]))
    pq.write_table(table, folder / "1.parquet")
    assert [row["x"] for row in labelled(make_job, folder)] == [1]
    assert not (folder / "owned").exists()


def test_row_groups_and_shards_without_rows_lose_nothing(make_job: MakeJob, folder: Path) -> None:
    rows = rows_of(0, 4)
    with pq.ParquetWriter(folder / "a.parquet", rows.schema) as writer:
        for start, count in ((0, 0), (0, 2), (2, 0), (2, 2), (4, 0)):
            writer.write_table(rows.slice(start, count))
    with pq.ParquetWriter(folder / "b.parquet", rows.schema):
        pass
    pq.write_table(rows.slice(0, 0), folder / "c.parquet")
    groups = [pq.read_metadata(folder / f"{name}.parquet").num_row_groups for name in "abc"]
    assert groups[1] == 0
    assert [row["id"] for row in labelled(make_job, folder, run={"split_rows": 2})] == [0, 1, 2, 3]
    assert {"b.parquet", "c.parquet"} <= set(part_bytes(str(folder.parent / "out")))


def test_an_input_without_any_row_is_done_at_once(make_job: MakeJob, folder: Path) -> None:
    write(folder / "a.parquet", pa.array([], pa.string()))
    assert labelled(make_job, folder) == []
    assert (folder.parent / "out" / "_SUCCESS").exists()


def test_a_large_row_group_is_labelled_piece_by_piece_with_the_rows_of_the_whole(
    make_job: MakeJob, folder: Path
) -> None:
    pq.write_table(rows_of(0, 100), folder / "a.parquet")
    whole = labelled(make_job, folder)
    job = make_job("pieces", input={"path": str(folder)}, run={"split_rows": 30})
    run(job)
    assert sorted(part_bytes(job.output.path)) == [f"a-0000{i}.parquet" for i in range(4)]
    pieces = read_parts(job.output.path)
    assert [row["id"] for row in pieces] == list(range(100))
    assert [row["label"] for row in pieces] == [row["label"] for row in whole]
    assert run(job).new_rows == 0
    report = run(make_job("pieces", input={"path": str(folder)}, run={"split_rows": 40}))
    assert (report.new_rows, report.num_parts) == (100, 3)
    assert [row["id"] for row in read_parts(job.output.path)] == list(range(100))


NAMES = [
    "with space.parquet",
    "ünïcödé ☕.parquet",
    "100%25.parquet",
    "a#b?c=d&e.parquet",
    "..a..b...parquet".lstrip("."),
]
NAMES += [
    "'quotes\" $HOME `ls`.parquet",
    "new\nline.parquet",
    "a:b\\c.parquet",
    "[1]*.parquet",
    "X.PARQUET",
    "~.parquet",
]
NAMES += [f"{'x' * 247}.parquet", "deep/er/..x/a.parquet".replace("..x", "x.."), "day=1/k=%2F..%2F/a.parquet"]


def test_a_part_is_called_as_its_shard_whatever_that_is(make_job: MakeJob, folder: Path) -> None:
    for i, name in enumerate(NAMES):
        write(folder / name, [f"the good film {i}"])
    labelled(make_job, folder)
    out = folder.parent / "out"
    files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file() and path.parent.name != "runs"}
    assert files == {
        *NAMES,
        "_SUCCESS",
        *(f"_shardlabel/{name}" for name in ("index.pq", "label_report.json", "manifest.json")),
        *(f"_shardlabel/{name}" for name in ("report.html", "report.json", "run.json")),
    }
    for i, name in enumerate(NAMES):
        assert pq.ParquetFile(out / name).read().column("text").to_pylist() == [f"the good film {i}"]
    assert run(make_job(input={"path": str(folder)})).new_rows == 0


def test_a_hive_layout_is_mirrored_and_gives_its_columns_to_who_reads_it(make_job: MakeJob, folder: Path) -> None:
    for day in ("2026-01-01", "2026-01-02", "__HIVE_DEFAULT_PARTITION__"):
        for k in (1, 2):
            write(folder / f"day={day}" / f"k={k}" / "a.parquet", [f"good {day} {k}"])
    out = folder.parent / "out"
    rows = labelled(make_job, folder, output={"path": str(out), "keep_columns": ["text", "day"]})
    assert len(rows) == 6
    expected = pq.read_table(folder).to_pylist()
    assert {row["day"] for row in expected} == {"2026-01-01", "2026-01-02", None}
    actual = pq.read_table(out).select(["text", "day", "k"]).to_pylist()
    assert sorted(actual, key=repr) == sorted(expected, key=repr)


def test_a_column_that_stands_in_the_files_and_in_the_layout_is_kept_in_both(make_job: MakeJob, folder: Path) -> None:
    write(folder / "day=1" / "a.parquet", ["good"], day=["1"])
    labelled(make_job, folder)
    part = pq.ParquetFile(folder.parent / "out" / "day=1" / "a.parquet").read()
    assert part.column("day").to_pylist() == ["1"]


def test_a_glob_over_partitions_keeps_their_names(make_job: MakeJob, folder: Path) -> None:
    for day in (1, 2, 3):
        write(folder / f"day={day}" / "deep" / "a.parquet", [f"good {day}"])
    job = make_job(input={"path": f"{folder}/day=[12]"})
    run(job)
    assert sorted(part_bytes(job.output.path)) == ["day=1/deep/a.parquet", "day=2/deep/a.parquet"]


def test_links_are_followed_and_nothing_is_labelled_twice(make_job: MakeJob, folder: Path, shards: Path) -> None:
    write(folder / "a.parquet", ["good"])
    write(folder.parent / "elsewhere" / "b.parquet", ["bad"])
    for link, target in {
        "loop": ".",
        "x/up": "..",
        "y/out": "../..",  # the folder's parent: everything beside it is not this job's input
        "again.parquet": "a.parquet",
        "b-linked.parquet": "../elsewhere/b.parquet",
        "dir": "../elsewhere",
        "dir again": "../elsewhere",
        "shards": str(shards),
    }.items():
        (folder / link).parent.mkdir(exist_ok=True)
        (folder / link).symlink_to(target)
    names = [shard.name for shard in list_shards([str(folder)])]
    found = ["shards/a.parquet", "shards/b.parquet", "shards/deep/c d.parquet"]
    assert names == ["a.parquet", "dir/b.parquet", *found]
    assert [shard.name for shard in list_shards([f"{folder}/**/*.parquet"])] == ["a.parquet", "b-linked.parquet"]
    assert len(labelled(make_job, folder)) == 2 + 45


def test_a_linked_folder_is_an_input_under_its_own_name(make_job: MakeJob, folder: Path) -> None:
    write(folder / "v3" / "a.parquet", ["good"])
    (folder / "latest").symlink_to("v3")
    assert len(labelled(make_job, folder / "latest")) == 1
    (folder / "one.parquet").symlink_to("v3/a.parquet")
    assert [shard.name for shard in list_shards([str(folder / "one.parquet")])] == ["one.parquet"]


def test_two_links_to_one_file_elsewhere_are_two_shards(folder: Path) -> None:
    # As in a download cache, where two shards of the same content are links to the same blob.
    write(folder / "blobs" / "0123", ["good"])
    (folder / "data").mkdir()
    for name in ("a.parquet", "b.parquet"):
        (folder / "data" / name).symlink_to("../blobs/0123")
    assert [shard.name for shard in list_shards([str(folder / "data")])] == ["a.parquet", "b.parquet"]


def test_a_link_to_nothing_is_a_shard_that_cannot_be_read(folder: Path) -> None:
    write(folder / "a.parquet", ["good"])
    (folder / "b.parquet").symlink_to("nowhere")
    (folder / "c.parquet").symlink_to("c.parquet")
    errors = {shard.name: shard.error is None for shard in list_shards([str(folder)])}
    assert errors == {"a.parquet": True, "b.parquet": False, "c.parquet": False}


def test_files_that_are_not_called_parquet_are_named_and_left_out_unless_given(
    make_job: MakeJob, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.parquet", "part-00000", "b.parquet.crc"):
        write(folder / name, ["good"])
    caplog.set_level("INFO", "jobs")
    assert [shard.name for shard in list_shards([str(folder)])] == ["a.parquet"]
    assert caplog.messages == [f"2 files of {folder} are not called *.parquet and are left out: b.parquet.crc …"]
    job = make_job(input={"path": str(folder / "part-00000")})
    assert run(job).num_rows == pq.read_metadata(Path(job.output.path) / "part-00000").num_rows == 1
    (folder / "a.parquet").unlink()
    with pytest.raises(InputError, match=r"holds no Parquet file but 2 other files such as b\.parquet\.crc"):
        list_shards([str(folder)])


def test_a_numbered_part_never_overwrites_that_of_a_shard_with_its_name(make_job: MakeJob, folder: Path) -> None:
    pq.write_table(rows_of(0, 20), folder / "a.parquet")
    pq.write_table(rows_of(20, 5), folder / "a-00001.parquet")
    job = make_job(input={"path": str(folder)}, run={"split_rows": 10})
    with pytest.raises(
        ConfigError, match=r"a-00001\.parquet and a\.parquet would both become the part a-00001\.parquet"
    ):
        make_plan(job)


@pytest.mark.parametrize("output", ["world/../world/out", "link/out", "world", "."])
def test_an_output_in_the_input_is_seen_through_links_and_dots(make_job: MakeJob, folder: Path, output: str) -> None:
    write(folder / "a.parquet", ["good"])
    (folder.parent / "link").symlink_to("world")
    with pytest.raises(ConfigError, match="lie in one another"):
        make_plan(make_job(input={"path": str(folder)}, output={"path": str(folder.parent / output)}))


@pytest.mark.parametrize(
    ("pattern", "output"), [("**/*.parquet", "out"), ("*", "out"), ("x*/*", "xy"), ("x/*/*", "x/y")]
)
def test_an_output_that_the_glob_would_find_next_time_is_refused(
    make_job: MakeJob, folder: Path, pattern: str, output: str
) -> None:
    write(folder / "x" / "z" / "a.parquet", ["good"])
    (folder.parent / "link").symlink_to("world")
    for base in (folder, folder.parent / "link"):
        with pytest.raises(ConfigError, match="lie in one another"):
            make_plan(make_job(input={"path": f"{base}/{pattern}"}, output={"path": f"{folder}/{output}"}))


@pytest.mark.parametrize("pattern", ["*.parquet", "x/*", "x/**"])
def test_an_output_that_the_glob_never_finds_is_fine(make_job: MakeJob, folder: Path, pattern: str) -> None:
    write(folder / "a.parquet", ["good"])
    write(folder / "x" / "a.parquet", ["good"])
    assert make_plan(make_job(input={"path": f"{folder}/{pattern}"}, output={"path": f"{folder}/out"})).splits


def test_a_neighbour_reached_through_dots_is_no_overlap(make_job: MakeJob, folder: Path) -> None:
    write(folder / "a.parquet", ["good"])
    assert make_plan(make_job(input={"path": str(folder)}, output={"path": f"{folder}/../out"})).splits


@pytest.mark.parametrize("what", ["vanished", "changed"])
def test_a_shard_that_goes_or_changes_after_the_plan_fails_alone(make_job: MakeJob, folder: Path, what: str) -> None:
    for name in "abc":
        write(folder / f"{name}.parquet", ["good"])

    def start(*_: Any) -> None:
        (folder / "b.parquet").unlink()
        if what == "changed":
            write(folder / "b.parquet", ["baad"])

    job = make_job(input={"path": str(folder)})
    report = run_job(job, start, lambda _: None)
    assert report.failed_shards == {"b.parquet": f"{what} since it was listed; run again"}
    assert sorted(part_bytes(job.output.path)) == ["a.parquet", "c.parquet"]
    assert not (Path(job.output.path) / "_SUCCESS").exists()
    run(job)
    assert (Path(job.output.path) / "_SUCCESS").exists()
    assert len(read_parts(job.output.path)) == (3 if what == "changed" else 2)


def test_a_value_that_does_not_fit_the_wider_type_fails_its_shard_alone(make_job: MakeJob, folder: Path) -> None:
    # The year 9999 has no nanoseconds since 1970 in 64 bits.
    far = pa.array([dt.datetime(9999, 12, 31)], pa.timestamp("us"))  # noqa: DTZ001 - a column without a zone
    write(folder / "a.parquet", ["good"], x=far)
    write(folder / "b.parquet", ["bad"], x=pa.array([0], pa.timestamp("ns")))
    report = run(make_job(input={"path": str(folder)}))
    assert list(report.failed_shards) == ["a.parquet"]
    assert report.num_rows == 1


def test_a_footer_spoilt_anywhere_is_a_bad_shard_or_none(folder: Path) -> None:
    good = write(folder / "a.parquet", ["good"] * 30, x=[{"a": [1]}] * 30).read_bytes()
    length = int.from_bytes(good[-8:-4], "little")
    errors = []
    for position in range(len(good) - 8 - length, len(good), 7):
        (folder / "a.parquet").write_bytes(good[:position] + bytes([good[position] ^ 0xFF]) + good[position + 1 :])
        errors += [shard.error for shard in list_shards([str(folder)])]
    assert sum(error is not None for error in errors) > len(errors) / 2
    assert not [error for error in errors if error and "\n" in error]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list everything")
def test_a_directory_that_may_not_be_listed_is_not_passed_over(folder: Path) -> None:
    write(folder / "a.parquet", ["good"])
    write(folder / "closed" / "b.parquet", ["good"])
    (folder / "closed").chmod(0)
    try:
        with pytest.raises(InputError, match="cannot be listed"):
            list_shards([str(folder)])
    finally:
        (folder / "closed").chmod(0o700)
