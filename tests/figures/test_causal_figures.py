"""Figures of the causal chapters draw what they are given."""

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from rotate_core.figures import causal
from rotate_core.figures.style import COLOURS
from rotate_core.verdicts.intervals import Estimate


@pytest.fixture
def axes():
    _, both = plt.subplots(2, 1)
    yield list(both)
    plt.close("all")


def test_text_breaks_between_words_and_keeps_their_pieces_together(axes):
    tokens = ["The", " type", "writer", " key", "s", " abcdefghijklmnop"]
    places = causal._lines(tokens, 14)
    assert places == [(0, 0), (0, 4), (0, 8), (1, 0), (1, 3), (2, 0)]
    assert causal._lines([" a", " b"], 40) == [(0, 0), (0, 2)]
    assert causal._lines(["x" * 8, "y" * 8], 10) == [(0, 0), (1, 0)], "a word longer than a line"
    before, after = [0.0, 2.0, 0.1, -1.0, 0, 0], [0.0] * 6
    causal.text_before_and_after(tokens, before, after, axes, titles=("as it is", "without"))
    texts = [text.get_text() for text in axes[0].texts]
    assert texts == ["The", "type", "writer", "key", "s", "abcdefghijklmnop"]
    grounds = [mpl.colors.to_hex(patch.get_facecolor()) for patch in axes[0].patches]
    blue, red = COLOURS["positive"].lower(), COLOURS["negative"].lower()
    assert grounds == [blue, blue, red], "none where the neuron is silent"
    assert not axes[1].patches


def test_means_of_groups_that_are_there_are_drawn(axes):
    table = pd.DataFrame(
        {
            "x": [0.0, 1.0, 2.0],
            "group": ["a", "a", "b"],
            "what": ["neurons", "matched vectors", "neurons"],
        }
    )
    means = {
        ("a", "neurons"): Estimate(0.0, -1, 1, 1, 1),
        ("b", "neurons"): Estimate(2.0, 1, 3, 1, 1),
    }
    ax = causal.points_with_means(table, means, axes[0], value="x", group="group", label="x")
    drawn = [line.get_xdata()[0] for line in ax.lines if len(line.get_xdata()) == 1]
    assert sorted(drawn) == [0.0, 2.0]
    every = {("active", what): Estimate(1.0, 0, 2, 1, 1) for what in causal.ROW_COLOURS}
    ax = causal.divergence_by_place(every, axes[1])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["active"]


def test_tokens_of_the_channel_are_in_its_colour(axes):
    ax = causal.no_longer_promoted(["a", "b"], [2.0, 1.0], [True, False], axes[0])
    colours = [mpl.colors.to_hex(patch.get_facecolor()) for patch in ax.patches[:2]]
    assert colours == [COLOURS["out"].lower(), COLOURS["null"].lower()]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]
