"""Labels are drawn beside chance."""

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from rotate_core.figures.labels import against_chance


@pytest.fixture
def ax():
    yield plt.subplots()[1]
    plt.close("all")


def test_each_dictionary_is_drawn_over_the_band_of_the_largest(ax):
    small = pd.DataFrame({"p_value": [1e-5, 0.4], "chance": [0.3, 0.7]}).assign(low=0.1, high=0.9)
    large = pd.DataFrame({"p_value": [0.2, 0.5, 0.8], "chance": [0.2, 0.5, 0.8]})
    large = large.assign(low=0.05, high=0.95)
    colours = {"neurons": "neuron", "random vectors": "null"}
    against_chance({"neurons": small, "random vectors": large}, ax, colours=colours, floor=1e-3)
    chance, first, second, floor = ax.lines
    assert list(chance.get_xdata()) == list(chance.get_ydata()) == [0.2, 0.5, 0.8]
    assert list(first.get_ydata()) == [1e-5, 0.4]
    assert second.zorder < first.zorder
    assert list(floor.get_ydata()) == [1e-3, 1e-3]
    assert ax.yaxis_inverted()
    assert ax.xaxis_inverted()
