"""Commands that show one neuron: in the terminal, or as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from rotate_core.cli.common import app, errors, print_table, say
from rotate_core.cli.parse import parse_neuron


@app.command()
def demo(
    model: Annotated[str, Argument(metavar="MODEL", help="As for decompose.")] = "smollm2-135m",
    neuron: Annotated[
        str, Argument(metavar="NEURON", help="LAYER/KIND/NUMBER, such as 29/out/880.")
    ] = "29/out/880",
    channels: Annotated[int, Option(min=1, help="How many.")] = 3,
) -> None:
    """Take one neuron apart, here and now: as it is, and its channels."""
    with errors():
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
        say(
            f"Neuron {number} of {read.name}, layer {layer}, {kind}, as it is: excess kurtosis "
            f"{excess_kurtosis(z):.1f}. Of its {len(z):,} tokens these are furthest out, at up to "
            f"{furthest.values[0]:.1f} standard deviations:\n\n"
            f"  {' '.join(visible(vocabulary.tokens[i]) for i in furthest.indices)}\n"
        )
        taken = take_apart(found, vocabulary, n_channels=channels, progress=False)
        say("Turned towards few tokens, and again without these, it has channels:\n")
        print_table(taken.table(), "channel kurtosis cosine n_masked polarity top_tokens", False)
        say(
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
    with errors():
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
        say(file)
