"""What the first page shows of a run: a vector that turns, three numbers, a figure, the claims.

    python -m book.front book/executed results book/_extra    # a part of "make html"

It is written to a folder front/ beside the executed notebooks, for intro.md to include: all of it
from the atlas and the records of the profile that ran. The picture of a link's preview goes to
book/_extra.
"""

from __future__ import annotations

import ast
import html
import json
import math
import sys
from collections import Counter
from pathlib import Path
from string import Template
from typing import Any

import nbformat
import numpy as np
import pandas as pd

from book.execute import parameters_cell
from rotate_core import Atlas, load_model
from rotate_core.channels import Channels
from rotate_core.experiments.null_turn import nearly_there
from rotate_core.explorer.describe import BIN
from rotate_core.explorer.turn import N_FRAMES, turning, worth_seeing
from rotate_core.figures import atlas as figures
from rotate_core.figures.channels import projection
from rotate_core.figures.style import panels, plt, use_style
from rotate_core.null.calibration import SIGNIFICANT
from rotate_core.rotation.tails import z_scores
from rotate_core.storage import write_whole
from rotate_core.verdicts import scoreboard
from rotate_core.verdicts.claims import CLAIMS, on_the_scoreboard
from rotate_core.verdicts.intervals import Estimate
from rotate_core.verdicts.rules import verdict

COLUMNS = ["layer", "kind", "neuron", "channel", "kurtosis", "cosine", "q_value", "top_tokens"]
TEMPLATES = Path(__file__).parent / "_front"


def parameters(executed: Path) -> dict[str, Any]:
    """The parameters of the first chapter that has an atlas, as it ran.

    Raises:
        FileNotFoundError: none has one.
    """
    for file in sorted(executed.glob("[0-9]*.ipynb")):
        cell = parameters_cell(nbformat.read(file, as_version=4))
        found = {
            s.targets[0].id: ast.literal_eval(s.value)  # type: ignore[attr-defined]
            for s in ast.parse(cell.source).body
        }
        if "atlas_null" in found:
            return found
    raise FileNotFoundError(f"{executed}: no chapter with an atlas; run `make book` first")


def turns(atlas: Atlas, table: pd.DataFrame) -> list[dict[str, Any]]:
    """Neurons worth seeing, each beside the first matched vector of its layer and kind."""
    found = []
    for why, row in worth_seeing(table):
        channels = _of(atlas, row)
        null = atlas.channels(layer=row.layer, kind=row.kind, null=True)
        stands = "stands" if row.q_value < SIGNIFICANT else "does not stand"
        found.append(
            {
                "name": f"Layer {row.layer}, {row.kind}, neuron {row.neuron}",
                "why": why,
                "stands": f"Its channel {stands} out from random vectors' (q = {row.q_value:.2g}).",
                "neuron": turning(channels, 0),
                "random": turning(null, 0),
            }
        )
    return found


def turn(shown: list[dict[str, Any]], d_vocab: int) -> str:
    """The HTML of the turn: controls, data, style, and the script that plays it."""
    z = np.arange(-4.5, 4.5 + BIN, BIN)
    normal = d_vocab * BIN * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    data = {"neurons": shown, "normal": normal.round().tolist()}
    radios = [
        f'<label><input type="radio" name="turn"{" checked" if i == 0 else ""}> '
        f"{html.escape(one['neuron']['tokens'][0][0].lstrip('␣'))}</label>"
        for i, one in enumerate(shown)
    ]
    return filled(
        "turn.html",
        style=read("turn.css"),
        neurons="\n".join(radios),
        data=json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
        code=read("turn.js"),
    )


def three_numbers(table: pd.DataFrame, summary: pd.DataFrame, verdicts: Counter[str]) -> str:
    """Channels that stand out, groups where chance is sharper, claims that came out."""
    first = table[table["channel"] == 0]
    beyond = (first["q_value"] < SIGNIFICANT).sum()
    sharper = (summary["kurtosis"] < summary["null_kurtosis"]).sum()
    measured = verdicts.total() - verdicts["not run"]
    numbers = [
        (beyond, len(first), f"first channels stand out from random ones (q < {SIGNIFICANT})"),
        (sharper, len(summary), "layers and kinds have a sharper median channel in random vectors"),
        (verdicts["reproduced"], measured, "measured claims of the paper reproduced here"),
    ]
    tiles = (
        f"<li><strong>{n} of {of}</strong> {html.escape(what)}</li>" for n, of, what in numbers
    )
    return f'<ul class="numbers">{"".join(tiles)}</ul>'


def read(name: str) -> str:
    """A file of the first page."""
    return (TEMPLATES / name).read_text(encoding="utf-8")


def filled(name: str, **values: str) -> str:
    """The same, with values in place of its ``$names``."""
    return Template(read(name)).substitute(values)


def draw_preview(channels: Channels, name: str, path: Path) -> None:
    """The picture of a link's preview: the first neuron's projection before and after its turn."""
    ends = [channels.weight_vectors[:1], channels.vectors[:1, 0]]
    before, after = (z_scores(v, channels.vocabulary.projection)[0] for v in ends)
    reach = 1.1 * float(after.abs().max())
    figure, axes = plt.subplots(2, 1, figsize=(12, 6.3), sharex=True)
    look = {"threshold": channels.settings.threshold, "limits": (-reach, reach)}
    tokens = [token for token, _ in channels.top_tokens(0, 0, 6)]
    low = channels.top_z[0, 0, 0] < 0
    names = (tokens, ()) if low else ((), tokens)
    projection(before, axes[0], title=f"{name}: its projection onto the vocabulary", **look)
    projection(after, axes[1], names=names, title="its first channel", **look)
    axes[0].set_xlabel("")
    with plt.rc_context({"savefig.bbox": None, "savefig.dpi": 100}):
        figure.savefig(path)  # 1200 by 630, as previews want it
    plt.close(figure)


def write(executed: Path, results: Path, extra: Path) -> None:
    """Write front/ into the folder of the executed notebooks, and preview.png into another."""
    found = parameters(executed)
    model = load_model(found["model"])
    atlas = Atlas.open(results / "atlas", model=model)
    table, null = atlas.table(COLUMNS), atlas.table(COLUMNS[3:6], null=True)
    turned, shown, summary = nearly_there(table, null), turns(atlas, table), atlas.summary()
    outcomes = scoreboard.collect(results, checksum=model.checksum)
    claims = {name: outcomes.get(name) for name in on_the_scoreboard(())}
    verdicts = Counter(verdict(CLAIMS[name], outcome)[0] for name, outcome in claims.items())

    folder = executed / "front"
    folder.mkdir(parents=True, exist_ok=True)
    extra.mkdir(parents=True, exist_ok=True)
    use_style()
    ax = figures.certified_by_cosine(table, turned, panels(1, width=4.4, height=3.4)[0])
    ax.figure.savefig(folder / "cosine.svg", metadata={"Date": None})
    first = worth_seeing(table)[0][1]
    draw_preview(_of(atlas, first), shown[0]["name"], extra / "preview.png")
    page = filled(
        "page.md",
        turn=turn(shown, len(atlas.tokens)),
        kurtosis=_median_of_first(table),
        null_kurtosis=_median_of_first(null),
        n_channels=f"{len(table):,}",
        share=f"{(table['q_value'] < SIGNIFICANT).mean():.0%}",
        finding=turned.finding,
        numbers=three_numbers(table, summary, verdicts),
        level=f"{SIGNIFICANT:g}",
        n_groups=str(len(summary)),
        model=model.name,
        near=_share(turned.share),
        others=_share(turned.others),
        n_frames=str(N_FRAMES),
        claims=scoreboard.shown(claims, reading=False, link="executed/{}.html")._repr_html_(),
    )
    write_whole(folder / "page.md", page.encode())


def _median_of_first(table: pd.DataFrame) -> str:
    return f"{table.loc[table['channel'] == 0, 'kurtosis'].median():.0f}"


def _share(estimate: Estimate) -> str:
    if math.isnan(estimate.value):
        return "none"
    return f"{estimate.value:.0%} [{estimate.low:.0%}, {estimate.high:.0%}]"


def _of(atlas: Atlas, row: pd.Series) -> Channels:
    return atlas.channels(layer=row.layer, kind=row.kind, neuron=row.neuron)


if __name__ == "__main__":
    write(*map(Path, sys.argv[1:]))
