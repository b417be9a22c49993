"""Commands on directions of other origin: regions of activations, and labels of any file."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from typer import Argument, Option

from rotate_core.cli.common import (
    AcceptTerms,
    AsJson,
    app,
    chosen_device,
    errors,
    folder_name,
    print_table,
    say,
)


@app.command()
def regions(
    model: Annotated[str, Argument(metavar="MODEL", help="As for decompose.")],
    layer: Annotated[int, Option(min=0, help="From 0.")],
    out: Annotated[
        Path,
        Option(
            parser=folder_name, metavar="PATH", help="The regions' folder: made, or gone on with."
        ),
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
    accept_terms: AcceptTerms = False,
    progress: Annotated[bool, Option(help="Show a bar.")] = True,
) -> None:
    """Fit a mixture of factor analyzers to activations: regions of a layer.

    The same command again goes on where the last one ended. Nothing is written where there are
    regions already.
    """
    with errors(resumable=True):
        from rotate_core import load_model
        from rotate_core import text as texts
        from rotate_core.dictionaries import Regions, RegionSettings, mfa, mfa_stream
        from rotate_core.dictionaries.folder import to_do

        usable = chosen_device(device)  # before a model is fetched
        settings = RegionSettings(rank=rank, noise=noise, top=top)
        read = load_model(model, accept_terms=accept_terms)
        asked = {
            "model": read.name, "checksum": read.checksum, "layer": layer, "site": site,
            "regions": n_regions, "rank": rank, "noise": noise, "top": top, "seed": seed,
            "text": text, "tokens": None if whole_text else tokens,
        }  # fmt: skip
        if not to_do(out, asked, Regions.what):
            say(repr(Regions.read(out)))
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
        say(repr(found))


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
    accept_terms: AcceptTerms = False,
    progress: Annotated[bool, Option(help="Show a bar.")] = True,
    as_json: AsJson = False,
) -> None:
    """Read any directions in the vocabulary, beside random vectors of their own covariance.

    For each direction of the residual stream (of an autoencoder's decoder, a probe, a difference
    of means): its tokens, and whether a random vector has any as far out. The best 20 are shown;
    --out and --json give all.
    """
    with errors():
        from rotate_core import label as read_labels
        from rotate_core import load_model
        from rotate_core.null import read_directions
        from rotate_core.storage import TABLES, write_table

        if out is not None and out.suffix not in TABLES:  # before the work
            raise ValueError(f"--out {out}: wanted a file that ends in {' or '.join(TABLES)}")
        usable = chosen_device(device)
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
            print_table(table, "", as_json)
        else:
            say(repr(found))
