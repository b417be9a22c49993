"""Commands that ask an atlas, check it, or send it to a hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from rotate_core.cli.common import AsJson, AtlasPath, app, errors, print_table, say


@app.command()
def search(
    atlas: AtlasPath,
    word: Annotated[str, Argument(metavar="WORD", help="Case and the spaces around do not count.")],
    limit: Annotated[int, Option(min=1, help="Channels at most.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Find the neurons whose channels carry a word, the strongest first."""
    with errors():
        from rotate_core import Atlas

        opened = Atlas.open(atlas)
        hits = opened.search(word, limit=limit)
        if hits.empty and not as_json:
            say(f"no channel of {atlas} has {word!r} in its tail")
            return
        print_table(hits, "layer kind neuron channel token z support q_value top_tokens", as_json)
        groups = dict.fromkeys(zip(hits["layer"], hits["kind"], strict=True))
        for layer, kind in groups if opened.manifest.null and not as_json else ():
            say(f"layer {layer}, {kind}: {opened.calibration(layer, kind)}")


@app.command()
def show(
    atlas: AtlasPath,
    layer: Annotated[int, Option(min=0, help="From 0.")],
    kind: Annotated[str, Option(help="gate, in or out.")],
    neuron: Annotated[int, Option(min=0, help="Its number in the layer.")],
    as_json: AsJson = False,
) -> None:
    """Show the channels of one neuron."""
    with errors():
        from rotate_core import Atlas

        channels = Atlas.open(atlas).channels(layer=layer, kind=kind, neuron=neuron)
        if channels.calibration is not None and not as_json:
            say(channels.calibration)
        columns = "channel kurtosis cosine support p_value q_value n_masked polarity top_tokens"
        print_table(channels.table(), columns, as_json)


@app.command()
def info(atlas: AtlasPath, as_json: AsJson = False) -> None:
    """Show what an atlas holds and how it was made, by layer and kind."""
    with errors():
        from rotate_core import Atlas

        opened = Atlas.open(atlas)
        if not as_json:
            m = opened.manifest
            versions = ", ".join(f"{name} {number}" for name, number in m.versions.items())
            say(f"{opened!r}\nmodel checksum {m.checksum}\n{m.settings}")
            for where, changes in m.exceptions.items():
                say(f"layer {where}: {', '.join(f'{a}={b}' for a, b in changes.items())}")
            say(f"seed {m.seed}, {m.null} matched vectors a layer and kind; {versions}\n")
        print_table(opened.summary(), "", as_json)


@app.command()
def browse(
    atlas: AtlasPath,
    out: Annotated[
        Path | None, Option(metavar="FILE", help="None: atlas.html, in the atlas's folder or here.")
    ] = None,
) -> None:
    """Write one HTML file that looks into an atlas: its neurons, a search, their channels."""
    with errors():
        from rotate_core.atlas.manifest_file import read_manifest
        from rotate_core.atlas.page import NAME, write_page
        from rotate_core.models.model import HUB_ID

        folder = Path(atlas)
        if HUB_ID.fullmatch(atlas) and not folder.exists():
            file = out or Path(NAME)
            write_page(file, atlas)
            say(file)
        else:
            read_manifest(folder)
            file = out or folder / NAME
            write_page(file)
            say(f"{file}: open it in a browser, and choose the folder {folder}")


@app.command()
def verify(atlas: AtlasPath) -> None:
    """Read every file of an atlas; what is damaged or missing is a line each, and exit code 1."""
    with errors():
        from rotate_core import Atlas

        opened = Atlas.open(atlas)
        if lines := opened.verify():
            for line in lines:
                say(f"rotate: {line}", err=True)
            raise typer.Exit(1)
        say(f"{opened!r}: complete, every checksum as written")


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
    with errors():
        from rotate_core import Atlas

        options: dict[str, Any] = {"revision": revision, "licence": licence}
        say(Atlas.open(atlas).push_to_hub(repository, private=not public, **options))


# --- Options as people write them ---------------------------------------------------------------
