"""Commands for after a run: whether the output is right, and what it says."""

import typer

app = typer.Typer()
