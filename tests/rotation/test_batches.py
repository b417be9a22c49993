"""Many neurons in one batch: threads, batches and the race of two climbs change nothing else."""

from __future__ import annotations

import math

import pytest
import torch

from rotate_core.rotation import deflate as deflation
from rotate_core.rotation import sphere
from rotate_core.rotation.curvature import Curvature
from rotate_core.rotation.deflate import RACE, deflate
from rotate_core.rotation.moments import LANE_TOKENS
from rotate_core.rotation.settings import Settings
from rotate_core.rotation.threads import each, team


def problem(n_neurons=7, d_model=12, d_vocab=400, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    projection = torch.randn(d_model, d_vocab, generator=generator, dtype=dtype) ** 3
    return torch.randn(n_neurons, d_model, generator=generator, dtype=dtype), projection


@pytest.mark.parametrize("restarts", [1, 3])
def test_a_neuron_does_not_feel_who_else_is_in_the_batch(restarts):
    w, projection = problem()
    options = {"n_channels": 3, "settings": Settings(restarts=restarts)}
    whole = deflate(w, projection, **options)
    for batch in (1, 2, 5):
        other = deflate(w, projection, batch=batch, **options)
        assert torch.equal(other["n_iter"], whole["n_iter"])
        torch.testing.assert_close(other["vectors"], whole["vectors"], rtol=1e-7, atol=1e-7)


def test_the_number_of_threads_changes_not_a_bit():
    w, projection = problem(3, d_vocab=3 * LANE_TOKENS, dtype=torch.float32)
    before, found = torch.get_num_threads(), []
    try:
        for n_threads in (1, 2, 3):
            torch.set_num_threads(n_threads)
            found.append(deflate(w, projection, n_channels=2)["vectors"])
            assert torch.get_num_threads() == n_threads
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_threads_are_given_back_after_an_error():
    def fails(piece):
        raise ValueError(piece)

    before = torch.get_num_threads()
    with team(torch.device("cpu")):
        assert each(lambda piece: 2 * piece, range(5)) == [0, 2, 4, 6, 8]
    with pytest.raises(ValueError, match="1"), team(torch.device("cpu")):
        each(fails, [1])
    assert torch.get_num_threads() == before


def test_climbs_begin_towards_the_tails_of_the_neurons_own_logits():
    w, projection = problem(4)
    m = torch.ones(4, projection.shape[1], dtype=torch.float64)
    m[:, :7] = 1e-6
    w = w / w.norm(dim=1, keepdim=True)
    curvature = Curvature.of(projection, m[0])
    settings = Settings()
    state, _ = sphere.begin_at_tails(w, projection, m, settings, curvature)
    p = m[0] / m[0].sum()
    centred = projection - (projection * p).sum(1, keepdim=True)
    z = w @ centred
    z = z / (p * z * z).sum(1, keepdim=True).sqrt()
    moved = ((state.s - torch.cat([w, w])).norm(dim=1) > 1e-6).nonzero().flatten().tolist()
    assert len(moved) >= 5, "the others find no higher point on the way"
    for row in moved:
        neuron, side = row % 4, 1 if row < 4 else -1
        pull = centred @ (p * side * (side * z[neuron] > sphere.TAIL))
        s = w[neuron : neuron + 1]
        pull = sphere.tangent(curvature.solve(pull.unsqueeze(0)), s)[0]
        left = state.s[row] - (state.s[row] @ w[neuron]) * w[neuron]
        assert torch.cosine_similarity(left, pull, 0) == pytest.approx(1, abs=1e-9)
    assert (state.taken == 1).all()


def test_where_a_tail_is_empty_the_climb_is_still_at_the_neuron():
    _, projection = problem(1)
    projection[0] = projection[0].abs()  # the logits of the first axis: no negative tail
    w = torch.eye(12, dtype=torch.float64)[:1]
    m = torch.ones(1, projection.shape[1], dtype=torch.float64)
    state, before = sphere.begin_at_tails(w, projection, m, Settings(), None)
    assert torch.equal(state.s[1], w[0])
    assert state.value[1] == before[1] == before[0] < state.value[0]
    assert state.gain[1] == math.inf, "it has not stalled: it has not begun"
    assert not torch.equal(state.s[0], w[0])


def test_the_climb_that_is_higher_after_the_race_is_the_one_that_goes_on(monkeypatch):
    w, projection = problem(9, seed=3)
    raced = deflate(w, projection, n_channels=1)
    monkeypatch.setattr(deflation, "RACE", 10_000)  # both to their ends, and the higher is kept
    best = deflate(w, projection, n_channels=1)
    assert (best["objective"] >= raced["objective"] - 1e-9).all()
    monkeypatch.setattr(deflation, "RACE", RACE)
    m = torch.ones(9, projection.shape[1], dtype=torch.float64)
    unit = w / w.norm(dim=1, keepdim=True)
    settings, curvature = Settings(), Curvature.of(projection, m[0])
    state, before = sphere.begin_at_tails(unit, projection, m, settings, curvature)
    curves = [before.tolist(), state.value.tolist()]
    for _ in range(RACE - 1):
        sphere.advance(state, sphere.gradient(state, settings), settings, curvature)
        curves.append(state.value.tolist())
    curves = torch.tensor(curves, dtype=torch.float64).T.reshape(2, 9, RACE + 1)
    winner = curves[:, :, -1].argmax(0)
    apart = (curves[0, :, -1] - curves[1, :, -1]).abs() > 1e-6  # else both are at one summit
    assert apart.sum() >= 3
    for neuron in apart.nonzero().flatten().tolist():
        history = raced["history"][neuron, 0]
        length = min(RACE + 1, int((~history.isnan()).sum()))
        expected = curves[winner[neuron], neuron, :length]
        torch.testing.assert_close(history[:length], expected, rtol=1e-8, atol=1e-8)
