"""A dictionary's directions in the channels' place: chosen rightly, and scored as channels."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from test_causal import Identity
from torch.nn.functional import normalize

from rotate_core import Vocabulary, decompose, load_model
from rotate_core.channels import take
from rotate_core.dictionaries import SAE, topk_sae
from rotate_core.experiments.dictionary_ablation import (
    CHANNELS,
    LATENTS,
    RANDOM,
    against_random,
    dictionary_ablation,
    directions,
    in_place,
    pursuit,
    stand_in,
)
from rotate_core.experiments.input_ablation import FIXED, ReadingNeurons, input_ablation
from rotate_core.experiments.output_ablation import output_ablation
from rotate_core.experiments.output_divergence import divergence
from rotate_core.experiments.reconstruction import reconstruction_cosine
from rotate_core.text.corpus import Windows
from rotate_core.text.labelled import Activations

D, V, BLOCK = 48, 900, 30
READ_OUT = ("kurtosis", "skewness", "cosine")


@pytest.fixture(scope="module")
def channels():
    """Neurons that are sums of two directions, each of which a block of tokens lies along."""
    g = torch.Generator().manual_seed(0)
    blocks = torch.linalg.qr(torch.randn(D, 2, generator=g)).Q.T
    projection = torch.randn(D, V, generator=g)
    projection[:, :BLOCK] += 8 * blocks[0][:, None]
    projection[:, BLOCK : 2 * BLOCK] += 8 * blocks[1][:, None]
    w = torch.tensor([[1.0, 1.0], [1.1, 0.9]]) @ blocks + 0.02 * torch.randn(2, D, generator=g)
    vocabulary = Vocabulary(projection, torch.ones(V))
    found = decompose(w, vocabulary, n_channels=2, threshold=3.5, progress=False)
    return dataclasses.replace(found, kind="in", layer=0), blocks


def sae_of(rows: torch.Tensor, site: str, layer: int = 0) -> SAE:
    k, d = rows.shape
    return SAE(
        encoder=rows, encoder_bias=torch.zeros(k), decoder=rows, decoder_bias=torch.zeros(d),
        activation="relu", n_outliers=0, n_iter=0, converged=True, seed=0, layer=layer, site=site,
    )  # fmt: skip


def test_a_pursuit_finds_what_a_vector_is_made_of() -> None:
    g = torch.Generator().manual_seed(0)
    rows = torch.randn(60, 40, generator=g)
    unit = normalize(rows)
    w = torch.stack([3 * unit[5] + 2 * unit[41] - unit[7], unit[2] - 0.5 * unit[50] + unit[9]])
    found = pursuit(w, rows, 3)
    assert [set(row) for row in found.tolist()] == [{5, 41, 7}, {2, 50, 9}]
    first = torch.cosine_similarity(w[:, None], rows[None], dim=2).abs().argmax(1)
    assert torch.equal(found[:, 0], first)
    longer = pursuit(torch.randn(4, 40, generator=g), rows, 10)
    assert all(len(set(row)) == 10 for row in longer.tolist())
    with pytest.raises(ValueError, match="2 directions: wanted at least 3"):
        pursuit(w, rows[:2], 3)


def test_each_direction_lowers_most_what_least_squares_leaves() -> None:
    """Against the search by hand: the next row of a pursuit is the best in its place."""
    g = torch.Generator().manual_seed(1)
    w, rows = torch.randn(1, 12, generator=g), torch.randn(30, 12, generator=g)
    found = pursuit(w, rows, 4)[0].tolist()
    for i in range(4):
        before = rows[found[:i]].double()
        left = w[0].double()
        if i:
            left = left - before.T @ torch.linalg.lstsq(before.T, left[:, None]).solution[:, 0]
        along = (normalize(rows.double()) @ left).abs()
        along[found[:i]] = 0
        assert along.argmax() == found[i]


def test_channels_stand_in_for_themselves(channels) -> None:
    """Their own vectors as the dictionary: the same tails, and the same scores."""
    found, _ = channels
    one = take(found, [0])
    back = stand_in(one, one.vectors[0])
    order = torch.cosine_similarity(back.vectors[0, :, None], one.vectors[0, None], dim=2).argmax(1)
    torch.testing.assert_close(back.vectors[0], one.vectors[0, order])
    for name in READ_OUT:
        seen, wanted = getattr(back, name)[0], getattr(one, name)[0, order]
        torch.testing.assert_close(seen, wanted, atol=1e-5, rtol=1e-5)  # of float32 logits
    for name in ("polarity", "top_ids"):
        assert torch.equal(getattr(back, name)[0], getattr(one, name)[0, order])
    assert back.settings == one.settings
    assert len(back.table()) == 2


def test_directions_point_the_neurons_way_and_have_its_norm(channels) -> None:
    found, blocks = channels
    back = stand_in(found, torch.cat([-blocks, torch.randn(9, D)]))
    assert (back.cosine > 0).all()
    norms = found.weight_vectors.norm(dim=1, keepdim=True).expand(2, 2)
    torch.testing.assert_close(back.vectors.norm(dim=2), norms)
    assert reconstruction_cosine(found.weight_vectors, back.vectors)[:, -1].min() > 0.98


def test_planted_latents_are_faithful_and_random_directions_are_not(channels, checkpoints) -> None:
    found, blocks = channels
    g = torch.Generator().manual_seed(2)
    tokens = torch.randint(0, V, (1, 20_002), generator=g)
    x = found.vocabulary.projection.T[tokens] / 8
    x += 0.01 * torch.randn(x.shape, generator=g)
    text = Windows(tokens, torch.zeros(1).long(), ("",))
    neurons = ReadingNeurons(text, text.counted(x), {"in": found.weight_vectors}, Identity())
    sae = sae_of(torch.cat([torch.randn(40, D, generator=g), 3 * blocks]), "mlp_in")
    rows, whole = dictionary_ablation(
        found,
        sae,
        load_model(checkpoints("llama")),
        lambda part: input_ablation(neurons, part, n_rotations=5),
    )
    rows = rows[rows.rule == FIXED]
    faithful = rows.groupby("what").faithfulness.mean()
    assert faithful[LATENTS] > 0.7
    assert not faithful.get(RANDOM, 0) > 0.4
    complete = whole[whole.top_share == 0.01].groupby("what").completeness.mean()
    assert complete[LATENTS] > complete[RANDOM] + 0.3
    assert set(rows.columns) >= {"layer", "kind", "what", "cluster", "neuron", "channel", "passes"}
    table = against_random(whole, "completeness", ["layer", "top_share"])
    assert set(table.what) == {CHANNELS, LATENTS, RANDOM}
    latents = table[(table.what == LATENTS) & (table.top_share == 0.01)].iloc[0]
    assert latents[f"less {RANDOM}"].value == pytest.approx(complete[LATENTS] - complete[RANDOM])


def test_every_test_of_chapter_nine_takes_them(checkpoints) -> None:
    """Out vectors of a small model, an autoencoder of its own activations, on its own text."""
    model = load_model(checkpoints("llama"))
    network = model.transformers()
    g = torch.Generator().manual_seed(0)
    tokens = torch.randint(3, model.d_vocab, (6, 12), generator=g)
    text = Windows(tokens, torch.arange(6), ("",) * 6)
    values = torch.randn(60, model.d_model, generator=g)
    places = torch.arange(1, 11).repeat(6), torch.arange(6).repeat_interleave(10)
    x = Activations(values, places[1], places[0], text, "tiny", 1, "mlp_out")
    sae = topk_sae(x, 20, n_active=3, passes=2, progress=False)
    neurons = model.neurons(1, "out", [0, 3])
    vocabulary = model.vocabulary(1, side="unembedding")
    found = decompose(neurons, vocabulary, n_channels=2, threshold=1.5, progress=False)
    a = torch.randn(6, 12, 2, generator=g)

    def measured(part):
        sizes = {"n_positions": 2, "context": 6, "n_rotations": 1}
        kl = divergence(network, part, [0, 3], text, a)
        return (*output_ablation(network, part, text, a, **sizes), kl)

    by_channel, by_neuron, _ = dictionary_ablation(found, sae, model, measured)
    assert set(by_neuron.what) == {CHANNELS, LATENTS, RANDOM}
    assert by_channel[["faithfulness", "auroc"]].notna().all().all()
    assert (by_neuron.cluster.unique() == ["1/0", "1/3"]).all()
    again = dictionary_ablation(found, sae, model, measured)
    assert by_channel.equals(again[0])
    parts = in_place(found, directions(sae, model, found), seed=1)
    assert not torch.equal(parts[RANDOM].vectors, in_place(found, sae.decoder)[RANDOM].vectors)


def test_what_is_of_another_place_is_refused(channels, checkpoints) -> None:
    found, _ = channels
    model = load_model(checkpoints("llama"))
    for site, layer in (("mlp_out", 0), ("mlp_in", 1), ("hidden", 0)):
        with pytest.raises(ValueError, match=f"layer {layer}, {site}: wanted layer 0, mlp_in"):
            directions(sae_of(torch.eye(D), site, layer), model, found)


def test_behind_a_norm_decoder_rows_are_brought_in_front_of_its_gain(checkpoints, channels) -> None:
    model = load_model(checkpoints("gemma2"))
    found = dataclasses.replace(channels[0], kind="out", layer=1)
    rows = torch.randn(5, model.d_model, generator=torch.Generator().manual_seed(0))
    got = directions(sae_of(rows, "mlp_out", 1), model, found)
    gain = model.transformers().model.layers[1].post_feedforward_layernorm.weight + 1
    torch.testing.assert_close(normalize(got * gain.detach()), normalize(rows))
    dead = dataclasses.replace(sae_of(rows, "residual", 1), active=torch.tensor([1.0, 0, 1, 0, 1]))
    torch.testing.assert_close(directions(dead, model, found), got[::2])
