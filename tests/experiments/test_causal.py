"""The causal estimators on planted truth: a planted channel scores high, a random one does not."""

import dataclasses

import numpy as np
import pytest
import torch
from tiny_models import D_MODEL, TOKENS, tiny

from rotate_core import Vocabulary, decompose
from rotate_core.experiments.input_ablation import FIXED, RULES, Rule, Side, input_ablation
from rotate_core.experiments.output_ablation import RULES as OUTPUT_RULES
from rotate_core.experiments.output_ablation import (
    active_contexts,
    auroc_of,
    logit_drops,
    output_ablation,
)
from rotate_core.null.matched import matched_rotations
from rotate_core.null.tails import heaviest, signed_z, tails, token_signs
from rotate_core.text.activations import mlp_of
from rotate_core.text.corpus import Windows

D, V, BLOCK = 64, 1500, 30


@pytest.fixture(scope="module")
def planted():
    """Two blocks of tokens, neurons that are sums of their directions, their channels, and text."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.linalg.qr(torch.randn(D, 2, generator=generator)).Q.T
    projection = torch.randn(D, V, generator=generator)
    projection[:, :BLOCK] += 8 * directions[0][:, None]
    projection[:, BLOCK : 2 * BLOCK] += 8 * directions[1][:, None]
    mixture = torch.tensor([[1.0, 1.0], [1.02, 0.98], [0.98, 1.02]])
    w = mixture @ directions + 0.02 * torch.randn(3, D, generator=generator)
    vocabulary = Vocabulary(projection, torch.ones(V))
    channels = decompose(w, vocabulary, n_channels=2, threshold=3.5, progress=False)
    exact = (w @ directions.T).unsqueeze(2) * directions  # the two summands of each neuron
    first = channels.top_ids[:, 0, :10].lt(BLOCK).float().mean(1) > 0.5
    exact = torch.where(first[:, None, None], exact, exact.flip(1))
    channels = dataclasses.replace(channels, vectors=exact)
    tokens = torch.randint(0, V, (40_000,), generator=generator)
    x = projection.T[tokens] / 8
    return channels, x, tokens


class Identity(torch.nn.Module):
    """Neurons without a nonlinearity, so that what an ablation does is known."""

    def forward(self, x):
        return x


@pytest.fixture(scope="module")
def side(planted):
    channels, x, tokens = planted
    return Side(x, {"current": tokens}, None, channels.weight_vectors, Identity())


def test_tails_are_the_planted_blocks(planted):
    channels = planted[0]
    member = tails(channels)
    for i in range(3):
        blocks = [set(member[i, k].nonzero().flatten().tolist()) for k in range(2)]
        wanted = [set(range(BLOCK)), set(range(BLOCK, 2 * BLOCK))]
        assert any(len(blocks[0] & block) > 20 for block in wanted)
        assert len(blocks[0] & blocks[1]) < 5


def test_planted_channels_are_faithful_and_complete(planted, side):
    rows, neurons = input_ablation(side, planted[0], "in", n_rotations=20)
    assert not rows[rows.rule == FIXED].skipped.any()
    rows = rows[~rows.skipped]
    assert (rows.faithfulness > 0.7).all()
    assert rows.passes.mean() == 1
    assert (rows.d_own > 0.7).all()
    assert (rows.rotation.abs() < 0.25).all()
    assert (neurons.completeness > 0.8).all()


def test_random_channels_are_not(planted, side, monkeypatch):
    """Directions at the channels' own cosines, with the channels' own tails."""
    channels = planted[0]
    random = dataclasses.replace(channels, vectors=matched_rotations(channels, 1, seed=9)[0])
    monkeypatch.setattr(
        "rotate_core.experiments.input_ablation.signed_z", lambda _, i: signed_z(channels, i)
    )
    rows, _ = input_ablation(side, random, "in", n_rotations=20)
    assert rows.faithfulness.abs().mean() < 0.25


def test_a_channel_without_positions_is_skipped_not_scored(planted, side):
    few = dataclasses.replace(side, tokens={"next": torch.full_like(side.tokens["current"], V - 1)})
    rows, _ = input_ablation(few, planted[0], "in", n_rotations=2)
    assert rows.skipped.all()
    assert rows.faithfulness.isna().all()
    with pytest.raises(ValueError, match="gate and in"):
        input_ablation(side, planted[0], "out")


def test_scores_are_those_of_the_definition_written_out(planted, side):
    """D(E_k) - D(O_k) by plain loops, for every rule and both modes."""
    channels, x, _ = planted
    rows, neurons = input_ablation(side, channels, "in", n_rotations=3)
    w, c = channels.weight_vectors[1], channels.vectors[1]
    alpha = torch.linalg.lstsq(c.T.double(), w.double()[:, None]).solution.squeeze(1)
    a = (x @ w).abs()
    for name, rule in RULES.items():
        top = a.topk(int(rule.top_share * len(a))).indices
        threshold = 3.5 if rule.threshold is None else rule.threshold
        member = (signed_z(channels, 1) > threshold)[:, side.tokens["current"][top]]
        for k in range(2):
            unit = c[k] / c[k].norm()
            for mode, part in {
                "subtract": alpha[k].float() * c[k],
                "project": unit * (unit @ w),
            }.items():
                found = rows[(rows.neuron == 1) & (rows.channel == k) & (rows["mode"] == mode)]
                found = found[found.rule == name].iloc[0]
                own, other = member[k], member[1 - k] & ~member[k]
                assert found.n_own == own.sum()
                assert found.skipped == (min(own.sum(), other.sum()) < rule.least)
                if not found.skipped:
                    after = (x[top] @ (w - part)).abs()
                    lost = [1 - after[s].sum() / a[top][s].sum() for s in (own, other)]
                    assert found.faithfulness == pytest.approx((lost[0] - lost[1]).item(), abs=1e-4)
    top = a.topk(400).indices
    removed = 1 - (x[top] @ (w - alpha.float() @ c)).abs().sum() / a[top].sum()
    whole = neurons[(neurons.neuron == 1) & (neurons.top_share == 0.01)].completeness.item()
    assert whole == pytest.approx(removed.item(), abs=1e-4)


def test_a_rule_changes_one_threshold_at_a_time():
    for rules in (RULES, OUTPUT_RULES):
        fixed = dataclasses.asdict(rules[FIXED])
        for name, rule in rules.items():
            changed = [
                key for key, value in dataclasses.asdict(rule).items() if value != fixed[key]
            ]
            assert len(changed) == (name != FIXED), name
    assert RULES[FIXED] == Rule(top_share=0.01, least=10, quantile=0.95, threshold=None)


def test_virtual_neurons_stand_where_the_neurons_stood(planted):
    """`swapped` puts vectors in place of one kind and keeps the partners of the rows named."""
    channels, x, tokens = planted
    side = Side(
        x, {"current": tokens}, channels.weight_vectors, channels.weight_vectors + 1, Identity()
    )
    vectors = torch.zeros(2, D)
    assert side.swapped("gate", vectors, [2, 0]).gate is vectors
    assert torch.equal(side.swapped("gate", vectors, [2, 0]).in_, side.in_[[2, 0]])
    assert torch.equal(side.swapped("in", vectors, [1, 2]).gate, side.gate[[1, 2]])
    assert side.swapped("in", vectors, [1, 2]).in_ is vectors


def test_tails_by_side(planted):
    channels = planted[0]
    plain = channels.vectors[0] @ channels.vocabulary.projection
    z = (plain - plain.mean(1, keepdim=True)) / plain.std(1, keepdim=True, correction=0)
    weights = torch.ones(V)
    weights[3] = 0
    vocabulary = dataclasses.replace(channels.vocabulary, token_weights=weights)
    for tail, expected in ((1, z), (-1, -z), (0, z.abs())):
        sided = dataclasses.replace(
            channels, polarity=torch.full_like(channels.polarity, tail), vocabulary=vocabulary
        )
        found = signed_z(sided, 0)
        assert torch.isinf(found[:, 3]).all()
        keep = torch.arange(V) != 3
        torch.testing.assert_close(found[:, keep], expected[:, keep], atol=1e-4, rtol=1e-4)
        signs = token_signs(sided, 0).expand(2, V)
        assert (signs == tail).all() if tail else torch.equal(signs, z.sign())
    assert heaviest(torch.tensor([0.0, 5.0, 9.0, 7.0]), threshold=4, n=2).tolist() == [2, 3]
    assert heaviest(torch.tensor([0.0, 5.0, 9.0, 7.0]), threshold=4, n=None).tolist() == [2, 3, 1]


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_logit_drops_are_those_of_a_model_that_is_run_again(family):
    model = tiny(family)
    vectors = torch.randn(3, D_MODEL, generator=torch.Generator().manual_seed(0))
    a = torch.tensor([0.5, -2.0])
    drops = logit_drops(model, 0, TOKENS, a, vectors)
    for j, vector in enumerate(vectors):
        expected = 0
        for row, value in zip(TOKENS, a, strict=True):

            def edit(_, __, output, value=value, vector=vector):
                output = output.clone()
                output[:, -1] -= value * vector
                return output

            with torch.no_grad():
                before = model(row[None]).logits[0, -1]
                handle = mlp_of(model, 0).register_forward_hook(edit)
                after = model(row[None]).logits[0, -1]
                handle.remove()
            expected = expected + value.sign() * (before - after) / 2
        torch.testing.assert_close(drops[j], expected, atol=1e-4, rtol=1e-3)
    assert not any(module._forward_hooks for module in model.modules())


def test_planted_output_channels_have_their_tokens_on_top():
    """out vectors made of two unembedding directions: their channels promote just these."""
    model = tiny("llama")
    with torch.no_grad():
        model.lm_head.weight.normal_(generator=torch.Generator().manual_seed(3))
        model.lm_head.weight[:4] += 6 * torch.eye(D_MODEL)[0]
        model.lm_head.weight[4:8] += 6 * torch.eye(D_MODEL)[1]
    projection = model.lm_head.weight.detach().T.clone()
    w = torch.eye(D_MODEL)[:2].sum(0, keepdim=True) * 0.2
    vocabulary = Vocabulary(projection, torch.ones(projection.shape[1]))
    channels = decompose(w, vocabulary, n_channels=2, threshold=1.5, progress=False)
    contexts, activation = TOKENS[None], torch.ones(1, 2)
    frequency = torch.ones(projection.shape[1])
    rows, neurons, drops = output_ablation(
        model, channels, 1, contexts, activation, frequency, n_rotations=10
    )
    assert drops.shape == (1, 2, projection.shape[1])
    rows, neurons = rows[rows.rule == FIXED], neurons[neurons.rule == FIXED]
    assert (rows.auroc > 0.85).all()
    assert (rows.auroc > rows.auroc_rotation).all()
    assert (rows.faithfulness > rows.faithfulness_rotation).all()
    assert neurons.completeness.item() > 0.8


def test_auroc_is_scipys():
    from scipy.stats import mannwhitneyu

    generator = np.random.default_rng(0)
    scores = generator.integers(0, 30, 200).astype(float)  # with ties
    positive = np.arange(12)
    expected = mannwhitneyu(scores[:12], scores[12:]).statistic / (12 * 188)
    assert auroc_of(scores[positive], np.sort(scores)) == pytest.approx(expected)


def test_contexts_end_where_the_neuron_is_most_active_once_a_document():
    generator = torch.Generator().manual_seed(0)
    windows = Windows(torch.arange(60).reshape(6, 10), torch.tensor([0, 0, 1, 1, 2, 2]), ("",) * 3)
    activation = torch.randn(6, 10, 2, generator=generator)
    activation[3, 7, 0] = -50
    contexts, values = active_contexts(windows, activation, n=3, length=4)
    assert contexts.shape == (2, 3, 4)
    assert contexts[0, 0].tolist() == [34, 35, 36, 37]
    assert values[0, 0] == -50
    assert set((contexts[0, :, 0] // 20).tolist()) == {0, 1, 2}, "one of each document"
    with pytest.raises(ValueError, match="read more text"):
        active_contexts(windows, activation, n=7, length=4)
