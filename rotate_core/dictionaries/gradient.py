"""The paper's fit: Adam on the mean negative log likelihood, to compare EM with."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from rotate_core.dictionaries.mixture import Mixture, read, readers

NOISE_FLOOR = 1e-5
"""What the paper adds to the noise, whatever the activations' scale."""


def fit(
    x: Float[Tensor, "n d"],
    mixture: Mixture,
    *,
    learning_rate: float,
    batch: int,
    generator: torch.Generator,
) -> Iterator[tuple[Mixture, float, int]]:
    """Adam, pass by pass without end, over batches of tokens in random order.

    The parameters are centroids, unit directions times softplus lengths, softplus noise plus
    :data:`NOISE_FLOOR`, and softmax logits of the weights.

    Args:
        x: tokens; on any device.
        mixture: to start from.
        learning_rate: of Adam, constant.
        batch: tokens a step.
        generator: of the order, on the CPU.

    Yields:
        The mixture, its mean log likelihood a token over the pass that led to it (of the mixtures
        on the way), and 0.

    Source: arXiv:2602.02464 and its released code (MIT), by notes on both; written anew.
    """
    m = mixture.to(x)
    lengths = m.loadings.norm(dim=1)
    noise = (m.noise - NOISE_FLOOR).clamp_min(1e-8)
    parameters = [
        m.centroids,
        m.loadings,
        _softplus_inverse(lengths),
        _softplus_inverse(noise),
        m.weights.log(),
    ]
    parameters = [p.clone().requires_grad_() for p in parameters]
    adam = torch.optim.Adam(parameters, lr=learning_rate)
    last = math.nan
    while True:
        yield _mixture(*(p.detach().clone() for p in parameters)), last, 0
        total = torch.zeros((), dtype=torch.float64, device=x.device)
        order = torch.randperm(len(x), generator=generator).to(x.device)
        for rows in order.split(batch):
            adam.zero_grad()
            part = x[rows]
            value = read(part, readers(_mixture(*parameters), part))[0].logsumexp(1)
            (-value.mean()).backward()
            adam.step()
            total += value.detach().double().sum()
        last = float(total / len(x))


def _mixture(
    centroids: Tensor, directions: Tensor, lengths: Tensor, noise: Tensor, logits: Tensor
) -> Mixture:
    loadings = directions / directions.norm(dim=1, keepdim=True) * softplus(lengths).unsqueeze(1)
    return Mixture(logits.softmax(0), centroids, loadings, softplus(noise) + NOISE_FLOOR)


def _softplus_inverse(y: Tensor) -> Tensor:
    return y + (-torch.expm1(-y)).log()
