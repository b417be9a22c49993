"""Figures of the chapter on heads: tables to Axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rotate_core.figures.experiments import legend_above, whiskers
from rotate_core.figures.style import COLOURS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from rotate_core.verdicts.intervals import Estimate

OWN, NULL, STRICT = COLOURS["neuron"], COLOURS["rotation"], COLOURS["matched"]
"""Of what was found; of random subspaces and untrained heads; of permuted labels."""
PART_COLOURS = {"category": OWN, "labels permuted": STRICT, "random": NULL}
"""Of a swapped part, by how its name begins; limits of a swap are neutral."""


def ranks(table: pd.DataFrame, axes: Sequence[Axes]) -> Sequence[Axes]:
    """The rank found over the number of dimensions built in; an area is a number of features.

    Args:
        table: of :func:`rotate_core.experiments.heads_toy.measure`, for all widths.
        axes: one for each width and whether the features fit into it.
    """
    groups = table.groupby(["fits", "d_head"], sort=True)
    order = sorted(groups.groups, reverse=True)
    for ax, (fits, d_head) in zip(axes, order, strict=True):
        part = groups.get_group((fits, d_head))
        ax.plot([2, 8], [2, 8], color=COLOURS["neutral"], linewidth=0.8, zorder=0)
        for what, colour, shift in (("trained", OWN, -0.3), ("untrained", NULL, 0.3)):
            count = part[part.what == what].groupby(["size", "rank"]).size().reset_index(name="n")
            all_of = count.groupby("size")["n"].transform("sum")
            ax.scatter(
                count["size"] + shift, count["rank"],
                s=110 * count["n"] / all_of, color=colour, alpha=0.8, linewidth=0, label=what,
            )  # fmt: skip
        room = "features fit" if fits else "too many features"
        ax.set_title(f"{d_head} dimensions: {room}", fontsize=11)
        ax.set(xticks=(3, 5, 7), yticks=range(1, 8), xlim=(2, 8), ylim=(1.4, 7.6))
        ax.set_ylabel("rank found")
    axes[-1].set_xlabel("dimensions of the feature")
    handles = axes[0].get_legend_handles_labels()
    axes[0].figure.legend(*handles, loc="outside upper center", ncols=2)
    return axes


def toy_swaps(estimates: Mapping[tuple[int, str], tuple[Estimate, Estimate]], ax: Axes) -> Axes:
    """Change of attention by width and part swapped, beside random subspaces of equal rank."""
    for which, label, colour, shift in ((0, "swapped", OWN, -0.13), (1, "random", NULL, 0.13)):
        rows = [row + shift for row in range(len(estimates))]
        chosen = [pair[which] for pair in estimates.values()]
        whiskers(ax, rows, chosen, color=colour, label=label, size=6)
    names = [f"{part}, {d_head} dimensions" for d_head, part in estimates]
    ax.set_yticks(range(len(names)), names)
    ax.set(xlim=(-0.02, 1.02), ylim=(len(names) - 0.5, -0.5), xlabel="change of attention")
    legend_above(ax, ncols=2)
    return ax


def by_layer(table: pd.DataFrame, ax: Axes, *, chosen: Sequence[tuple[int, int]]) -> Axes:
    """Every head's change of attention over its layer, beside both nulls.

    Args:
        table: of :func:`rotate_core.experiments.heads.survivors`.
        ax: where to.
        chosen: (layer, head) that are ringed and named.
    """
    for name, shift in (("random", 0.0), ("labels permuted", 0.2), ("category", -0.2)):
        ax.plot(
            table["layer"] + shift, table[name], "o", color=PART_COLOURS[name], markersize=4,
            alpha=0.7, markeredgewidth=0, label=name,
        )  # fmt: skip
    for place, (layer, head) in enumerate(sorted(chosen)):
        aside, ha = ((-6, 3), "right") if 2 * place < len(chosen) else ((6, 3), "left")
        row = table[(table["layer"] == layer) & (table["head"] == head)].iloc[0]
        at = (layer - 0.2, row["category"])
        ax.plot(*at, "o", color="none", markeredgecolor=COLOURS["neutral"], markersize=9)
        ax.annotate(
            f"{layer}.{head}", at, xytext=aside, textcoords="offset points", ha=ha, fontsize=10,
        )  # fmt: skip
    ax.axhline(0, color=COLOURS["neutral"], linewidth=0.7)
    ax.set(xlabel="layer", ylabel="change of attention")
    legend_above(ax, ncols=3)
    return ax


def swaps(estimates: Mapping[str, Estimate], ax: Axes) -> Axes:
    """The change of attention that each part makes, with 95% intervals: one row a part."""
    for row, (name, estimate) in enumerate(estimates.items()):
        colour = PART_COLOURS.get(name, COLOURS["neutral"])
        whiskers(ax, [row], [estimate], color=colour, label="_", size=7)
    ax.set_yticks(range(len(estimates)), list(estimates))
    ax.axvline(0, color=COLOURS["neutral"], linewidth=0.7)
    ax.set(ylim=(len(estimates) - 0.5, -0.5), xlabel="change of attention")
    return ax


def words(table: pd.DataFrame, certain: pd.Series, ax: Axes) -> Axes:
    """How far a category's words stand out in the projection of its direction: one row each.

    Args:
        table: of :func:`rotate_core.experiments.heads_channels.channels`.
        certain: of each row; filled where it is, hollow where not.
        ax: where to.
    """
    for row, (z, sure) in enumerate(zip(table["z"], certain, strict=True)):
        face = OWN if sure else "white"
        ax.plot(z, row, "o", color=face, markeredgecolor=OWN, markersize=7)
    ax.set_yticks(range(len(table)), table["side"] + ": " + table["category"])
    ax.axvline(0, color=COLOURS["neutral"], linewidth=0.7)
    ax.set(ylim=(len(table) - 0.5, -0.5), xlabel="own words' z-score, less the others'")
    ax.grid(axis="x", linewidth=0.4)
    return ax


def over_a_prompt(
    table: pd.DataFrame, null: pd.DataFrame, axes: Sequence[Axes], *, parts: Sequence[str]
) -> Sequence[Axes]:
    """A prompt read from top to bottom: where the last token attends, and why.

    Args:
        table: of :func:`rotate_core.experiments.heads.over_a_prompt`.
        null: the same, with a subspace of permuted labels in the category's place.
        axes: for the attention, the parts, and the null's.
        parts: columns to draw, one bar behind the other.
    """
    rows = range(len(table))
    colours = (OWN, COLOURS["other"], NULL)
    axes[0].barh(rows, table["attention"], color=COLOURS["neutral"], height=0.7)
    axes[0].set_yticks(rows, [token.strip().replace("$", r"\$") for token in table["token"]])
    axes[0].set(xlabel="attention", title="where")
    for label, asked in zip(axes[0].get_yticklabels(), table["asked"], strict=True):
        label.set(fontsize=10, fontweight="bold" if asked else "normal")
    reach = 1.05 * max(_stacked(t, parts) for t in (table, null))
    for ax, each, title in ((axes[1], table, "why"), (axes[2], null, "null")):
        for sign in (1, -1):
            start = 0 * each["attention"]
            for name, colour in zip(parts, colours, strict=False):
                width = (sign * each[name]).clip(lower=0) * sign
                kept = name if sign > 0 else "_"
                ax.barh(rows, width, left=start, color=colour, height=0.7, label=kept)
                start = start + width
        ax.axvline(0, color=COLOURS["neutral"], linewidth=0.7)
        ax.set(xlim=(-reach, reach), xlabel="logit", title=title)
    for ax in axes:
        ax.axhspan(
            table["asked"].argmax() - 0.5, table["asked"].argmax() + 0.5,
            color=COLOURS["masked"], alpha=0.25, linewidth=0, zorder=0,
        )  # fmt: skip
        ax.set_ylim(len(table) - 0.5, -0.5)
        if ax is not axes[0]:
            ax.set_yticks([])
    handles = axes[1].get_legend_handles_labels()
    axes[0].figure.legend(*handles, loc="outside upper center", ncols=3)
    return axes


def _stacked(table: pd.DataFrame, parts: Sequence[str]) -> float:
    """The longest pile of bars to one side."""
    values = table[list(parts)]
    return float(
        max(values.clip(lower=0).sum(axis=1).max(), -values.clip(upper=0).sum(axis=1).min())
    )
