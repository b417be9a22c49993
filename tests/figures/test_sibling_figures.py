"""Figures of regions, factors and all methods side by side draw what is there, beside its null."""

import math

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from rotate_core.figures import factors, regions, side_by_side
from rotate_core.figures.style import panels
from rotate_core.verdicts.intervals import Estimate


@pytest.fixture
def axes():
    yield panels(2)
    plt.close("all")


NOTHING = Estimate(math.nan, math.nan, math.nan, 0, 0)


def estimate(value):
    return Estimate(value, value - 0.1, value + 0.1, 9, 9)


def names(ax):
    return [label.get_text() for label in ax.get_yticklabels()]


def test_methods_that_write_nothing_have_no_row_of_steering(axes):
    found = pd.DataFrame({"method": ["reads", "writes"], "held_out": [0.6, 0.8], "chance": 0.5})
    steering = pd.DataFrame({"method": ["writes"], "gain": [0.3], "chance": [0.1]})
    methods = pd.DataFrame(
        {"AUROC": [estimate(0.6), estimate(0.8)], "gain": [NOTHING, estimate(0.3)]},
        index=["reads", "writes"],
    )
    side_by_side.both_tasks(found, steering, methods, axes)
    assert names(axes[0]) == ["reads", "writes"]
    assert names(axes[1]) == ["writes"]


def test_panels_share_one_legend_outside_of_them(axes):
    table = {"scaled": {"activations": estimate(0.3), "shuffled": estimate(0.1)}}
    table["scaled"]["Gaussian"] = estimate(0.2)
    for ax in axes:
        factors.rows_beside_nulls(table, ax, label="explained")
    (legend,) = axes[0].figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [*table["scaled"]]
    assert axes[1].get_legend() is None


def test_an_interchange_that_was_not_made_says_so(axes):
    regions.swaps({}, axes[0])
    assert [text.get_text() for text in axes[0].texts] == [
        "Nothing was swapped: the model does not give these answers."
    ]
    regions.swaps({"whole": estimate(0.9), "random, 8 dimensions": estimate(0.1)}, axes[1])
    assert names(axes[1]) == ["whole", "random, 8 dimensions"]
