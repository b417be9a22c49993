"""Reconstruction against least squares, matching against a shuffled copy, repeats counted once."""

import dataclasses

import pytest
import torch

from rotate_core import Settings, Vocabulary, decompose
from rotate_core.channels import first_channels, join, take
from rotate_core.experiments.reconstruction import (
    decompose_in_batches,
    explained_norm,
    jaccard,
    match,
    n_distinct,
    reconstruction_cosine,
    reconstruction_table,
    stability_table,
)
from rotate_core.null.matched import matched_rotations


@pytest.fixture(scope="module")
def channels():
    generator = torch.Generator().manual_seed(0)
    projection = torch.randn(16, 600, generator=generator, dtype=torch.float64)
    w = torch.randn(3, 16, generator=generator, dtype=torch.float64)
    return decompose(w, Vocabulary(projection), n_channels=4, threshold=3.0, progress=False)


def test_reconstruction_is_least_squares(channels):
    cosine = reconstruction_cosine(channels.weight_vectors, channels.vectors)
    for n in range(3):
        w = channels.weight_vectors[n].double()
        for c in range(1, 5):
            basis = channels.vectors[n, :c].double().T
            # The pseudoinverse, since a neuron may repeat a channel to the last bit.
            fit = basis @ (torch.linalg.pinv(basis, rtol=1e-6) @ w)
            assert cosine[n, c - 1] == pytest.approx(
                torch.cosine_similarity(w, fit, 0).item(), abs=1e-5
            )
            expected = 1 - (w - fit).norm() / w.norm()
            assert explained_norm(cosine[n, c - 1]).item() == pytest.approx(
                expected.item(), abs=1e-5
            )


def test_a_repeated_channel_adds_nothing():
    w, c = torch.randn(2, 1, 16, generator=torch.Generator().manual_seed(0))
    cosine = reconstruction_cosine(w, torch.stack([c, 3 * c], 1))[0]
    assert cosine[0] == pytest.approx(cosine[1].item())


def test_random_directions_reconstruct_as_well(channels):
    """What the chapter's null is for: directions at the channels' cosines, and nothing else."""
    many = matched_rotations(channels, 5)
    w = channels.weight_vectors.expand(5, -1, -1)
    ours = reconstruction_cosine(channels.weight_vectors, channels.vectors)[:, -1]
    assert reconstruction_cosine(w, many)[..., -1].mean() > ours.mean() - 0.1


def test_the_tables_hold_what_the_functions_give(channels):
    table = reconstruction_table(channels, n_rotations=2)
    assert len(table) == 2 * 3 * 4
    ours = table[table.what == "channels"].set_index(["neuron", "channels"])
    cosine = reconstruction_cosine(channels.weight_vectors, channels.vectors)
    assert ours.cosine.loc[(2, 3)] == pytest.approx(cosine[2, 2].item())
    assert ours.norm.loc[(2, 3)] == pytest.approx(explained_norm(cosine[2, 2]).item())

    pairs = stability_table([channels, channels, channels], [5, 50])
    assert len(pairs) == 3 * 2 * 3
    assert (pairs.jaccard > 0.999).all(), "a run is like itself"
    assert (pairs.other_jaccard < 0.9).all()


def test_joined_neurons_go_on_as_one_batch_and_come_apart_again(channels):
    first = dataclasses.replace(first_channels(take(channels, [2, 0]), 2), layer=3, kind="in")
    parts = [first, dataclasses.replace(first_channels(take(channels, [1]), 2), layer=9)]
    assert join(parts).indices == (0, 1, 2)
    back = decompose_in_batches(parts, go_on=True, n_channels=4, progress=False)
    assert [(p.layer, p.kind, p.indices) for p in back] == [(3, "in", (2, 0)), (9, None, (1,))]
    alike = torch.cosine_similarity(back[0].vectors, channels.vectors[[2, 0]], dim=-1)
    assert alike.min() > 1 - 1e-4, "as one run gives, but for rounding"
    other = dataclasses.replace(parts[0], settings=Settings(threshold=2.0), layer=5)
    one_channel = decompose_in_batches([*parts, other], n_channels=1, progress=False)
    assert [p.layer for p in one_channel] == [3, 9, 5]
    assert [p.settings.threshold for p in one_channel] == [3.0, 3.0, 2.0], "a batch of its own"


def test_jaccard_of_sets():
    a, b = torch.tensor([[0, 1, 2]]), torch.tensor([[0, 1, 2], [2, 3, 4], [5, 6, 7]])
    assert jaccard(a, b, 9)[0].tolist() == pytest.approx([1, 0.2, 0])


def test_matching_finds_the_same_channels_in_another_order(channels):
    order = torch.tensor([2, 0, 3, 1])
    other = dataclasses.replace(
        channels, vectors=channels.vectors[:, order], top_ids=channels.top_ids[:, order]
    )
    found = match(channels, other)
    assert found.cosine.tolist() == pytest.approx([1, 1, 1])
    assert found.jaccard.tolist() == pytest.approx([1, 1, 1])
    assert (found.other_cosine < found.cosine - 0.05).all()
    with pytest.raises(ValueError, match="different neurons"):
        match(channels, dataclasses.replace(channels, indices=(5, 6, 7)))


def test_repeats_count_once(channels):
    assert (n_distinct(channels) <= 4).all()
    vectors = channels.vectors.clone()
    vectors[:, 1:] = vectors[:, :1]
    assert n_distinct(dataclasses.replace(channels, vectors=vectors)).tolist() == [1, 1, 1]


def test_taking_rows_keeps_everything_in_line(channels):
    some = take(channels, [2, 0])
    assert some.indices == (channels.indices[2], channels.indices[0])
    assert torch.equal(some.vectors[0], channels.vectors[2])
    assert some.top_tokens(1, 0) == channels.top_tokens(0, 0)
    assert len(some.table()) == 8


def test_a_repeated_channel_adds_nothing_and_hides_nothing():
    generator = torch.Generator().manual_seed(0)
    w, a, b = torch.randn(3, 8, generator=generator, dtype=torch.float64)
    repeated = reconstruction_cosine(w, torch.stack([a, a, b]))
    plain = reconstruction_cosine(w, torch.stack([a, b]))
    torch.testing.assert_close(repeated, plain[[0, 0, 1]])
