"""KL on topic and off, on models of known truth."""

import dataclasses
import math

import pytest
import torch
from tiny_models import D_MODEL, D_VOCAB, TOKENS, tiny

from rotate_core import Vocabulary, ablate, decompose
from rotate_core.experiments.output_divergence import (
    LEAST_NATS,
    OVER,
    POSITIONS,
    divergence,
    divergences,
    kl_divergence,
    positions,
)
from rotate_core.text.corpus import Windows
from rotate_core.text.sites import activation_function, at_every_position, neuron_activations


def test_kl_is_torchs_and_right_where_it_is_tiny():
    generator = torch.Generator().manual_seed(0)
    before = 3 * torch.randn(5, 400, generator=generator)
    after = before + 0.1 * torch.randn(5, 400, generator=generator)
    p, q = before.double().log_softmax(-1), after.double().log_softmax(-1)
    expected = torch.nn.functional.kl_div(q, p, log_target=True, reduction="none").sum(-1)
    torch.testing.assert_close(kl_divergence(before, after).double(), expected, rtol=1e-4, atol=0)
    assert (kl_divergence(before, before) == 0).all()
    after = before + 1e-4 * torch.randn(5, 400, generator=generator)
    q = after.double().log_softmax(-1)
    expected = torch.nn.functional.kl_div(q, p, log_target=True, reduction="none").sum(-1)
    torch.testing.assert_close(kl_divergence(before, after).double(), expected, rtol=0.05, atol=0)


@pytest.mark.parametrize("family", ["llama", "gemma2", "olmo2", "gpt2", "gpt_neox"])
def test_no_ablation_is_no_divergence_and_one_is_what_ablate_gives(family):
    model = tiny(family)
    vector = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(0))
    found = divergences(model, [(1, 3, "out", 0 * vector), (1, 3, "out", vector)], TOKENS)
    assert found.shape == (2, *TOKENS.shape)
    assert (found[0] == 0).all()
    with torch.no_grad():
        before = model(TOKENS).logits.log_softmax(-1)
        with ablate(model, [(1, 3, "out", vector)]):
            after = model(TOKENS).logits.log_softmax(-1)
    expected = (before.exp() * (before - after)).sum(-1)
    torch.testing.assert_close(found[1], expected, atol=1e-5, rtol=1e-3)
    assert (found[1] > 0).any()
    assert not any(module._forward_hooks for module in model.modules())
    with pytest.raises(ValueError, match=r"layers \[0, 1\]: wanted one layer"):
        divergences(model, [(0, 3, "out", vector), (1, 3, "out", vector)], TOKENS)


def text(n_windows=8, length=12, seed=0):
    tokens = torch.randint(
        8, D_VOCAB, (n_windows, length), generator=torch.Generator().manual_seed(seed)
    )
    return Windows(tokens, torch.arange(n_windows), ("",) * n_windows)


@pytest.fixture
def _more_active(monkeypatch):
    monkeypatch.setattr("rotate_core.experiments.output_divergence.TOP_SHARE", 0.05)


@pytest.mark.usefixtures("_more_active")
def test_positions_are_what_they_are_called():
    windows = text()
    tail = torch.zeros(D_VOCAB, dtype=torch.bool)
    tail[:4] = True
    windows.tokens[0, 5], windows.tokens[1, 7] = 2, 1  # the only tokens of the tail
    a = torch.full(windows.tokens.shape, 0.01)
    a[0, 5], a[1, 6], a[2, 3], a[3, 4] = -9, 8, 7, -8.5  # on, on by what follows, two elsewhere
    a[4, 0] = 100  # a window's first position never counts
    frequency = torch.arange(D_VOCAB)
    for strength, numbers, on_topic, active in ((-9, [0, 3], 5, 4), (-1, [1, 3], 6, 4)):
        a[0, 5] = strength
        at = positions(windows, a, tail, frequency)
        on, near, frequent, elsewhere = at.masks.values()
        assert at.windows.tolist() == numbers
        assert on.nonzero().tolist() == [[0, on_topic]]
        assert near.nonzero().tolist() == [[1, active]]
        read = windows.tokens.roll(-(on_topic == 6), 1)[at.windows]  # the token of the tail
        assert frequent.sum() == 1
        assert read[frequent] == read[elsewhere].min(), "the rarest, as those of the tail are rarer"
        assert (elsewhere | ~frequent).all()
        assert not (elsewhere & (on | near)).any()
        assert not elsewhere[:, [0, -1]].any()
    assert positions(windows, a, torch.zeros_like(tail), frequency) is None


@pytest.fixture(scope="module")
def planted():
    """A neuron of the last layer that fires on token 7 and writes what token 3 is read by."""
    model = tiny("llama")
    mlp = model.model.layers[1].mlp
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        model.lm_head.weight.normal_(generator=generator)
        model.lm_head.weight[:4] += 6 * torch.eye(D_MODEL)[0]
        model.lm_head.weight[4:8] += 6 * torch.eye(D_MODEL)[1]
        model.model.embed_tokens.weight[:, 5] = 0
        model.model.embed_tokens.weight[7] = 30 * torch.eye(D_MODEL)[5]  # plain to see
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[5] = 0  # and nowhere else: dimension 5 is token 7's
            layer.mlp.down_proj.weight[5] = 0
        mlp.gate_proj.weight[0] = mlp.up_proj.weight[0] = torch.eye(D_MODEL)[5]
        mlp.down_proj.weight[:, 0] = 0.6 * (torch.eye(D_MODEL)[0] + 0.2 * torch.eye(D_MODEL)[1])
    windows = text(24)
    windows.tokens[::2, 5] = 7
    windows.tokens[::4, 6] = 3  # half of the times it fires, its token follows
    fires = windows.tokens == 7
    x = at_every_position(model, windows.tokens, [1], progress=False)[1]
    rows = mlp.gate_proj.weight[:1], mlp.up_proj.weight[:1]
    a = neuron_activations(x, *rows, activation_function(model)).detach()
    return model, windows, a, fires


@pytest.mark.usefixtures("_more_active")
def test_a_planted_neuron_changes_the_prediction_on_topic_alone(planted):
    model, windows, a, fires = planted
    assert (a[fires].abs() > 1).all()
    assert (a[~fires] == 0).all()
    projection = model.lm_head.weight.detach().T.clone()
    w = model.model.layers[1].mlp.down_proj.weight[:, 0].detach()[None].clone()
    vocabulary = Vocabulary(projection, torch.ones(D_VOCAB))
    channels = decompose(w, vocabulary, n_channels=1, threshold=1.5, progress=False)
    kl = divergences(model, [(1, 0, "out", w[0])], windows.tokens)[0]
    assert kl[fires].mean() > 0.05
    assert (kl[~fires] == 0).all(), "the last layer: no later position reads what it writes"

    channels = dataclasses.replace(channels, layer=1, kind="out")
    (row,) = divergence(model, channels, [0], windows, a).to_dict("records")
    least = math.log10(LEAST_NATS)
    assert row["on_topic"] > math.log10(0.05)
    assert row["elsewhere"] == row["as_frequent"] == pytest.approx(least)
    assert row["over_elsewhere"] == pytest.approx(row["on_topic"] - least, abs=1e-3)
    assert row["over_active"] == pytest.approx(row["on_topic"] - row["active"], abs=1e-3)
    assert row["on_topic"] > row["on_topic_rotation"]
    assert {"on_topic_rotation", "over_active_rotation"} <= set(row)
    assert not any(module._forward_hooks for module in model.modules())


def test_a_neuron_without_a_position_on_topic_keeps_its_place_and_has_no_figures(planted):
    model, windows, a, _ = planted
    generator = torch.Generator().manual_seed(0)
    w, projection = (torch.randn(n, D_MODEL, generator=generator) for n in (2, D_VOCAB))
    vocabulary = Vocabulary(projection.T.contiguous(), torch.ones(D_VOCAB))
    channels = decompose(w, vocabulary, n_channels=1, threshold=50.0, progress=False)
    channels = dataclasses.replace(channels, layer=1, kind="out", indices=(4, 6))
    table = divergence(model, channels, [0, 0], windows, torch.cat([a, a], -1))
    assert table.neuron.tolist() == [4, 6]
    assert table.channel.tolist() == [-1, -1]
    assert {*POSITIONS, *OVER} < set(table)
    assert table.drop(columns=["neuron", "channel"]).isna().all().all()
