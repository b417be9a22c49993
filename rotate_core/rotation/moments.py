"""The kurtosis of a direction's projection onto the vocabulary, block by block; its gradient.

*Excess* kurtosis from *population* moments, so that Gaussian logits score 0. The token weights
``m`` (``d_vocab``, from 0 to 1) enter the moments in one of two ways:

``"weighted"``  ``m`` are sample weights: ``p = m / sum(m)``, a moment is ``sum p (z - mean)^j``.
                Ours: a masked token drops out of the sample.
``"scaled"``    ``m`` multiplies the logits and plain moments follow, as in the paper (section 3.2).
                A masked token stays in the sample, at a logit of zero.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from .threads import each, fused

MOMENTS = ("weighted", "scaled")
LANE_TOKENS = 6144
"""Tokens of a part of the vocabulary, at least, which one thread of a CPU works through. Sums over
parts are taken in order: results do not depend on the number of threads. A GPU has one part."""
BLOCK_ELEMENTS = {"cpu": 1 << 17, "cuda": 1 << 26}
"""Elements of a block (neurons x tokens) in a lane: a CPU keeps the dozen arrays of a block in its
second-level cache, a GPU wants few, large launches."""
FEW = 8
"""So few vectors, on a CPU, go as ``(U^T s^T)^T``: faster where U lies token by token. One alone
goes twice, since matrix times vector takes as long as matrix times two."""


def slog(x: Tensor) -> Tensor:
    """Signed logarithm ``sign(x) log(1 + |x|)`` of slope ``1 / (1 + |x|)`` (paper, section 3.2)."""
    return torch.sign(x) * torch.log1p(torch.abs(x))


def excess_kurtosis(
    logits: Float[Tensor, "*batch d_vocab"], weights: Float[Tensor, "*#batch d_vocab"] | None = None
) -> Float[Tensor, "*batch"]:
    """``k(z) = sum p (z - mean)^4 / var^2 - 3``, p the weights, sum 1 (paper, section 3.1)."""
    logits = _widened(logits)
    weights = torch.ones_like(logits) if weights is None else _widened(weights)
    p = weights / weights.sum(-1, keepdim=True)
    square = (logits - (p * logits).sum(-1, keepdim=True)) ** 2
    return (p * square**2).sum(-1) / (p * square).sum(-1) ** 2 - 3


def _widened(values: Tensor) -> Tensor:
    """At least float32; no copy where it is already."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


@dataclass(frozen=True)
class Sample:
    """The weighted sample of tokens that each neuron's moments are taken over.

    With ``z = U^T s`` centred values are ``c = scale * z - mean_vector . s``, a moment is ``sum p
    c^j``, block by block. ``mean_vector = U (scale * p)`` makes centring free of a pass.
    """

    projection: Float[Tensor, "d_model d_vocab"]  # U, at least float32: widened, which is exact
    p: Tensor  # sum 1 per row: (n_neurons, d_vocab), or (1, 1) where all tokens weigh alike
    scale: Tensor | None  # factor on the logits (n_neurons, d_vocab), scaled moments only
    mean_vector: Float[Tensor, "n_neurons d_model"]

    @staticmethod
    def of(
        projection: Float[Tensor, "d_model d_vocab"],
        token_weights: Float[Tensor, "n_neurons d_vocab"],
        moments: str,
    ) -> Sample:
        """Build the sample from token weights; one product with ``U``."""
        projection = _widened(projection)
        p, scale = uniform_p(projection), None
        if moments == "weighted":
            p = weights = token_weights / token_weights.sum(1, keepdim=True)
        else:
            scale, weights = token_weights, token_weights * p
        no_mean = Sample(projection, p, None, projection.new_zeros(1, len(projection)))
        mean = no_mean.adjoint(len(weights), lambda block: weights[:, block])
        return Sample(projection, p, scale, mean)

    @staticmethod
    def uniform(projection: Float[Tensor, "d_model d_vocab"]) -> Sample:
        """All tokens alike, for any number of neurons: the *unweighted* projection."""
        projection = _widened(projection)
        p = uniform_p(projection)
        return Sample(projection, p, None, projection.mean(1).unsqueeze(0))

    def keep(self, rows: Tensor) -> Sample:
        """The sample of a part of the neurons."""
        p = self.p if self.p.shape[1] == 1 else self.p[rows]
        scale = None if self.scale is None else self.scale[rows]
        return Sample(self.projection, p, scale, self.mean_vector[rows])

    def summed(
        self, n_neurons: int, work: Callable[[Iterator[slice]], list[Tensor]]
    ) -> list[Tensor]:
        """What ``work`` makes of each lane's blocks, lanes side by side, summed over lanes."""
        device = self.projection.device.type
        width = max(1, BLOCK_ELEMENTS.get(device, 1 << 16) // max(1, n_neurons))

        def in_lane(lane: slice) -> list[Tensor]:
            n_tokens = lane.stop - lane.start
            size = -(-n_tokens // -(-n_tokens // width))  # blocks of about the same size
            starts = range(lane.start, lane.stop, size)
            return work(slice(start, min(start + size, lane.stop)) for start in starts)

        parts = each(in_lane, lanes(self.projection))
        return [sum(others, first) for first, *others in zip(*parts, strict=True)]

    def project(self, vectors: Tensor, block: slice, out: Tensor) -> Tensor:
        """Centred logits of vectors (n_neurons, d_model) in one block, written to ``out``."""
        offset = -(self.mean_vector * vectors).sum(1, keepdim=True)
        columns = self.projection[:, block]
        if columns.dtype != out.dtype:  # U rounded, and so is the product
            out.copy_(vectors.to(columns.dtype) @ columns)
        elif len(vectors) <= FEW and columns.device.type == "cpu" and columns.stride(0) == 1:
            pair = vectors if len(vectors) > 1 else vectors.repeat(2, 1)
            out.copy_((columns.T @ pair.T).T[: len(vectors)])
        elif self.scale is None:
            return torch.addmm(offset, vectors, columns, out=out)
        else:
            torch.mm(vectors, columns, out=out)
        if self.scale is not None:
            out.mul_(self.scale[:, block])
        return out.add_(offset)

    def adjoint(
        self, n_neurons: int, values: Callable[[slice], Float[Tensor, "n_neurons block"]]
    ) -> Float[Tensor, "n_neurons d_model"]:
        """``U (scale * v) - (sum v) mean_vector``: the transpose of the centred projection."""

        def in_lane(blocks: Iterator[slice]) -> list[Tensor]:
            product = self.mean_vector.new_zeros(n_neurons, len(self.projection))
            total = product.new_zeros(n_neurons, dtype=torch.float64)
            for block in blocks:
                v, columns = values(block), self.projection[:, block].T
                total += v.sum(1)
                if self.scale is not None:
                    v.mul_(self.scale[:, block])
                if columns.dtype == v.dtype:
                    product.addmm_(v, columns)
                else:
                    product += v.to(columns.dtype) @ columns
            return [product, total]

        product, total = self.summed(n_neurons, in_lane)
        return product.sub_(total.to(product.dtype).unsqueeze(1) * self.mean_vector)

    def p_block(self, block: slice) -> Tensor:
        """Sample weights of one block, to be broadcast over neurons and tokens."""
        return self.p if self.p.shape[1] == 1 else self.p[:, block]


def uniform_p(projection: Float[Tensor, "d_model d_vocab"]) -> Float[Tensor, "1 1"]:
    """Weight of each token where all weigh alike."""
    return projection.new_full((1, 1), 1 / projection.shape[1])


def lanes(values: Float[Tensor, "rows d_vocab"]) -> list[slice]:
    """The parts of the vocabulary, see :data:`LANE_TOKENS`."""
    d_vocab = values.shape[1]
    n_lanes = max(1, d_vocab // LANE_TOKENS) if values.device.type == "cpu" else 1
    edges = [d_vocab * i // n_lanes for i in range(n_lanes + 1)]
    return [slice(*pair) for pair in itertools.pairwise(edges)]


def centred_logits(
    vectors: Float[Tensor, "n_neurons d_model"], sample: Sample
) -> tuple[Float[Tensor, "n_neurons d_vocab"], Tensor, Tensor]:
    """Centred (and, if so sampled, scaled) logits, their variance m2 and fourth central moment m4.

    Moments (n_neurons,) are summed in the working precision within a block, in float64 across.
    """
    c = vectors.new_empty(len(vectors), sample.projection.shape[1])

    def in_lane(blocks: Iterator[slice]) -> list[Tensor]:
        moments = vectors.new_zeros(len(vectors), 2, dtype=torch.float64)
        for block in blocks:
            part = sample.project(vectors, block, c[:, block])
            moments += _two_sums(part, sample.p_block(block))
        return [moments]

    m2, m4 = sample.summed(len(vectors), in_lane)[0].unbind(1)
    return c, m2, m4


def slog_kurtosis_gradient(
    c: Float[Tensor, "n_neurons d_vocab"], m2: Tensor, m4: Tensor, sample: Sample
) -> Float[Tensor, "n_neurons d_model"]:
    """Gradient of ``slog(k(z(s)))`` with respect to the vector s, from its centred logits.

    In logits, ``dk/dz_i = 4 p_i [(c_i^3 - sum p c^3) / v^2 - (m4 / v^2) c_i / v]``, v the variance.
    """
    ratio = (m4 / m2).to(c.dtype).unsqueeze(1)

    def values(block: slice) -> Tensor:  # their sum is sum p c^3, since sum p c = 0
        return _cubic(c[:, block], ratio, sample.p_block(block))

    slope = 4 / m2**2 / (1 + torch.abs(m4 / m2**2 - 3))
    return sample.adjoint(len(c), values).mul_(slope.to(c.dtype).unsqueeze(1))


def joint_moments(
    a: Float[Tensor, "n_neurons d_vocab"], d: Float[Tensor, "n_neurons d_model"], sample: Sample
) -> tuple[Float[Tensor, "n_neurons d_vocab"], Float[Tensor, "n_neurons 8"]]:
    """Centred logits b of d, and ``E[a^i b^j]``, ij = 20, 11, 02, 40, 31, 22, 13, 04; float64."""
    b = torch.empty_like(a)

    def in_lane(blocks: Iterator[slice]) -> list[Tensor]:
        moments = a.new_zeros(len(a), 8, dtype=torch.float64)
        for block in blocks:
            part = sample.project(d, block, b[:, block])
            moments += _eight_sums(a[:, block], part, sample.p_block(block))
        return [moments]

    return b, sample.summed(len(a), in_lane)[0]


# --- Passes over the tokens of a block, see `fused` ---------------------------------------------


@fused
def _two_sums(c: Tensor, p: Tensor) -> Float[Tensor, "n 2"]:
    """``sum p c^2`` and ``sum p c^4``."""
    square = c * c
    weighted = square * p
    return torch.stack((weighted.sum(1), (weighted * square).sum(1)), 1)


@fused
def _cubic(c: Tensor, ratio: Tensor, p: Tensor) -> Float[Tensor, "n block"]:
    """``p (c^2 - ratio) c``."""
    return (c * c).sub_(ratio).mul_(c).mul_(p)


@fused
def _eight_sums(a: Tensor, b: Tensor, p: Tensor) -> Float[Tensor, "n 8"]:
    """``sum p a^i b^j``, in the order of :func:`joint_moments`."""
    aa, ab, bb = a * a, a * b, b * b
    paa, pbb = aa * p, bb * p
    second = paa.sum(1), (ab * p).sum(1), pbb.sum(1)
    third = (paa * ab).sum(1), (paa * bb).sum(1), (pbb * ab).sum(1)
    return torch.stack((*second, (paa * aa).sum(1), *third, (pbb * bb).sum(1)), 1)


def moments_along(moments: Float[Tensor, "n 8"], t: Float[Tensor, "n k"]) -> tuple[Tensor, Tensor]:
    """Second and fourth central moment of ``cos t a + sin t b``, n pairs at k angles each."""
    e20, e11, e02, e40, e31, e22, e13, e04 = (column.unsqueeze(1) for column in moments.unbind(1))
    c, s = torch.cos(t), torch.sin(t)
    m2 = c * c * e20 + 2 * c * s * e11 + s * s * e02
    m4 = c**4 * e40 + 4 * c**3 * s * e31 + 6 * c**2 * s**2 * e22 + 4 * c * s**3 * e13 + s**4 * e04
    return m2, m4
