"""Figures of the chapter that holds all methods side by side: tables to Axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rotate_core.experiments.dictionary_ablation import CHANNELS, LATENTS, RANDOM
from rotate_core.figures.experiments import legend_above, whiskers
from rotate_core.figures.style import COLOURS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from rotate_core.verdicts.intervals import Estimate


def both_tasks(
    found: pd.DataFrame, steering: pd.DataFrame, methods: pd.DataFrame, axes: Sequence[Axes]
) -> Sequence[Axes]:
    """Detection above, steering below; one row per method.

    Args:
        found: of :func:`rotate_core.experiments.side_by_side.detected`.
        steering: of one target and sign.
        methods: of :func:`rotate_core.experiments.side_by_side.summary`; those that write nothing
            are in the upper panel alone.
        axes: two.
    """
    detect, steer = axes
    label = "detection: AUROC, other words and templates"
    beside_chance(found, dict(methods["AUROC"]), detect, value="held_out", label=label)
    writing = methods[[name in set(steering.method) for name in methods.index]]
    label = "steering: gain of the concept's words, nats"
    beside_chance(steering, dict(writing["gain"]), steer, value="gain", label=label)
    for ax, nothing in ((detect, 0.5), (steer, 0)):
        ax.axvline(nothing, color=COLOURS["neutral"], linewidth=0.7)
    legend_above(detect, ncols=3)
    return axes


def beside_chance(
    table: pd.DataFrame,
    means: Mapping[str, Estimate],
    ax: Axes,
    *,
    value: str,
    label: str,
) -> Axes:
    """One row per method: a dot per concept, their mean with its interval, and the mean of chance.

    Args:
        table: one row per method and concept, with a column ``chance``.
        means: of each method, in order from the top; a method without one is an empty row.
        ax: where to.
        value: the column to draw.
        label: of it.
    """
    for row, method in enumerate(means):
        part = table[table.method == method]
        places = row + 0.28 * (part.groupby("method").cumcount() / max(len(part) - 1, 1) - 0.5)
        dots: dict[str, Any] = {"color": COLOURS["neuron"], "alpha": 0.35, "linewidth": 0}
        ax.scatter(part[value], places, s=14, label="a concept" if row == 0 else "_", **dots)
        whiskers(
            ax, [row], [means[method]], color=COLOURS["neuron"], label="mean" if row == 0 else "_"
        )
        ax.plot(
            part["chance"].mean(), row, "D", color=COLOURS["null"], markersize=6, zorder=3,
            label="random candidates" if row == 0 else "_",
        )  # fmt: skip
    ax.set_yticks(range(len(means)), list(means))
    ax.set_ylim(len(means) - 0.5, -0.5)
    ax.set_xlabel(label)
    ax.grid(axis="x", linewidth=0.4)
    return ax


def label_shares(table: pd.DataFrame, ax: Axes) -> Axes:
    """The share of directions that read better than chance: one row per method, one mark per null.

    Args:
        table: of :func:`rotate_core.experiments.side_by_side.labelled`.
        ax: where to.
    """
    methods = list(table.method.unique())
    marks = {"its own": ("o", "neuron"), "the neurons'": ("D", "other")}
    wide = table.pivot(index="method", columns="null", values="share").loc[methods]
    rows = range(len(methods))
    ax.hlines(rows, wide.min(1), wide.max(1), color=COLOURS["null"], linewidth=1)
    for null, (marker, colour) in marks.items():
        label = f"null of {null} covariance"
        ax.plot(wide[null], rows, marker, color=COLOURS[colour], label=label)
    sizes = table.groupby("method").n.first()
    ax.set_yticks(rows, [f"{method} ({sizes[method]})" for method in methods])
    ax.set(xlabel="share of directions with q < 0.1", xlim=(-0.03, 1.03))
    ax.set_ylim(len(methods) - 0.5, -0.5)
    ax.grid(axis="x", linewidth=0.4)
    legend_above(ax, ncols=1)
    return ax


def paper_tests(table: pd.DataFrame, ax: Axes) -> Axes:
    """Means of the paper's tests with their intervals: one row per test, three points each.

    Args:
        table: of :func:`rotate_core.experiments.dictionary_ablation.paper_tests`.
        ax: where to.
    """
    tests = list(table.test.unique())
    colours = {CHANNELS: "neuron", LATENTS: "other", RANDOM: "null"}
    for shift, (what, colour) in zip((-0.2, 0, 0.2), colours.items(), strict=True):
        part = table[table.what == what]
        rows = [tests.index(test) + shift for test in part.test]
        whiskers(ax, rows, list(part["mean"]), color=COLOURS[colour], label=what)
    ax.set_yticks(range(len(tests)), tests)
    ax.set_ylim(len(tests) - 0.5, -0.5)
    ax.axvline(0, color=COLOURS["neutral"], linewidth=0.7)
    ax.grid(axis="x", linewidth=0.4)
    ax.set_xlabel("mean, 95% interval over neurons")
    legend_above(ax, ncols=3)
    return ax
