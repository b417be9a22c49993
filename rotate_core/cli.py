"""The command ``rotate``: build an atlas, ask it questions.

Exit codes: 0; 1 for an error, told in one line (ROTATE_DEBUG=1 gives the traceback); 2 for a
command that cannot be understood; 130 for an interruption, after which the same command goes on.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

try:
    import typer
    from typer import Argument, Option
except ModuleNotFoundError:
    raise SystemExit('rotate: the command needs pip install "rotate-core[atlas]"') from None

from rotate_core import __version__

if TYPE_CHECKING:
    import pandas as pd


def _folder(name: str) -> Path:
    if not name.strip():
        raise typer.BadParameter("wanted a folder's name")
    return Path(name)


AtlasPath = Annotated[
    str, Argument(metavar="ATLAS", help="A folder, or a hub's organisation/name.")
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


@app.command()
def decompose(
    model: Annotated[
        str,
        Argument(
            metavar="MODEL",
            help="smollm2-135m, gemma3-270m, a checkpoint's directory, a .gguf file, or a hub's "
            "organisation/name.",
        ),
    ],
    out: Annotated[
        Path,
        Option(parser=_folder, metavar="PATH", help="The atlas's folder: made, or gone on with."),
    ],
    layers: Annotated[str, Option(help="Such as 0,15 or 20-29.")] = "all",
    kinds: Annotated[str, Option(help="Such as gate,out.")] = "all",
    neurons: Annotated[
        str,
        Option(
            help="25 draws so many in each layer; 0-99 or 3,7 names them; @FILE reads their "
            "numbers."
        ),
    ] = "all",
    channels: Annotated[int, Option(min=1, help="Of each neuron.")] = 10,
    null: Annotated[
        int, Option(min=0, help="Matched vectors a layer and kind, for p- and q-values.")
    ] = 0,
    seed: Annotated[int, Option(min=0, help="Of the draw, of the null and of the solver.")] = 0,
    solver: Annotated[
        Literal["geodesic", "householder"], Option(help="Ours, or the paper's.")
    ] = "geodesic",
    moments: Annotated[
        Literal["weighted", "scaled"], Option(help="Ours, or the paper's.")
    ] = "weighted",
    threshold: Annotated[
        float, Option(help="z-score beyond which a channel's tokens are masked.")
    ] = 4.0,
    lambda_kurtosis: Annotated[float, Option(help="Weight of sparsity against closeness.")] = 0.3,
    side: Annotated[
        Literal["auto", "embedding", "unembedding"], Option(help="Vocabulary matrix.")
    ] = "auto",
    fold_norm: Annotated[bool, Option("--fold-norm", help="Multiply the norms' gains in.")] = False,
    device: Annotated[
        str, Option(help="cpu, cuda, or auto: a CUDA GPU where there is one.")
    ] = "auto",
    memory: Annotated[
        str | None, Option(help="For a shard's work, such as 500MB: makes shards smaller.")
    ] = None,
    engine: Annotated[
        Literal["local", "ray"], Option(help="This process, or Ray's workers.")
    ] = "local",
    ray_address: Annotated[
        str | None, Option(help="Of a Ray cluster; none: this machine's cores.")
    ] = None,
    accept_terms: Annotated[
        bool, Option("--accept-terms", help="Accept the terms of gemma3-270m.")
    ] = False,
    progress: Annotated[bool, Option(help="Show a bar with an estimate of what is left.")] = True,
) -> None:
    """Decompose many neurons into an atlas.

    The same command again goes on where the last one ended; with more layers, kinds or neurons
    it adds them. Several processes on one folder share the work.
    """
    with _errors(resumable=True):
        asked = {
            "layers": parse_numbers(layers),
            "kinds": None if kinds == "all" else [kind.strip() for kind in kinds.split(",")],
            "neurons": parse_neurons(neurons),
            "memory": parse_bytes(memory),
        }
        from rotate_core import Atlas, Settings, load_model
        from rotate_core.decomposition import usable_device

        usable = usable_device(device)  # before a model is fetched
        settings = Settings(
            solver=solver, moments=moments, threshold=threshold, lambda_kurtosis=lambda_kurtosis
        )
        atlas = Atlas.build(
            out,
            load_model(model, accept_terms=accept_terms),
            n_channels=channels,
            null=null,
            settings=settings,
            seed=seed,
            side=side,
            fold_norm=fold_norm,
            device=usable,
            engine=engine,
            ray_address=ray_address,
            progress=progress,
            **asked,
        )
        _say(repr(atlas))


@app.command()
def search(
    atlas: AtlasPath,
    word: Annotated[str, Argument(metavar="WORD", help="Case and the spaces around do not count.")],
    limit: Annotated[int, Option(min=1, help="Channels at most.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Find the neurons whose channels carry a word, the strongest first."""
    with _errors():
        from rotate_core import Atlas

        opened = Atlas.open(atlas)
        hits = opened.search(word, limit=limit)
        if hits.empty and not as_json:
            _say(f"no channel of {atlas} has {word!r} in its tail")
            return
        _print(hits, "layer kind neuron channel token z support q_value top_tokens", as_json)
        groups = dict.fromkeys(zip(hits["layer"], hits["kind"], strict=True))
        for layer, kind in groups if opened.manifest.null and not as_json else ():
            _say(f"layer {layer}, {kind}: {opened.calibration(layer, kind)}")


@app.command()
def show(
    atlas: AtlasPath,
    layer: Annotated[int, Option(min=0, help="From 0.")],
    kind: Annotated[str, Option(help="gate, in or out.")],
    neuron: Annotated[int, Option(min=0, help="Its number in the layer.")],
    as_json: AsJson = False,
) -> None:
    """Show the channels of one neuron."""
    with _errors():
        from rotate_core import Atlas

        channels = Atlas.open(atlas).channels(layer=layer, kind=kind, neuron=neuron)
        if channels.calibration is not None and not as_json:
            _say(channels.calibration)
        columns = "channel kurtosis cosine support p_value q_value n_masked polarity top_tokens"
        _print(channels.table(), columns, as_json)


@app.command()
def info(atlas: AtlasPath, as_json: AsJson = False) -> None:
    """Show what an atlas holds and how it was made, by layer and kind."""
    with _errors():
        from rotate_core import Atlas

        opened = Atlas.open(atlas)
        if not as_json:
            m = opened.manifest
            versions = ", ".join(f"{name} {number}" for name, number in m.versions.items())
            _say(f"{opened!r}\nmodel checksum {m.checksum}\n{m.settings}")
            for where, changes in m.exceptions.items():
                _say(f"layer {where}: {', '.join(f'{a}={b}' for a, b in changes.items())}")
            _say(f"seed {m.seed}, {m.null} matched vectors a layer and kind; {versions}\n")
        _print(opened.summary(), "", as_json)


@app.command()
def verify(atlas: AtlasPath) -> None:
    """Read every file of an atlas; what is damaged or missing is a line each, and exit code 1."""
    with _errors():
        from rotate_core import Atlas

        opened = Atlas.open(atlas)
        if lines := opened.verify():
            for line in lines:
                _say(f"rotate: {line}", err=True)
            raise typer.Exit(1)
        _say(f"{opened!r}: complete, every checksum as written")


@app.command()
def regions(
    model: Annotated[str, Argument(metavar="MODEL", help="As for decompose.")],
    layer: Annotated[int, Option(min=0, help="From 0.")],
    out: Annotated[
        Path,
        Option(parser=_folder, metavar="PATH", help="The regions' folder: made, or gone on with."),
    ],
    n_regions: Annotated[int, Option("--regions", min=1, help="How many.")] = 32,
    rank: Annotated[int, Option(min=1, help="Directions that a region extends in.")] = 8,
    noise: Annotated[
        Literal["shared", "isotropic", "own"], Option(help="Variance beside them.")
    ] = "shared",
    text: Annotated[
        str, Option(help="gensim-wikipedia, hansard, a folder of .txt files, or a hub's data set.")
    ] = "gensim-wikipedia",
    tokens: Annotated[int, Option(min=1, help="Of the text, at most.")] = 20_000,
    site: Annotated[
        Literal["mlp_in", "hidden", "mlp_out", "residual"], Option(help="Where in the layer.")
    ] = "residual",
    whole_text: Annotated[
        bool,
        Option("--stream", help="Read the whole text; never hold its activations in memory."),
    ] = False,
    top: Annotated[
        int | None, Option(min=1, help="Weigh a token between so many regions: for thousands.")
    ] = None,
    seed: Annotated[int, Option(min=0, help="Of the starts.")] = 0,
    device: Annotated[str, Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
    accept_terms: Annotated[
        bool, Option("--accept-terms", help="Accept the terms of gemma3-270m.")
    ] = False,
    progress: Annotated[bool, Option(help="Show a bar.")] = True,
) -> None:
    """Fit a mixture of factor analyzers to activations: regions of a layer.

    The same command again goes on where the last one ended. Nothing is written where there are
    regions already.
    """
    with _errors(resumable=True):
        from rotate_core import load_model
        from rotate_core import text as texts
        from rotate_core.decomposition import usable_device
        from rotate_core.dictionaries import Regions, RegionSettings, mfa, mfa_stream
        from rotate_core.dictionaries.folder import to_do

        usable = usable_device(device)  # before a model is fetched
        settings = RegionSettings(rank=rank, noise=noise, top=top)
        read = load_model(model, accept_terms=accept_terms)
        asked = {
            "model": read.name, "checksum": read.checksum, "layer": layer, "site": site,
            "regions": n_regions, "rank": rank, "noise": noise, "top": top, "seed": seed,
            "text": text, "tokens": None if whole_text else tokens,
        }  # fmt: skip
        if not to_do(out, asked, Regions.what):
            _say(repr(Regions.read(out)))
            return
        options: dict[str, Any] = {
            "settings": settings,
            "seed": seed,
            "device": usable,
            "progress": progress,
        }
        if whole_text:
            batch = 64  # windows

            def batches(first: int) -> Iterator[texts.Activations]:
                return texts.stream(
                    read, text, layer=layer, site=site, batch=batch, skip=first * batch,
                    device=usable,
                )  # fmt: skip

            found = mfa_stream(batches, n_regions, folder=out, **options)
            found = dataclasses.replace(found, model=read.name, layer=layer, site=site)
        else:
            x = texts.activations(
                read, text, layers=[layer], site=site, n_tokens=tokens, device=usable,
                progress=progress,
            )[layer]  # fmt: skip
            found = mfa(x, n_regions, **options)
        found.write(out)
        _say(repr(found))


@app.command()
def label(
    file: Annotated[Path, Argument(metavar="FILE", help="Directions: .safetensors, .npy or .npz.")],
    model: Annotated[str, Option(metavar="MODEL", help="As for decompose.")],
    layer: Annotated[
        int | None, Option(min=0, help="Of the directions; none: the last.", show_default=False)
    ] = None,
    tensor: Annotated[
        str | None, Option(help="Its name, such as W_dec, where the file has several.")
    ] = None,
    columns: Annotated[
        bool, Option("--columns", help="Directions are columns, and the shape does not tell.")
    ] = False,
    like: Annotated[
        Literal["gate", "in", "out"] | None,
        Option(help="Random vectors as the layer's neurons are; none: as the directions are."),
    ] = None,
    null: Annotated[int, Option(min=1, help="Random vectors, for p- and q-values.")] = 1000,
    seed: Annotated[int, Option(min=0, help="Of the random vectors.")] = 0,
    side: Annotated[
        Literal["auto", "embedding", "unembedding"], Option(help="Vocabulary matrix.")
    ] = "auto",
    fold_norm: Annotated[bool, Option("--fold-norm", help="Multiply the norm's gain in.")] = False,
    out: Annotated[
        Path | None, Option(metavar="PATH", help="All rows, as .csv or .parquet.")
    ] = None,
    device: Annotated[str, Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
    accept_terms: Annotated[
        bool, Option("--accept-terms", help="Accept the terms of gemma3-270m.")
    ] = False,
    progress: Annotated[bool, Option(help="Show a bar.")] = True,
    as_json: AsJson = False,
) -> None:
    """Read any directions in the vocabulary, beside random vectors of their own covariance.

    For each direction of the residual stream (of an autoencoder's decoder, a probe, a difference
    of means): its tokens, and whether a random vector has any as far out. The best 20 are shown;
    --out and --json give all.
    """
    with _errors():
        from rotate_core import label as read_labels
        from rotate_core import load_model
        from rotate_core.decomposition import usable_device
        from rotate_core.null import read_directions
        from rotate_core.storage import TABLES, write_table

        if out is not None and out.suffix not in TABLES:  # before the work
            raise ValueError(f"--out {out}: wanted a file that ends in {' or '.join(TABLES)}")
        usable = usable_device(device)
        read = load_model(model, accept_terms=accept_terms)
        number = read.n_layers - 1 if layer is None else layer
        vocabulary = read.vocabulary(number, side=side, fold_norm=fold_norm).to(usable)
        vectors = read_directions(file, read.d_model, tensor=tensor, columns=columns)
        others = None if like is None else read.neurons(number, like)
        found = read_labels(
            vectors, vocabulary, like=others, null=null, seed=seed, progress=progress
        )
        table = found.table()
        table.insert(0, "model", read.name)
        table.insert(1, "layer", number)
        if out is not None:
            write_table(out, table)
        if as_json:
            _print(table, "", as_json)
        else:
            _say(repr(found))


@app.command()
def demo(
    model: Annotated[str, Argument(metavar="MODEL", help="As for decompose.")] = "smollm2-135m",
    neuron: Annotated[
        str, Argument(metavar="NEURON", help="LAYER/KIND/NUMBER, such as 29/out/880.")
    ] = "29/out/880",
    channels: Annotated[int, Option(min=1, help="How many.")] = 3,
) -> None:
    """Take one neuron apart, here and now: as it is, and its channels."""
    with _errors():
        layer, kind, number = parse_neuron(neuron)
        from rotate_core import decompose as take_apart
        from rotate_core import load_model
        from rotate_core.models.tokens import visible
        from rotate_core.rotation.moments import excess_kurtosis
        from rotate_core.rotation.tails import z_scores

        read = load_model(model)
        found = read.neurons(layer, kind, [number])
        vocabulary = read.vocabulary(layer)
        z = z_scores(found.vectors, vocabulary.projection)[0]
        furthest = (z * vocabulary.token_weights.sign()).abs().topk(10)
        _say(
            f"Neuron {number} of {read.name}, layer {layer}, {kind}, as it is: excess kurtosis "
            f"{excess_kurtosis(z):.1f}. Of its {len(z):,} tokens these are furthest out, at up to "
            f"{furthest.values[0]:.1f} standard deviations:\n\n"
            f"  {' '.join(visible(vocabulary.tokens[i]) for i in furthest.indices)}\n"
        )
        taken = take_apart(found, vocabulary, n_channels=channels, progress=False)
        _say("Turned towards few tokens, and again without these, it has channels:\n")
        _print(taken.table(), "channel kurtosis cosine n_masked polarity top_tokens", False)
        _say(
            "\nAny vector has such channels. What a random one would show as well, say "
            f"rotate decompose {model} --null 100, and chapter 4 of the book.\n"
            f"As a page: rotate page {model} {neuron}"
        )


@app.command()
def page(
    model: Annotated[str, Argument(metavar="MODEL", help="As for decompose.")],
    neurons: Annotated[
        list[str], Argument(metavar="NEURON...", help="LAYER/KIND/NUMBER, such as 29/out/880.")
    ],
    out: Annotated[
        Path | None, Option(metavar="FILE", help="The page; none: named by its first neuron.")
    ] = None,
    atlas: Annotated[
        str | None, Option(help="Where channels are looked up first, with their q-values.")
    ] = None,
    channels: Annotated[int | None, Option(min=1, help="Of each; none: the atlas's, or 5.")] = None,
    null: Annotated[int, Option(min=0, help="Matched vectors, for p-values.")] = 0,
) -> None:
    """Write one HTML file that shows neurons, channel by channel; it needs no server."""
    with _errors():
        ids = [parse_neuron(neuron) for neuron in neurons]
        from rotate_core import Atlas, load_model
        from rotate_core.models.extras import import_extra

        widget = import_extra("rotate_core.explorer.widget", "rotate page")
        from rotate_core.explorer.page import write_page

        read = load_model(model)
        opened = None if atlas is None else Atlas.open(atlas, model=read)
        shown = widget.Explorer(read, opened, neurons=ids, n_channels=channels, null=null)
        file = out or Path(f"{neurons[0].replace('/', '-')}.html")
        write_page(shown.content, file, title=f"{read.name}: {', '.join(neurons)}")
        _say(file)


@app.command()
def push(
    atlas: Annotated[str, Argument(metavar="ATLAS", help="A folder.")],
    repository: Annotated[str, Argument(metavar="REPOSITORY", help="A hub's organisation/name.")],
    public: Annotated[bool, Option("--public", help="For all to see; else for you alone.")] = False,
    revision: Annotated[str | None, Option(help="A branch; none: the main one.")] = None,
    licence: Annotated[
        str | None, Option("--license", help="Of the model, as the hub's cards name it.")
    ] = None,
) -> None:
    """Upload a complete atlas to a hub as a dataset, with a card that says how to read it."""
    with _errors():
        from rotate_core import Atlas

        options: dict[str, Any] = {"revision": revision, "licence": licence}
        _say(Atlas.open(atlas).push_to_hub(repository, private=not public, **options))


# --- Options as people write them ---------------------------------------------------------------


def parse_numbers(text: str) -> tuple[int, ...] | None:
    """Numbers out of "0,15,20-29"; None out of "all"."""
    from rotate_core.atlas.manifest import parse_indices

    try:
        return None if text == "all" else parse_indices(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def parse_neurons(text: str) -> int | tuple[int, ...] | None:
    """How many to draw out of "25"; numbers out of "0-99", "3,7", "@FILE"; None out of "all"."""
    if text.isdecimal():
        return int(text)
    if text.startswith("@"):
        try:
            if Path(text[1:]).exists() and not Path(text[1:]).is_file():
                raise OSError("it is no file")
            text = Path(text[1:]).read_text(encoding="utf-8")
        except (OSError, UnicodeError) as error:
            raise typer.BadParameter(f"{text}: {error}") from None
    return parse_numbers(text)


def parse_neuron(text: str) -> tuple[int, str, int]:
    """Layer, kind and number out of "29/out/880"."""
    match = re.fullmatch(r"(\d+)/(gate|in|out)/(\d+)", text)
    if not match:
        raise typer.BadParameter(f"{text!r}: wanted LAYER/KIND/NUMBER, such as 29/out/880")
    return int(match[1]), match[2], int(match[3])


def parse_bytes(text: str | None) -> float | None:
    """Bytes out of "500MB" or "2GB"."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?", text, re.IGNORECASE)
    if not match:
        raise typer.BadParameter(f"{text!r}: wanted such as 500MB or 2GB")
    return float(match[1]) * 1000.0 ** " KMGT".index(match[2].upper() or " ")


# --- Output and errors --------------------------------------------------------------------------


def _print(frame: pd.DataFrame, columns: str, as_json: bool) -> None:
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
    _say(shown.to_string(index=False, justify="left"))


def _say(text: object, *, err: bool = False) -> None:
    """Print a text, and nothing in it that would steer the terminal: names may be anyone's."""
    from rotate_core.models.tokens import visible

    typer.echo(visible(str(text), keep=" \n"), err=err)


@contextmanager
def _errors(*, resumable: bool = False) -> Iterator[None]:
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
        _say(f"rotate: {' '.join(text.split())}", err=True)
        raise typer.Exit(1) from None


if __name__ == "__main__":
    app()
