"""`make demo`: collect the docstrings of the installed libraries, label them with the shipped model, show the result.

In: a folder for the shards and the parts, from the repository's root. Out: what is printed, and the parts.
"""

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from collect import collect
from rich.console import Console
from rich.table import Table


def main(folder: Path) -> int:
    """Run the demo and return the exit status of its job."""
    console = Console()
    shards, labels = folder / "docstrings", folder / "labels"
    console.print(f"{collect(shards):,} docstrings of the installed libraries are in {shards}\n")
    arguments = ["run", "docs/demo/job.yaml", f"input.path={shards}", f"output.path={labels}"]
    console.print(f"$ shardlabel {' '.join(arguments)}", style="bold", soft_wrap=True)
    status = subprocess.run([sys.executable, "-m", "jobs", *arguments], check=False).returncode
    if status == 0:
        rows = pq.read_table(labels, columns=["library", "held_out", "label", "confidence"])
        console.print()
        console.print(label_table(rows))
        console.print(accuracy_line(rows), soft_wrap=True)
    return status


def label_table(rows: pa.Table) -> Table:
    """How often each label was given, how sure the model was, and how many of the library's rows it found."""
    table = Table("label", "rows", "mean confidence", "precision", "recall", box=None, header_style="bold")
    for column in table.columns[1:]:
        column.justify = "right"
    hits = pc.equal(rows["label"], rows["library"])
    for label in sorted(set(rows["library"].to_pylist())):
        given, gold = pc.equal(rows["label"], label), pc.equal(rows["library"], label)
        table.add_row(
            label,
            f"{pc.sum(given).as_py():,}",
            f"{pc.mean(rows['confidence'].filter(given)).as_py() or 0:.2f}",
            f"{pc.mean(hits.filter(given)).as_py() or 0:.1%}",
            f"{pc.mean(hits.filter(gold)).as_py() or 0:.1%}",
        )
    return table


def accuracy_line(rows: pa.Table) -> str:
    """Accuracy against the gold column, and apart for the modules that the model was not trained on."""
    hits = pc.equal(rows["label"], rows["library"])
    unseen = hits.filter(rows["held_out"])
    return (
        f"\naccuracy {pc.mean(hits).as_py():.1%} of {len(rows):,} rows; "
        f"{pc.mean(unseen).as_py():.1%} of the {len(unseen):,} rows whose modules the model never saw"
    )


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "build/demo")))
