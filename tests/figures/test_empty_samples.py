"""A figure of a sample that holds nothing says so, without a warning."""

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from rotate_core.figures import atlas, channels, factors, regions


@pytest.fixture
def ax():
    yield plt.subplots()[1]
    plt.close("all")


def test_without_a_feature_pairs_say_so(ax):
    names = {"change": "neuron", "null": "null"}
    factors.pairs({}, ax, labels=names, colours=names, label="change", line=0.0)
    ax.figure.canvas.draw()
    assert "there is no such feature" in ax.texts[0].get_text()


def test_without_an_answer_swaps_say_so(ax):
    regions.swaps({}, ax)
    ax.figure.canvas.draw()
    assert "Nothing was swapped" in ax.texts[0].get_text()


def test_a_statistic_of_one_value_is_one_bar(ax):
    table = pd.DataFrame({"core": [0.0] * 5})
    atlas.beside_the_null(table, table, ax, column="core", label="core")
    ax.figure.canvas.draw()
    assert ax.get_xlabel() == "core"


def test_channels_without_a_tail_lie_on_the_null(ax):
    channels.over_the_null({"core": [0.0, 0.0]}, {"core": [[0.0, 0.0]] * 3}, [ax])
    assert ax.get_ylim() == (0, 1.35)
