"""Descriptions come from supported channels only, and a good one tells when its neuron fires."""

import dataclasses

import pytest
import torch

from rotate_core import Vocabulary, decompose
from rotate_core.experiments.descriptions import (
    Description,
    Kernels,
    auroc,
    describe,
    from_activations,
    from_projection,
    merge,
    trial,
    wins,
)

V = 800
WORDS = [f" Word{i}" for i in range(V - 2)] + [" cat", "Cat"]


@pytest.fixture(scope="module")
def channels():
    generator = torch.Generator().manual_seed(0)
    projection = torch.randn(24, V, generator=generator)
    projection[0, :20] += 9
    projection[0, 20:30] -= 9
    w = torch.eye(24)[:2] + 0.05 * torch.randn(2, 24, generator=generator)
    vocabulary = Vocabulary(projection, torch.ones(V), WORDS)
    return decompose(w, vocabulary, n_channels=2, threshold=4.0, progress=False)


def test_describe_takes_supported_channels_only(channels):
    q = torch.tensor([[0.01, 0.9], [0.9, 0.9]])
    calibrated = dataclasses.replace(channels, p_value=q, q_value=q)
    first, second = describe(calibrated)
    assert set(first.ids) <= set(range(20))
    assert len(first.ids) > 10
    assert first.weights[0] == max(first.weights) == 1
    assert second.ids == ()
    assert str(second) == ""
    assert all(d.ids for d in describe(calibrated, level=1))


def test_describe_without_a_null_wants_support(channels):
    first, _ = describe(channels)
    assert len(set(first.ids) & set(range(20))) > 10
    with pytest.raises(ValueError, match="polarity"):
        describe(channels, polarity="both")


def test_projection_keeps_the_polarities_apart(channels):
    vocabulary = channels.vocabulary
    arguments = (torch.eye(24)[:1], vocabulary.projection, vocabulary.token_weights, WORDS)
    assert set(from_projection(*arguments, budget=15)[0].ids) <= set(range(20))
    negative = from_projection(*arguments, polarity="negative", budget=8)[0]
    assert set(negative.ids) <= set(range(20, 30))


def test_activations_give_the_tokens_that_fire():
    generator = torch.Generator().manual_seed(0)
    token = torch.randint(0, V, (5000,), generator=generator)
    a = torch.randn(5000, 1, generator=generator) * 0.1
    a[token < 5] += 5
    found = from_activations(a, token, torch.arange(5000) // 100, WORDS)[0]
    assert set(found.ids) == set(range(5))


@pytest.mark.parametrize("kernel", ["exact", "related"])
def test_a_true_description_wins_and_anothers_is_chance(kernel):
    generator = torch.Generator().manual_seed(0)
    token = torch.randint(0, V, (40_000,), generator=generator)
    a = torch.randn(40_000, generator=generator) * 0.1
    a[token < 20] += 5
    kernels = Kernels.learn(token.reshape(-1, 50), WORDS, n_dimensions=20)
    chosen, label = trial(a, token, 1.0)
    assert label.sum() == 50
    right = Description(tuple(range(20)), (1.0,) * 20, tuple(WORDS[:20]))
    wrong = Description(tuple(range(100, 120)), (1.0,) * 20, tuple(WORDS[100:120]))
    assert auroc(kernels.predict(right, token[chosen], kernel), label) > 0.95
    assert 0.35 < auroc(kernels.predict(wrong, token[chosen], kernel), label) < 0.65
    empty = Description((), (), ())
    assert auroc(kernels.predict(empty, token[chosen], kernel), label) == 0.5


def test_the_exact_kernel_ignores_case_and_space():
    kernels = Kernels.learn(torch.arange(V).repeat(6).reshape(-1, 50), WORDS, n_dimensions=5)
    cat = Description((V - 2,), (1.0,), (" cat",))
    assert kernels.predict(cat, torch.tensor([V - 1, 0]), "exact").tolist() == [1, 0]


def test_related_tokens_are_those_in_the_same_company():
    generator = torch.Generator().manual_seed(0)
    topic = torch.randint(0, 2, (2000, 1), generator=generator)
    tokens = torch.randint(0, 10, (2000, 12), generator=generator) + 10 * topic
    kernels = Kernels.learn(tokens, WORDS[:20], n_dimensions=2)
    alike = kernels.vectors @ kernels.vectors.T
    assert alike[:10, :10].mean() > alike[:10, 10:].mean() + 0.3


def test_too_few_positives_are_no_trial():
    token = torch.arange(100)
    chosen, label = trial(torch.zeros(100), token, 1.0)
    assert len(chosen) == len(label) == 0
    assert auroc(torch.zeros(0), label) != auroc(torch.zeros(0), label), "NaN"


def test_merging_takes_turns_and_wins_have_a_margin():
    a = Description((1, 2), (1.0, 0.5), ("a", "b"))
    b = Description((3, 2), (1.0, 0.9), ("c", "b"))
    assert merge([a, b]).ids == (1, 3, 2)
    scores = {"x": [0.9, 0.5, 0.5, float("nan")], "y": [0.5, 0.505, 0.9, 0.1]}
    assert wins(scores, "x", "y") == (1, 1, 1)
