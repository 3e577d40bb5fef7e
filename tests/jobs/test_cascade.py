"""Jobs whose `model` is a list, against the jobs that each of the models does alone."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from inference.checkpoint import open_checkpoint, weights_digest
from inference.config import ModelConfig
from inference.errors import ConfigError, FingerprintError, InputError, ModelError
from jobs import manifest
from jobs.cli import app
from jobs.cli_text import describe, summary
from jobs.config import JobConfig
from jobs.labels import PAGE, make_report
from jobs.plan import make_plan
from jobs.status import read_status
from jobs.storage import locate
from tests.conftest import MakeCheckpoint
from tests.families import build_checkpoint
from tests.inference.conftest import assert_same
from tests.jobs import test_kill
from tests.jobs.conftest import MakeJob, part_bytes, read_parts, rows_of, run
from tests.jobs.world import RUNNER, refusal, run_file

ROOT = Path(__file__).parent.parent.parent
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "docs/cascade.md").read_text(), flags=re.DOTALL)
LABELS = ["negative", "neutral", "positive"]
BOUND = 0.7
INPUT = ("id", "text")


@pytest.fixture(scope="module")
def paths(single_label: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two models of other weights, tokenizers and length limits."""
    folder = tmp_path_factory.mktemp("second")
    return [
        single_label,
        build_checkpoint(folder, "roberta", "sequence-classification", labels=LABELS, max_length=64),
    ]


@pytest.fixture
def make(make_job: MakeJob, paths: list[Path]) -> MakeJob:
    """A job of the two; `bound`, and the sections of `make_job` save the model."""

    def make(directory: str = "out", /, bound: float = BOUND, **sections: dict[str, Any]) -> JobConfig:
        content = make_job(directory, **sections).model_dump(mode="json")
        cheap = {"name": str(paths[0]), "dtype": "float32", "escalate_below": bound}
        content["model"] = [cheap, {"name": str(paths[1]), "dtype": "float32"}]
        return JobConfig.model_validate(content)

    return make


def with_second(job: JobConfig, **changes: Any) -> JobConfig:
    content = job.model_dump(mode="json")
    content["model"][1] |= changes
    return JobConfig.model_validate(content)


def test_the_rows_are_those_of_the_jobs_of_each_model_alone(
    make: MakeJob, make_job: MakeJob, paths: list[Path]
) -> None:
    output, settings = {"scores": True, "logits": True}, {"split_rows": 10}
    report = run(make(output=output, run=settings))
    alone = []
    for number, path in enumerate(paths):
        job = make_job(f"alone {number}", model={"name": str(path)}, output=output, run=settings)
        run(job)
        alone.append(read_parts(job.output.path))
    found, escalated = read_parts(make().output.path), 0
    for row, cheap, dear in zip(found, *alone, strict=True):
        goes_on = cheap["text"] is not None and cheap["confidence"] < BOUND
        escalated += goes_on
        before = {name: cheap[name] for name in ("label", "confidence")} if goes_on else None
        said = dear if goes_on else cheap
        assert_same(row.pop("logits"), said.pop("logits"), tolerance=1e-4)
        assert_same(row, {**said, "answered_by": int(goes_on), "escalated_from": before})
    assert 0 < escalated < len(found)
    assert (report.num_rows, report.num_failed, report.num_escalated) == (45, 5, [escalated])
    assert report.num_tokens == sum(row["num_tokens"] or 0 for row in found)
    line = f"escalated  {escalated} ({escalated / 45:.1%})"
    assert line in summary(report, is_pruned=False).splitlines()


def test_a_job_of_one_model_says_nothing_of_others(make_job: MakeJob) -> None:
    job = make_job()
    report = run(job)
    assert report.num_escalated == []
    assert "escalated" not in summary(report, is_pruned=False)
    footer = json.loads(pq.read_schema(Path(job.output.path) / "a.parquet").metadata[b"shardlabel"])
    assert "num_escalated" not in footer["record"]
    assert make_report(locate(job.output.path)).models == []
    assert set(footer["provenance"]) == {"model", "software"}
    assert not [key for key in footer["fingerprint"] if "escalate" in key or "model.1" in key]


def test_the_fingerprint_of_one_model_is_what_it_was_before_there_could_be_several(make_job: MakeJob) -> None:
    path = str(ROOT / "docs/demo/model")
    weights = weights_digest(open_checkpoint(ModelConfig(name=path)))
    expected = {  # as commit 8ae9292 made it
        "schema_version": 1,
        "input.columns": {"text": "text"},
        "output.keep_columns": ["id"],
        "output.scores": False,
        "output.logits": False,
        "model.weights": weights,
        "model.code": None,
        "model.labels": ["numpy", "pandas", "pyarrow", "python", "ray", "torch", "transformers"],
        "model.dtype": "float32",
        "model.max_length": 128,
        "model.max_batch_tokens": None,
        "model.deduplicate": True,
        "model.fused": True,
        "model.fp8": False,
        "model.packed": None,
        "model.trimmed": None,
        "task.name": "text-classification",
        "task.options": {"top_k": 2},
        "task.postprocess": None,
    }
    job = make_job(
        model={"name": path, "max_length": 128}, output={"keep_columns": ["id"]}, task={"options": {"top_k": 2}}
    )
    assert make_plan(job).fingerprint == expected


def test_a_list_of_one_model_goes_on_with_the_output_of_that_model(make_job: MakeJob) -> None:
    job = make_job()
    run(job)
    content = job.model_dump(mode="json")
    assert run(JobConfig.model_validate(content | {"model": [content["model"]]})).new_rows == 0


def test_the_text_need_not_be_kept(make: MakeJob) -> None:
    run(make("all"))
    run(make("some", output={"keep_columns": ["id"]}))
    everything, some = (read_parts(make(name).output.path) for name in ("all", "some"))
    assert some == [{name: value for name, value in row.items() if name != "text"} for row in everything]
    assert {row["answered_by"] for row in some} == {0, 1}


def test_three_models_count_the_rows_that_each_was_shown(
    make: MakeJob, make_checkpoint: MakeCheckpoint, make_job: MakeJob
) -> None:
    third = make_checkpoint(LABELS, max_length=16, hidden_size=48)
    content = make(bound=0.9).model_dump(mode="json")
    content["model"][1]["escalate_below"] = 0.4
    content["model"].append({"name": str(third), "dtype": "float32"})
    job = JobConfig.model_validate(content)
    report = run(job)
    rows = read_parts(job.output.path)
    shown = [sum(row["answered_by"] >= number for row in rows) for number in (1, 2)]
    assert report.num_escalated == shown
    assert shown[0] > shown[1] > 0
    assert run(job).num_escalated == shown  # from the footers
    found = make_report(locate(job.output.path))
    assert found.models == [
        {"name": model.name, "revision": None, "shown": seen, "answered": sum(row["answered_by"] == i for row in rows)}
        for i, (model, seen) in enumerate(zip(job.models, [45, *shown], strict=True))
    ]
    page = " ".join(re.sub(r"<[^>]*>", " ", (Path(job.output.path) / PAGE).read_text()).split())
    for i, model in enumerate(found.models):
        rows_of_it = f"shown {model['shown']}, answered or failed {model['answered']}"
        said = f"Model {i} {model['name']} Rows {rows_of_it} Precision float32"
        assert said in page
    last = make_job("third", model={"name": str(third)})
    run(last)
    for row, alone in zip(rows, read_parts(last.output.path), strict=True):
        if row["answered_by"] == 2:
            assert_same({name: row[name] for name in alone}, alone)


def test_what_is_gone_on_with_ends_with_the_same_bytes(make: MakeJob) -> None:
    run(make("undisturbed", run={"split_rows": 10}))
    job = make(run={"split_rows": 10})
    run(job)
    output = Path(job.output.path)
    for name in ("a-00001.parquet", "deep/c d-00000.parquet", "_SUCCESS"):
        (output / name).unlink()
    assert run(job).new_rows == 20
    assert part_bytes(str(output)) == part_bytes(make("undisturbed").output.path)


def test_more_threads_in_process_write_the_same_bytes(make: MakeJob) -> None:
    for name, num_actors in (("one", 1), ("four", 4)):
        run(make(name, run={"num_actors": num_actors, "split_rows": 10}))
    assert part_bytes(make("one").output.path) == part_bytes(make("four").output.path)


@pytest.mark.usefixtures("local_ray")
def test_ray_writes_the_bytes_that_the_in_process_twin_writes(make: MakeJob) -> None:
    settings = {"split_rows": 10, "num_actors": 2}
    with_ray = run(make("ray", run=settings | {"executor": "ray"}))
    in_process = run(make("local", run=settings))
    assert part_bytes(make("ray").output.path) == part_bytes(make("local").output.path)
    assert with_ray.num_escalated == in_process.num_escalated


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_killed_job_run_again_ends_with_the_parts_of_an_undisturbed_one(tmp_path: Path, paths: list[Path]) -> None:
    words = test_kill.WORDS
    for shard in range(test_kill.NUM_SHARDS):
        texts = [" ".join(words[(shard + i * k) % len(words)] for k in range(1 + i % 29)) for i in range(400)]
        (tmp_path / "in").mkdir(exist_ok=True)
        pq.write_table(rows_of(0, 400).set_column(1, "text", [texts]), tmp_path / "in" / f"{shard:03d}.parquet")
    content = {
        "input": {"path": str(tmp_path / "in")},
        "output": {"path": "unset"},
        "model": [
            {"name": str(paths[0]), "dtype": "float32", "escalate_below": BOUND},
            {"name": str(paths[1]), "dtype": "float32"},
        ],
        "run": {"threads_per_actor": 1, "num_actors": 1},
    }
    job_file = tmp_path / "job.yaml"
    job_file.write_text(json.dumps(content))
    whole = test_kill.finish(job_file, tmp_path / "undisturbed", "local")
    test_kill.kill_halfway(job_file, tmp_path / "killed", "local")
    report = test_kill.finish(job_file, tmp_path / "killed", "local")
    assert 0 < int(str(report["new_parts"])) < test_kill.NUM_SHARDS
    assert report["num_escalated"] == whole["num_escalated"] != [0]
    assert part_bytes(str(tmp_path / "killed")) == part_bytes(str(tmp_path / "undisturbed"))


def test_all_that_makes_the_models_what_they_are_is_part_of_what_the_output_is(
    make: MakeJob, make_job: MakeJob, make_checkpoint: MakeCheckpoint
) -> None:
    run(make())
    other = make_checkpoint(LABELS, hidden_size=48)
    for job, change in (
        (make(bound=0.6), r"\(model\.escalate_below was 0\.7, is 0\.6\)"),
        (with_second(make(), name=str(other), max_length=32), r"model\.1\.max_length was 64, is 32; model\.1\.weights"),
        (with_second(make(), dtype="bfloat16"), r"\(model\.1\.dtype was 'float32', is 'bfloat16'\)"),
        (make_job(), r"model\.1\.weights was '\w+', is None.*model\.escalate_below was 0\.7, is None"),
    ):
        with pytest.raises(FingerprintError, match=change):
            run(job)
    assert run(make()).new_rows == 0


def test_what_is_left_to_the_hardware_stays_what_the_first_run_made_of_each_model(make: MakeJob) -> None:
    run(with_second(make(), dtype="bfloat16", max_batch_tokens=512))
    report = run(with_second(make(), dtype="auto"))
    assert (report.new_rows, report.dtype) == (0, "float32, bfloat16")


def test_the_status_and_the_footers_name_every_model(make: MakeJob, paths: list[Path]) -> None:
    run(make())
    found = read_status(make().output.path)
    (made,) = found.provenance
    assert made["model"] == {"name": str(paths[0]), "revision": None}
    assert made["later_models"] == [{"name": str(paths[1]), "revision": None}]
    lines = describe(found).splitlines()
    assert [line for line in lines if line.startswith("model")] == [f"model      {path}" for path in paths]
    assert f"             model.escalate_below: {BOUND}" in lines


def test_the_command_line_takes_a_list_and_says_how_many_rows_went_on(
    make: MakeJob, tmp_path: Path, paths: list[Path]
) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(make().model_dump(mode="json")))
    result = run_file(file, "model.0.escalate_below=1e-9", "model.1.max_length=16", "--json")
    assert (result.exit_code, json.loads(result.stdout)["num_escalated"]) == (0, [0])
    assert read_status(make().output.path).job["model.1.max_length"] == 16
    shutil.rmtree(make().output.path)
    result = run_file(file, "model.0.escalate_below=1")
    assert "escalated  40 (88.9%)" in result.stdout.splitlines()
    result = RUNNER.invoke(app, ["report", make().output.path])
    assert "escalated  40 (88.9%)" in map(str.rstrip, result.stdout.splitlines())
    result = run_file(file, f"model={{name: {paths[0]}}}")
    assert result.exit_code == 2
    assert "holds the output of another job" in result.stderr


def test_models_that_do_not_go_together_are_refused_before_anything_is_written(
    make: MakeJob, make_checkpoint: MakeCheckpoint, multi_label: Path, shards: Path
) -> None:
    other = make_checkpoint(["negative", "neutral", "mixed"])
    with pytest.raises(ModelError, match=r"it lacks 'positive' and it also has 'mixed'"):
        run(with_second(make(), name=str(other)))
    with pytest.raises(ModelError, match=r"model\.1\.name: .* gives a row several labels"):
        run(with_second(make(), name=str(multi_label)))
    with pytest.raises(ModelError, match=r"there is no folder /nowhere"):
        run(with_second(make(), name="/nowhere"))
    with pytest.raises(ConfigError, match=r"model\.fp8: it goes with bfloat16 alone"):
        run(with_second(make(), fp8=True))
    pq.write_table(rows_of(0, 3).append_column("answered_by", [["x", "y", "z"]]), shards / "d.parquet")
    with pytest.raises(InputError, match=r"the input has a column 'answered_by', which is also what text-class"):
        run(make())
    assert not os.path.lexists(make().output.path)
    report = run(make(output={"keep_columns": ["id"]}))
    assert report.num_rows == 48


def test_an_output_of_several_models_is_not_relabelled_nor_calibrated(make: MakeJob, tmp_path: Path) -> None:
    run(make(output={"logits": True}))
    new = tmp_path / "new"
    for command in (
        ["relabel", str(tmp_path / "out"), str(new), "temperature=2"],
        ["calibrate", str(tmp_path / "out"), "--gold", "text"],
    ):
        assert "out: was labelled by 2 models" in refusal(RUNNER.invoke(app, command))
    assert not new.exists()


def test_what_knows_of_one_model_alone_refuses_several(make: MakeJob, make_job: MakeJob) -> None:
    assert make_plan(make_job()).model.max_length == 32
    with pytest.raises(ConfigError, match=r"model: how many rows each of 2 models would get is not known"):
        _ = make_plan(make()).model


def test_the_job_of_the_document_is_valid() -> None:
    (block,) = [text for language, text in BLOCKS if language == "yaml"]
    assert [model.escalate_below is None for model in JobConfig.model_validate(yaml.safe_load(block)).models] == [
        False,
        True,
    ]


def test_one_run_that_asks_both_models_tells_what_every_bound_would_give(
    make: MakeJob, capsys: pytest.CaptureFixture[str]
) -> None:
    code = next(text for language, text in BLOCKS if language == "python")
    run(make("both", bound=1.0))
    exec(compile(code, "docs/cascade.md", "exec"), {"output": make("both").output.path, "gold": "label"})  # noqa: S102
    lines = {float(words[0]): words for words in map(str.split, capsys.readouterr().out.splitlines())}
    best = [row["label"] for row in read_parts(make("both").output.path)]
    for bound in (0.5, 0.7, 0.9):
        job = make(f"bound {bound}", bound=bound)
        (num_escalated,) = run(job).num_escalated
        pairs = zip(best, read_parts(job.output.path), strict=True)
        right = [label == row["label"] for label, row in pairs if row["error"] is None]
        assert lines[bound] == [
            f"{bound}",
            f"{num_escalated / len(right):.1%}",
            "go",
            "on",
            f"{sum(right) / len(right):.1%}",
            "right",
        ]


def test_the_python_example_of_the_document_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    code = [text for language, text in BLOCKS if language == "python"][-1]
    expected = [line.removeprefix("# ") for line in code.splitlines() if line.startswith("# ")]
    exec(compile(code, "docs/cascade.md", "exec"), {})  # noqa: S102 - our own document
    assert capsys.readouterr().out.splitlines() == expected != []


def test_what_was_begun_before_a_key_goes_on_where_every_model_leaves_it_off() -> None:
    before = {f"{model}.{key}": "same" for model in ("model", "model.1") for key in ("weights", "fused")}
    off = before | {
        f"{model}.{key}": False for model in ("model", "model.1") for key in ("deduplicate", "fp8", "trimmed")
    }
    assert manifest.settle(off, before) == (off, [])
    assert manifest.settle(off | {"model.1.trimmed": True}, before)[1] == ["model.1.trimmed was False, is True"]
