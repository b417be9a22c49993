"""The toy: what a context holds, that a head learns it, and that its ranks are those built in."""

from __future__ import annotations

import pytest
import torch

from rotate_core.experiments import heads_toy as toy


@pytest.fixture(scope="module")
def given() -> toy.Contexts:
    return toy.contexts(64, torch.Generator().manual_seed(0))


def test_only_the_first_token_has_both_features_of_the_query(given) -> None:
    signs = given.features[..., : 2 * toy.MOST]
    asked = given.asked[:, :, None, : 2 * toy.MOST]
    same = (signs == asked).all(-1)
    assert same[:, :, 0].all()
    assert not same[:, :, 1:].any()
    payload = given.features[:, :, 0, 2 * toy.MOST :]
    assert torch.equal(payload.argmax(-1), given.right)


@pytest.mark.parametrize("c", range(len(toy.SIZES)))
def test_a_size_has_its_signs_and_no_others(given, c) -> None:
    used = given.features[c, :, :, : 2 * toy.MOST].abs().amax((0, 1))
    n, m = toy.SIZES[c]
    wanted = [1.0] * n + [0.0] * (toy.MOST - n) + [1.0] * m + [0.0] * (toy.MOST - m)
    assert used.tolist() == wanted
    embedding = toy.untrained(8, 2, seed=0).embedding[c]
    assert (embedding[:, : 2 * toy.MOST].norm(dim=-1) > 0)[0].tolist() == [x > 0 for x in wanted]


def test_reading_by_feature_is_attention_over_tokens(given) -> None:
    heads = toy.untrained(8, 2, seed=0)
    odds = toy.log_odds(heads, given)
    c, s = 4, 1
    x = given.features[c] @ heads.embedding[c, s] + given.noise
    q = given.asked[c] @ heads.asking[c, s] @ heads.query[c, s].T
    k = x @ heads.key[c, s].T
    a = (torch.einsum("bd,btd->bt", q, k) / 8**0.5).softmax(-1)
    read = torch.einsum("bt,btd->bd", a, x) @ heads.readout[c, s].T
    torch.testing.assert_close(odds[c, s], read, atol=0.05, rtol=0)  # noise in values is left out


def test_pairs_share_one_factor_or_differ_in_it() -> None:
    heads = toy.untrained(16, 1, seed=0)
    g = torch.Generator().manual_seed(0)
    q, positive, negative = toy.pairs(heads, 0, 0, 0, 4000, g)
    assert q.shape == positive.shape == negative.shape == (4000, 16)
    # E[q k+] = B1 A1^T; with three signs, another z1 is uncorrelated with z1 but for -1/7.
    wanted = heads.query[0, 0] @ heads.asking[0, 0, :3].T
    wanted = wanted @ heads.embedding[0, 0, :3] @ heads.key[0, 0].T
    found = q.T @ (positive - negative) / len(q)
    assert torch.cosine_similarity(found.flatten(), wanted.flatten(), dim=0) > 0.98


def test_training_is_learning() -> None:
    heads = toy.untrained(8, 1, seed=0)
    trained, right = toy.train(heads, max_steps=30, seed=0, progress=False)
    before = toy.accuracy(heads, toy.contexts(200, torch.Generator().manual_seed(1)))
    assert right.mean() > before.mean() + 0.05
    assert torch.equal(heads.key, toy.untrained(8, 1, seed=0).key), "training leaves them alone"
    assert not trained.key.requires_grad


def test_seeds_decide_training() -> None:
    heads = toy.untrained(8, 1, seed=0)
    first, again, other = (
        toy.train(heads, max_steps=2, seed=seed, progress=False)[0].key for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_table_has_every_head_and_its_null() -> None:
    heads = {toy.TRAINED: toy.untrained(8, 1, seed=0), toy.UNTRAINED: toy.untrained(8, 1, seed=1)}
    ranks, swaps = toy.measure(heads, torch.ones(len(toy.SIZES), 1), n_pairs=400, seed=0)
    assert len(ranks) == 2 * len(toy.SIZES) * 2
    assert ranks.fits.equals(ranks.N + ranks.M <= 8)
    assert set(swaps.part) == {"z1", "z2", "both"}
    assert (ranks["rank"] <= ranks.energy_rank).all()


@pytest.mark.slow
def test_ranks_are_those_built_in_wherever_they_fit() -> None:
    heads = toy.untrained(16, 3, seed=0)
    trained, right = toy.train(heads, max_steps=1500, seed=0, progress=False)
    assert (right > 0.99).all()
    ranks, swaps = toy.measure({toy.TRAINED: trained}, right, n_pairs=8192, seed=0)
    assert (ranks["rank"] == ranks["size"]).all()
    assert (swaps[swaps.part == "both"].change > 0.98).all()
