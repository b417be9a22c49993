"""Figures of one neuron's channels."""

from __future__ import annotations

from rotate_core.figures.channels import tail_tokens
from rotate_core.figures.style import panels, plt


def test_a_bar_points_to_the_side_that_its_token_is_on() -> None:
    axes = panels(2)
    tail_tokens([[("up", 9.0), ("down", -5.0)], [("alone", -7.0)]], axes)
    assert [bar.get_width() for bar in axes[0].patches] == [9, -5]
    assert [bar.get_width() for bar in axes[1].patches] == [-7]
    assert [tick.get_text() for tick in axes[0].get_yticklabels()] == ["up", "down"]
    assert axes[0].get_xlim() == axes[1].get_xlim()
    plt.close(axes[0].figure)
