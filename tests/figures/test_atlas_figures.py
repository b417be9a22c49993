"""Figures of the null: what they draw, and that they do so for one row."""

from __future__ import annotations

import pandas as pd

from rotate_core.figures.atlas import LINE_STYLES, roundings, where_hidden
from rotate_core.figures.style import panels, plt
from rotate_core.verdicts.intervals import Estimate


def test_shares_stand_over_their_steps_and_what_is_no_statistic_is_dashed() -> None:
    shares = [Estimate(value, value - 0.1, value + 0.1, 9, 9) for value in (0.2, 0.7)]
    table = pd.DataFrame({"seen": ["below 2", "6 or more"], "n": [3, 9], "turned to": shares})
    table["core"] = shares[::-1]
    names = {"turned to": "found", "core": "certified"}
    for rows in (table, table[:1]):
        ax = where_hidden(rows, panels(1)[0], names=names)
        found, core = ax.get_lines()
        assert found.get_ydata().tolist() == [e.value for e in rows["turned to"]]
        assert (found.get_linestyle(), core.get_linestyle()) == ("--", "-")
        assert core.get_color() == LINE_STYLES["core"][0]
        ticks = [tick.get_text() for tick in ax.get_xticklabels()]
        assert ticks == ["below 2\n(3)", "6 or more\n(9)"][: len(rows)]
        plt.close(ax.figure)


def test_a_rounding_stands_at_its_size_and_the_one_in_use_has_a_line() -> None:
    counts = {"channels": [30, 30], "same": [27, 15], "first_channels": [10, 10]}
    rows = pd.DataFrame({"megabytes": [20.0, 10.0], "first_same": [10, 8], **counts}, ["127", "7"])
    (ax,) = panels(1)
    first, every, in_use = roundings(rows, ax, chosen="7").lines
    assert first.get_xydata().tolist() == [[20, 1], [10, 0.8]]
    assert list(every.get_ydata()) == [0.9, 0.5]
    assert set(in_use.get_xdata()) == {10}
    (ax,) = panels(1)
    assert not roundings(pd.DataFrame(), ax, chosen="7").lines
    plt.close("all")
