"""The command that keeps a run of the book for its other readers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from rotate_core.cli.common import app, errors, say


@app.command()
def record(
    results: Annotated[
        Path, Argument(metavar="RESULTS", help="A model's, such as results/smollm2-135m.")
    ],
    profile: Annotated[str, Option(help="Whose sizes the chapters ran with.")] = "default",
    to: Annotated[Path, Option(metavar="FOLDER", help="Where records are kept.")] = Path(
        "book/recorded"
    ),
) -> None:
    """Keep what the book found on a model, so that the scoreboard has it beside other models."""
    with errors():
        from rotate_core.verdicts import recorded

        folder = recorded.record(results, to, profile=profile)
        say(f"{folder}: commit it, and the scoreboard shows it.")
