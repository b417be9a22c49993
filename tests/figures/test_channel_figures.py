"""Figures of one neuron's channels."""

from __future__ import annotations

import matplotlib.pyplot as plt

from rotate_core.figures.channels import tail_tokens
from rotate_core.figures.style import panels


def test_a_triangle_says_on_which_side_a_token_is() -> None:
    axes = panels(2)
    tail_tokens([[("up", 9.0), ("down", -5.0)], [("alone", -7.0)]], axes)
    above, below = axes[0].get_lines()
    assert (above.get_marker(), below.get_marker()) == ("^", "v")
    assert above.get_xydata().tolist() == [[9, 0]]
    assert below.get_xydata().tolist() == [[5, 1]]
    assert [len(line.get_xydata()) for line in axes[1].get_lines()] == [0, 1]
    assert [tick.get_text() for tick in axes[0].get_yticklabels()] == ["up", "down"]
    assert len(axes[0].figure.legends) == 1
    plt.close(axes[0].figure)
