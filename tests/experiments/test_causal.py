"""The causal estimators on planted truth: a planted channel scores high, a random one does not."""

import dataclasses

import numpy as np
import pytest
import torch
from tiny_models import D_MODEL, TOKENS, tiny

from rotate_core import Vocabulary, decompose
from rotate_core.experiments.input_ablation import (
    FIXED,
    RULES,
    ReadingNeurons,
    Rule,
    input_ablation,
)
from rotate_core.experiments.output_ablation import RULES as OUTPUT_RULES
from rotate_core.experiments.output_ablation import auroc, output_ablation
from rotate_core.experiments.output_logits import active_contexts, logit_drops
from rotate_core.null.evidence import tail_evidence
from rotate_core.null.matched import matched_rotations
from rotate_core.null.tails import heaviest, signed_z
from rotate_core.text.corpus import Windows
from rotate_core.text.sites import mlp_of

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
    channels = dataclasses.replace(channels, kind="in")
    exact = (w @ directions.T).unsqueeze(2) * directions  # the two summands of each neuron
    first = channels.top_ids[:, 0, :10].lt(BLOCK).float().mean(1) > 0.5
    exact = torch.where(first[:, None, None], exact, exact.flip(1))
    channels = dataclasses.replace(channels, vectors=exact)
    tokens = torch.randint(0, V, (1, 40_002), generator=generator)
    x = projection.T[tokens] / 8
    x += 0.01 * torch.randn(x.shape, generator=generator)  # no two positions are as active
    return channels, x, Windows(tokens, torch.zeros(1).long(), ("",))


class Identity(torch.nn.Module):
    """Neurons without a nonlinearity, so that what an ablation does is known."""

    def forward(self, x):
        return x


@pytest.fixture(scope="module")
def neurons(planted):
    channels, x, windows = planted
    return ReadingNeurons(windows, windows.counted(x), {"in": channels.weight_vectors}, Identity())


def test_tails_are_the_planted_blocks(planted):
    channels = planted[0]
    d_vocab = len(channels.vocabulary.tokens)
    member = tail_evidence(channels).tails.mask(d_vocab).view(*channels.kurtosis.shape, d_vocab)
    for i in range(3):
        blocks = [set(member[i, k].nonzero().flatten().tolist()) for k in range(2)]
        wanted = [set(range(BLOCK)), set(range(BLOCK, 2 * BLOCK))]
        assert any(len(blocks[0] & block) > 20 for block in wanted)
        assert len(blocks[0] & blocks[1]) < 5


def test_planted_channels_are_faithful_and_complete(planted, neurons):
    rows, whole = input_ablation(neurons, planted[0], n_rotations=20)
    assert not rows[rows.rule == FIXED].skipped.any()
    rows = rows[~rows.skipped & (rows.rule != "the other token read")]
    assert (rows.faithfulness > 0.7).all()
    assert rows.passes.mean() == 1
    assert (rows.d_own > 0.7).all()
    assert (rows.rotation.abs() < 0.25).all()
    assert (whole.completeness > 0.8).all()


def test_random_channels_are_not(planted, neurons, monkeypatch):
    """Directions at the channels' own cosines, with the channels' own tails."""
    channels = planted[0]
    random = dataclasses.replace(channels, vectors=matched_rotations(channels, 1, seed=9)[0])
    monkeypatch.setattr(
        "rotate_core.experiments.input_ablation.signed_z", lambda _, i: signed_z(channels, i)
    )
    rows, _ = input_ablation(neurons, random, n_rotations=20)
    assert rows.faithfulness.abs().mean() < 0.25


def test_a_channel_without_positions_is_skipped_not_scored(planted, neurons):
    last = torch.full_like(neurons.windows.tokens, V - 1)
    few = dataclasses.replace(neurons, windows=dataclasses.replace(neurons.windows, tokens=last))
    rows, _ = input_ablation(few, planted[0], n_rotations=2)
    assert rows.skipped.all()
    assert rows.faithfulness.isna().all()
    with pytest.raises(ValueError, match="gate and in"):
        input_ablation(neurons, dataclasses.replace(planted[0], kind="out"))


def test_scores_are_those_of_the_definition_written_out(planted, neurons):
    """D(E_k) - D(O_k) by plain loops, for every rule."""
    channels, x, windows = planted
    rows, whole = input_ablation(neurons, channels, n_rotations=3)
    x = x[0, 1:-1]
    w, c = channels.weight_vectors[1], channels.vectors[1]
    alpha = torch.linalg.lstsq(c.T.double(), w.double()[:, None]).solution.squeeze(1)
    a = (x @ w).abs()
    for name, rule in RULES.items():
        top = a.topk(int(rule.top_share * len(a))).indices
        threshold = 3.5 if rule.threshold is None else rule.threshold
        read = windows.next if name == "the other token read" else windows.current
        member = (signed_z(channels, 1)[0] > threshold)[:, read[top]]
        for k in range(2):
            unit = c[k] / c[k].norm()
            part = unit * (unit @ w) if name == "projected out" else alpha[k].float() * c[k]
            row = rows[(rows.neuron == 1) & (rows.channel == k) & (rows.rule == name)].iloc[0]
            own, other = member[k], member[1 - k] & ~member[k]
            assert row.n_own == own.sum()
            assert row.skipped == (min(own.sum(), other.sum()) < rule.least)
            if not row.skipped:
                after = (x[top] @ (w - part)).abs()
                lost = [1 - after[s].sum() / a[top][s].sum() for s in (own, other)]
                assert row.faithfulness == pytest.approx((lost[0] - lost[1]).item(), abs=1e-4)
    top = a.topk(400).indices
    removed = 1 - (x[top] @ (w - alpha.float() @ c)).abs().sum() / a[top].sum()
    found = whole[(whole.neuron == 1) & (whole.top_share == 0.01)].completeness.item()
    assert found == pytest.approx(removed.item(), abs=1e-4)


def test_a_rule_changes_one_threshold_at_a_time():
    for rules in (RULES, OUTPUT_RULES):
        fixed = dataclasses.asdict(rules[FIXED])
        for name, rule in rules.items():
            changed = [
                key for key, value in dataclasses.asdict(rule).items() if value != fixed[key]
            ]
            assert len(changed) == (name != FIXED), name
    assert RULES[FIXED] == Rule(top_share=0.01, least=10, quantile=0.95, threshold=None)


def test_matched_vectors_stand_where_the_neurons_stood(planted):
    """The channels' own vectors are read by, beside the other vector of the neurons named."""
    channels, x, windows = planted
    partners = {"gate": channels.weight_vectors, "in": channels.weight_vectors + 1}
    neurons = ReadingNeurons(windows, windows.counted(x), partners, Identity())
    gate = dataclasses.replace(
        channels, kind="gate", weight_vectors=channels.weight_vectors.flip(0)
    )
    _, whole = input_ablation(neurons, gate, n_rotations=1)
    x = x[0, 1:-1]
    w, c, u = gate.weight_vectors[0], gate.vectors[0], partners["in"][0]
    alpha = torch.linalg.lstsq(c.T.double(), w.double()[:, None]).solution.squeeze(1).float()
    a = ((x @ w) * (x @ u)).abs()
    top = a.topk(400).indices
    removed = 1 - ((x @ (w - alpha @ c)) * (x @ u)).abs()[top].sum() / a[top].sum()
    found = whole[(whole.neuron == 0) & (whole.top_share == 0.01)].completeness.item()
    assert found == pytest.approx(removed.item(), abs=1e-4)


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
        found, signs = signed_z(sided, 0)
        assert torch.isinf(found[:, 3]).all()
        keep = torch.arange(V) != 3
        torch.testing.assert_close(found[:, keep], expected[:, keep], atol=1e-4, rtol=1e-4)
        signs = signs.expand(2, V)
        assert (signs == tail).all() if tail else torch.equal(signs, z.sign())
    assert heaviest(torch.tensor([0.0, 5.0, 9.0, 7.0]), threshold=4, n=2).tolist() == [2, 3]
    assert heaviest(torch.tensor([0.0, 5.0, 9.0, 7.0]), threshold=4, n=None).tolist() == [2, 3, 1]


@pytest.mark.parametrize("family", ["llama", "gemma2", "olmo2", "gpt2", "gpt_neox"])
def test_logit_drops_are_those_of_a_model_that_is_run_again(family):
    model = tiny(family)
    vectors = torch.randn(3, D_MODEL, generator=torch.Generator().manual_seed(0))
    a = torch.tensor([0.5, -2.0])
    drops = logit_drops(model, 0, TOKENS, a, vectors).mean(0)
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
    channels = dataclasses.replace(channels, layer=1)
    windows = Windows(TOKENS, torch.arange(2), ("", ""))
    rows, neurons = output_ablation(
        model, channels, windows, torch.ones(2, 6, 1), n_positions=2, context=6, n_rotations=10
    )
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
    assert auroc(scores[positive], np.sort(scores)) == pytest.approx(expected)


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
