"""Mixtures keep what they are matched on, exactly."""

import pytest
import torch

from rotate_core.null.matched import matched_mixtures


@pytest.mark.parametrize("n", [2, 5, 40, 90])
def test_mixtures_have_the_vectors_mean_and_covariance(n):
    v = torch.randn(n, 30, generator=torch.Generator().manual_seed(n), dtype=torch.float64) + 3
    mixed = matched_mixtures(v, seed=1)
    assert torch.allclose(mixed.mean(0), v.mean(0))
    assert torch.allclose(torch.cov(mixed.T), torch.cov(v.T))
    assert torch.equal(mixed, matched_mixtures(v, seed=1))
    if n > 2:
        apart = torch.nn.functional.cosine_similarity(mixed - v.mean(0), v - v.mean(0))
        assert apart.abs().max() < 0.95
    with pytest.raises(ValueError, match="wanted \\(n > 1, d\\)"):
        matched_mixtures(v[:1])
