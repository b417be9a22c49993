"""``rotate decompose``: channels of many neurons, into an atlas."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, Option

from rotate_core.cli.common import (
    AcceptTerms,
    app,
    chosen_device,
    errors,
    folder_name,
    say,
)
from rotate_core.cli.parse import parse_bytes, parse_neurons, parse_numbers


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
        Option(
            parser=folder_name, metavar="PATH", help="The atlas's folder: made, or gone on with."
        ),
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
    precision: Annotated[
        Literal["full", "bfloat16"],
        Option(help="Of products with U on the way; last steps and results are always full."),
    ] = "full",
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
    accept_terms: AcceptTerms = False,
    progress: Annotated[bool, Option(help="Show a bar with an estimate of what is left.")] = True,
) -> None:
    """Decompose many neurons into an atlas.

    The same command again goes on where the last one ended; with more layers, kinds or neurons
    it adds them. Several processes on one folder share the work.
    """
    with errors(resumable=True):
        asked = {
            "layers": parse_numbers(layers),
            "kinds": None if kinds == "all" else [kind.strip() for kind in kinds.split(",")],
            "neurons": parse_neurons(neurons),
            "memory": parse_bytes(memory),
        }
        from rotate_core import Atlas, Settings, load_model

        usable = chosen_device(device)  # before a model is fetched
        settings = Settings(
            solver=solver,
            moments=moments,
            threshold=threshold,
            lambda_kurtosis=lambda_kurtosis,
            precision=precision,
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
        say(repr(atlas))
