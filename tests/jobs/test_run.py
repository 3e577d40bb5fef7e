"""A whole job in process: what it writes, what it does a second time, what it refuses."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import pipeline

from inference.errors import ConfigError, FingerprintError, InputError, JobError, ModelError, OutputError
from jobs import pipeline as flow
from jobs.stopping import as_done
from jobs.storage import TEMPORARY_SUFFIX
from tests.families import build_checkpoint
from tests.jobs.conftest import ROWS_PER_SHARD, MakeJob, part_bytes, read_parts, rows_of, run


def test_every_row_is_labelled_once_in_its_place(make_job: MakeJob, single_label: Path) -> None:
    job = make_job(run={"split_rows": 10})
    report = run(job)
    rows = read_parts(job.output.path)
    assert [row["id"] for row in rows] == list(range(45))
    classify: Any = pipeline("text-classification", model=str(single_label), truncation=True)
    for row in rows:
        if row["text"] is None:
            assert (row["label"], row["confidence"], row["error"]) == (None, None, "InputError: text is null")
            continue
        expected = classify(row["text"])[0]
        assert row["label"] == expected["label"]
        assert row["confidence"] == pytest.approx(expected["score"], abs=1e-5)
    assert (report.num_rows, report.num_failed, report.num_parts) == (45, 5, 6)


def test_the_report_adds_up_and_is_left_beside_the_parts(make_job: MakeJob) -> None:
    job = make_job()
    report = run(job)
    rows = read_parts(job.output.path)
    assert report.num_tokens == sum(row["num_tokens"] or 0 for row in rows)
    assert report.num_truncated == sum(bool(row["truncated"]) for row in rows) > 0
    assert json.loads((Path(job.output.path) / "_shardlabel" / "report.json").read_text()) == report.as_dict()


def test_parts_mirror_the_shards_and_success_is_there(make_job: MakeJob) -> None:
    job = make_job()
    run(job)
    assert list(part_bytes(job.output.path)) == sorted(ROWS_PER_SHARD)
    assert (Path(job.output.path) / "_SUCCESS").exists()


def test_a_second_run_does_nothing(make_job: MakeJob) -> None:
    job = make_job()
    first = run(job)
    before = {path: path.stat().st_mtime_ns for path in Path(job.output.path).rglob("*")}
    second = run(job)
    assert (second.new_rows, second.new_parts, second.num_rows, second.num_parts) == (0, 0, 45, 3)
    assert (second.num_tokens, second.fingerprint) == (first.num_tokens, first.fingerprint)
    assert {path: path.stat().st_mtime_ns for path in Path(job.output.path).rglob("*")} == before


def test_a_lost_part_is_made_again_with_the_same_bytes(make_job: MakeJob) -> None:
    job = make_job(run={"split_rows": 10})
    run(job)
    before = part_bytes(job.output.path)
    (Path(job.output.path) / "a-00001.parquet").unlink()
    report = run(job)
    assert (report.new_rows, report.num_rows) == (10, 45)
    assert part_bytes(job.output.path) == before


def test_a_new_shard_is_new_work_and_a_changed_one_is_redone(make_job: MakeJob, shards: Path) -> None:
    job = make_job()
    run(job)
    pq.write_table(rows_of(100, 4), shards / "new.parquet")
    pq.write_table(rows_of(200, 6), shards / "b.parquet")
    report = run(job)
    assert (report.new_rows, report.num_rows) == (10, 25 + 6 + 13 + 4)
    assert {row["id"] for row in read_parts(job.output.path)} >= {100, 200}


def test_another_split_size_replaces_the_parts_and_leaves_no_row_twice(make_job: MakeJob) -> None:
    run(make_job(run={"split_rows": 10}))
    job = make_job(run={"split_rows": 1000})
    run(job)
    assert sorted(row["id"] for row in read_parts(job.output.path)) == list(range(45))


def test_the_leftovers_of_a_killed_writer_go(make_job: MakeJob, tmp_path: Path) -> None:
    leftover = tmp_path / "out" / f".a.parquet.1{TEMPORARY_SUFFIX}"
    leftover.parent.mkdir()
    leftover.touch()
    run(make_job())
    assert not leftover.exists()


def test_more_threads_in_process_write_the_same_bytes(make_job: MakeJob) -> None:
    for directory, num_actors in (("one", 1), ("four", 4)):
        run(make_job(directory, run={"num_actors": num_actors, "split_rows": 10}))
    parent = Path(make_job().output.path).parent
    assert part_bytes(str(parent / "one")) == part_bytes(str(parent / "four"))


@pytest.mark.parametrize(
    ("sections", "change"),
    [
        ({"model": {"max_length": 16}}, "model.max_length was 32, is 16"),
        ({"model": {"dtype": "bfloat16"}}, "model.dtype was 'float32', is 'bfloat16'"),
        ({"task": {"options": {"top_k": 2}}}, "task.options was {}, is {'top_k': 2}"),
        ({"output": {"logits": True}}, "output.logits was False, is True"),
    ],
)
def test_the_output_of_another_job_is_refused_by_what_differs(
    make_job: MakeJob, sections: dict[str, Any], change: str
) -> None:
    run(make_job())
    before = part_bytes(make_job().output.path)
    with pytest.raises(FingerprintError) as error:
        run(make_job(**sections))
    assert change in str(error.value)
    assert part_bytes(make_job().output.path) == before


def test_another_model_is_refused_even_when_the_manifest_is_lost(
    make_job: MakeJob, make_checkpoint: Any, tmp_path: Path
) -> None:
    run(make_job())
    (tmp_path / "out" / "_shardlabel" / "manifest.json").unlink()
    other = make_checkpoint(["negative", "neutral", "positive"], hidden_size=16)
    with pytest.raises(FingerprintError, match=r"model\.weights was"):
        run(make_job(model={"name": str(other), "dtype": "float32"}))


def test_what_does_not_change_a_label_does_not_count(make_job: MakeJob) -> None:
    run(make_job())
    assert run(make_job(run={"num_actors": 2, "threads_per_actor": 2}, model={"precut": False})).new_rows == 0


@pytest.mark.parametrize("lost", [True, False], ids=["the manifest is lost", "the manifest is there"])
def test_an_output_older_than_deduplication_is_one_in_which_every_row_ran_by_itself(
    make_job: MakeJob, tmp_path: Path, *, lost: bool
) -> None:
    run(make_job(model={"deduplicate": False}))
    for part in (tmp_path / "out").rglob("*.parquet"):
        table = pq.read_table(part)
        footer = json.loads(table.schema.metadata[b"shardlabel"])
        del footer["fingerprint"]["model.deduplicate"]
        pq.write_table(table.replace_schema_metadata({b"shardlabel": json.dumps(footer)}), part)
    manifest = tmp_path / "out" / "_shardlabel" / "manifest.json"
    claim = json.loads(manifest.read_text())
    del claim["fingerprint"]["model.deduplicate"]
    manifest.write_text(json.dumps(claim))
    if lost:
        manifest.unlink()
    with pytest.raises(FingerprintError, match=r"\(model\.deduplicate was False, is True\)"):
        run(make_job())
    (tmp_path / "out" / "b.parquet").unlink()
    assert run(make_job(model={"deduplicate": False})).new_rows == ROWS_PER_SHARD["b.parquet"]


def test_an_automatic_precision_stays_what_the_first_run_made_it(make_job: MakeJob, single_label: Path) -> None:
    run(make_job(model={"dtype": "bfloat16"}))
    report = run(make_job(model={"name": str(single_label), "dtype": "auto"}))
    assert (report.new_rows, report.dtype) == (0, "bfloat16")


def test_padding_or_none_stays_what_the_first_run_made_it_and_says_the_same(make_job: MakeJob) -> None:
    run(make_job("packed", model={"packed": True}))
    assert run(make_job("packed")).new_rows == 0
    run(make_job("padded"))
    with pytest.raises(FingerprintError, match=r"model\.packed was False, is True"):
        run(make_job("padded", model={"packed": True}))
    one, other = (read_parts(make_job(name).output.path) for name in ("packed", "padded"))
    assert [row["label"] for row in one] == [row["label"] for row in other]


def test_a_family_that_cannot_be_packed_is_refused_before_anything_is_written(
    make_job: MakeJob, tmp_path: Path
) -> None:
    path = build_checkpoint(tmp_path / "mpnet", "mpnet", "sequence-classification", max_length=32)
    with pytest.raises(ConfigError, match=r"model\.packed: a mpnet checkpoint cannot be run without padding"):
        run(make_job(model={"name": str(path), "packed": True}))
    assert not Path(make_job().output.path).exists()


def test_fp8_is_part_of_what_an_output_is_and_is_refused_before_anything_is_written(
    make_job: MakeJob, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"model\.fp8: it goes with bfloat16 alone, and model\.dtype is float32 here"):
        run(make_job(model={"dtype": "float32", "fp8": True}))
    path = build_checkpoint(tmp_path / "t5", "t5", "sequence-classification", max_length=32)
    with pytest.raises(ConfigError, match=r"model\.fp8: a t5 checkpoint cannot use fp8"):
        run(make_job(model={"name": str(path), "fp8": True}))
    assert not Path(make_job().output.path).exists()
    run(make_job(model={"dtype": "bfloat16"}))
    with pytest.raises(FingerprintError, match=r"model\.fp8 was False, is True"):
        run(make_job(model={"dtype": "bfloat16", "fp8": True}))


def test_the_size_of_micro_batches_stays_what_the_first_run_made_it(make_job: MakeJob) -> None:
    run(make_job())
    with pytest.raises(FingerprintError, match=r"model\.max_batch_tokens was 8192, is 4096"):
        run(make_job(model={"max_batch_tokens": 4096}))
    assert run(make_job(model={"max_batch_tokens": 8192})).new_rows == 0


def test_an_output_that_was_begun_with_another_default_goes_on_with_it(make_job: MakeJob, shards: Path) -> None:
    run(make_job(model={"max_batch_tokens": 2048}))
    (shards / "more.parquet").write_bytes(next(shards.glob("*.parquet")).read_bytes())
    report = run(make_job())
    assert 0 < report.new_rows < report.num_rows
    assert run(make_job(model={"max_batch_tokens": 2048})).new_rows == 0


def test_a_second_text_that_comes_later_is_another_job(make_job: MakeJob, shards: Path) -> None:
    run(make_job(output={"keep_columns": ["id"]}))
    pairs = rows_of(90, 3).append_column("text_pair", pa.array(["a", "b", "c"]))
    pq.write_table(pairs, shards / "z.parquet")
    with pytest.raises(InputError, match="has no column 'text_pair', which others have"):
        run(make_job(output={"keep_columns": ["id"]}))
    for path in shards.rglob("*.parquet"):
        pq.write_table(pairs, path)
    with pytest.raises(FingerprintError, match=r"input\.columns was"):
        run(make_job(output={"keep_columns": ["id"]}))


def test_a_text_called_like_an_output_is_refused_before_the_run(
    make_job: MakeJob, shards: Path, tmp_path: Path
) -> None:
    for path in shards.rglob("*.parquet"):
        pq.write_table(pq.read_table(path).rename_columns(["id", "label"]), path)
    with pytest.raises(InputError, match="the input has a column 'label'"):
        run(make_job(input={"columns": {"text": "label"}}, output={"keep_columns": ["id"]}))
    assert not (tmp_path / "out").exists()


def test_text_that_is_not_text_fails_its_row_alone(make_job: MakeJob, shards: Path) -> None:
    texts = pa.array([b"good", b"\xff\xfe bad", b"film"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"id": [90, 91, 92], "text": texts}), shards / "z.parquet")
    job = make_job(output={"keep_columns": ["id"]})
    run(job)
    rows = pq.read_table(Path(job.output.path) / "z.parquet").to_pylist()
    assert [row["label"] is None for row in rows] == [False, True, False]
    assert rows[1]["error"].startswith("UnicodeDecodeError: 'utf-8' codec can't decode byte 0xff")


def test_a_directory_with_files_of_somebody_else_is_refused(make_job: MakeJob, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    pq.write_table(rows_of(0, 1), tmp_path / "out" / "mine.parquet")
    with pytest.raises(OutputError, match=r"holds mine\.parquet, which shardlabel did not write"):
        run(make_job())


def test_an_output_inside_the_input_is_refused(make_job: MakeJob, shards: Path) -> None:
    with pytest.raises(ConfigError, match="lie in one another"):
        run(make_job(output={"path": str(shards / "out")}))


def test_a_corrupt_shard_fails_alone(make_job: MakeJob, shards: Path) -> None:
    (shards / "b.parquet").write_bytes(b"not Parquet at all")
    job = make_job()
    report = run(job)
    assert list(report.failed_shards) == ["b.parquet"]
    assert (report.num_rows, report.num_parts) == (38, 2)
    assert not (Path(job.output.path) / "_SUCCESS").exists()


def test_a_shard_whose_pages_are_corrupt_fails_alone_and_is_done_once_mended(make_job: MakeJob, shards: Path) -> None:
    good = (shards / "a.parquet").read_bytes()
    stamp = (shards / "a.parquet").stat()
    (shards / "a.parquet").write_bytes(good[:4] + b"\xff" * 200 + good[204:])
    os.utime(shards / "a.parquet", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    job = make_job()
    report = run(job)
    assert list(report.failed_shards) == ["a.parquet"]
    (shards / "a.parquet").write_bytes(good)
    assert (run(job).new_rows, sorted(row["id"] for row in read_parts(job.output.path))) == (25, list(range(45)))


def test_a_shard_without_the_text_column_is_named(make_job: MakeJob, shards: Path) -> None:
    pq.write_table(pa.table({"id": [1]}), shards / "b.parquet")
    with pytest.raises(InputError, match=r"shard b\.parquet has no column 'text'"):
        run(make_job())


@pytest.mark.parametrize(
    ("sections", "kind", "message"),
    [
        ({"input": {"columns": {"text": "body"}}}, InputError, "needs a column 'body', and there are id, text"),
        ({"input": {"columns": {"text": "id"}}}, InputError, "column 'id' holds int64, expected text"),
        ({"output": {"keep_columns": ["ident"]}}, InputError, "no column 'ident'"),
        ({"task": {"name": "text-clasification"}}, ConfigError, "did you mean text-classification"),
        ({"task": {"options": {"topk": 1}}}, ConfigError, "task.options.topk: unknown key; did you mean 'top_k'"),
        ({"model": {"name": "./nowhere"}}, ModelError, "there is no folder ./nowhere"),
        ({"model": {"max_length": 33}}, ConfigError, "33 exceeds the checkpoint's limit of 32"),
    ],
)
def test_a_wrong_request_is_refused_before_anything_is_written(
    make_job: MakeJob, tmp_path: Path, sections: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind) as error:
        run(make_job(**sections))
    assert message in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_model_without_a_trained_head_is_refused(make_job: MakeJob, headless: Path) -> None:
    with pytest.raises(ModelError, match="BertModel checkpoint without a trained head"):
        run(make_job(model={"name": str(headless)}))


def test_a_column_in_the_way_of_an_output_column_is_refused_unless_it_is_left_out(
    make_job: MakeJob, shards: Path
) -> None:
    for path in shards.rglob("*.parquet"):
        table = pq.read_table(path)
        pq.write_table(table.append_column("label", pa.array(["gold"] * len(table))), path)
    with pytest.raises(InputError, match="the input has a column 'label'"):
        run(make_job())
    assert run(make_job(output={"keep_columns": ["id"]})).num_rows == 45


def test_the_text_need_not_be_kept(make_job: MakeJob) -> None:
    job = make_job(output={"keep_columns": ["id"], "scores": True, "logits": True})
    run(job)
    assert list(read_parts(job.output.path)[0]) == [
        "id",
        "label",
        "confidence",
        "scores",
        "logits",
        "num_tokens",
        "truncated",
        "error",
    ]


def test_an_empty_shard_becomes_an_empty_part_with_the_declared_schema(make_job: MakeJob, shards: Path) -> None:
    pq.write_table(rows_of(0, 0), shards / "empty.parquet")
    job = make_job()
    run(job)
    schemas = {pq.read_schema(path).remove_metadata() for path in Path(job.output.path).rglob("*.parquet")}
    assert len(schemas) == 1
    assert pq.read_metadata(Path(job.output.path) / "empty.parquet").num_rows == 0


def test_a_failing_write_fails_the_run(make_job: MakeJob, tmp_path: Path) -> None:
    (tmp_path / "out" / "b.parquet").mkdir(parents=True)
    (tmp_path / "out" / "b.parquet" / ".keep").touch()
    with pytest.raises(JobError, match=r"b\.parquet: cannot be written .* run again to finish"):
        run(make_job())


def test_a_run_that_hears_nothing_more_of_its_splits_though_nobody_stopped_it_has_failed(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(run={"num_actors": 1})
    monkeypatch.setattr(flow, "as_done", lambda futures, stop: as_done(futures[:1], stop))
    with pytest.raises(JobError, match=r"ended with 2 of 3 splits left, though nobody stopped it; run again") as caught:
        run(job)
    assert caught.value.exit_status == 1
    assert not (Path(job.output.path) / "_SUCCESS").exists()
    monkeypatch.undo()
    assert run(job).is_complete
    assert [row["id"] for row in read_parts(job.output.path)] == list(range(45))


@pytest.mark.parametrize("size", [0, 7, 900])
def test_a_part_that_lost_its_end_is_made_again(make_job: MakeJob, size: int) -> None:
    job = make_job()
    run(job)
    before = part_bytes(job.output.path)
    os.truncate(Path(job.output.path) / "a.parquet", size)
    assert run(job).new_rows == 25
    assert part_bytes(job.output.path) == before


def test_a_part_whose_footer_is_damaged_is_made_again(make_job: MakeJob) -> None:
    job = make_job()
    run(job)
    before = part_bytes(job.output.path)
    content = bytearray(before["a.parquet"])
    size = int.from_bytes(content[-8:-4], "little")
    content[-8 - size : -8] = bytes(size)
    (Path(job.output.path) / "a.parquet").write_bytes(content)
    assert run(job).new_rows == 25
    assert part_bytes(job.output.path) == before


def test_an_output_is_not_complete_any_more_when_a_shard_cannot_be_read(make_job: MakeJob, shards: Path) -> None:
    job = make_job()
    run(job)
    sign = Path(job.output.path) / "_SUCCESS"
    assert sign.exists()
    (shards / "new.parquet").write_bytes(b"PAR1 nonsense")
    assert list(run(job).failed_shards) == ["new.parquet"]
    assert not sign.exists()
    (shards / "new.parquet").unlink()
    run(job)
    assert sign.exists()


def test_a_file_of_somebody_else_in_the_place_of_a_part_is_never_overwritten(make_job: MakeJob) -> None:
    job = make_job()
    run(job)
    pq.write_table(rows_of(0, 1), Path(job.output.path) / "a.parquet")
    before = part_bytes(job.output.path)
    with pytest.raises(OutputError, match=r"holds a\.parquet, which shardlabel did not write"):
        run(job)
    assert part_bytes(job.output.path) == before


def test_a_torn_file_in_a_directory_that_no_job_claimed_is_never_overwritten(make_job: MakeJob, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.parquet").write_bytes(b"PAR1 somebody's")
    with pytest.raises(OutputError, match=r"holds a\.parquet, which shardlabel did not write"):
        run(make_job())


def test_a_disk_that_is_full_when_a_run_begins_fails_the_run_and_not_the_request(make_job: MakeJob) -> None:
    job = make_job()
    run(job)
    (Path(job.output.path) / "a.parquet").unlink()
    shutil.rmtree(Path(job.output.path) / "_shardlabel")
    (Path(job.output.path) / "_shardlabel").symlink_to("nowhere")  # nothing can be written there
    with pytest.raises(JobError, match=r"_shardlabel/.* cannot be written .* run again to finish"):
        run(job)


def test_a_shard_that_vanished_is_reported_and_its_parts_go_when_they_are_told_to(
    make_job: MakeJob, shards: Path
) -> None:
    job = make_job(run={"split_rows": 10})
    run(job)
    before = part_bytes(job.output.path)
    (shards / "a.parquet").unlink()
    report = run(job)
    assert (report.vanished_shards, report.num_rows, report.num_parts) == (["a.parquet"], 20, 3)
    assert part_bytes(job.output.path) == before
    assert run(job, prune=True).vanished_shards == ["a.parquet"]
    assert part_bytes(job.output.path) == {name: part for name, part in before.items() if not name.startswith("a-")}
    assert run(job).vanished_shards == []
    assert (Path(job.output.path) / "_SUCCESS").exists()


def test_the_parts_of_a_shard_that_cannot_be_read_any_more_are_not_pruned(make_job: MakeJob, shards: Path) -> None:
    job = make_job()
    run(job)
    before = part_bytes(job.output.path)
    (shards / "b.parquet").write_bytes(b"not Parquet at all")
    report = run(job, prune=True)
    assert (list(report.failed_shards), report.vanished_shards) == (["b.parquet"], [])
    assert part_bytes(job.output.path) == before


def test_pruning_leaves_everything_that_is_no_part(make_job: MakeJob, shards: Path) -> None:
    job = make_job()
    run(job)
    (Path(job.output.path) / "deep" / "_notes.txt").write_text("mine")
    (shards / "deep" / "c d.parquet").unlink()
    run(job, prune=True)
    found = sorted(path.name for path in Path(job.output.path).rglob("*.*") if path.parent.name != "runs")
    assert found == [
        "_notes.txt",
        "a.parquet",
        "b.parquet",
        "index.pq",
        "label_report.json",
        "manifest.json",
        "report.html",
        "report.json",
        "run.json",
    ]
