"""A TopK autoencoder: planted directions found, and what it says of itself."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from test_factors import labelled
from torch import Tensor
from torch.nn.functional import normalize

from rotate_core.dictionaries import topk_sae

ACTIVE = 4


class Planted(NamedTuple):
    x: Tensor
    vectors: Tensor
    coefficients: Tensor


def planted(seed: int, *, k: int = 48, d: int = 32, n: int = 3000) -> Planted:
    """Sums of about four of more directions than dimensions, off the origin, and noise."""
    g = torch.Generator().manual_seed(seed)
    z = normalize(torch.randn(k, d, generator=g))
    y = torch.rand(n, k, generator=g) + 0.5
    y *= torch.rand(n, k, generator=g) < ACTIVE / k
    x = y @ z + 0.3 * torch.randn(d, generator=g)
    return Planted(x + 0.05 / d**0.5 * torch.randn(n, d, generator=g), z, y)


def matched(a: Tensor, b: Tensor) -> float:
    """Mean cosine of rows with their partners, each used once."""
    cosine = normalize(a) @ normalize(b).T
    return cosine[linear_sum_assignment(cosine.numpy(), maximize=True)].mean().item()


def trained(x: Any, k: int = 48, **options: Any) -> Any:
    return topk_sae(x, k, **{"n_active": ACTIVE, "passes": 12, "progress": False} | options)


@pytest.mark.parametrize("seed", range(3))
def test_planted_directions_are_found(seed: int) -> None:
    x, z, y = planted(seed, n=3500)
    sae = trained(x[:3000], seed=seed)
    chance = normalize(torch.randn(z.shape, generator=torch.Generator().manual_seed(9)))
    assert matched(chance, z) < 0.6
    assert matched(sae.decoder, z) > 0.95
    assert sae.energy_explained(x[3000:]) > 0.8
    pairs = linear_sum_assignment(sae.decoder @ z.T, maximize=True)
    codes, planted_codes = sae.encode(x[3000:])[:, pairs[0]], y[3000:, pairs[1]]
    agree = torch.corrcoef(torch.stack([codes.flatten(), planted_codes.flatten()]))[0, 1]
    assert agree > 0.8


def test_what_is_trained_is_what_it_says() -> None:
    x = planted(0, n=600).x
    sae = trained(x, history=True)
    torch.testing.assert_close(sae.decoder.norm(dim=1), torch.ones(48))
    codes = sae.encode(x)
    assert codes.min() >= 0
    assert ((codes > 0).sum(1) <= ACTIVE).all()
    left = (x - sae.reconstruct(codes)).square().sum() / x.square().sum()
    assert sae.explained == pytest.approx(1 - left.item(), abs=1e-5)
    assert sae.history is not None
    assert len(sae.history) == sae.n_iter == 12
    assert sae.history[-1] < 0.5 * sae.history[0]
    assert (sae.activation, sae.centred, sae.normalisation) == ("topk", True, "none")


def test_the_scale_and_the_origin_of_activations_do_not_matter() -> None:
    x = planted(0, n=600).x
    one = trained(x)
    shift = torch.linspace(-2, 2, 32)
    other = trained(1000 * x + shift)
    torch.testing.assert_close(other.decoder, one.decoder, atol=1e-3, rtol=1e-3)
    codes = one.encode(x)
    torch.testing.assert_close(other.encode(1000 * x + shift), 1000 * codes, atol=20, rtol=1e-2)
    rebuilt = other.reconstruct(other.encode(1000 * x + shift))
    torch.testing.assert_close(rebuilt, 1000 * one.reconstruct(codes) + shift, atol=20, rtol=1e-2)


def test_a_rerun_is_equal_and_a_seed_is_another_run() -> None:
    x = planted(0, n=600).x
    first, again, other = trained(x, seed=1), trained(x, seed=1), trained(x, seed=2)
    for name in ("encoder", "encoder_bias", "decoder", "decoder_bias"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert not torch.equal(first.decoder, other.decoder)


def test_it_knows_where_its_latents_are_strongest() -> None:
    x = planted(0, n=600).x
    sae = trained(labelled(x))
    codes = sae.encode(x)
    assert (sae.model, sae.layer, sae.site) == ("tiny", 0, "hidden")
    assert sae.active is not None
    torch.testing.assert_close(sae.active, (codes > 0).float().mean(0))
    table = sae.table()
    assert table.weight.sum() == pytest.approx(1, abs=1e-5)
    assert table.weight.is_monotonic_decreasing
    best = int(table.latent[0])
    top = sae.top_positions(best, 5)
    assert top.columns.tolist() == ["row", "left", "token", "right", "title"]
    assert top.row.tolist() == codes[:, best].topk(5).indices.tolist()
    assert sae.n_dead == int((codes == 0).all(0).sum())
    assert "tiny, layer 0, hidden: 48 latents in 32 dimensions, 4 active in a token" in repr(sae)
    assert "<table" in sae._repr_html_()


def test_latents_that_no_token_has_are_taught_too() -> None:
    x = planted(0, n=600).x
    x += 5 * torch.ones(32) * torch.randn(600, 1, generator=torch.Generator().manual_seed(1))
    start = normalize(torch.randn(256, 32, generator=torch.Generator().manual_seed(0)))
    alone, taught = (trained(x, k=256, aux=aux).encoder for aux in (0.0, 1 / 32))
    never = (alone == start).all(1)
    assert never.sum() > 10
    assert (taught != start).any(1)[never].float().mean() > 0.5


def test_outliers_are_left_out_and_said() -> None:
    x = planted(0, n=600).x
    x[7] *= 1e4
    sae = trained(x)
    assert sae.n_outliers == 1
    assert sae.explained > 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.ones(3, 4)}, "3 tokens for 48 features"),
        ({"x": torch.ones(60, 4)}, "all 60 tokens are the same"),
        ({"x": torch.full((60, 4), torch.nan)}, "60 of 60 tokens are not finite"),
        ({"n_active": 49}, "n_active=49: wanted at most the 48 latents"),
        ({"n_active": 0}, "n_active=0: wanted a whole number of at least 1"),
        ({"aux": -1.0}, "aux=-1.0: wanted at least 0"),
        ({"learning_rate": 0.0}, "learning_rate=0.0: wanted a number above 0"),
    ],
)
def test_what_cannot_be_trained_is_named(change: dict[str, Any], message: str) -> None:
    options = {"x": planted(0, n=60).x} | change
    with pytest.raises(ValueError, match=message):
        trained(options.pop("x"), **options)
