"""Collect the docstrings of installed libraries as uneven Parquet shards: a corpus that is already on this machine.

In:  numpy, pandas, pyarrow, torch, transformers, ray and the Python standard library, as source files: none is
     imported or run to read it. At most `MAX_ROWS_PER_LIBRARY` docstrings per library are kept, chosen by hash.
Out: `OUT_DIR/docs-0.parquet` … with the columns `id`, `library`, `held_out`, `text`; the same bytes on every call in
     the same environment.  Run it: `python docs/demo/collect.py OUT_DIR`
"""

import ast
import gc
import hashlib
import importlib.util
import inspect
import multiprocessing
import os
import re
import shutil
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from itertools import accumulate, chain
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

STDLIB = "python"
LIBRARIES = (STDLIB, "numpy", "pandas", "pyarrow", "torch", "transformers", "ray")
"""The gold labels. Of texts that several libraries share, the first library here keeps the row."""

MAX_ROWS_PER_LIBRARY = 9_000
MIN_CHARS = 20
HELD_OUT_ONE_IN = 5
"""One module in five is held out of training, whole: rows of one module resemble each other."""

SHARD_PERMILLE = (90, 280, 10, 160, 50, 210, 120, 80)
"""Share of the rows in each shard; uneven on purpose, as real shards are."""

ROW_GROUP_ROWS = 2_000
FILES_PER_CHUNK = 24

SKIPPED_FOLDERS = {
    # not part of the standard library, though they lie inside its folder
    "site-packages",
    "dist-packages",
    # tests describe a test case, not the library
    "test",
    "tests",
    "idle_test",
    # other people's packages, shipped inside these
    "vendored",
    "_vendor",
    "_vendored",
    "thirdparty",
    "thirdparty_files",
    "cloudpickle",
}
SOURCE_SUFFIXES = {".py", ".pyi", ".pyx", ".pxi"}
CYTHON_SUFFIXES = {".pyx", ".pxi"}

CYTHON_DEFINITION = re.compile(
    r"""^(?P<indent>[ \t]*)(?:(?:cdef[ ])?class|def|cpdef(?:[ ]\w+)*?)[ ](?P<name>\w+)[ ]*
        (?:\([^()]*(?:\([^()]*\)[^()]*)*\))?[^:\n]*:[ \t]*(?:\#[^\n]*)?\n
        (?:\s*[rR]?\"{3}(?P<doc>.*?)\"{3})?""",
    re.MULTILINE | re.DOTALL | re.VERBOSE,
)
"""A Cython definition with its docstring: most of pyarrow is Cython, which `ast` cannot parse."""

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("library", pa.string(), nullable=False),
        pa.field("held_out", pa.bool_(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
    ]
)


class CollectError(Exception):
    """The corpus cannot be collected; the message says why and what to do."""


class Source(NamedTuple):
    """One source file and the library it belongs to."""

    library: str
    module: str
    path: Path


class Row(NamedTuple):
    """One row of the corpus: `SCHEMA`, field by field."""

    id: str
    library: str
    held_out: bool
    text: str


def stable_hash(text: str) -> int:
    """Return a 64-bit hash that is the same in every process, which `hash` is not."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def library_folder(library: str) -> Path:
    """Return the folder of a library's sources without importing it.

    Raises:
        CollectError: the library is not installed as a package folder.
    """
    if library == STDLIB:
        return Path(sysconfig.get_path("stdlib"))
    spec = importlib.util.find_spec(library)
    if spec is None or not spec.submodule_search_locations:
        msg = f"{library} is not installed in {sys.prefix}: install it beside the others, the demo labels all of them"
        raise CollectError(msg)
    return Path(spec.submodule_search_locations[0])


def list_sources(library: str) -> list[Source]:
    """List the source files of a library, sorted by path, without `SKIPPED_FOLDERS`."""
    root = library_folder(library)
    prefix = () if library == STDLIB else (library,)
    sources = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(set(subfolders) - SKIPPED_FOLDERS)
        for path in (Path(folder, name) for name in sorted(names)):
            if path.suffix in SOURCE_SUFFIXES:
                parts = (*prefix, *path.relative_to(root).with_suffix("").parts)
                module = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
                sources.append(Source(library, module, path))
    return sources


def python_definitions(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, str | None]]:
    """Yield the qualified name and the docstring of every class, method and top-level function below a node."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + child.name, ast.get_docstring(child)
            if isinstance(child, ast.ClassDef):
                yield from python_definitions(child, f"{prefix}{child.name}.")
        elif isinstance(child, ast.If | ast.Try | ast.ExceptHandler | ast.With):
            yield from python_definitions(child, prefix)


def python_docstrings(source: bytes) -> Iterator[tuple[str, str | None]]:
    """Yield `("", module docstring)` and then the definitions; nothing for a file of a newer Python than this one."""
    with warnings.catch_warnings():
        # Sources of others warn about invalid escapes; that is theirs to mend.
        warnings.simplefilter("ignore")
        try:
            tree = ast.parse(source)
        except SyntaxError:
            return
    yield "", ast.get_docstring(tree)
    yield from python_definitions(tree)


def cython_docstrings(source: bytes) -> Iterator[tuple[str, str | None]]:
    """Yield the qualified name and the docstring of every Cython class and function that Python can see."""
    enclosing: list[tuple[int, str]] = []
    for match in CYTHON_DEFINITION.finditer(source.decode()):
        indent = len(match["indent"].expandtabs())
        enclosing = [(depth, name) for depth, name in enclosing if depth < indent]
        enclosing.append((indent, match["name"]))
        yield ".".join(name for _, name in enclosing), match["doc"] and inspect.cleandoc(match["doc"])


def read_rows(source: Source) -> list[Row]:
    """Return the docstrings of one file that are long enough, in file order."""
    content = source.path.read_bytes()
    if b'"""' not in content and b"'''" not in content:
        return []
    read = cython_docstrings if source.path.suffix in CYTHON_SUFFIXES else python_docstrings
    held_out = stable_hash(source.module) % HELD_OUT_ONE_IN == 0
    rows = []
    for name, docstring in read(content):
        text = (docstring or "").strip()
        if len(text) >= MIN_CHARS and "\0" not in text:
            rows.append(Row(f"{source.module}:{name}" if name else source.module, source.library, held_out, text))
    return rows


def read_all(sources: list[Source]) -> list[Row]:
    """Read every file in parallel; rows come back in the order of the files."""
    # Spawned, not forked: the caller may already run threads of Arrow, torch or Ray.
    # A syntax tree has no cycles, and without the collector it is built a fifth faster.
    with multiprocessing.get_context("spawn").Pool(min(os.cpu_count() or 1, 8), initializer=gc.disable) as pool:
        return list(chain.from_iterable(pool.imap(read_rows, sources, chunksize=FILES_PER_CHUNK)))


def distinct(rows: list[Row]) -> list[Row]:
    """Drop rows whose text came before; number the ids that repeat, such as a property and its setter."""
    texts: set[str] = set()
    uses: dict[str, int] = {}
    kept = []
    for row in rows:
        if row.text not in texts:
            texts.add(row.text)
            uses[row.id] = uses.get(row.id, 0) + 1
            kept.append(row if uses[row.id] == 1 else row._replace(id=f"{row.id}#{uses[row.id]}"))
    return kept


def cap_and_mix(rows: list[Row]) -> list[Row]:
    """Put rows in the order of the hash of their id and keep the first `MAX_ROWS_PER_LIBRARY` of each library."""
    num_rows = dict.fromkeys(LIBRARIES, 0)
    kept = []
    for row in sorted(rows, key=lambda row: (stable_hash(row.id), row.id)):
        if num_rows[row.library] < MAX_ROWS_PER_LIBRARY:
            num_rows[row.library] += 1
            kept.append(row)
    return kept


def shard_names() -> list[str]:
    """Return the file names of a complete corpus."""
    return [f"docs-{index}.parquet" for index in range(len(SHARD_PERMILLE))]


def write_shards(rows: list[Row], folder: Path) -> None:
    """Cut rows into shards by `SHARD_PERMILLE` and write them into an existing folder."""
    ends = [len(rows) * permille // 1000 for permille in accumulate(SHARD_PERMILLE)]
    for name, start, end in zip(shard_names(), [0, *ends[:-1]], ends, strict=True):
        table = pa.Table.from_pylist([row._asdict() for row in rows[start:end]], schema=SCHEMA)
        pq.write_table(table, folder / name, row_group_size=ROW_GROUP_ROWS, compression="zstd")


def num_collected(out_dir: Path) -> int | None:
    """Return the rows of a complete corpus, None when the folder is missing or empty.

    Raises:
        CollectError: something else lies there.
    """
    found = sorted(path.name for path in out_dir.iterdir()) if out_dir.is_dir() else []
    if not found and not out_dir.is_file():
        return None
    if found != sorted(shard_names()):
        msg = f"{out_dir} holds something else than the {len(SHARD_PERMILLE)} shards of the demo: name another folder"
        raise CollectError(msg)
    return sum(int(pq.read_metadata(out_dir / name).num_rows) for name in found)


def collect(out_dir: Path) -> int:
    """Write the corpus to a folder, unless it is there already, and return its number of rows.

    The shards are written beside the folder and moved in one rename, so a folder that exists is complete.

    Raises:
        CollectError: a library is missing, or the folder holds something else.
    """
    present = num_collected(out_dir)
    if present is not None:
        return present
    rows = cap_and_mix(distinct(read_all(list(chain.from_iterable(map(list_sources, LIBRARIES))))))
    building = out_dir.with_name(f".{out_dir.name}.{os.getpid()}")
    building.mkdir(parents=True)
    try:
        write_shards(rows, building)
        building.rename(out_dir)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return len(rows)


def main() -> int:
    """Collect into the folder named on the command line; return the exit status."""
    if len(sys.argv) != 2:  # noqa: PLR2004 - the script and one folder
        print("usage: python docs/demo/collect.py OUT_DIR", file=sys.stderr)
        return 2
    out_dir = Path(sys.argv[1])
    try:
        present = num_collected(out_dir)
        if present is not None:
            print(f"{out_dir}: already holds {present:,} rows; delete it to collect again")
        else:
            print(f"{out_dir}: {collect(out_dir):,} rows in {len(SHARD_PERMILLE)} shards")
    except CollectError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
