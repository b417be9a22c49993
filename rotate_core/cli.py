"""The command ``rotate``: build an atlas, ask it questions.

Exit codes: 0; 1 for an error, told in one line (ROTATE_DEBUG=1 gives the traceback); 2 for a
command that cannot be understood; 130 for an interruption, after which the same command goes on.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rotate_core import cli_options as options

if TYPE_CHECKING:
    import pandas as pd

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command line."""
    app()


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"rotate {version('rotate_core')}")
        raise typer.Exit


@app.callback()
def _rotate(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Take the MLP neurons of a language model apart into vocabulary channels."""


@app.command()
def decompose(
    model: options.ModelName,
    out: options.Out,
    layers: options.Layers = "all",
    kinds: options.Kinds = "all",
    neurons: options.NeuronsToDo = "all",
    channels: options.Channels = 10,
    null: options.Null = 0,
    seed: options.Seed = 0,
    solver: options.SolverName = options.Solver.geodesic,
    moments: options.MomentsName = options.Moments.weighted,
    threshold: options.Threshold = 4.0,
    lambda_kurtosis: options.LambdaKurtosis = 0.3,
    side: options.SideName = options.Side.auto,
    fold_norm: options.FoldNorm = False,
    device: options.Device = "cpu",
    memory: options.Memory = None,
    engine: options.EngineName = options.Engine.local,
    ray_address: options.RayAddress = None,
    accept_terms: options.AcceptTerms = False,
    progress: options.Progress = True,
) -> None:
    """Decompose many neurons into an atlas.

    The same command again goes on where the last one ended; with more layers, kinds or neurons
    it adds them. Several processes on one folder share the work.
    """
    with _errors(resumable=True):
        which = {
            "layers": options.numbers(layers),
            "kinds": None if kinds == "all" else [kind.strip() for kind in kinds.split(",")],
            "neurons": options.neurons(neurons),
            "memory": options.n_bytes(memory),
        }
        from rotate_core.atlas import Atlas
        from rotate_core.models import load_model
        from rotate_core.rotation.settings import Settings

        _check_device(device)
        atlas = Atlas.build(
            out,
            load_model(model, accept_terms=accept_terms),
            n_channels=channels,
            null=null,
            settings=Settings(
                solver=solver.value,
                moments=moments.value,
                threshold=threshold,
                lambda_kurtosis=lambda_kurtosis,
            ),
            seed=seed,
            side=side.value,
            fold_norm=fold_norm,
            device=device,
            engine=engine.value,
            ray_address=ray_address,
            progress=progress,
            **which,
        )
        typer.echo(repr(atlas))


@app.command()
def search(
    atlas: options.AtlasPath,
    word: options.Word,
    limit: options.Limit = 20,
    as_json: options.AsJson = False,
) -> None:
    """Find the neurons whose channels carry a word, the strongest first."""
    with _errors():
        from rotate_core.atlas import Atlas

        opened = Atlas.open(atlas)
        found = opened.search(word, limit=limit)
        if found.empty and not as_json:
            typer.echo(f"no channel of {atlas} has {word!r} in its tail")
            return
        columns = "layer kind neuron channel token z support q_value top_tokens"
        _print(found, columns.split(), as_json)
        groups = dict.fromkeys(zip(found["layer"], found["kind"], strict=True))
        for layer, kind in groups if opened.manifest.null and not as_json else ():
            typer.echo(f"layer {layer}, {kind}: {opened.calibration(layer, kind)}")


@app.command()
def show(
    atlas: options.AtlasPath,
    layer: options.Layer,
    kind: options.Kind,
    neuron: options.Neuron,
    as_json: options.AsJson = False,
) -> None:
    """Show the channels of one neuron."""
    with _errors():
        from rotate_core.atlas import Atlas

        channels = Atlas.open(atlas).channels(layer=layer, kind=kind, neuron=neuron)
        if channels.calibration is not None and not as_json:
            typer.echo(channels.calibration)
        columns = "channel kurtosis cosine support p_value q_value n_masked polarity top_tokens"
        _print(channels.table(), columns.split(), as_json)


@app.command()
def info(atlas: options.AtlasPath, as_json: options.AsJson = False) -> None:
    """Show what an atlas holds and how it was made, by layer and kind."""
    with _errors():
        from rotate_core.atlas import Atlas

        opened = Atlas.open(atlas)
        if not as_json:
            m = opened.manifest
            versions = ", ".join(f"{name} {number}" for name, number in m.versions.items())
            typer.echo(f"{opened!r}\nmodel checksum {m.checksum}\n{m.settings}")
            for where, changes in m.exceptions.items():
                typer.echo(f"layer {where}: {', '.join(f'{a}={b}' for a, b in changes.items())}")
            typer.echo(f"seed {m.seed}, {m.null} matched vectors a layer and kind; {versions}\n")
        _print(opened.summary(), [], as_json)


def _check_device(device: str) -> None:
    import torch

    from rotate_core.decomposition import check_device

    try:
        check_device(device)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise typer.BadParameter(f"--device {device} is not usable here: {reason}") from None


def _print(frame: pd.DataFrame, columns: list[str], as_json: bool) -> None:
    """A table on stdout; ``columns`` of it in this order, or all."""
    import pandas as pd

    from rotate_core.models.tokens import visible

    if as_json:
        for line in frame.to_dict(orient="records"):
            plain = {name: _plain(value) for name, value in line.items()}
            typer.echo(json.dumps(plain, ensure_ascii=False))
        return
    shown = frame[[name for name in columns if name in frame]] if columns else frame
    shown = shown.dropna(axis="columns", how="all")
    for name in {"p_value", "q_value"} & set(shown):  # "0.000" would say nothing
        shown = shown.assign(**{name: shown[name].map("{:.2g}".format)})
    shown = shown.astype(dict.fromkeys(shown.select_dtypes("float32"), float)).round(3)
    if "token" in shown:
        shown = shown.assign(token=shown["token"].map(visible))
    if "top_tokens" in shown:
        lines = [" ".join(map(visible, tokens)) for tokens in shown["top_tokens"]]
        width = max(map(len, lines), default=0)
        shown = shown.assign(top_tokens=[line.ljust(width) for line in lines])
    with pd.option_context("display.width", None, "display.max_columns", None):
        typer.echo(shown.to_string(index=False, justify="left"))


def _plain(value: Any) -> Any:
    """What JSON can hold: lists for arrays, null for NaN."""
    value = value.tolist() if hasattr(value, "tolist") else value
    return None if isinstance(value, float) and value != value else value


@contextmanager
def _errors(*, resumable: bool = False) -> Iterator[None]:
    """One line on stderr for what a user can do something about; a traceback is for bugs."""
    try:
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
        typer.echo(f"rotate: {' '.join(text.split())}", err=True)
        raise typer.Exit(1) from None


if __name__ == "__main__":
    main()
