"""What the commands share: the application, what they print, and how they end.

Exit codes: 0; 1 for an error, told in one line (ROTATE_DEBUG=1 gives the traceback); 2 for a
command that cannot be understood; 130 for an interruption, after which the same command goes on.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

try:
    import typer
    from typer import Argument, Option
except ModuleNotFoundError:
    raise SystemExit('rotate: the command needs pip install "rotate-core[atlas]"') from None

from rotate_core import __version__

if "OMP_WAIT_POLICY" not in os.environ:  # before torch: a busy machine slows it less; see Makefile
    os.environ["OMP_WAIT_POLICY"] = "passive"
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

if TYPE_CHECKING:
    import pandas as pd
    import torch


def folder_name(name: str) -> Path:
    """A folder to write to; an empty name is none."""
    if not name.strip():
        raise typer.BadParameter("wanted a folder's name")
    return Path(name)


AtlasPath = Annotated[
    str, Argument(metavar="ATLAS", help="A folder, or a hub's organisation/name.")
]
AcceptTerms = Annotated[
    bool, Option("--accept-terms", help="Accept the terms of gemma3-270m; asked once.")
]
AsJson = Annotated[bool, Option("--json", help="Print JSON, a row an object.")]

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rotate {__version__}")
        raise typer.Exit


@app.callback()
def _rotate(
    version: Annotated[
        bool, Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Take the MLP neurons of a language model apart into vocabulary channels."""


def chosen_device(name: str) -> torch.device:
    """The device of that name; the CPU, and a line on stderr, for a CUDA GPU where there is none.

    Raises:
        ValueError: as :func:`.usable_device`.
    """
    import torch

    from rotate_core.decomposition import usable_device

    if name.startswith("cuda") and not torch.cuda.is_available():
        say(f"rotate: there is no CUDA GPU for --device {name}; the CPU is taken", err=True)
        name = "cpu"
    return usable_device(name)


def print_table(frame: pd.DataFrame, columns: str, as_json: bool) -> None:
    """A table on stdout; ``columns`` of it in this order, or all."""
    from rotate_core.models.tokens import visible

    if as_json:
        plain = frame.astype(object).where(frame.notna(), None)  # JSON has no NaN
        for row in plain.to_dict(orient="records"):
            typer.echo(json.dumps(row, default=lambda value: value.tolist()))  # escaped, all of it
        return
    shown = (frame.filter(columns.split()) if columns else frame).dropna(axis="columns", how="all")
    for name in {"p_value", "q_value"} & set(shown):  # "0.000" would say nothing
        shown = shown.assign(**{name: shown[name].map("{:.2g}".format)})
    shown = shown.astype(dict.fromkeys(shown.select_dtypes("float32"), float)).round(3)
    if "token" in shown:
        shown = shown.assign(token=shown["token"].map(visible))
    if "top_tokens" in shown:
        lines = [" ".join(map(visible, tokens)) for tokens in shown["top_tokens"]]
        width = max(map(len, lines), default=0)
        shown = shown.assign(top_tokens=[line.ljust(width) for line in lines])
    say(shown.to_string(index=False, justify="left"))


def say(text: object, *, err: bool = False) -> None:
    """Print a text, and nothing in it that would steer the terminal: names may be anyone's."""
    from rotate_core.models.tokens import visible

    typer.echo(visible(str(text), keep=" \n"), err=err)


@contextmanager
def errors(*, resumable: bool = False) -> Iterator[None]:
    """One line on stderr for what a user can do something about; a traceback is for bugs."""
    try:
        import rotate_core.atlas  # noqa: F401, what takes its time: torch

        if callable(signal.getsignal(signal.SIGINT)):  # that of __main__: now there is to clean up
            signal.signal(signal.SIGINT, signal.default_int_handler)
        yield
    except KeyboardInterrupt:
        what = "; whole shards are kept, and the same command goes on" if resumable else ""
        typer.echo(f"rotate: interrupted{what}", err=True)
        raise typer.Exit(130) from None
    except BrokenPipeError:  # a reader such as head has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1) from None
    except (ValueError, TypeError, IndexError, OSError, ModuleNotFoundError) as error:
        if os.environ.get("ROTATE_DEBUG"):
            raise
        text = str(error)
        if isinstance(error, OSError) and error.strerror:
            text = error.strerror + (f": {error.filename}" if error.filename else "")
        say(f"rotate: {' '.join(text.split())}", err=True)
        raise typer.Exit(1) from None


if __name__ == "__main__":
    app()
