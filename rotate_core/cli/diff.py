"""``rotate diff``: which neurons' channels changed between two checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
from rotate_core.cli.parse import parse_neurons, parse_numbers

EITHER = "A model, as decompose takes it, or an atlas's folder; both of one sort."


@app.command()
def diff(
    before: Annotated[str, Argument(metavar="BEFORE", help=EITHER)],
    after: Annotated[str, Argument(metavar="AFTER", help=EITHER)],
    out: Annotated[
        Path,
        Option(
            parser=folder_name,
            metavar="PATH",
            help="A folder: neurons.parquet and channels.parquet, and of models both atlases.",
        ),
    ],
    layers: Annotated[str, Option(help="Of models: such as 0,15 or 20-29.")] = "all",
    kinds: Annotated[str, Option(help="Of models: such as gate,out.")] = "out",
    neurons: Annotated[str, Option(help="Of models: as for decompose.")] = "8",
    channels: Annotated[int, Option(min=1, help="Of models: of each neuron.")] = 5,
    models: Annotated[
        tuple[str, str] | None,
        Option(
            help="Of atlases: their models, where those are folders or files.", show_default=False
        ),
    ] = None,
    null: Annotated[int, Option(min=1, help="Random rotations of each neuron.")] = 19,
    seed: Annotated[int, Option(min=0, help="Of the draw and of the rotations.")] = 0,
    limit: Annotated[int, Option(min=1, help="Neurons to print.")] = 20,
    device: Annotated[str, Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
    accept_terms: AcceptTerms = False,
    progress: Annotated[bool, Option(help="Show a bar.")] = True,
    as_json: AsJson = False,
) -> None:
    """Show which neurons' channels changed more than by chance between two checkpoints.

    Chance is a turn of the neuron's weights by the same angle in a random direction.
    """
    with errors(resumable=True):
        asked = {
            "layers": parse_numbers(layers),
            "kinds": None if kinds == "all" else [kind.strip() for kind in kinds.split(",")],
            "neurons": parse_neurons(neurons),
        }
        from rotate_core import Atlas, load_model
        from rotate_core.atlas.diff import diff as compare
        from rotate_core.storage import write_table

        usable = chosen_device(device)
        sides = {"before": before, "after": after}
        are_atlases = [(Path(name) / "manifest.json").is_file() for name in sides.values()]
        if any(are_atlases) != all(are_atlases):
            raise ValueError(f"{before} and {after}: wanted two models, or two atlases")
        if all(are_atlases):
            given = [load_model(name) for name in models] if models else [None, None]
            atlases = [
                Atlas.open(name, model=model)
                for name, model in zip(sides.values(), given, strict=True)
            ]
        else:
            options = {**asked, "n_channels": channels, "seed": seed, "device": usable}
            atlases = [
                Atlas.build(
                    out / side, load_model(name, accept_terms=accept_terms), progress=progress,
                    **options,
                )
                for side, name in sides.items()
            ]  # fmt: skip
        found = compare(*atlases, n_null=null, seed=seed, device=usable, progress=progress)
        write_table(out / "neurons.parquet", found.neurons)
        write_table(out / "channels.parquet", found.channels)
        first = found.neurons.sort_values(["p_value", "channel_change"], ascending=[True, False])
        if not as_json:  # three decimals would say 0
            first = first.assign(weight_change=first.weight_change.map("{:.2g}".format))
        columns = "layer kind neuron weight_change channel_change null_change p_value q_value"
        print_table(first.head(limit), f"{columns} lost gained" if as_json else columns, as_json)
        if not as_json:
            moved = int((found.neurons.weight_change > 0).sum())
            say(
                f"{moved} of {len(found.neurons)} neurons were turned at all; p against "
                f"{found.n_null} random turns of each by the same angle, "
                f"{1 / (found.n_null + 1):.2g} at least"
            )
