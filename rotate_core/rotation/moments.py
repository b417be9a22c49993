"""The statistic and the objective: how peaked a direction's projection onto the vocabulary is.

Convention, everywhere in this package: *excess* kurtosis from *population* moments, so that
Gaussian logits score 0. The token weights ``m`` (``d_vocab``, from 0 to 1) enter the moments in
one of two ways, which :class:`Objective.moments` names:

``"weighted"``  ``m`` are sample weights: ``p = m / sum(m)``, a moment is ``sum p (z - mean)^j``.
                Ours: a masked token drops out of the sample.
``"scaled"``    ``m`` multiplies the logits and plain moments follow, as in the paper (section 3.2).
                A masked token stays in the sample, at a logit of zero.

Everything here is batched over neurons and works through the vocabulary block by block, so that a
block's intermediates stay in cache. For one neuron, a product with ``U`` costs
``2 * d_model * d_vocab`` flops; everything else costs ``O(d_vocab)``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Real

import torch
from jaxtyping import Float
from torch import Tensor

MOMENTS = ("weighted", "scaled")
BLOCK_ELEMENTS = {"cpu": 1 << 17, "cuda": 1 << 26}
"""Elements of one block (neurons x tokens): 512 KB in float32 stays in a CPU's second-level cache;
a GPU wants few, large launches."""
BLOCK_TOKENS = 4096
"""Tokens of a block at most, on a CPU: with few neurons, MKL is slower at wider products."""
FEW = 8
"""So few vectors, on a CPU, are projected the other way round (see :func:`_few_logits`)."""


@dataclass(frozen=True)
class Objective:
    """What a solver maximises: ``F = lambda_kurtosis slog(k(z(s))) + lambda_fidelity cos(w, s)``.

    The paper minimises ``lambda_fidelity - F``; the optima are the same.
    """

    lambda_kurtosis: float = 0.3
    """Weight of the sparsity of the projection (paper: 0.3)."""
    lambda_fidelity: float = 1.0
    """Weight of staying close to the neuron (paper: 1.0)."""
    moments: str = "weighted"
    """How token weights enter the moments: "weighted" (ours) or "scaled" (the paper's)."""

    def __post_init__(self) -> None:
        if self.moments not in MOMENTS:
            raise ValueError(f"moments={self.moments!r}: wanted one of {', '.join(MOMENTS)}")
        for name in ("lambda_kurtosis", "lambda_fidelity"):
            if (value := real_number(name, getattr(self, name))) < 0:
                raise ValueError(f"{name}={value:g}: wanted at least 0")

    def __call__(self, kurtosis: Tensor, cosine: Tensor) -> Tensor:
        """F from a projection's excess kurtosis and the direction's cosine with the neuron."""
        return self.lambda_kurtosis * slog(kurtosis) + self.lambda_fidelity * cosine


def real_number(name: str, value: object) -> float:
    """A finite number as a float, or an error that names it; True is no number.

    Raises:
        ValueError: it is none, or NaN or infinite.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(f"{name}={value!r}: wanted a finite number")
    return float(value)


@dataclass(frozen=True)
class Solution:
    """What a solver returns, one row a neuron."""

    vectors: Float[Tensor, "n_neurons d_model"]
    """The channels, each of its neuron's norm."""
    objective: Float[Tensor, " n_neurons"]
    """F at ``vectors``, float64."""
    gradient_norm: Float[Tensor, " n_neurons"]
    """Norm of F's gradient along the unit sphere at ``vectors``; 0 at a stationary point."""
    n_iter: Tensor
    """Iterations taken (n_neurons,), int64."""
    converged: Tensor
    """Whether the solver's own stopping rule was met (n_neurons,), bool: geodesic, gain and
    gradient small; householder, the paper's."""
    history: list[Float[Tensor, " n_neurons"]]
    """F after each iteration (householder: each 100 steps), NaN once a neuron has left."""


def slog(x: Tensor) -> Tensor:
    """Signed logarithm ``sign(x) log(1 + |x|)`` of slope ``1 / (1 + |x|)`` (paper, section 3.2)."""
    return torch.sign(x) * torch.log1p(torch.abs(x))


def standardised_moments(
    logits: Float[Tensor, "*batch d_vocab"], weights: Float[Tensor, "*#batch d_vocab"] | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean, variance, skewness and excess kurtosis of logits (population moments).

    Args:
        logits: projections onto the vocabulary.
        weights: sample weights of the tokens, at least 0; None weighs all tokens alike.

    Returns:
        Four tensors of shape ``batch``, at least float32: half-precision logits are widened first.
        Skewness and kurtosis are NaN where the variance is 0.
    """
    logits = _widened(logits)
    if weights is None:
        p = torch.full_like(logits[..., :1], 1 / logits.shape[-1])
    else:
        weights = _widened(weights)
        p = weights / weights.sum(-1, keepdim=True)
    mean = (p * logits).sum(-1, keepdim=True)
    c = logits - mean
    square = c * c
    variance = (p * square).sum(-1)
    skewness = (p * square * c).sum(-1) / variance**1.5
    kurtosis = (p * square * square).sum(-1) / variance**2 - 3
    return mean.squeeze(-1), variance, skewness, kurtosis


def excess_kurtosis(
    logits: Float[Tensor, "*batch d_vocab"], weights: Float[Tensor, "*#batch d_vocab"] | None = None
) -> Float[Tensor, "*batch"]:
    """``k(z) = sum p (z - mean)^4 / var^2 - 3``: 0 for Gaussian logits (paper, section 3.1)."""
    return standardised_moments(logits, weights)[3]


def skewness(
    logits: Float[Tensor, "*batch d_vocab"], weights: Float[Tensor, "*#batch d_vocab"] | None = None
) -> Float[Tensor, "*batch"]:
    """``sum p (z - mean)^3 / var^1.5``: its sign tells the heavier tail."""
    return standardised_moments(logits, weights)[2]


def _widened(values: Tensor) -> Tensor:
    """At least float32; no copy where it is already."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


# --- The batched projection that both solvers work on -------------------------------------------


@dataclass(frozen=True)
class Sample:
    """The weighted sample of tokens that each neuron's moments are taken over.

    With ``z = U^T s`` the centred values are ``c = scale * z - mean_vector . s``, and a moment is
    ``sum_i p_i c_i^j``. Keeping ``mean_vector = U (scale * p)`` makes centring free of a pass.
    """

    projection: Float[Tensor, "d_model d_vocab"]
    """U, at least float32: half precision is widened, which is exact."""
    p: Tensor
    """Sample weights, sum 1 a row: (n_neurons, d_vocab), or (1, 1) where all tokens weigh alike."""
    scale: Tensor | None
    """Factor on the logits (n_neurons, d_vocab), scaled moments only."""
    mean_vector: Float[Tensor, "n_neurons d_model"]

    @staticmethod
    def of(
        projection: Float[Tensor, "d_model d_vocab"],
        token_weights: Float[Tensor, "n_neurons d_vocab"],
        moments: str,
    ) -> Sample:
        """Build the sample from token weights; one product with ``U``."""
        projection = _widened(projection)
        if moments == "weighted":
            p = token_weights / token_weights.sum(1, keepdim=True)
            return Sample(projection, p, None, p @ projection.T)
        p = Sample.uniform(projection).p
        return Sample(projection, p, token_weights, token_weights @ projection.T * p)

    @staticmethod
    def uniform(projection: Float[Tensor, "d_model d_vocab"]) -> Sample:
        """All tokens alike, for any number of neurons: the *unweighted* projection."""
        projection = _widened(projection)
        p = projection.new_full((1, 1), 1 / projection.shape[1])
        return Sample(projection, p, None, projection.mean(1).unsqueeze(0))

    def keep(self, rows: Tensor) -> Sample:
        """The sample of some of the neurons."""
        p = self.p if self.p.shape[1] == 1 else self.p[rows]
        scale = None if self.scale is None else self.scale[rows]
        return Sample(self.projection, p, scale, self.mean_vector[rows])

    def blocks(self, n_neurons: int) -> Iterator[slice]:
        """Slices of the vocabulary, each small enough for (n_neurons x block) to stay in cache."""
        d_vocab = self.projection.shape[1]
        elements = BLOCK_ELEMENTS.get(self.projection.device.type, 1 << 17)
        n_blocks = max(1, -(-n_neurons * d_vocab // elements))
        if self.projection.device.type == "cpu":
            n_blocks = max(n_blocks, -(-d_vocab // BLOCK_TOKENS))
        width = -(-d_vocab // n_blocks)
        for start in range(0, d_vocab, width):
            yield slice(start, min(start + width, d_vocab))

    def project(
        self, vectors: Float[Tensor, "n_neurons d_model"], block: slice, out: Tensor
    ) -> Tensor:
        """Centred logits of one block of tokens, written to ``out`` (n_neurons, width)."""
        offset = -(self.mean_vector * vectors).sum(1, keepdim=True)
        columns = self.projection[:, block]
        if len(vectors) <= FEW and columns.device.type == "cpu" and columns.stride(0) == 1:
            out.copy_(_few_logits(vectors, columns))
        elif self.scale is None:
            return torch.addmm(offset, vectors, columns, out=out)
        else:
            torch.mm(vectors, columns, out=out)
        if self.scale is not None:
            out.mul_(self.scale[:, block])
        return out.add_(offset)

    def p_block(self, block: slice) -> Tensor:
        """Sample weights of one block, to be broadcast over neurons and tokens."""
        return self.p if self.p.shape[1] == 1 else self.p[:, block]


def _few_logits(
    vectors: Float[Tensor, "n d_model"], columns: Float[Tensor, "d_model width"]
) -> Float[Tensor, "n width"]:
    """``vectors @ columns`` as ``(U^T s^T)^T``, for a few vectors and a U that lies token by token.

    The same product, and MKL is faster at it this way round: for one neuron a whole iteration then
    takes less time than two bare products (benchmarks/solver.py). With more vectors, or a U that
    lies otherwise, it is slower. A single vector goes twice, as a product of a matrix and a vector
    would have one core only.
    """
    pair = vectors if len(vectors) > 1 else vectors.repeat(2, 1)
    return (columns.T @ pair.T).T[: len(vectors)]


def centred_logits(
    vectors: Float[Tensor, "n_neurons d_model"], sample: Sample
) -> tuple[Float[Tensor, "n_neurons d_vocab"], Tensor, Tensor]:
    """Centred (and, if so sampled, scaled) logits, their variance and fourth central moment.

    Returns:
        logits c (n_neurons, d_vocab) in the dtype of ``vectors``; ``m2`` and ``m4`` (n_neurons,)
        in float64: summed in the working precision within a block, in float64 across blocks.
    """
    n_neurons = len(vectors)
    c = vectors.new_empty(n_neurons, sample.projection.shape[1])
    m2 = vectors.new_zeros(n_neurons, dtype=torch.float64)
    m4 = torch.zeros_like(m2)
    for block in sample.blocks(n_neurons):
        part = sample.project(vectors, block, c[:, block])
        square = part * part
        weighted = square * sample.p_block(block)
        m2 += weighted.sum(1)
        m4 += weighted.mul_(square).sum(1)
    return c, m2, m4


def slog_kurtosis_gradient(
    c: Float[Tensor, "n_neurons d_vocab"], m2: Tensor, m4: Tensor, sample: Sample
) -> Float[Tensor, "n_neurons d_model"]:
    """Gradient of ``slog(k(z(s)))`` with respect to the vector s, from its centred logits.

    In logits, ``dk/dz_i = 4 p_i [(c_i^3 - sum p c^3) / v^2 - (m4 / v^2) c_i / v]``, v the variance;
    the chain goes on through the scale, ``U``, and slog's slope. The constant term is taken out
    of the product: ``U (scale * p) = mean_vector``.
    """
    n_neurons = len(c)
    ratio = (m4 / m2).to(c.dtype).unsqueeze(1)
    m3 = m2.new_zeros(n_neurons)
    gradient = c.new_zeros(n_neurons, sample.projection.shape[0])
    for block in sample.blocks(n_neurons):
        part = c[:, block]
        g = torch.mul(part, part).sub_(ratio).mul_(part).mul_(sample.p_block(block))
        m3 += g.sum(1)  # sum p c^3, since sum p c = 0
        if sample.scale is not None:
            g.mul_(sample.scale[:, block])
        gradient.addmm_(g, sample.projection[:, block].T)
    gradient -= m3.to(c.dtype).unsqueeze(1) * sample.mean_vector
    slope = 4 / m2**2 / (1 + torch.abs(m4 / m2**2 - 3))
    return gradient * slope.to(c.dtype).unsqueeze(1)
