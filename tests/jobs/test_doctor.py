"""`shardlabel doctor`: a sound job is fine everywhere and runs; each defect is found where it is, and nowhere else."""

import dataclasses
import json
import os
import sys
import time
from base64 import b85encode
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from typer.testing import Result

from jobs import storage
from jobs.cli import app
from jobs.heartbeat import RUN, RunNote
from jobs.storage import locate
from tests.families import WORDS, build_checkpoint
from tests.inference.test_checkup import edit, rewrite
from tests.jobs.world import NUM_ROWS, RUNNER, World, refusal
from tests.own_code import with_code

TEXTS = [" ".join(WORDS[i % len(WORDS) :][: 1 + i % 12]) for i in range(NUM_ROWS)]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier whose head looks trained."""
    return build_checkpoint(tmp_path_factory.mktemp("trained"), "bert", "sequence-classification")


@pytest.fixture
def world(tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    made = World(tmp_path, trained)
    made.write_shard("good.parquet", TEXTS, number=list(range(NUM_ROWS)))
    return made


def examine(world: World, *arguments: str) -> Result:
    """`shardlabel doctor` of the job."""
    path = world.folder / "job.yaml"
    path.write_text(yaml.safe_dump(world.job))
    return RUNNER.invoke(app, ["doctor", str(path), *arguments])


def _follow(world: World, **columns: list[str]) -> None:
    """Two models instead of one, over a shard with other columns."""
    model = world.job["model"]
    world.job["model"] = [model | {"escalate_below": 0.5}, model]
    world.write_shard("good.parquet", TEXTS, **columns)


def checks(result: Result) -> list[dict[str, str]]:
    """What `--json` says."""
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    found: list[dict[str, str]] = json.loads(result.stdout)["checks"]
    return found


def everything_in(folder: Path) -> dict[str, bytes | None]:
    """Every file with its content, every folder."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def test_a_sound_job_is_fine_everywhere_and_runs_and_nothing_is_left_behind(world: World) -> None:
    before = everything_in(world.folder / "in")
    result = examine(world, "--json", "--forward")
    found = checks(result)
    assert [check for check in found if check["level"] != "ok"] == []
    names = "job checkpoint task remote_code labels problem_type head length tokenizer padding input schemas columns"
    more = "output_columns rows owner writing space devices actors precision memory forward"
    assert {check["check"] for check in found} == {name.replace("_", " ") for name in [*names.split(), *more.split()]}
    assert result.exit_code == 0
    assert json.loads(result.stdout)["num_errors"] == json.loads(result.stdout)["num_warnings"] == 0
    assert everything_in(world.folder / "in") == before
    assert not world.out.exists()
    assert world.run().exit_code == 0


def test_a_finished_output_is_this_jobs_and_stays_as_it_is(world: World) -> None:
    world.run()
    before = everything_in(world.out)
    (owner,) = [check for check in checks(examine(world, "--json")) if check["check"] == "owner"]
    assert "is this job's, with all 1 splits labelled, and complete" in owner["message"]
    assert everything_in(world.out) == before


def test_people_get_a_line_for_each_check_what_to_do_and_the_sum(world: World) -> None:
    result = examine(world, "model.dtype=float16", "input.columns.text=body", "output.keep_columns=[ident]")
    lines = result.stdout.splitlines()
    (columns,) = [i for i, line in enumerate(lines) if line.startswith("error    columns")]
    assert lines[columns].endswith("needs a column 'body', and there are text, number")
    assert lines[columns + 1].strip() == "-> name the right one, as in input.columns.text=text"
    assert [line.split()[1] for line in lines if line.startswith("warning")] == ["precision"]
    assert lines[-1].startswith("2 errors, 1 warning, ")
    assert result.exit_code == 1


def test_a_job_file_that_is_wrong_is_status_2_and_one_message(world: World) -> None:
    result = examine(world, "model.max_lenght=4")
    assert "model.max_lenght: unknown key; did you mean 'max_length'?" in refusal(result)
    assert (result.exit_code, result.stdout) == (2, "")


Spoil = Callable[[World], object]


def on_model(change: Callable[[Path], object]) -> Spoil:
    return lambda world: change(world.own_checkpoint())


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Spoil:
    return on_model(lambda model: rewrite(model, change))


def cut_off(model: Path) -> None:
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-999])


def spoil_page(world: World) -> None:
    """Zeros in the middle of a shard, far from its footer."""
    path = world.write_shard("good.parquet", [f"{i} {os.urandom(8).hex()}" for i in range(NUM_ROWS)])
    with path.open("r+b") as file:
        file.seek(200)
        file.write(bytes(500))


def run_as(*overrides: str) -> Spoil:
    return lambda world: world.run(*overrides)


def foreign_output(world: World) -> None:
    world.out.mkdir()
    pq.write_table(pa.table({"a": [1]}), world.out / "a.parquet")


def vanished_shard(world: World) -> None:
    path = world.write_shard("other.parquet", ["x"], number=[1])
    world.run()
    path.unlink()


def output_in_input(world: World) -> None:
    world.job["output"]["path"] = str(world.folder / "in/out")


def nothing(_: World) -> None:
    pass


ERRORS: dict[str, tuple[Spoil, tuple[str, ...], str, str]] = {
    "no input": (nothing, ("input.path=/nowhere",), "input", "/nowhere holds no Parquet file"),
    "a shard that is none": (
        lambda world: (world.folder / "in/bad.parquet").write_bytes(b"nonsense"),
        (),
        "input",
        "1 of 2 shards cannot be read: bad.parquet is not a readable Parquet file",
    ),
    "no shard that is one": (
        lambda world: (world.folder / "in/good.parquet").write_bytes(b"nonsense"),
        (),
        "input",
        "no shard is a readable Parquet file",
    ),
    "shards that disagree": (
        lambda world: world.write_shard("other.parquet", ["x"], number=["x"]),
        (),
        "schemas",
        "shard other.parquet does not fit the shards before it",
    ),
    "no such column": (nothing, ("input.columns.text=body",), "columns", "needs a column 'body'"),
    "a column of numbers": (nothing, ("input.columns.text=number",), "columns", "column 'number' holds int64"),
    "a shard without the column": (
        lambda world: pq.write_table(pa.table({"number": [1]}), world.folder / "in/other.parquet"),
        (),
        "columns",
        "shard other.parquet has no column 'text'",
    ),
    "a column in the way": (
        lambda world: world.write_shard("good.parquet", TEXTS, label=TEXTS),
        (),
        "output columns",
        "the input has a column 'label', which is also what text-classification writes",
    ),
    "a column in the way of what several models add": (
        lambda world: _follow(world, answered_by=TEXTS),
        (),
        "output columns",
        "the input has a column 'answered_by', which is also what text-classification writes",
    ),
    "a column to keep that is not there": (
        nothing,
        ("output.keep_columns=[ident]",),
        "output columns",
        "the input has no column 'ident'",
    ),
    "texts that are null": (
        lambda world: world.write_shard("good.parquet", pa.nulls(9, pa.string())),
        (),
        "rows",
        "9 of 9 sampled rows have no text, and run.max_failed_fraction allows 0.01 to fail",
    ),
    "a page that is broken": (spoil_page, (), "rows", "shard good.parquet: row groups 0 to 0 cannot be read"),
    "no checkpoint": (nothing, ("model.name=/nowhere",), "checkpoint", "there is no folder /nowhere"),
    "no safetensors": (
        on_model(lambda model: (model / "model.safetensors").unlink()),
        (),
        "checkpoint",
        "has no *.safetensors file",
    ),
    "a config that is no JSON": (
        on_model(lambda model: (model / "config.json").write_text("{")),
        (),
        "checkpoint",
        "config.json is not JSON",
    ),
    "a length above the limit": (nothing, ("model.max_length=65",), "checkpoint", "65 exceeds the checkpoint's limit"),
    "weights that are cut off": (on_model(cut_off), (), "weights", "is no whole safetensors file"),
    "no head": (
        tensors(lambda w: [w.pop("classifier.weight"), w.pop("classifier.bias")]),
        (),
        "head",
        "the files lack classifier.bias, classifier.weight",
    ),
    "a head of another size": (
        tensors(lambda w: w.update({"classifier.weight": torch.ones(5, 32), "classifier.bias": torch.ones(5)})),
        (),
        "head",
        "by config.json",
    ),
    "a head that is not a number": (
        tensors(lambda w: w["classifier.bias"].fill_(float("nan"))),
        (),
        "head",
        "classifier.bias has values that are not finite",
    ),
    "code that is needed and not trusted": (
        lambda world: world.job["model"].update(name=str(with_code(world.checkpoint, world.folder / "own"))),
        (),
        "head",
        "does not load as AutoModelForSequenceClassification",
    ),
    "a head for something else": (
        nothing,
        ("task.name=token-classification",),
        "task",
        "without a trained head for token-classification",
    ),
    "no such task": (nothing, ("task.name=text-clasification",), "task", "there is no task 'text-clasification'"),
    "no such option": (nothing, ("task.options.topk=1",), "task", "task.options.topk: unknown key"),
    "an option that does not fit": (nothing, ("task.options.threshold=0.5",), "task", "only multi-label checkpoints"),
    "a hook that is not there": (nothing, ("task.options.postprocess=nowhere:f",), "hook", "nowhere:f cannot be"),
    "a tokenizer that is not JSON": (
        on_model(lambda model: (model / "tokenizer.json").write_text("{")),
        (),
        "tokenizer",
        "has no tokenizer that loads",
    ),
    "fp8 in another precision": (nothing, ("model.fp8=true",), "precision", "it goes with bfloat16 alone"),
    "an output in the input": (output_in_input, (), "output", "lie in one another"),
    "the output of another job": (run_as("output.scores=true"), (), "owner", "output.scores was True, is False"),
    "an output of somebody else": (
        foreign_output,
        (),
        "owner",
        "holds a.parquet, which shardlabel did not write",
    ),
    "an output that cannot be written": (nothing, ("output.path=/proc/out",), "writing", "cannot be written"),
}

ALSO = {
    "a shard without the column": {"schemas"},
    "an output that cannot be written": {"space"},
    "code that is needed and not trusted": {"remote code", "tokenizer"},
}
"""What else may be said where one defect is seen by two checks."""


@pytest.mark.parametrize("case", ERRORS)
def test_what_is_called_an_error_is_found_where_it_is_and_makes_the_run_fail(case: str, world: World) -> None:
    spoil, overrides, name, message = ERRORS[case]
    spoil(world)
    before = everything_in(world.folder)
    result = examine(world, *overrides, "--json")
    found = checks(result)
    assert result.exit_code == 1
    errors = [check for check in found if check["level"] == "error" and check["check"] == name]
    assert [check for check in errors if message in check["message"]], found
    others = {check["check"] for check in found if check["level"] in {"warning", "error"}} - {name}
    assert others <= ALSO.get(case, set()), found
    (world.folder / "job.yaml").unlink()
    before.pop(str(world.folder / "job.yaml"), None)
    assert everything_in(world.folder) == before
    run = world.run(*overrides)
    assert run.exit_code in {1, 2}, run.output
    refusal(run)


def test_one_error_hides_no_other(world: World) -> None:
    edit(world.own_checkpoint(), id2label={"0": "a", "1": "b", "2": "a"})
    world.write_shard("good.parquet", TEXTS, label=TEXTS)
    wrong = (
        "input.columns.text=body",
        "model.max_length=99",
        "task.options.postprocess=nowhere:f",
        "run.num_actors=99",
        "model.dtype=float16",
    )
    output_in_input(world)
    result = examine(world, *wrong, "--json")
    found = {(check["check"], check["level"]) for check in checks(result)}
    errors = {"labels", "checkpoint", "hook", "columns", "output columns", "output"}
    assert {name for name, level in found if level == "error"} == errors
    assert {name for name, level in found if level == "warning"} == {"precision", "actors"}
    assert {("head", "ok"), ("tokenizer", "ok"), ("input", "ok"), ("writing", "skipped")} <= found


def note_run(world: World) -> None:
    """What a run at work leaves every ten seconds."""
    now = time.time()
    note = RunNote(run_id="a", started=now, updated=now, num_splits=1, num_rows=1, num_pending=1, pending_rows=1)
    storage.write(locate(str(world.out)).join(RUN), json.dumps(dataclasses.asdict(note)).encode())


WARNINGS: dict[str, tuple[Spoil, tuple[str, ...], str, str]] = {
    "labels without names": (
        on_model(lambda model: edit(model, id2label={str(i): f"LABEL_{i}" for i in range(3)})),
        (),
        "labels",
        "called LABEL_0 to LABEL_2",
    ),
    "a problem type that is not said": (
        on_model(lambda model: edit(model, id2label={"0": "toxic", "1": "severe_toxic", "2": "none"}, label2id=None)),
        (),
        "problem type",
        "'toxic' and 'severe_toxic' look as if both could hold",
    ),
    "a head that says nothing": (
        tensors(lambda w: w["classifier.weight"].fill_(0.1)),
        (),
        "head",
        "all values of classifier.weight are equal",
    ),
    "a tokenizer that allows too much": (
        on_model(lambda model: edit(model, "tokenizer_config.json", model_max_length=99)),
        (),
        "length",
        "the tokenizer allows 99 tokens",
    ),
    "half precision on a CPU": (nothing, ("model.dtype=float16",), "precision", "float16 on this CPU"),
    "more threads than cores": (nothing, ("run.threads_per_actor=999",), "actors", "999 torch threads each"),
    "shards of other columns": (
        lambda world: world.write_shard("other.parquet", ["x"]),
        (),
        "schemas",
        "1 of 2 shards have other columns or types; other.parquet has no column 'number'",
    ),
    "no rows": (
        lambda world: world.write_shard("good.parquet", pa.array([], pa.string())),
        (),
        "input",
        "1 shards without a row",
    ),
    "many texts that are null": (
        lambda world: world.write_shard("good.parquet", [None, "x"] * 5000),
        (),
        "rows",
        "500 of 1,000 sampled rows have no text",
    ),
    "a shard that vanished": (
        vanished_shard,
        (),
        "vanished",
        "no longer has 1 shards whose parts are there, such as other.parquet",
    ),
    "a run at work": (note_run, (), "last run", f"process {os.getpid()}"),
}


@pytest.mark.parametrize("case", WARNINGS)
def test_what_may_spoil_a_run_is_a_warning_where_it_is_and_the_job_runs(case: str, world: World) -> None:
    spoil, overrides, name, message = WARNINGS[case]
    spoil(world)
    result = examine(world, *overrides, "--json")
    found = checks(result)
    assert result.exit_code == 0, found
    (warning,) = [check for check in found if check["level"] != "ok"]
    assert (warning["check"], warning["level"]) == (name, "warning")
    assert message in warning["message"]
    assert warning["advice"]


def test_two_classes_of_one_name_are_an_error_though_such_a_job_runs(world: World) -> None:
    edit(world.own_checkpoint(), id2label={"0": "a", "1": "b", "2": "a"})
    result = examine(world, "--json")
    assert [check["check"] for check in checks(result) if check["level"] != "ok"] == ["labels"]
    assert result.exit_code == 1


@pytest.mark.usefixtures("modules")
def test_trusted_code_is_a_warning_and_its_head_needs_a_forward(world: World) -> None:
    world.job["model"] |= {"name": str(with_code(world.checkpoint, world.folder / "own")), "trust_remote_code": True}
    found = {check["check"]: check["level"] for check in checks(examine(world, "--json", "--forward"))}
    assert {name: level for name, level in found.items() if level != "ok"} == {
        "remote code": "warning",
        "head": "skipped",
    }


def forward_of(world: World) -> dict[str, str]:
    (found,) = [check for check in checks(examine(world, "--forward", "--json")) if check["check"] == "forward"]
    return found


def test_a_forward_says_how_many_different_labels_there_are(world: World) -> None:
    rows = examine(world, "--forward", "--json")
    world.run()
    labels = [row["label"] for row in world.rows("good.parquet")[:32]]
    (found,) = [check for check in checks(rows) if check["check"] == "forward"]
    assert found["level"] == "ok"
    assert f"32 rows labelled, {len(set(labels))} different label: " in found["message"]
    assert f"{labels[0]} ({labels.count(labels[0])})" in found["message"]


def test_a_forward_whose_labels_are_all_the_same_is_a_warning(world: World) -> None:
    rewrite(world.own_checkpoint(), lambda w: w["classifier.weight"].zero_())
    found = forward_of(world)
    assert (found["level"], "all 32 rows have the same label: " in found["message"]) == ("warning", True)


def test_a_forward_that_gives_no_row_a_label_is_a_warning(world: World) -> None:
    world.job["task"] = {"options": {"abstain_below": 1}}
    found = forward_of(world)
    assert (found["level"], "none of 32 rows gets a label" in found["message"]) == ("warning", True)
    world.run()
    assert {row["label"] for row in world.rows("good.parquet")} == {None}


def test_a_forward_that_is_not_finite_is_an_error(world: World) -> None:
    rewrite(world.own_checkpoint(), lambda w: w["classifier.bias"].fill_(float("nan")))
    found = forward_of(world)
    assert (found["level"], "32 of 32 rows failed" in found["message"]) == ("error", True)


def test_a_forward_needs_rows(world: World) -> None:
    world.write_shard("good.parquet", pa.nulls(9, pa.string()))
    assert forward_of(world)["level"] == "skipped"


def test_a_driver_without_torch_says_what_it_cannot_see(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # as Python has it where the import fails
    found = {check["check"]: check["level"] for check in checks(examine(world, "--json", "--forward"))}
    assert (found["head"], found["forward"], found["devices"]) == ("skipped", "skipped", "error")


def test_the_space_that_is_needed_is_near_what_a_run_writes(world: World) -> None:
    texts = [b85encode(os.urandom(100)).decode() for _ in range(3000)]
    world.write_shard("good.parquet", texts, noise=[os.urandom(400) for _ in texts])
    for overrides in ((), ("output.keep_columns=[text]",)):
        result = examine(world, *overrides, "--json")
        (space,) = [check["message"] for check in checks(result) if check["check"] == "space"]
        size, unit = space.removeprefix("about ").split()[:2]
        needed = float(size) * {"kB": 1e3, "MB": 1e6}[unit]
        out = world.folder / f"out{len(overrides)}"
        assert world.run(*overrides, f"output.path={out}").exit_code == 0
        written = (out / "good.parquet").stat().st_size
        assert 0.6 < needed / written < 1.7, (needed, written)
