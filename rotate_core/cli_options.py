"""The options of the command ``rotate``: names, choices, what each means and how it is written."""

from __future__ import annotations

import enum
import re
from pathlib import Path
from typing import Annotated

import typer


class Solver(str, enum.Enum):
    """How a channel is searched for."""

    geodesic = "geodesic"
    householder = "householder"


class Moments(str, enum.Enum):
    """How token weights enter the kurtosis."""

    weighted = "weighted"
    scaled = "scaled"


class Side(str, enum.Enum):
    """Which vocabulary matrix."""

    auto = "auto"
    embedding = "embedding"
    unembedding = "unembedding"


class Engine(str, enum.Enum):
    """Who computes."""

    local = "local"
    ray = "ray"


def numbers(text: str) -> tuple[int, ...] | None:
    """Numbers out of "0,15,20-29"; None out of "all"."""
    from rotate_core.atlas.manifest import parse_indices

    try:
        return None if text == "all" else parse_indices(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def neurons(text: str) -> int | tuple[int, ...] | None:
    """How many to draw out of "25"; numbers out of "0-99", "3,7", "@FILE"; None out of "all"."""
    if text.isdecimal():
        return int(text)
    if text.startswith("@"):
        try:
            text = Path(text[1:]).read_text(encoding="utf-8")
        except (OSError, UnicodeError) as error:
            raise typer.BadParameter(f"{text}: {error}") from None
    return numbers(text)


def n_bytes(text: str | None) -> float | None:
    """Bytes out of "500MB" or "2GB"."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?", text, re.IGNORECASE)
    if not match:
        raise typer.BadParameter(f"{text!r}: wanted such as 500MB or 2GB")
    return float(match[1]) * 1000.0 ** " KMGT".index(match[2].upper() or " ")


ModelName = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="smollm2-135m, gemma3-270m, a checkpoint's directory, a .gguf file, or a hub's "
        "organisation/name.",
    ),
]
AtlasPath = Annotated[
    str, typer.Argument(metavar="ATLAS", help="A folder, or a hub's organisation/name.")
]
Word = Annotated[
    str, typer.Argument(metavar="WORD", help="Case and the spaces around do not count.")
]
Out = Annotated[Path, typer.Option(help="The atlas's folder: made, or gone on with.")]
Layers = Annotated[str, typer.Option(help="Such as 0,15 or 20-29.")]
Kinds = Annotated[str, typer.Option(help="Such as gate,out.")]
NeuronsToDo = Annotated[
    str,
    typer.Option(
        help="25 draws so many in each layer; 0-99 or 3,7 names them; @FILE reads their numbers."
    ),
]
Channels = Annotated[int, typer.Option(min=1, help="Of each neuron.")]
Null = Annotated[
    int, typer.Option(min=0, help="Matched vectors a layer and kind, for p- and q-values.")
]
Seed = Annotated[int, typer.Option(min=0, help="Of the draw, of the null and of the solver.")]
SolverName = Annotated[Solver, typer.Option(help="Ours, or the paper's.")]
MomentsName = Annotated[Moments, typer.Option(help="Ours, or the paper's.")]
Threshold = Annotated[
    float, typer.Option(help="z-score beyond which a channel's tokens are masked.")
]
LambdaKurtosis = Annotated[float, typer.Option(help="Weight of sparsity against closeness.")]
SideName = Annotated[Side, typer.Option(help="Vocabulary matrix.")]
FoldNorm = Annotated[bool, typer.Option("--fold-norm", help="Multiply the norms' gains in.")]
Device = Annotated[str, typer.Option(help="Such as cuda.")]
Memory = Annotated[
    str | None, typer.Option(help="For a shard's work, such as 500MB: makes shards smaller.")
]
EngineName = Annotated[Engine, typer.Option(help="This process, or Ray's workers.")]
RayAddress = Annotated[
    str | None, typer.Option(help="Of a Ray cluster; none: this machine's cores.")
]
AcceptTerms = Annotated[
    bool, typer.Option("--accept-terms", help="Accept the terms of gemma3-270m.")
]
Progress = Annotated[bool, typer.Option(help="Show a bar with an estimate of what is left.")]
Layer = Annotated[int, typer.Option(min=0, help="From 0.")]
Kind = Annotated[str, typer.Option(help="gate, in or out.")]
Neuron = Annotated[int, typer.Option(min=0, help="Its number in the layer.")]
Limit = Annotated[int, typer.Option(min=1, help="Channels at most.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, a row an object.")]
