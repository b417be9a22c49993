"""The authors' subtraction, against their definition point by point of the grid."""

from __future__ import annotations

import torch

from rotate_core.rotation.masking import subtract_by_grid
from rotate_core.rotation.moments import excess_kurtosis

D_MODEL, D_VOCAB = 10, 3000


def problem(seed=0):
    generator = torch.Generator().manual_seed(seed)
    projection = torch.randn(D_MODEL, D_VOCAB, generator=generator, dtype=torch.float64)
    projection[0, :20] += 12  # the tail of one channel
    projection[1, :9] -= 14  # a negative one
    channels = torch.eye(D_MODEL, dtype=torch.float64)[[0, 1, 0]]
    mixture = torch.tensor([[1.0, 0.3], [0.3, 1.0], [0.3, 1.0]], dtype=torch.float64)
    w = mixture @ channels[:2] + 0.05  # of the third neuron, nothing is to be taken out
    return w, channels * w.norm(dim=1, keepdim=True), projection


def by_definition(x, y):
    """alpha of one neuron's logits x and one channel's y."""
    z = (y - y.mean()) / y.std(correction=0)
    skewness = (z**3).mean()
    if abs(skewness) <= 0.05:
        extreme = z.abs() >= 7
    else:
        extreme = z * torch.sign(skewness) >= 7
    best, alpha = None, 0.0
    for a in torch.linspace(0, 1, 1000, dtype=torch.float64):
        left = x - a * y
        loss = excess_kurtosis(left) + (5 * left[extreme].abs().mean() if extreme.any() else 0)
        if best is None or loss < best:
            best, alpha = loss, a
    return alpha if excess_kurtosis(x - alpha * y) < excess_kurtosis(x) else torch.tensor(0.0)


def test_the_share_is_that_of_the_definition():
    for seed in range(3):
        w, channels, projection = problem(seed)
        left = subtract_by_grid(w, channels, projection)
        for i in range(len(w)):
            alpha = by_definition(w[i] @ projection, channels[i] @ projection)
            torch.testing.assert_close(left[i], w[i] - alpha * channels[i])
            if i < 2:
                assert 0 < alpha < 1, "the case is one that says something"
            else:
                assert alpha == 0


def test_nothing_is_taken_where_the_kurtosis_would_not_fall():
    _, channels, projection = problem()
    flat = torch.randn(1, D_VOCAB, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    mixed = torch.cat([projection, flat])  # the target is flat, the channel is not
    target = torch.zeros(1, D_MODEL + 1, dtype=torch.float64)
    target[0, -1] = 1
    channel = torch.nn.functional.pad(channels[:1], (0, 1))
    assert torch.equal(subtract_by_grid(target, channel, mixed), target)


def test_a_channel_that_is_the_neuron_does_not_leave_rounding():
    _, channels, projection = problem()
    left = subtract_by_grid(channels.float(), channels.float(), projection.float())
    assert left.isfinite().all()
    assert (left.norm(dim=1) > 0).all()
