"""Figures of the descriptions draw both texts, and tell them apart."""

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from rotate_core.figures import descriptions
from rotate_core.verdicts.intervals import Estimate


@pytest.fixture
def axes():
    yield list(plt.subplots(1, 2)[1])
    plt.close("all")


def points(ax):
    """(value, row, hollow) of each mark."""
    marks = [line for line in ax.lines if len(line.get_xdata()) == 1]
    return [(m.get_xdata()[0], m.get_ydata()[0], m.get_markerfacecolor() == "white") for m in marks]


def estimate(value):
    return Estimate(value, value - 0.1, value + 0.1, 5, 5)


def test_means_stand_side_by_side_by_text(axes):
    rows = [
        {"kernel": kernel, "method": method, "text": text, "AUROC": estimate(value)}
        for kernel in ("exact", "related")
        for method, text, value in [
            ("x", "one", 0.6), ("x", "two", 0.5), ("MaxAct+VocabProj", "one", 0.7)
        ]
    ]  # fmt: skip
    groups = {"ours": ["x"], "text": ["MaxAct+VocabProj"]}
    descriptions.means_by_text(pd.DataFrame(rows), axes, groups=groups, value="AUROC")
    for ax in axes:
        (first, at, hollow), (second, below, other_hollow), (third, next_row, _) = points(ax)
        assert (first, second, third) == (0.6, 0.5, 0.7)
        assert (hollow, other_hollow) == (False, True)
        assert at < below < 0.5 < next_row, "one row per method, the first text above"
        assert [label.get_text() for label in ax.get_yticklabels()] == ["x", "MaxAct+VocabProj"]


def test_signs_are_told_by_their_shape(axes):
    rows = [
        {"kernel": kernel, "method": "x", "polarity": sign, "AUROC": value}
        for kernel in ("exact", "related")
        for sign, value in (("positive", 0.6), ("negative", 0.4))
    ]
    groups = {"ours": ["x"]}
    descriptions.strips_by_polarity(pd.DataFrame(rows), axes, groups=groups, value="AUROC")
    marks = {
        cloud.get_offsets()[0][0]: (cloud.get_paths()[0], cloud.get_offsets()[0][1])
        for cloud in axes[0].collections
    }
    (up, above), (down, below) = marks[0.6], marks[0.4]
    assert above < below, "the positive ones above"
    assert up.vertices.tolist() != down.vertices.tolist()


def test_wins_are_counted_by_text_and_kernel(axes):
    rows = [
        {"text": text, "kernel": kernel, "against": other, "ratio": estimate(value),
         "won": won, "tied": 0, "lost": 1}
        for won, (text, kernel, other, value) in enumerate(
            (text, kernel, other, value)
            for text, value in (("one", 2.0), ("two", 0.5))
            for kernel in ("exact", "related")
            for other in ("y", "z")
        )
    ]  # fmt: skip
    ax = descriptions.win_ratios(pd.DataFrame(rows), axes[0])
    drawn = points(ax)
    assert len(drawn) == 8
    assert all(hollow == (value == 0.5) for value, _, hollow in drawn)
    assert len({at for _, at, _ in drawn}) == 8, "no mark upon another"
    counts = [text.get_text() for text in ax.texts if text.get_text().endswith("/ 0 / 1")]
    assert sorted(counts) == [f"{won} / 0 / 1" for won in range(8)]
