"""Commands for before a run: what a job will do, and whether it can."""

import typer

app = typer.Typer()
