"""Figures of the chapter on factors: tables to Axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from matplotlib.ticker import LogLocator, NullFormatter

from rotate_core.figures.experiments import legend_above, whiskers
from rotate_core.figures.style import COLOURS, nothing_to_draw

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from rotate_core.dictionaries import Hierarchy
    from rotate_core.verdicts.intervals import Estimate

WHAT_COLOURS = (COLOURS["neuron"], COLOURS["rotation"], COLOURS["matched"])
"""Of activations, and of their nulls: the harder to beat, the darker."""


def rows_beside_nulls(
    estimates: Mapping[str, Mapping[str, Estimate]], ax: Axes, *, label: str
) -> Axes:
    """One row per setting, one point with its interval per kind of tokens.

    Args:
        estimates: by setting and kind; activations first, then the nulls.
        ax: where to.
        label: of the figure.
    """
    settings = list(estimates)
    for i, (what, colour) in enumerate(zip(estimates[settings[0]], WHAT_COLOURS, strict=True)):
        places = [row + 0.22 * (i - 1) for row in range(len(settings))]
        whiskers(ax, places, [estimates[s][what] for s in settings], color=colour, label=what)
    ax.set_yticks(range(len(settings)), settings)
    ax.set_ylim(len(settings) - 0.5, -0.5)
    ax.set_xlabel(label)
    ax.set_xlim(left=0)
    ax.grid(axis="x", linewidth=0.4)
    legend_above(ax, ncols=3)
    return ax


def race(table: pd.DataFrame, ax: Axes) -> Axes:
    """Explained energy over seconds, one line per solver."""
    for (solver, part), colour in zip(
        table.groupby("solver", sort=False), ("geodesic", "householder"), strict=True
    ):
        ax.plot(part.seconds, part.explained, ".-", color=COLOURS[colour], label=solver, ms=3)
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set(xlabel="seconds, the start included", ylabel="energy explained", ylim=(0, None))
    ax.legend(loc="lower right")
    return ax


def pairs(
    estimates: Mapping[str, Mapping[str, Estimate]],
    ax: Axes,
    *,
    labels: Mapping[str, str],
    colours: Mapping[str, str],
    label: str,
    line: float,
) -> Axes:
    """Two points with intervals per row.

    Args:
        estimates: by row and column; without a row, a sentence says so.
        ax: where to.
        labels: of the two columns.
        colours: of the two columns, names in `COLOURS`.
        label: of the figure.
        line: where nothing is.
    """
    rows = list(estimates)
    if not rows:
        return nothing_to_draw(ax, "Nothing that could be measured: there is no such feature.")
    for shift, (column, text) in zip((-0.12, 0.12), labels.items(), strict=True):
        places = [i + shift for i in range(len(rows))]
        points = [estimates[row][column] for row in rows]
        whiskers(ax, places, points, color=COLOURS[colours[column]], label=text)
    ax.set_yticks(range(len(rows)), rows)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.axvline(line, color=COLOURS["neutral"], linewidth=0.7)
    ax.set_xlabel(label)
    legend_above(ax, ncols=2)
    return ax


def tree(levels: Hierarchy, ax: Axes, *, k: int = 2) -> Axes:
    """Features of features as a tree from the left, leaves with their first tokens.

    A child hangs on the parent that holds most of it, so that every leaf is there once.

    Args:
        levels: three levels or two.
        ax: where to.
        k: tokens of a leaf, and of an inner node.
    """
    parents = [factors.coefficients.argmax(1).tolist() for factors in levels.levels[1:]]
    order = _leaves(parents, levels.levels[-1].n_features)
    place: list[dict[int, float]] = [{leaf: float(i) for i, leaf in enumerate(order)}]
    for level, parent in enumerate(parents):
        above: dict[int, list[float]] = {}
        for child, y in place[level].items():
            above.setdefault(parent[child], []).append(y)
        place.append({p: sum(ys) / len(ys) for p, ys in above.items()})
    depth = len(place) - 1
    for level, parent in enumerate(parents):
        for child, y in place[level].items():
            x, up = depth - level, place[level + 1][parent[child]]
            elbow = [x, x - 0.5, x - 0.5, x - 1], [y, y, up, up]
            ax.plot(*elbow, color=COLOURS["neutral"], linewidth=0.8)
    for level, nodes in enumerate(place):
        tokens = levels.levels[level].top_tokens(k) or []
        for node, y in nodes.items():
            words = " ".join(token.strip() for token in tokens[node]) if tokens else str(node)
            at = depth - level
            ax.plot(at, y, "o", color=COLOURS["neuron"], markersize=4)
            inner = level > 0
            ax.annotate(
                words, (at, y), xytext=(0 if inner else 5, 4 if inner else 0),
                textcoords="offset points", fontsize=10, va="bottom" if inner else "center",
                ha="center" if inner else "left", parse_math=False,
            )  # fmt: skip
    ax.set_xlim(-0.4, depth + 0.9)
    ax.set_ylim(len(order) - 0.3, -1)
    ax.axis("off")
    return ax


def _leaves(parents: Sequence[Sequence[int]], n_roots: int) -> list[int]:
    """The leaves in an order in which no two branches cross."""
    nodes = list(range(n_roots))
    for parent in reversed(parents):
        nodes = [child for node in nodes for child, p in enumerate(parent) if p == node]
    return nodes
