"""Bad rows, bad shards and bad outputs: each is a failed row, a named shard or one message, and harms no other."""

import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.jobs.world import NUM_ROWS, World, refusal

PLACE = 70
"""Of the bad row."""


@pytest.fixture
def world(single_label: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.chdir(tmp_path)
    return World(tmp_path, single_label)


def utf8(*values: bytes | None) -> pa.Array:
    """Strings that nobody has checked."""
    return pa.array(values, pa.binary()).view(pa.string())


ROWS: dict[str, tuple[bytes | None, str | None]] = {
    "null": (None, "InputError: text is null"),
    "a byte that is no UTF-8": (b"good \xff film", "utf-8"),
    "a character that is cut off": ("é".encode()[:1], "utf-8"),
    "a lone surrogate": (b"\xed\xa0\x80", "utf-8"),
    "an overlong NUL": (b"\xc0\x80", "utf-8"),
    "empty": (b"", None),
    "only white space": (b" \t\r\n\x0b", None),
    "NUL characters": (b"\0\0good\0film\0", None),
    "control characters": (b"\x01\x1b[31m\x7f", None),
    "a megabyte": (b"good film " * 100_000, None),
    "a megabyte in one word": (b"x" * 1_000_000, None),
    "words that the vocabulary lacks": ("漢字 ﷽ 🏳️\u200d🌈".encode(), None),
    "a thousand combining marks": (("e" + "\u0301" * 1000).encode(), None),
    "text from right to left": ("\u202eevil\u202c \ufeff".encode(), None),
    "special tokens as text": (b"[CLS] [SEP] [MASK] [PAD] </s>", None),
    "what looks like a formula": (b"=cmd|'/C calc'!A0 <script> {{7*7}} %s %n", None),
}


@pytest.mark.parametrize(("value", "error"), ROWS.values(), ids=ROWS)
def test_a_bad_row_fails_alone_or_not_at_all(world: World, value: bytes | None, error: str | None) -> None:
    texts = [b"the good film"] * NUM_ROWS
    world.write_shard("good.parquet", utf8(*texts[:PLACE], value, *texts[PLACE + 1 :]))
    result = world.run("output.keep_columns=[]")
    assert result.exit_code == 0, result.output
    assert f"{NUM_ROWS} ({NUM_ROWS} in this run), {int(error is not None)} failed" in result.stdout
    rows = world.rows("good.parquet")
    row = rows.pop(PLACE)
    assert {(other["label"], other["error"]) for other in rows} == {(rows[0]["label"], None)}
    if error is None:
        assert row["error"] is None
        assert row["label"] in {"negative", "neutral", "positive"}
    else:
        assert error in row["error"]
        assert (row["label"], row["confidence"], row["num_tokens"]) == (None, None, None)


def test_a_long_text_that_shall_not_be_cut_fails_alone(world: World) -> None:
    world.write_shard("good.parquet", ["good"] * (NUM_ROWS - 1) + ["good " * 99])
    assert world.run("task.options.long_text=error").exit_code == 0
    *rows, last = world.rows("good.parquet")
    assert "the text has more tokens than the 32 of a sequence" in last["error"]
    assert {row["error"] for row in rows} == {None}


def test_half_a_pair_fails_alone(world: World) -> None:
    pairs: list[str | None] = ["bad"] * NUM_ROWS
    pairs[PLACE] = None
    world.write_shard("good.parquet", ["good"] * NUM_ROWS, text_pair=pairs)
    assert world.run().exit_code == 0
    rows = world.rows("good.parquet")
    assert "is null" in rows.pop(PLACE)["error"]
    assert {row["error"] for row in rows} == {None}


@pytest.mark.parametrize("kind", [pa.string(), pa.null(), pa.dictionary(pa.int8(), pa.string())], ids=str)
def test_a_text_column_without_a_text_fails_the_run_by_its_rows(world: World, kind: pa.DataType) -> None:
    world.write_shard("good.parquet", pa.nulls(NUM_ROWS, kind))
    result = world.run()
    assert "150 of 150 rows failed" in refusal(result)
    assert "commonest: InputError: text is null (150)" in refusal(result)
    assert result.exit_code == 1
    assert not (world.out / "_SUCCESS").exists()


HOOKS: dict[str, tuple[str, str]] = {
    "fewer rows": ("return logits[1:]", "made (149, 3) of logits of shape (150, 3)"),
    "fewer columns": ("return logits[:, :2]", "made (150, 2) of logits of shape (150, 3)"),
    "nothing": ("pass", "made () of logits of shape (150, 3)"),
    "words": ("return 'good'", "150 of 150 rows failed, more than run.max_failed_fraction"),
    "a table": ("return {'logits': logits}", "commonest: TypeError: "),
    "what is not finite": ("return logits * float('inf')", "gave values that are not finite (150)"),
    "an error": ("raise KeyError('mine')", "commonest: KeyError: 'mine' (150)"),
    "an error of ours": ("from inference.errors import InputError; raise InputError('mine')", "InputError: mine (150)"),
    "no memory": ("raise MemoryError('all of it')", "commonest: MemoryError: all of it (150)"),
}


@pytest.mark.parametrize(("body", "message"), HOOKS.values(), ids=HOOKS)
def test_a_hook_that_gives_something_else_fails_the_run(world: World, body: str, message: str) -> None:
    name = f"hook_{zlib.crc32(body.encode())}"  # Python imports a name once
    (world.folder / f"{name}.py").write_text(f"def f(logits):\n    {body}\n")
    result = world.run(f"task.options.postprocess={name}:f")
    assert message in refusal(result)
    assert result.exit_code == 1
    assert not (world.out / "_SUCCESS").exists()


def test_a_row_on_which_a_hook_raises_fails_alone(world: World) -> None:
    texts = ["the good film"] * NUM_ROWS
    texts[PLACE] = "a bad tool"
    world.write_shard("good.parquet", texts)
    assert world.run("output.logits=true", f"output.path={world.folder}/plain").exit_code == 0
    plain = pq.read_table(world.folder / "plain" / "good.parquet").to_pylist()
    (world.folder / "hook_picky.py").write_text(
        f"def f(logits):\n    if (abs(logits[:, 0] - {plain[PLACE]['logits'][0]}) < 1e-4).any():\n"
        "        raise ValueError('not this one')\n    return logits\n"
    )
    assert world.run("task.options.postprocess=hook_picky:f").exit_code == 0
    rows = world.rows("good.parquet")
    row = rows.pop(PLACE)
    assert (row["error"], row["label"], row["confidence"]) == ("ValueError: not this one", None, None)
    assert {(row["label"], row["error"]) for row in rows} == {(plain[0]["label"], None)}


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-50])


def spoilt_pages(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:4] + b"\xff" * 60 + data[64:])


def two_columns_of_a_name(path: Path) -> None:
    pq.write_table(pa.table([["a"], ["b"], [1]], ["text", "x", "x"]), path)


def link_to(target: str) -> Callable[[Path], None]:
    def replace(path: Path) -> None:
        path.unlink()
        path.symlink_to(target)

    return replace


def put(path: Path, content: str = "mine") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


SHARDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "an empty file": (lambda path: path.write_bytes(b""), "bad.parquet (not a readable Parquet file ("),
    "text": (lambda path: path.write_text("id,text\n1,good\n"), "bad.parquet (not a readable Parquet file ("),
    "only the magic bytes": (lambda path: path.write_bytes(b"PAR1PAR1"), "bad.parquet (not a readable Parquet file ("),
    "a truncated file": (truncated, "bad.parquet (not a readable Parquet file ("),
    "a footer longer than the file": (
        lambda path: path.write_bytes(b"PAR1" + b"\xff\xff\xff\x7f" + b"PAR1"),
        "bad.parquet (not a readable Parquet file (",
    ),
    "an encrypted footer": (
        lambda path: path.write_bytes(path.read_bytes()[:-4] + b"PARE"),
        "bad.parquet (not a readable Parquet file (",
    ),
    "another format": (
        lambda path: path.write_bytes(b"ORC" + b"\0" * 99),
        "bad.parquet (not a readable Parquet file (",
    ),
    "spoilt pages": (spoilt_pages, "could not be read: bad.parquet (row groups 0 to 0 cannot be read ("),
    "two columns of one name": (two_columns_of_a_name, "bad.parquet (2 columns are called 'x')"),
    "a link to nothing": (link_to("nowhere"), "bad.parquet (not a readable Parquet file ("),
    "a link to itself": (link_to("bad.parquet"), "bad.parquet (not a readable Parquet file ("),
}


@pytest.mark.parametrize(("spoil", "message"), SHARDS.values(), ids=SHARDS)
def test_a_bad_shard_is_named_and_fails_alone(world: World, spoil: Callable[[Path], object], message: str) -> None:
    spoil(world.write_shard("bad.parquet", ["the good film"] * 20))
    result = world.run()
    assert message in refusal(result)
    assert "everything else is done" in result.stderr
    assert result.exit_code == 1
    assert f"{NUM_ROWS} ({NUM_ROWS} in this run), 0 failed" in result.stdout
    assert {row["error"] for row in world.rows("good.parquet")} == {None}
    assert not (world.out / "_SUCCESS").exists()


REFUSED: dict[str, tuple[Callable[[World], Any], list[str], str]] = {
    "no shard that can be read": (
        lambda world: (world.folder / "in" / "good.parquet").write_bytes(b""),
        [],
        "input.path: no shard is a readable Parquet file; good.parquet is ",
    ),
    "only other files": (
        lambda world: (world.folder / "in" / "good.parquet").rename(world.folder / "in" / "good.csv"),
        [],
        "holds no Parquet file but 1 other files such as good.csv",
    ),
    "a shard without the text": (
        lambda world: pq.write_table(pa.table({"id": [1]}), world.folder / "in" / "b.parquet"),
        [],
        "shard b.parquet has no column 'text', which others have",
    ),
    "a text that is a number in one shard": (
        lambda world: world.write_shard("h.parquet", [1]),
        [],
        "shard h.parquet does not fit the shards before it (Unable to merge: Field text has incompatible types",
    ),
    "a text of bytes": (
        lambda world: world.write_shard("good.parquet", [b"good"]),
        [],
        "column 'text' holds binary, expected text",
    ),
    "a column with the name of an output": (
        lambda world: world.write_shard("good.parquet", ["good"], label=["gold"]),
        [],
        "the input has a column 'label', which is also what text-classification writes",
    ),
    "an output in the input": (lambda _: None, ["output.path=in/out"], "lie in one another"),
    "an input in the output": (lambda _: None, ["output.path=."], "lie in one another"),
    "the input as the output": (lambda _: None, ["output.path=in"], "lie in one another"),
    "an output with shards of somebody else": (
        lambda world: pq.write_table(pa.table({"a": [1]}), put(world.out / "mine.parquet")),
        [],
        "holds mine.parquet, which shardlabel did not write",
    ),
    "an output with a text file": (
        lambda world: put(world.out / "notes.txt"),
        [],
        "holds notes.txt, which shardlabel did not write",
    ),
    "an output that is a file": (lambda world: put(world.out), [], "output.path: "),
    "an output below a file": (lambda world: put(world.folder / "file"), ["output.path=file/out"], "output.path: "),
    "a manifest that is not JSON": (
        lambda world: put(world.out / "_shardlabel" / "manifest.json", "{"),
        [],
        "manifest.json is no manifest",
    ),
    "a manifest that is something else": (
        lambda world: put(world.out / "_shardlabel" / "manifest.json", "[]"),
        [],
        "manifest.json is no manifest",
    ),
    "a footer that is not ours": (
        lambda world: pq.write_table(
            pa.table({"a": [1]}).replace_schema_metadata({"shardlabel": "{}"}), put(world.out / "good.parquet")
        ),
        [],
        "holds good.parquet, which shardlabel did not write",
    ),
}


@pytest.mark.parametrize(("spoil", "overrides", "message"), REFUSED.values(), ids=REFUSED)
def test_an_input_or_output_that_cannot_be_used_is_refused(
    world: World, spoil: Callable[[World], Any], overrides: list[str], message: str
) -> None:
    spoil(world)
    before = {path: path.is_file() and path.read_bytes() for path in world.folder.rglob("*")}
    result = world.run(*overrides)
    assert message in refusal(result)
    assert result.exit_code == 2
    (world.folder / "job.yaml").unlink()
    assert {path: path.is_file() and path.read_bytes() for path in world.folder.rglob("*")} == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_output_that_may_not_be_written_fails_the_run(world: World) -> None:
    world.out.mkdir(mode=0o500)
    result = world.run()
    assert "cannot be written" in refusal(result)
    assert result.exit_code == 1
