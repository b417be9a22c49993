"""The statistic in closed form, its gradient against autograd, the blocks against the whole."""

import pytest
import torch

from rotate_core.rotation import moments as kurtosis
from rotate_core.rotation.moments import (
    Sample,
    centred_logits,
    excess_kurtosis,
    slog,
    slog_kurtosis_gradient,
)


def problem(n_neurons=3, d_model=6, d_vocab=50, seed=0):
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(n_neurons, d_model, generator=generator, dtype=torch.float64)
    projection = torch.randn(d_model, d_vocab, generator=generator, dtype=torch.float64)
    weights = torch.rand(n_neurons, d_vocab, generator=generator, dtype=torch.float64)
    weights[:, :4] = 0
    return vectors, projection, weights


def logits_of(vectors, projection, weights, moments):
    """The plain definition: what enters the moments, and with which sample weights."""
    z = vectors @ projection
    return (z, weights) if moments == "weighted" else (weights * z, None)


def test_kurtosis_of_gaussian_logits_is_zero():
    z = torch.randn(400_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    standard_error = (24 / len(z)) ** 0.5
    assert abs(excess_kurtosis(z)) < 4 * standard_error


@pytest.mark.parametrize("d_vocab", [2, 10, 1000])
def test_kurtosis_of_one_hot_logits(d_vocab):
    z = torch.zeros(d_vocab, dtype=torch.float64)
    z[0] = 7.0
    q = 1 / d_vocab  # a Bernoulli variable of probability q
    torch.testing.assert_close(
        excess_kurtosis(z), torch.tensor((1 - 6 * q * (1 - q)) / (q * (1 - q)), dtype=torch.float64)
    )


def test_two_equal_points_have_the_least_kurtosis_there_is():
    z = torch.tensor([-1.0, 1.0] * 8, dtype=torch.float64)
    assert excess_kurtosis(z).item() == pytest.approx(-2)


def test_kurtosis_does_not_see_shift_scale_or_a_token_of_weight_zero():
    _, projection, weights = problem()
    z = projection[:3]
    torch.testing.assert_close(
        excess_kurtosis(z, weights), excess_kurtosis(5 - 3 * z[:, 4:], weights[:, 4:])
    )


def test_slog_is_odd_and_continuous():
    x = torch.tensor([-3.0, 0.0, 3.0], dtype=torch.float64)
    torch.testing.assert_close(slog(x), -slog(-x))
    torch.testing.assert_close(slog(x)[2], torch.log(torch.tensor(4.0, dtype=torch.float64)))


@pytest.mark.parametrize("moments", ["weighted", "scaled"])
def test_centred_logits_are_the_definition(moments, monkeypatch):
    vectors, projection, weights = problem()
    z, p = logits_of(vectors, projection, weights, moments)
    whole = centred_logits(vectors, Sample.of(projection, weights, moments))
    torch.testing.assert_close(whole[2] / whole[1] ** 2 - 3, excess_kurtosis(z, p))
    monkeypatch.setitem(kurtosis.BLOCK_ELEMENTS, "cpu", 21)  # seven tokens a block
    for one, other in zip(
        whole, centred_logits(vectors, Sample.of(projection, weights, moments)), strict=True
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("moments", ["weighted", "scaled"])
@pytest.mark.parametrize("n_neurons", [1, 2, kurtosis.FEW, kurtosis.FEW + 1])
def test_how_the_projection_lies_in_memory_changes_nothing(moments, n_neurons):
    vectors, projection, weights = problem(n_neurons=n_neurons)
    lying = (projection.contiguous(), projection.T.contiguous().T)
    across, along = (centred_logits(vectors, Sample.of(u, weights, moments)) for u in lying)
    assert lying[0].stride(0) != 1 == lying[1].stride(0)
    for one, other in zip(across, along, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("moments", ["weighted", "scaled"])
@pytest.mark.parametrize("block", [1 << 17, 21])
def test_gradient_is_autograds(moments, block, monkeypatch):
    monkeypatch.setitem(kurtosis.BLOCK_ELEMENTS, "cpu", block)
    vectors, projection, weights = problem()
    sample = Sample.of(projection, weights, moments)
    ours = slog_kurtosis_gradient(*centred_logits(vectors, sample), sample)
    vectors.requires_grad_()
    slog(excess_kurtosis(*logits_of(vectors, projection, weights, moments))).sum().backward()
    torch.testing.assert_close(ours, vectors.grad)


@pytest.mark.parametrize("moments", ["weighted", "scaled"])
def test_gradcheck(moments):
    vectors, projection, weights = problem(n_neurons=2, d_vocab=20)
    sample = Sample.of(projection, weights, moments)

    class SlogKurtosis(torch.autograd.Function):
        @staticmethod
        def forward(ctx, v):
            c, m2, m4 = centred_logits(v, sample)
            ctx.save_for_backward(c, m2, m4)
            return slog(m4 / m2**2 - 3)

        @staticmethod
        def backward(ctx, grad):
            return grad.unsqueeze(1) * slog_kurtosis_gradient(*ctx.saved_tensors, sample)

    assert torch.autograd.gradcheck(SlogKurtosis.apply, (vectors.requires_grad_(),))


def test_uniform_sample_is_the_unweighted_projection():
    vectors, projection, _ = problem()
    _, m2, m4 = centred_logits(vectors, Sample.uniform(projection))
    torch.testing.assert_close(m4 / m2**2 - 3, excess_kurtosis(vectors @ projection))


def test_half_precision_is_widened_first():
    logits = torch.randn(3, 4000, generator=torch.Generator().manual_seed(0)).bfloat16() * 40
    weights = torch.rand(4000, generator=torch.Generator().manual_seed(1)).bfloat16()
    for m in (None, weights):
        wanted = excess_kurtosis(logits.float(), None if m is None else m.float())
        assert torch.equal(excess_kurtosis(logits, m), wanted)
