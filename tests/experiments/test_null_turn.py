"""Channels beyond the null, by how far they had to turn."""

import math

import pandas as pd
import pytest

from rotate_core.experiments.null_turn import nearly_there

NULL = pd.DataFrame({"cosine": [i / 100 for i in range(101)]})  # a twentieth is above 0.95


def table(cosines_beyond, cosines_of_others):
    rows = [
        {"layer": 0, "kind": "out", "neuron": i, "cosine": cosine, "q_value": q}
        for q, cosines in ((0.01, cosines_beyond), (0.5, cosines_of_others))
        for i, cosine in enumerate(cosines, start=int(1000 * q))
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("near", "far", "others", "said"),
    [
        (28, 2, 0.5, "mostly what was nearly there"),
        (15, 15, 0.5, "more often than the rest"),
        (2, 28, 0.97, "less often than the rest"),
        (2, 2, 0.5, "cannot tell"),
        (0, 0, 0.5, "Nothing stands out"),
    ],
)
def test_the_finding_follows_from_the_shares(near, far, others, said):
    turned = nearly_there(table([0.97] * near + [0.6] * far, [others] * 40), NULL)
    assert said in turned.finding
    assert turned.cosine == pytest.approx(0.95)
    assert turned.others.value == (others > 0.95)
    if near + far:
        assert turned.share.value == near / (near + far)
    else:
        assert math.isnan(turned.share.value)


def test_channels_of_a_neuron_are_drawn_together():
    rows = pd.concat([table([0.97] * 8, [0.5] * 8)] * 3)
    assert nearly_there(rows, NULL).share.n_clusters == 8
    assert nearly_there(rows, NULL).share.n == 24
