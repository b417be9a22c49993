"""Kurtosis without keeping logits, concept vectors, percentiles and NPMI."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from tiny_models import TOKENS, tiny

from rotate_core import load_model
from rotate_core.experiments import kurtosis_by_depth as depth
from rotate_core.experiments import kurtosis_concepts as concepts
from rotate_core.experiments.kurtosis import kurtosis_of, kurtosis_table
from rotate_core.experiments.kurtosis_by_depth import share_above_null
from rotate_core.figures.kurtosis import shares_by_layer
from rotate_core.null.matched import own_seed
from rotate_core.rotation.moments import excess_kurtosis

KINDS = ("gate", "in", "out")


def test_kurtosis_of_many_vectors_is_the_statistic():
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(300, 16, generator=generator)
    projection = torch.randn(16, 500, generator=generator) + 1
    expected = excess_kurtosis(vectors.double() @ projection.double())
    torch.testing.assert_close(kurtosis_of(vectors, projection), expected, atol=1e-5, rtol=1e-5)


def test_the_table_has_every_neuron_once_and_its_null(checkpoints):
    model = load_model(checkpoints("llama"))
    rows = kurtosis_table(model, n_null=5, progress=False)
    neurons = rows[~rows.null]
    assert len(neurons) == model.n_layers * 3 * model.d_mlp
    assert not neurons.duplicated(["layer", "kind", "neuron"]).any()
    assert rows.null.sum() == model.n_layers * 3 * 5
    drawn = kurtosis_table(model, layers=[1], n_neurons=4, n_null=5, progress=False)
    same = neurons.merge(drawn[~drawn.null], on=["layer", "kind", "neuron"])
    assert len(same) == 12
    assert same.kurtosis_x.tolist() == pytest.approx(same.kurtosis_y.tolist())


def test_layers_and_kinds_have_seeds_of_their_own():
    seeds = {own_seed(s, layer, kind) for s in (0, 1) for layer in (0, 1) for kind in KINDS}
    assert len(seeds) == 12
    assert own_seed(0, 1, "in") == own_seed(0, 1, "in")


def test_both_sides_of_an_untied_model_are_measured(checkpoints):
    model = load_model(checkpoints("llama"))
    assert not model.tied
    sides = ["unembedding", "embedding"]
    table = kurtosis_table(model, sides=sides, n_null=5, progress=False)
    medians, shares, tails = (
        depth.medians(table),
        share_above_null(table),
        depth.shares_above(table),
    )
    for rows in (medians, shares, tails):
        assert list(rows.side.unique()) == sides
    unembedding, embedding = (medians[medians.side == x]["median"].to_numpy() for x in sides)
    assert (unembedding != embedding).all()


def test_share_above_null_is_what_chance_gives_for_the_null_itself():
    values = torch.randn(2, 2000, generator=torch.Generator().manual_seed(0)).double()
    rows = {"side": "u", "layer": 0, "kind": "out", "null": [False] * 2000 + [True] * 2000}
    table = pd.DataFrame(rows | {"kurtosis": values.flatten().numpy()})
    found = share_above_null(table)
    assert found.chance.item() == pytest.approx(101 / 2001)
    assert found.share.item() == pytest.approx(found.chance.item(), abs=0.015)
    assert found.low.item() < found.chance.item() < found.high.item()
    table.loc[~table.null, "kurtosis"] += 10
    assert share_above_null(table)[["share", "low", "high"]].to_numpy().tolist() == [[1, 1, 1]]


def draws_from_one_law(n, n_null, layers):
    """Neurons and their null alike: the share of the former above it is what chance gives."""
    values = np.random.default_rng(0).normal(size=layers * (n + n_null))
    null = np.tile([False] * n + [True] * n_null, layers)
    table = {"side": "u", "kind": "out", "kurtosis": values, "null": null}
    return pd.DataFrame(table | {"layer": np.repeat(np.arange(layers), n + n_null)})


@pytest.mark.parametrize(
    ("n_null", "level", "expected"), [(10, 0.9, 2 / 11), (32, 0.95, 2 / 33), (99, 0.95, 0.05)]
)
def test_chance_is_exact_where_a_level_is_discrete(n_null, level, expected):
    found = share_above_null(draws_from_one_law(400, n_null, 400), level=level)
    assert found.chance.tolist() == pytest.approx([expected] * 400)
    error = found.share.std() / 400**0.5
    assert found.share.mean() == pytest.approx(expected, abs=2.5 * error)
    if expected > 1 - level + 1e-9:
        assert found.share.mean() - 2.5 * error > 1 - level, "10 at 0.9 give 0.18, and not 0.1"
    with pytest.raises(ValueError, match=r"level=1\.5: wanted a share between 0 and 1"):
        share_above_null(draws_from_one_law(2, 2, 1), level=1.5)


def test_the_line_of_chance_is_that_of_each_layer():
    found = share_above_null(draws_from_one_law(20, 10, 3), level=0.9)
    (ax,) = shares_by_layer(found)
    lines = {line.get_label(): line.get_ydata().tolist() for line in ax.lines}
    plt.close(ax.figure)
    assert lines["chance"] == found.chance.tolist() == pytest.approx([2 / 11] * 3)
    assert lines["neurons"] == found.share.tolist()


def test_interval_of_a_share_covers_it_as_often_as_it_says():
    found = share_above_null(draws_from_one_law(50, 50, 200), level=0.9)
    covered = (found.low <= found.chance) & (found.chance <= found.high)
    assert covered.mean() > 0.88


def test_layers_share_no_draws():
    one = draws_from_one_law(2000, 2000, 1)
    again = pd.concat([one.assign(layer=layer) for layer in range(8)])
    found, medians = share_above_null(again), depth.medians(again)
    assert found.share.nunique() == 1
    assert found.low.nunique() > 1, "other resamples of the same values"
    assert medians["median"].nunique() == 2, "of neurons and of their null"
    assert medians.low.nunique() > 2


def test_resampled_quantile_is_the_bootstrap():
    random = np.random.default_rng(0)
    values = np.sort(random.normal(size=41))
    short = depth.resampled_quantile(values, 0.5, random, 20_000)
    long = np.median(random.choice(values, (20_000, 41)), axis=1)
    for q in (0.025, 0.25, 0.5, 0.75, 0.975):
        assert np.quantile(short, q) == pytest.approx(np.quantile(long, q), abs=0.06)


def test_depth_is_the_difference_of_later_and_earlier_layers():
    rows = [(layer, kind, float(layer >= 4)) for layer in range(12) for kind in ("in", "out")]
    values = pd.DataFrame(rows, columns=["layer", "kind", "x"]).assign(side="u")
    found = depth.depth_table(values, "x", cuts=(1 / 3, 1 / 2)).loc["u"]
    assert found.loc[1 / 3, "late less early"].value == 1
    assert found.loc[1 / 3, "late less early"].n_clusters == 8, "layers are resampled"
    assert found.loc[1 / 2, "late less early"].value == pytest.approx(2 / 3)


def test_tails_fall_from_one_to_none_within_their_band():
    values = torch.randn(500, generator=torch.Generator().manual_seed(0)).abs().numpy()
    table = pd.DataFrame({"side": "u", "kind": "out", "null": False, "kurtosis": values})
    curve = depth.shares_above(table)
    assert curve.share.iloc[0] == 1
    assert curve.share.iloc[-1] == 0
    assert (curve.share.diff().dropna() <= 0).all()
    assert ((curve.low - 1e-9 <= curve.share) & (curve.share <= curve.high + 1e-9)).all()


def test_difference_of_means_finds_the_direction_of_each_label():
    label = torch.tensor([0] * 10 + [1] * 10 + [2] * 2)
    means = torch.randn(22, 6, generator=torch.Generator().manual_seed(0)) * 0.01
    means[:10, 0] += 1
    found = concepts.difference_of_means(means, label)
    assert len(found) == 2, "the third has too few windows"
    assert found[0].abs().argmax() == 0
    with pytest.raises(ValueError, match="no label has 30"):
        concepts.difference_of_means(means, label, least=30)


def test_npmi_is_one_for_tokens_that_only_meet_and_low_for_strangers():
    tokens = torch.zeros(600, 4, dtype=torch.long)
    tokens[:30, :2] = torch.tensor([1, 2])  # always together
    tokens[100:130, 0], tokens[200:230, 0] = 3, 4  # never
    vectors = torch.zeros(2, 6)
    vectors[0, [1, 2]] = 5
    vectors[1, [3, 4]] = 5
    ids, npmi = concepts.token_npmi(tokens)
    table = concepts.coherence_ranks(vectors, torch.eye(6), ids, npmi, ks=[2])
    assert table.coherence.tolist() == pytest.approx([1, -1])
    with pytest.raises(ValueError, match="wanted 9"):
        concepts.coherence_ranks(vectors, torch.eye(6), ids, npmi, ks=[2, 9])


def test_concepts_are_ranked_among_the_neurons_of_the_model_and_of_their_layer():
    generator = torch.Generator().manual_seed(0)
    projection = torch.randn(8, 400, generator=generator)
    projection[0, :5] += 40  # the first axis is heavy-tailed
    document = torch.arange(4).repeat(6)
    means = torch.randn(1, 24, 8, generator=generator) * 0.01
    means[0, document == 0, 0] += 1
    neurons = torch.randn(200, 8, generator=generator)
    table = pd.DataFrame({"layer": 7, "kurtosis": kurtosis_of(neurons, projection).numpy()})
    sharper = pd.DataFrame({"layer": 8, "kurtosis": [1e6] * 200})
    table = pd.concat([table, sharper])
    found = concepts.concept_table(means, [7], document, table, projection, counts=[2, 6])
    assert found.groupby(["among", "windows", "what"]).size().tolist() == [4] * 8
    concept = found[(found.what == concepts.ARTICLES) & (found.cluster == 0)]
    in_model, in_layer = (
        concept[concept.among == among].percentile
        for among in (concepts.IN_MODEL, concepts.IN_LAYER)
    )
    assert (in_layer > 90).all()
    assert ((in_model > 45) & (in_model <= 50)).all(), "half of the model is sharper"
    medians = concepts.beside_null(found, ["among"])
    assert medians.ours[concepts.IN_LAYER].n_clusters == 4
    over = medians.ours[concepts.IN_LAYER].value - medians.null[concepts.IN_LAYER].value
    assert medians.over_null[concepts.IN_LAYER].value == over


def test_coherent_vectors_are_ranked_among_themselves():
    tokens = torch.zeros(600, 4, dtype=torch.long)
    tokens[:30, :2] = torch.tensor([1, 2])
    tokens[100:130, 0], tokens[200:230, 0] = 3, 4
    ids, npmi = concepts.token_npmi(tokens)
    vectors = torch.tensor([[0, 1, 1, 0, 0, 0], [0.4, 0, 0, 1, 1, 0.5]])
    table = concepts.coherence_ranks(vectors, torch.eye(6), ids, npmi, ks=[2])
    assert table["rank"].tolist() == [0.5, 1]
    assert table.percentile.tolist() == pytest.approx([75, 25]), "of kurtosis, not of coherence"
    repeated = vectors[[1, 0, 1, 0, 1]]
    ties = concepts.coherence_ranks(repeated, torch.eye(6), ids, npmi, ks=[2]).percentile
    assert ties.tolist() == pytest.approx([30, 80, 30, 80, 30]), "ties count half"


def test_residual_means_are_those_of_the_hidden_states():
    model = tiny("llama")
    with torch.no_grad():
        hidden = model.base_model(TOKENS, output_hidden_states=True).hidden_states
    means = concepts.residual_means(model, TOKENS, [0], batch=1, progress=False)
    torch.testing.assert_close(means[0], hidden[1][:, 1:].mean(1))
