"""`shardlabel init`: the column a person would take, the task the head is for, and a file that says every key."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner, Result

from inference.tasks import available_tasks, task_class
from jobs import storage
from jobs.cli import app
from jobs.config import JobConfig, load_job
from jobs.draft import NO_MODEL, _beside, draft_job
from jobs.draft_yaml import model_in
from jobs.guess import Kind, guess_id, look_at
from jobs.plan import make_plan
from jobs.storage import locate
from tests.families import build_checkpoint
from tests.inference.tasks import examples
from tests.jobs.s3_server import Store

RUNNER = CliRunner()
NUM_ROWS = 40
PACKAGES = Path(__file__).parents[3] / "shared" / "data" / "packages"

REVIEWS = [f"The {i}th film was long, and I liked the end of it more than the beginning." for i in range(NUM_ROWS)]
COLUMNS: dict[str, list[Any]] = {
    "review_id": [f"R{i:05d}" for i in range(NUM_ROWS)],
    "product_url": [
        f"https://shop.example/a-very-long-address/of/a/product/with/{i}/parts?and=options" for i in range(40)
    ],
    "day": [f"2026-01-{1 + i % 28:02d}T00:00:00Z" for i in range(NUM_ROWS)],
    "stars": [i % 5 for i in range(NUM_ROWS)],
    "category": ["books and films", "music"] * 20,
    "headline": [f"Number {i} of them" for i in range(NUM_ROWS)],
    "review_body": REVIEWS,
    "note": [None] * 38 + [REVIEWS[0] * 9, REVIEWS[1] * 9],
}


def write(folder: Path, columns: dict[str, Any], name: str = "in/a.parquet") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def init(*arguments: object) -> Result:
    return RUNNER.invoke(app, ["init", *map(str, arguments)])


def uncommented(text: str) -> dict[str, Any]:
    """The job file with every key that is commented out put in force; comments that go on are far to the right."""
    lines = [re.sub(r"^( {0,4})# (?=[ \w]+:)", r"\1", line) for line in text.splitlines()]
    found: dict[str, Any] = yaml.safe_load("\n".join(lines))
    return found


def test_the_longest_prose_is_the_text_and_what_is_no_prose_comes_last() -> None:
    looks = look_at(pa.table(COLUMNS))
    assert [look.name for look in looks][:3] == ["review_body", "note", "headline"]
    assert {look.name: look.kind for look in looks} == {
        "review_body": Kind.TEXT,
        "headline": Kind.TEXT,
        "note": Kind.TEXT,
        "product_url": Kind.URL,
        "review_id": Kind.ID,
        "category": Kind.CATEGORY,
        "day": Kind.NUMBER,
    }
    assert guess_id(pa.table(COLUMNS), looks) == "review_id"
    (note,) = [look for look in looks if look.name == "note"]
    assert (note.null_fraction, note.num_values) == (0.95, 2)
    assert str(note) == f"{9 * (len(REVIEWS[0]) + len(REVIEWS[1])) / 2:,.0f} characters on average, 95% null"


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"a": ["one text here"] * 3, "b": ["a text that is longer"] * 3}, "b"),
        ({"b": ["a text that is longer"] * 3, "Text": ["one text here"] * 3}, "Text"),  # a name counts thrice
        ({"text": ["x", "y"] * 20, "b": [f"a text, number {i}" for i in range(40)]}, "b"),  # but a category is none
        ({"text": ["x", "y"] * 20, "n": [1] * 40}, "text"),  # unless there is nothing else
        ({"a": ["", " ", None], "b": ["a b", "c d", None]}, "b"),
        ({"a": [b"\xff\xfe no utf-8", b"a b"], "b": ["c", "d"]}, "a"),
    ],
)
def test_the_column_of_one_text(columns: dict[str, list[Any]], expected: str, tmp_path: Path) -> None:
    table = pa.table(columns)
    if pa.types.is_binary(table.schema.field(0).type):  # text that is no UTF-8, as other writers leave it
        table = table.set_column(0, "a", pa.array(columns["a"]).view(pa.string()))
    pq.write_table(table, tmp_path / "a.parquet")
    draft = draft_job(str(tmp_path / "a.parquet"), model=None, output=None, task=None, schema=None)
    assert draft.columns["text"].name == expected
    assert draft.job.input.columns == ({} if expected == "text" else {"text": expected})


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"passage": ["a b c d"], "ask": ["e f"]}, {"question": "ask", "context": "passage"}),
        ({"ask": ["e f"], "body": ["a b c d"]}, {"question": "ask", "context": "body"}),
        ({"context": ["a b"], "question": ["a question, the longer one"]}, {}),
        ({"text": ["a b c d"], "query": ["e"]}, {"question": "query", "context": "text"}),
    ],
)
def test_the_columns_of_a_pair(columns: dict[str, Any], expected: dict[str, str], tmp_path: Path) -> None:
    path = write(tmp_path, columns)
    draft = draft_job(str(path), model=None, output=None, task="question-answering", schema=None)
    assert dict(draft.job.input.columns) == expected


def test_too_few_columns_are_a_readable_sentence(tmp_path: Path) -> None:
    path = write(tmp_path, {"text": ["a b"], "n": [1]})
    result = init(path, "--task", "question-answering", "--file", tmp_path / "job.yaml")
    assert result.exit_code == 2
    assert "the task reads question and context, and the columns of text are: text" in result.stderr
    assert not (tmp_path / "job.yaml").exists()


@pytest.mark.parametrize("task", available_tasks())
def test_the_task_is_the_one_that_the_checkpoint_was_made_for(task: str, tmp_path: Path) -> None:
    path = examples.checkpoint(tmp_path, task, examples.families(task)[0])
    table = examples.table(task, path)
    if task == "zero-shot-classification":
        table = table.append_column("candidate_labels", pa.array(["good, bad"] * len(table)))
    pq.write_table(table, tmp_path / "a.parquet")
    draft = draft_job(str(tmp_path / "a.parquet"), model=str(path), output=None, task=None, schema=None)
    assert draft.job.task.name == task
    assert set(draft.columns) == set(task_class(task).columns)
    make_plan(draft.job)  # which refuses what does not fit


def test_a_model_of_masks_gives_embeddings_where_the_texts_have_no_mask(tmp_path: Path) -> None:
    path = build_checkpoint(tmp_path / "model", "bert", "masked-lm", max_length=32)
    write(tmp_path, {"text": ["no mask in here"]})
    draft = draft_job(str(tmp_path / "in"), model=str(path), output=None, task=None, schema=None)
    assert (draft.job.task.name, draft.other_tasks) == ("feature-extraction", ("fill-mask",))


@pytest.mark.parametrize("task", [None, *available_tasks()])
def test_the_file_says_every_key_with_its_default(task: str | None, tmp_path: Path) -> None:
    path = write(tmp_path, {"question": ["a b"], "context": ["c d"], "query": ["e f"], "text": ["g h"]})
    arguments = [] if task is None else ["--task", task]
    result = init(path, "--file", tmp_path / "job.yaml", *arguments)
    assert result.exit_code == 0, result.output
    text = (tmp_path / "job.yaml").read_text()
    job = load_job(tmp_path / "job.yaml", [])
    assert job.input.path == (str(path),)
    assert job.model_dump()["model"]["name"] == NO_MODEL
    everything = uncommented(text)
    options = task_class(job.task.name).options_class
    for name, field in JobConfig.model_fields.items():
        model = model_in(field.annotation)
        assert model
        assert set(everything[name]) == set(model.model_fields)
    assert set(everything["task"].pop("options")) == set(options.model_fields)
    assert JobConfig.model_validate(everything) == job
    assert options.model_validate(uncommented(text)["task"]["options"]) == options()
    assert max(map(len, text.splitlines())) <= 120 + len(str(path))


def test_the_guesses_are_shown_and_the_next_command_works(single_label: Path, tmp_path: Path) -> None:
    write(tmp_path, COLUMNS)
    file = tmp_path / "job.yaml"
    result = init(tmp_path / "in", "--model", single_label, "--output", tmp_path / "out", "--file", file)
    assert result.exit_code == 0, result.output
    expected = [
        f"text       column review_body, {sum(map(len, REVIEWS)) / NUM_ROWS:.0f} characters on average",
        f"           '{REVIEWS[0][:55]}…'",
        f"or         column note ({9 * (len(REVIEWS[0]) + len(REVIEWS[1])) / 2:.0f} characters on average, 95% null)",
        "           3 other columns of strings",
        "task       text-classification, for the model is a BertForSequenceClassification",
        "           3 labels: negative, neutral, positive",
        "or         feature-extraction",
        f"output     {tmp_path / 'out'}",
        f"next       shardlabel run {file}",
    ]
    assert [line for line in expected if line not in result.stdout.splitlines()] == []
    assert "[review_id] would tell the rows apart" in file.read_text()
    command = result.stdout.splitlines()[-1].split()[1:]
    done = RUNNER.invoke(app, [*command[1:], "run.executor=local", "model.dtype=float32"])
    assert (done.exit_code, f"{NUM_ROWS} ({NUM_ROWS} in this run), 0 failed" in done.stdout) == (0, True), done.output


def test_without_a_model_its_place_is_marked_and_a_run_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, {"text": ["a b"]})
    result = init(path, "--file", tmp_path / "job.yaml")
    assert f"No model is named: write its folder or hub id in the place of {NO_MODEL}" in result.stdout
    assert re.search(rf"name: {NO_MODEL} +# TO FILL IN", (tmp_path / "job.yaml").read_text())
    refused = RUNNER.invoke(app, ["run", str(tmp_path / "job.yaml")])
    assert (refused.exit_code, f"there is no folder {NO_MODEL}" in refused.stderr) == (2, True)


def test_a_job_file_that_is_there_is_kept_unless_forced(tmp_path: Path) -> None:
    path, file = write(tmp_path, {"text": ["a b"]}), tmp_path / "job.yaml"
    file.write_text("mine")
    refused = init(path, "--file", file)
    assert (refused.exit_code, file.read_text()) == (2, "mine")
    assert f"{file} is there already; name another file, or overwrite it with --force" in refused.stderr
    assert init(path, "--file", file, "--force").exit_code == 0
    assert load_job(file, []).input.path == (str(path),)
    assert init(path, "--file", tmp_path / "none" / "job.yaml").exit_code == 2


def test_the_schema_is_written_and_named_as_seen_from_the_job_file(tmp_path: Path) -> None:
    path = write(tmp_path, {"text": ["a b"]})
    (tmp_path / "sub").mkdir()
    result = init(path, "--file", tmp_path / "sub" / "job.yaml", "--schema", tmp_path / "keys.json")
    assert result.exit_code == 0, result.output
    first, *_ = (tmp_path / "sub" / "job.yaml").read_text().splitlines()
    (name,) = re.findall(r"^# yaml-language-server: \$schema=(\S+)$", first)
    schema = json.loads((tmp_path / "sub" / name).read_text())
    jsonschema.Draft202012Validator(schema).validate(yaml.safe_load((tmp_path / "sub" / "job.yaml").read_text()))


def test_json_has_the_guesses_and_the_job(tmp_path: Path) -> None:
    path = write(tmp_path, COLUMNS)
    found = json.loads(init(path, "--file", tmp_path / "job.yaml", "--json").stdout)
    assert found["columns"]["text"]["name"] == "review_body"
    assert found["job"]["task"]["name"] == "text-classification"
    assert found["text"] == (tmp_path / "job.yaml").read_text()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("data/reviews.parquet", "data/reviews-labels"),
        ("data/reviews/", "data/reviews-labels"),
        ("data/*.parquet", "data-labels"),
        ("data/part-*.parquet", "data-labels"),
        ("data/day=*/a.parquet", "data-labels"),
        ("/data", "/data-labels"),
        ("..", "../../labels"),
        (".", "./../labels"),
        ("*.parquet", "./../labels"),
        ("s3://bucket/in?region=a", "s3://bucket/in-labels?region=a"),
    ],
)
def test_the_output_lies_beside_the_input(path: str, expected: str) -> None:
    assert _beside(path) == expected


def test_shards_without_rows_and_unreadable_ones_are_passed_over(tmp_path: Path) -> None:
    write(tmp_path, {"text": pa.array([], pa.string())}, "in/a.parquet")
    (tmp_path / "in" / "b.parquet").write_bytes(b"nonsense")
    twice = pa.table([["a b"], ["c d"]], names=["text", "text"])
    pq.write_table(twice, tmp_path / "in" / "bb.parquet")
    refused = init(tmp_path / "in", "--file", tmp_path / "job.yaml")
    assert refused.exit_code == 2
    assert "has no rows to look at (a.parquet: no rows; b.parquet: Parquet magic bytes not found" in refused.stderr
    assert "; bb.parquet: 2 columns are called 'text')" in refused.stderr
    write(tmp_path, {"text": ["a b"]}, "in/c.parquet")
    assert init(tmp_path / "in", "--file", tmp_path / "job.yaml").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/nowhere"], "INPUT: /nowhere holds no Parquet file"),
        (["nope://a/b"], "nope"),
        (["{in}", "--model", "/nowhere"], "there is no folder /nowhere"),
        (["{in}", "--task", "text-clasification"], "did you mean text-classification?"),
        (["{in}", "--model", "{model}", "--task", "fill-mask"], "without a trained head for fill-mask"),
        (["{in}", "--output", ""], "output.path: String should have at least 1 character"),
    ],
)
def test_a_wrong_request_is_status_2_and_one_message(
    arguments: list[str], message: str, tmp_path: Path, single_label: Path
) -> None:
    path = write(tmp_path, {"text": ["a b"]})
    filled = [each.format(**{"in": path, "model": single_label}) for each in arguments]
    result = init(*filled, "--file", tmp_path / "job.yaml")
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("shardlabel: ")]
    assert (result.exit_code, message in line) == (2, True), line
    assert not (tmp_path / "job.yaml").exists()


def test_shards_of_a_store_are_looked_at_in_the_store(store: Store, tmp_path: Path) -> None:
    # Through the server: what is put below its folder by others it may not see for five minutes.
    bucket = locate(store.uri("drafts") + "&allow_bucket_creation=true")
    bucket.filesystem.create_dir(bucket.path)
    storage.write(bucket.join("in/a.parquet"), write(tmp_path, COLUMNS).read_bytes())
    result = init(store.uri("drafts/in"), "--file", tmp_path / "job.yaml")
    assert result.exit_code == 0, result.output
    job = load_job(tmp_path / "job.yaml", [])
    assert job.input.columns == {"text": "review_body"}
    assert job.output.path == store.uri("drafts/in-labels")


@pytest.mark.skipif(not PACKAGES.is_dir(), reason="there is no folder shared/data/packages beside the repository")
def test_the_descriptions_of_real_packages_are_found() -> None:
    draft = draft_job(str(PACKAGES), model=None, output=None, task=None, schema=None)
    assert draft.columns["text"].name == "text"
    assert {look.name: look.kind for look in draft.others} == {"package": Kind.ID, "section": Kind.CATEGORY}
    assert draft.num_sampled == 1000
