"""Small splits travel together and become what each would have become alone."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs import stages
from jobs.bundles import MAX_SPLITS, Carried, bundle, pack, planned, unpack
from jobs.manifest import note_attempt, read_attempts, read_committed
from jobs.plan import make_plan
from jobs.resources import Resources
from jobs.run import prepare
from jobs.shards import Split
from tests.jobs.conftest import MakeJob, part_bytes, rows_of, run


def split(number: int, num_rows: int = 1, size: int = 1) -> Split:
    name = f"{number:05d}.parquet"
    kept = {"mtime_ns": 7, "first_row_group": 0, "num_row_groups": 1}
    return Split(part=name, shard=name, uri="/in", path=f"/in/{name}", size=size, num_rows=num_rows, **kept)


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 2**25)), max_size=300), st.integers(1, 4))
def test_every_split_is_in_one_bundle_in_order_and_none_is_large_unless_it_is_alone(
    shards: list[tuple[int, int]], num_actors: int
) -> None:
    splits = [split(i, num_rows, size) for i, (num_rows, size) in enumerate(shards)]
    bundles = bundle(splits, 100, num_actors)
    assert [each for together in bundles for each in together] == splits
    for together in bundles:
        assert len(together) == 1 or sum(each.num_rows for each in together) <= 100
        assert len(together) == 1 or sum(each.size for each in together) <= 16 * 2**20
        assert 1 <= len(together) <= max(1, len(splits) // (16 * num_actors))


def test_many_small_splits_become_a_64th_as_many_bundles() -> None:
    assert {len(together) for together in bundle([split(i) for i in range(6400)], 1000, 2)} == {MAX_SPLITS}


def test_few_splits_are_shared_out_evenly_however_small_they_are() -> None:
    assert len(bundle([split(i) for i in range(31)], 1000, 2)) == 31


def test_what_is_packed_comes_back_with_its_own_types_and_dictionaries() -> None:
    table = rows_of(0, 25)
    colours = [pa.table({"colour": pa.array(names).dictionary_encode()}) for names in (["red"], ["blue", "red"])]
    rows = [table, table.slice(3, 4), table.slice(0, 0), table.select([]), *colours]
    carried = [Carried(split(i), each) for i, each in enumerate(rows)]
    carried.insert(2, Carried(split(9), error="is gone"))
    arrived = unpack(pack(carried))
    assert [(item.split, item.error) for item in arrived] == [(item.split, item.error) for item in carried]
    for sent, came in zip(carried, arrived, strict=True):
        assert (sent.rows is None) == (came.rows is None)
        assert sent.rows is None or came.rows is None or came.rows.equals(sent.rows.combine_chunks())
    assert [item.rows["colour"].chunk(0).dictionary.to_pylist() for item in arrived[5:] if item.rows] == [
        ["red"],
        ["blue", "red"],
    ]


@pytest.fixture
def many(make_job: MakeJob, shards: Path) -> MakeJob:
    """Jobs over 70 shards more, with columns that would differ if shards were put together, one of them broken."""
    for i in range(70):
        colour = pa.array([f"red {i}", f"blue {i}"]).dictionary_encode()
        pq.write_table(rows_of(100 + 2 * i, 2).append_column("colour", colour), shards / f"e{i:02d}.parquet")
    path = shards / "e33.parquet"
    content = path.read_bytes()
    path.write_bytes(content[:4] + b"\xff" * 60 + content[64:])
    return make_job


@pytest.mark.usefixtures("local_ray")
def test_small_shards_become_the_parts_that_they_become_in_process(many: MakeJob, tmp_path: Path) -> None:
    settings = {"threads_per_actor": 1, "num_actors": 1}
    with_ray = run(many("ray", run=settings | {"executor": "ray"}))
    in_process = run(many("local", run=settings))
    assert part_bytes(str(tmp_path / "ray")) == part_bytes(str(tmp_path / "local"))
    assert list(with_ray.failed_shards) == list(in_process.failed_shards) == ["e33.parquet"]
    assert (with_ray.num_parts, with_ray.num_rows) == (72, 45 + 2 * 69)


def test_a_bundle_has_one_note_until_a_process_has_died_over_it_and_then_each_split_its_own(make_job: MakeJob) -> None:
    plan = make_plan(make_job())
    committed = read_committed(plan)
    work = prepare(
        plan, committed, Resources(min_actors=1, initial_actors=1, max_actors=1, gpus_per_actor=0, threads_per_actor=1)
    )
    splits = committed.pending
    row = stages.read_and_tokenize(planned([splits]), work)
    predict, seen = stages.Predict(work), list[list[str]]()
    label = predict._predictor

    class Watched:
        stats = label.stats

        def __call__(self, table: pa.Table) -> pa.Table:
            seen.append(list(read_attempts(plan.output)))
            return label(table)

    predict._predictor = Watched()  # type: ignore[assignment]
    expected = [item.rows for item in unpack(predict(row))]
    together = f"{splits[0].part}.and2.0"
    assert seen == [[together]] * 3
    assert read_attempts(plan.output) == {}
    assert note_attempt(plan.output, f"{splits[0].part}.and2", 1)  # as when its process was killed
    for _ in range(stages._MAX_ATTEMPTS):
        assert note_attempt(plan.output, splits[1].part, stages._MAX_ATTEMPTS)
    seen.clear()
    arrived = unpack(predict(row))
    assert [item.error for item in arrived] == [None, "its process died 3 times while it was labelled", None]
    assert [item.rows for item in arrived] == [expected[0], None, expected[2]]
    own = [f"{splits[i].part.replace('/', '%2F')}.0" for i in (0, 2)]
    assert [set(names) - {f"{splits[1].part}.{n}" for n in range(3)} for names in seen] == [{together, n} for n in own]


def test_a_stop_within_a_bundle_keeps_what_is_labelled_and_begins_no_more(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(make_job())
    committed = read_committed(plan)
    one = Resources(min_actors=1, initial_actors=1, max_actors=1, gpus_per_actor=0, threads_per_actor=1)
    work = prepare(plan, committed, one)
    row = stages.read_and_tokenize(planned([committed.pending]), work)
    predict, labelled = stages.Predict(work), list[pa.Table]()
    label = predict._predictor

    class Counting:
        stats = label.stats

        def __call__(self, table: pa.Table) -> pa.Table:
            labelled.append(label(table))
            return labelled[-1]

    predict._predictor = Counting()  # type: ignore[assignment]
    monkeypatch.setattr(stages, "_LOOK_SECONDS", -1.0)
    monkeypatch.setattr(stages, "is_told_to_stop", lambda _: bool(labelled))  # as a cluster says it
    arrived = unpack(predict(row))
    assert [item.error for item in arrived] == [None, stages.NOT_BEGUN, stages.NOT_BEGUN]
    assert arrived[0].rows is not None
    assert arrived[0].rows.equals(labelled[0].combine_chunks())
    assert read_attempts(plan.output) == {}
