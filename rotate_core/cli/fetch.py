"""The command that brings a model to this machine."""

from __future__ import annotations

from typing import Annotated

from typer import Argument

from rotate_core.cli.common import AcceptTerms, app, errors, say


@app.command()
def fetch(
    model: Annotated[str, Argument(metavar="MODEL", help="As rotate decompose takes it.")],
    accept_terms: AcceptTerms = False,
) -> None:
    """Bring a model to this machine, if it is not there, and say what it is."""
    with errors():
        from rotate_core import load_model

        say(load_model(model, accept_terms=accept_terms))
