"""Kurtosis without keeping logits, concept vectors, percentiles and NPMI."""

import pandas as pd
import pytest
import torch
from tiny_models import TOKENS, tiny

from rotate_core import load_model
from rotate_core.experiments import concepts
from rotate_core.experiments.whole_model import kurtosis_of, share_above_null, whole_model
from rotate_core.kurtosis import excess_kurtosis


def test_kurtosis_of_many_vectors_is_the_statistic():
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(300, 16, generator=generator)
    projection = torch.randn(16, 500, generator=generator) + 1
    expected = excess_kurtosis(vectors.double() @ projection.double())
    torch.testing.assert_close(kurtosis_of(vectors, projection), expected, atol=1e-5, rtol=1e-5)


def test_whole_model_has_every_neuron_once_and_its_null(checkpoints):
    model = load_model(checkpoints("llama"))
    rows = whole_model(model, n_null=5, progress=False)
    neurons = rows[~rows.null]
    assert len(neurons) == model.n_layers * 3 * model.d_mlp
    assert not neurons.duplicated(["layer", "kind", "neuron"]).any()
    assert rows.null.sum() == model.n_layers * 3 * 5
    some = whole_model(model, layers=[1], n_neurons=4, n_null=5, progress=False)
    same = neurons.merge(some[~some.null], on=["layer", "kind", "neuron"])
    assert len(same) == 12
    assert same.kurtosis_x.tolist() == pytest.approx(same.kurtosis_y.tolist())


def test_share_above_null_is_what_chance_gives_for_the_null_itself():
    values = torch.randn(2, 2000, generator=torch.Generator().manual_seed(0)).double()
    rows = {"layer": 0, "kind": "out", "null": [False] * 2000 + [True] * 2000}
    table = pd.DataFrame(rows | {"kurtosis": values.flatten().numpy()})
    assert share_above_null(table).share.item() == pytest.approx(0.05, abs=0.015)
    table.loc[~table.null, "kurtosis"] += 10
    assert share_above_null(table).share.item() == 1


def test_difference_of_means_finds_the_direction_of_each_label():
    label = torch.tensor([0] * 10 + [1] * 10 + [2] * 2)
    means = torch.randn(22, 6, generator=torch.Generator().manual_seed(0)) * 0.01
    means[:10, 0] += 1
    found = concepts.difference_of_means(means, label)
    assert len(found) == 2, "the third has too few windows"
    assert found[0].abs().argmax() == 0
    with pytest.raises(ValueError, match="no label has 30"):
        concepts.difference_of_means(means, label, least=30)


def test_percentile_counts_ties_half():
    reference = torch.tensor([1.0, 2.0, 2.0, 3.0])
    values = torch.tensor([0.0, 2.0, 9.0])
    assert concepts.percentile_among(values, reference).tolist() == [0, 50, 100]


def test_npmi_is_one_for_tokens_that_only_meet_and_low_for_strangers():
    tokens = torch.zeros(600, 4, dtype=torch.long)
    tokens[:30, :2] = torch.tensor([1, 2])  # always together
    tokens[100:130, 0], tokens[200:230, 0] = 3, 4  # never
    logits = torch.zeros(2, 6)
    logits[0, [1, 2]] = 5
    logits[1, [3, 4]] = 5
    npmi = concepts.npmi_of_top_tokens(logits, tokens, k=2)
    assert npmi.tolist() == pytest.approx([1, -1])


def test_residual_means_are_those_of_the_hidden_states():
    model = tiny("llama")
    with torch.no_grad():
        hidden = model.base_model(TOKENS, output_hidden_states=True).hidden_states
    means = concepts.residual_means(model, TOKENS, [0], batch=1, progress=False)
    torch.testing.assert_close(means[0], hidden[1][:, 1:].mean(1))
