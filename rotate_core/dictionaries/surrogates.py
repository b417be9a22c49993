"""Activations in which there is less to find: what any fit is held against (ours)."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from rotate_core.dictionaries.factors import Factors
from rotate_core.null.matched import own_seed
from rotate_core.text.labelled import Activations


def shuffled(x: Activations, *, seed: int = 0) -> Activations:
    """Each neuron's values over the tokens in an order of its own: no two fire together any more.

    Every neuron keeps its own distribution, and so its mean: one feature still explains that.
    """
    generator = torch.Generator().manual_seed(own_seed(seed, "shuffled", x.source, len(x)))
    order = torch.rand(x.values.shape, generator=generator).argsort(0)
    return dataclasses.replace(x, values=x.values.gather(0, order))


def gaussian(x: Activations, *, like: Tensor | None = None, seed: int = 0) -> Activations:
    """Gaussian vectors of the mean and covariance of some tokens, in the place of x's.

    Args:
        x: whose tokens they stand for.
        like: (n, d) whose mean and covariance they have; None: x's own.
        seed: of the draws.
    """
    values = (x.values if like is None else like).double()
    mean = values.mean(0)
    root = (values - mean) / len(values) ** 0.5
    if len(root) > root.shape[1]:  # any root of the covariance will do
        lengths, vectors = torch.linalg.eigh(root.T @ root)
        root = lengths.clamp_min(0).sqrt().unsqueeze(1) * vectors.T
    generator = torch.Generator().manual_seed(own_seed(seed, "gaussian", x.source, len(x)))
    draws = torch.randn(len(x), len(root), generator=generator, dtype=torch.float64)
    return dataclasses.replace(x, values=(mean + draws @ root).to(x.values))


def permuted_supports(factors: Factors, *, seed: int = 0) -> Factors:
    """The same values in the features, of other neurons: neurons renamed, each feature by itself.

    ``coefficients`` and what follows from them are of the real features still.
    """
    generator = torch.Generator().manual_seed(own_seed(seed, "supports", factors.n_features))
    order = torch.rand(factors.vectors.shape, generator=generator).argsort(1)
    vectors = torch.zeros_like(factors.vectors).scatter_(1, order, factors.vectors)
    support = order.gather(1, factors.support)
    return dataclasses.replace(factors, vectors=vectors, support=support)
