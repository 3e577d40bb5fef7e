"""What a page's commands find: the directory in which each page of the documentation is run.

In: a directory with data/packages, job.yaml and its output, the working directory. Out: what else the page speaks of.
"""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from jobs.config import load_job
from tests.jobs.conftest import run


def _start_anew() -> None:
    """The first page begins with nothing but the data."""
    shutil.rmtree("out")
    Path("job.yaml").unlink()


def _cascade() -> None:
    (job,) = _yaml("docs/cascade.md")
    Path("cascade.yaml").write_text(job.replace("../shared/", ""))


def _doctor() -> None:
    shutil.copytree("data/packages", "packages")
    (job,) = _yaml("docs/doctor.md")
    Path("bad.yaml").write_text(job)


def _plan() -> None:
    """The same job on Ray, as the page has it; nothing is run."""
    job = yaml.safe_load(Path("job.yaml").read_text())
    Path("job.yaml").write_text(yaml.safe_dump({key: value for key, value in job.items() if key != "run"}))


def _relabel() -> None:
    """Rows with gold that is right, and an output with logits."""
    _with_gold("build/demo/half", "gold")
    shared = Path("../shared/data/packages")
    if not shared.exists():
        shutil.copytree("data/packages", shared)
    _label("docs/demo/job.yaml", f"input.path={shared}", "build/demo/packages", "output.keep_columns=null")


def _report() -> None:
    shutil.copytree("out/packages", "build/packages")
    _with_gold("build/docstrings", "library")
    for output, max_length in {"build/labels": 128, "build/labels-32": 32}.items():
        _label("docs/demo/job.yaml", "input.path=build/docstrings", output, f"model.max_length={max_length}")


def _verify() -> None:
    """An output with a part less."""
    shutil.copytree("out/packages", "damaged")
    next(Path("damaged").glob("*.parquet")).unlink()


PREPARATIONS: dict[str, Callable[[], None]] = {
    "docs/index.md": _start_anew,
    "docs/cascade.md": _cascade,
    "docs/doctor.md": _doctor,
    "docs/plan.md": _plan,
    "docs/relabel.md": _relabel,
    "docs/report.md": _report,
    "docs/verify.md": _verify,
}
"""By page, for those that need more than a job and its output."""


def _yaml(page: str) -> list[str]:
    found = re.findall(r"^```yaml\n(.*?)^```$", Path(page).read_text(), flags=re.MULTILINE | re.DOTALL)
    return [block for block in found if "input" in yaml.safe_load(block)]


def _with_gold(folder: str, name: str) -> None:
    """The packages with a gold column, which is what the model says, so that it is right."""
    Path(folder).mkdir(parents=True)
    for part in Path("out/packages").glob("*.parquet"):
        table = pq.read_table(part, columns=["package", "text", "label"])
        columns = {"id": table["package"], "text": table["text"], name: table["label"], "held_out": table["label"]}
        pq.write_table(pa.table(columns), f"{folder}/{part.name}")


def _label(job: str, source: str, output: str, *overrides: str) -> None:
    more = ["run.executor=local", "run.threads_per_actor=1", "output.logits=true"]
    run(load_job(Path(job), [source, f"output.path={output}", *more, *overrides]))
