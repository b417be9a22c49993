"""Figures of heads draw what was found beside its null."""

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from rotate_core.figures import heads
from rotate_core.verdicts.intervals import Estimate


@pytest.fixture
def axes():
    yield list(plt.subplots(1, 3)[1])
    plt.close("all")


def estimate(value):
    return Estimate(value, value - 0.1, value + 0.1, 9, 9)


def test_ranks_have_a_panel_for_each_width_and_fit(axes):
    rows = [
        {"d_head": d, "fits": fits, "what": what, "size": size, "rank": size - (not fits)}
        for d, fits in ((16, True), (8, True), (8, False))
        for what in ("trained", "untrained")
        for size in (3, 5)
    ]
    heads.ranks(pd.DataFrame(rows), axes)
    assert [ax.get_title().split(": ")[1] for ax in axes] == [
        "features fit", "features fit", "too many features",
    ]  # fmt: skip
    assert axes[2].collections[0].get_offsets()[:, 1].tolist() == [2, 4]


def test_swaps_stand_beside_random_subspaces(axes):
    heads.toy_swaps({(16, "both"): (estimate(0.9), estimate(0.3))}, axes[0])
    values = [line.get_xdata()[0] for line in axes[0].lines if len(line.get_xdata()) == 1]
    assert values == [0.9, 0.3]
    heads.swaps({"category": estimate(0.5), "random": estimate(0.1)}, axes[1])
    colours = [c.get_edgecolor()[0].tolist() for c in axes[1].collections]
    assert colours[0] != colours[1]


def test_chosen_heads_are_named(axes):
    table = pd.DataFrame(
        {"layer": [0, 3], "head": [1, 2], "category": [0.1, 0.5], "labels permuted": [0.0, 0.2]}
    ).assign(random=0.0)
    heads.by_layer(table, axes[0], chosen=[(3, 2), (0, 1)])
    assert [text.get_text() for text in axes[0].texts] == ["0.1", "3.2"]


def test_words_are_filled_where_they_are_certain(axes):
    table = pd.DataFrame(
        {"side": ["query", "key"], "category": ["fruit", "color"], "z": [2.0, 0.1]}
    )
    ax = heads.words(table, pd.Series([True, False]), axes[0])
    points = [line for line in ax.lines if line.get_marker() == "o"]
    assert [line.get_xdata()[0] for line in points] == [2.0, 0.1]
    assert points[0].get_markerfacecolor() != points[1].get_markerfacecolor() == "white"
    assert [label.get_text() for label in ax.get_yticklabels()] == ["query: fruit", "key: color"]


def test_parts_of_a_prompt_are_piled_up_to_both_sides(axes):
    table = pd.DataFrame(
        {"token": [" a", "$"], "attention": [0.2, 0.8], "asked": [False, True]}
        | {"category": [1.0, -1.0], "rest": [2.0, -3.0]}
    )
    heads.over_a_prompt(table, table, axes, parts=["category", "rest"])
    assert axes[1].get_xlim() == pytest.approx((-4.2, 4.2))
    labels = [label.get_text() for label in axes[0].get_yticklabels()]
    assert labels == ["a", r"\$"]
