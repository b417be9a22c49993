"""How the objective curves down along the sphere, roughly: what preconditions its gradient.

In the Hessian of F along the sphere, at a unit vector s, two terms are large:

    -(bulk C + pull I),  bulk = 4 lambda_k k / ((1 + k) v),  pull = lambda_f cos(w, s)

with the covariance C of the vocabulary, and variance ``v = s . C s`` and kurtosis k of the logits.
The first is the kurtosis', over tokens that are no outliers; the second comes of the cosine. The
rest, of a tail's few tokens, has a low rank, which conjugate gradients work off. Source: ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from .moments import Sample, lanes
from .settings import Settings

RIDGE = 1e-3  # of the mean eigenvalue of C: for directions that no token has
LEAST_KURTOSIS = 0.5  # what k counts as at least: at 0 its term vanishes


@dataclass(frozen=True)
class Curvature:
    """C by its eigenvectors: two products with them solve for any ``bulk C + pull I``."""

    values: Float[Tensor, " d_model"]
    vectors: Float[Tensor, "d_model d_model"]  # in columns

    @staticmethod
    def of(projection: Tensor, token_weights: Tensor, *, moments: str = "weighted") -> Curvature:
        """``C = U diag(p) U^T - mu mu^T`` for U (d_model, d_vocab), and weights of its tokens."""
        sample = Sample.of(projection, token_weights.unsqueeze(0), moments)
        factor = sample.p if sample.scale is None else sample.p * sample.scale**2
        covariance = projection.new_zeros(len(projection), len(projection), dtype=torch.float64)
        for block in lanes(projection):
            columns = projection[:, block]
            covariance += (columns * factor[:, block]) @ columns.T
        mean = sample.mean_vector[0].double()
        values, vectors = torch.linalg.eigh(covariance - torch.outer(mean, mean))
        values = values.clamp_min(0) + RIDGE * values.mean().abs()
        tiny = torch.finfo(projection.dtype).tiny  # where all columns are alike
        return Curvature(values.to(projection).clamp_min(tiny), vectors.to(projection))

    def solve(
        self, g: Float[Tensor, "n d_model"], bulk: Tensor | float = 1.0, pull: Tensor | float = 0.0
    ) -> Float[Tensor, "n d_model"]:
        """``(bulk C + pull I)^-1 g``; the factors are numbers or columns (n, 1)."""
        return (g @ self.vectors / (bulk * self.values + pull)) @ self.vectors.T


def factors(m2: Tensor, m4: Tensor, cosine: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    """``bulk`` and ``pull`` (n, 1), by the logits' moments and the cosine with w, (n,) each."""
    kurtosis = (m4 / m2**2 - 3).abs().clamp_min(LEAST_KURTOSIS)
    bulk = 4 * settings.lambda_kurtosis * kurtosis / (1 + kurtosis) / m2
    return bulk.unsqueeze(1), (settings.lambda_fidelity * cosine.clamp_min(0)).unsqueeze(1)
