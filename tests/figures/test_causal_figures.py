"""Figures of the causal chapters draw what they are given."""

import math

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from rotate_core.experiments.input_ablation import Snippet
from rotate_core.figures import causal
from rotate_core.figures.style import COLOURS
from rotate_core.verdicts.intervals import Estimate


@pytest.fixture
def axes():
    _, axes = plt.subplots(2, 1)
    yield list(axes)
    plt.close("all")


def test_text_breaks_between_words_and_keeps_their_pieces_together(axes):
    tokens = ["The", " type", "writer", " key", "s", " abcdefghijklmnop"]
    positions = causal._positions(tokens, 14)
    assert positions == [(0, 0), (0, 4), (0, 8), (1, 0), (1, 3), (2, 0)]
    assert causal._positions([" a", " b"], 40) == [(0, 0), (0, 2)]
    pieces = ["x" * 8, "y" * 8]
    assert causal._positions(pieces, 10) == [(0, 0), (1, 0)], "a word longer than a line"
    before, after = (0.0, 2.0, 0.1, -1.0, 0, 0), (0.0,) * 6
    snippet = Snippet("", tuple(tokens), before, after, own=(True,) * 6, left=0)
    causal.text_before_and_after(snippet, axes, titles=("as it is", "without"))
    texts = [text.get_text() for text in axes[0].texts]
    assert texts == ["The", "type", "writer", "key", "s", "abcdefghijklmnop"]
    grounds = [mpl.colors.to_hex(patch.get_facecolor()) for patch in axes[0].patches]
    blue, red = COLOURS["positive"].lower(), COLOURS["negative"].lower()
    assert grounds == [blue, blue, red], "none where the neuron is silent"
    assert not axes[1].patches


def test_tokens_that_look_like_formulas_are_drawn_as_they_are(axes):
    tokens = ["$$", " $\\frac$", "^_$", "a"]
    snippet = Snippet("", tuple(tokens), (1.0,) * 4, (0.5,) * 4, own=(True,) * 4, left=0)
    causal.text_before_and_after(snippet, axes, titles=("as it is", "Without: $$, $x^$"))
    causal.no_longer_promoted(tokens, [1.0] * 4, [True] * 4, plt.subplots()[1])
    for number in plt.get_fignums():
        plt.figure(number).canvas.draw()
    assert [text.get_text() for text in axes[0].texts] == [token.strip() for token in tokens]


def test_means_of_groups_that_are_there_are_drawn(axes):
    nothing = Estimate(math.nan, math.nan, math.nan, 0, 0)
    table = pd.DataFrame(
        {
            "x": [0.0, 1.0, 2.0],
            "turned": [0.5, 1.5, 2.5],
            "layer": [3, 3, 4],
            "what": ["neurons", "matched vectors", "neurons"],
        }
    )
    means = pd.DataFrame(
        {
            "layer": [3, 4],
            "neurons": [Estimate(0.0, -1, 1, 1, 1), Estimate(2.0, 1, 3, 1, 1)],
            "matched vectors": [nothing, nothing],
            "matched rotations": [nothing, nothing],
        }
    )
    ax = causal.points_with_means(table, means, axes[0], value="x", rotation="turned", label="x")
    drawn = [x for line in ax.lines for x in line.get_xdata() if not math.isnan(x)]
    assert sorted(drawn) == [0.0, 2.0]
    points = [x for dots in ax.collections for x in dots.get_offsets()[:, 0]]
    assert {0.0, 1.0, 2.0, 0.5, 2.5} <= set(points), "rotations of neurons alone"
    assert 1.5 not in points
    assert [label.get_text() for label in ax.get_yticklabels()] == ["layer 3", "layer 4"]


def test_groups_are_compared_with_their_null_and_less_it(axes):
    estimate = Estimate(2.0, 1, 3, 1, 1)
    table = pd.DataFrame({"layer": [3, 4], "kind": ["gate", "in"], "neurons": [estimate] * 2})
    table["matched vectors"], table["difference"] = [[Estimate(1.0, 0, 2, 1, 1)] * 2] * 2
    above, below = causal.compared(table, axes, by=["layer", "kind"], label="share")
    assert [label.get_text() for label in above.get_yticklabels()] == [
        "layer 3, gate",
        "layer 4, in",
    ]
    assert below.get_xlabel() == "share, less that of matched vectors"
    table["matched rotations"], table["less rotations"] = [[estimate] * 2] * 2
    assert "rotations" in causal.compared(table, axes, by=["kind"], label="share")[1].get_xlabel()


def test_tokens_of_the_channel_are_in_its_colour(axes):
    ax = causal.no_longer_promoted(["a", "b"], [2.0, 1.0], [True, False], axes[0])
    colours = [mpl.colors.to_hex(patch.get_facecolor()) for patch in ax.patches[:2]]
    assert colours == [COLOURS["neuron"].lower(), COLOURS["null"].lower()]
    keys = ax.get_legend().get_patches()
    assert [mpl.colors.to_hex(patch.get_facecolor()) for patch in keys] == colours
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]
