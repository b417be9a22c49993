"""The turn of the first page: a great circle, what is seen on it, and neurons chosen by rule."""

import math

import pandas as pd
import pytest
import torch

from rotate_core import decompose
from rotate_core.explorer.turn import N_FRAMES, N_NAMED, geodesic, turning, worth_seeing


def test_a_geodesic_has_equal_steps_and_both_ends():
    w, channel = torch.tensor([3.0, 0.0, 0.0]), torch.tensor([0.0, 2.0, 0.0])
    points = geodesic(w, channel, 4)
    torch.testing.assert_close(points.norm(dim=1), torch.ones(4))
    angles = points @ torch.tensor([1.0, 0.0, 0.0])
    expected = torch.tensor([math.cos(math.pi / 6 * i) for i in range(4)])
    torch.testing.assert_close(angles, expected)
    torch.testing.assert_close(points[-1], torch.tensor([0.0, 1.0, 0.0]))


@pytest.mark.parametrize("times", [2.0, -2.0])
def test_parallel_vectors_have_no_one_circle(times):
    w = torch.tensor([1.0, 2.0])
    with pytest.raises(ValueError, match="not parallel"):
        geodesic(w, times * w)


def test_a_turn_ends_at_the_channel(model):
    channels = decompose(model.neurons(1, "out", [3]), model.vocabulary(1), n_channels=1)
    turn = turning(channels, 0)
    assert turn["cosine"][0] == 1
    assert turn["cosine"][-1] == pytest.approx(channels.cosine.item(), abs=1e-3)
    assert turn["kurtosis"][-1] == pytest.approx(channels.kurtosis.item(), abs=0.06)
    assert turn["threshold"] == channels.settings.threshold
    assert {len(turn[name]) for name in ("cosine", "kurtosis", "beyond", "histogram")} == {N_FRAMES}
    d_vocab = model.vocabulary(1).projection.shape[1]
    assert {sum(h["counts"]) for h in turn["histogram"]} == {d_vocab}
    assert len(turn["tokens"]) == N_NAMED
    z = [abs(zs[-1]) for _, zs in turn["tokens"]]
    assert z == sorted(z, reverse=True)


WORDS, STOPS = (" her", " she", "She", " hers", "her"), (".", ",", ";", ":", "a")


def channel(neuron, q, cosine, kurtosis, tokens=WORDS, number=0):
    names = ("layer", "kind", "neuron", "channel", "q_value", "cosine", "kurtosis", "top_tokens")
    row = (1, "out", neuron, number, q, cosine, kurtosis, tokens)
    return dict(zip(names, row, strict=True))


def test_neurons_are_chosen_by_rule():
    rows = [
        channel(0, 0.01, 0.3, 90, STOPS),  # no words
        channel(1, 0.01, 0.2, 90, number=1),  # no first channel
        channel(2, 0.09, 0.6, 10),
        channel(3, 0.01, 0.7, 20),
        channel(4, 0.01, 0.9, 30),
        channel(5, 0.10, 0.5, 80),
        channel(6, math.nan, 0.5, 70),
    ]
    found = worth_seeing(pd.DataFrame(rows))
    assert [row.neuron for _, row in found] == [2, 4, 5]
    assert [why.split()[1] for why, _ in found] == ["furthest", "least", "sharpest"]


def test_fewer_that_stand_out_leave_room_for_others():
    rows = [channel(i, 0.5, 0.5, i) for i in range(4)]
    assert [row.neuron for _, row in worth_seeing(pd.DataFrame(rows))] == [3, 2, 1]
    one = pd.DataFrame([channel(9, 0.01, 0.5, 1), *rows])
    assert [row.neuron for _, row in worth_seeing(one)] == [9, 3, 2]
    stops = pd.DataFrame([channel(0, 0.5, 0.5, 1, STOPS)])
    assert len(worth_seeing(stops)) == 1, "where no channel has words, all count"
