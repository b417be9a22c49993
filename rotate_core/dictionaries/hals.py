"""Sparse semi-nonnegative factorisation by exact block minimisation: HT-HALS.

``|A - Y Z|^2`` with Y >= 0 and at most s entries in each row of Z. With all else fixed, the best
coefficients of a feature over all tokens, and the best feature of s neurons, have closed forms: so
no step raises the loss. A sweep reads the activations once, chunk by chunk; all that a feature
needs of them are two sums, ``Y^T A`` and ``Y^T Y``.

Source: hierarchical alternating least squares, Cichocki et al. (2007) and Gillis and Glineur
(2012); that the hard threshold of the least squares solution is exact is ours, and plain: the loss
in one feature z is ``|y|^2 |z - z*|^2`` and a constant.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rotate_core.rotation.threads import each, team

Y_SWEEPS, Z_SWEEPS = 2, 5
"""Rounds over the features each time: they cost little beside the products with the activations
(Gillis and Glineur 2012)."""
ON_CPU, ELSEWHERE = 1024, 1 << 16
"""Tokens of a chunk; on a CPU such that it stays in the cache, and each thread has some."""
ENCODE_SWEEPS, ENCODED = 500, 1e-6
"""Most rounds for coefficients given the features; the change, as a share of the largest
coefficient, at which they end."""


@dataclass
class Sums:
    """What the features need to know of the tokens."""

    b: Float[Tensor, "k d"]
    """``Y^T A``."""
    g: Float[Tensor, "k k"]
    """``Y^T Y``."""

    @staticmethod
    def none(z: Float[Tensor, "k d"]) -> Sums:
        """Of no tokens."""
        return Sums(torch.zeros_like(z), z.new_zeros(len(z), len(z)))


class Sweep(NamedTuple):
    """A factorisation after some sweeps."""

    z: Float[Tensor, "k d"]
    y: Float[Tensor, "k n"]
    loss: float
    """``|A - Y Z|^2``."""
    n_revived: int
    """Features that no token used and that were put elsewhere."""


def fit(
    x: Float[Tensor, "n d"],
    z: Float[Tensor, "k d"],
    n_kept: int,
    *,
    y: Float[Tensor, "k n"] | None = None,
) -> Iterator[Sweep]:
    """Sweeps without end, the first of which only finds the coefficients of the start.

    Args:
        x: activations, one token a row.
        z: the features to begin with; none of them zero.
        n_kept: s, entries that a feature keeps.
        y: coefficients to begin with; None: zero. They are not changed.
    """
    total = float(x.double().square().sum())
    y = x.new_zeros(len(z), len(x)) if y is None else y
    n_dead = 0
    while True:
        y, sums, gained = folded(x, z, y)
        yield Sweep(z, y, total - gained, n_dead)
        z = features(sums, z, n_kept)
        dead = (~(z != 0).any(1)).nonzero().flatten()
        if n_dead := len(dead):
            rows = unexplained(x, z, y).topk(n_dead).indices
            z[dead], y[dead] = largest(left(x, z, y, rows), n_kept), 0


def folded(
    x: Float[Tensor, "n d"],
    z: Float[Tensor, "k d"],
    y: Float[Tensor, "k n"],
    *,
    rounds: int = Y_SWEEPS,
) -> tuple[Float[Tensor, "k n"], Sums, float]:
    """Better coefficients, the sums over the tokens, and ``|A|^2 - |A - Y Z|^2``.

    Chunks are worked through side by side within :func:`.threads.team`, and added up in order.
    """
    q = z @ z.T

    def of(part: slice) -> tuple[Tensor, Sums, float]:
        p = z @ x[part].T
        new = nonnegative(p, q, y[:, part], rounds)
        g = new @ new.T
        gained = 2 * (p * new).sum(dtype=torch.float64) - (g * q).sum(dtype=torch.float64)
        return new, Sums(new @ x[part], g), float(gained)

    sums, total, parts = Sums.none(z), 0.0, []
    for new, some, gained in each(of, chunks(x)):
        parts.append(new)
        sums.b += some.b
        sums.g += some.g
        total += gained
    return torch.cat(parts, 1), sums, total


def nonnegative(
    p: Float[Tensor, "k n"], q: Float[Tensor, "k k"], y: Float[Tensor, "k n"], rounds: int
) -> Float[Tensor, "k n"]:
    """Rounds of coordinate descent on ``y' Q y / 2 - p' y`` over y >= 0, column by column."""
    y = y.clone()
    scale = q.diagonal().clamp_min(torch.finfo(q.dtype).tiny)
    q, p = q / scale.unsqueeze(1), p / scale.unsqueeze(1)
    for _ in range(rounds):
        for j in range(len(q)):
            step = torch.addmv(p[j], y.T, q[j], alpha=-1)
            y[j] = y[j].add_(step).clamp_min_(0)
    return y


def features(sums: Sums, z: Float[Tensor, "k d"], n_kept: int) -> Float[Tensor, "k d"]:
    """The best features of the sums: together where they are dense, else one after another.

    A feature that no token uses is zero afterwards.
    """
    b, g = sums.b, sums.g
    used = g.diagonal() > 0
    if n_kept >= z.shape[1]:
        # coordinate descent from a poor start stalls here (Gillis and Kumar 2015)
        return (torch.linalg.pinv(g.double(), hermitian=True) @ b.double()).to(z)
    z = z * used.unsqueeze(1)
    g = g / g.diagonal().where(used, 1).unsqueeze(1)
    b = b / sums.g.diagonal().where(used, 1).unsqueeze(1)
    for _ in range(Z_SWEEPS):
        for j in used.nonzero().flatten().tolist():
            z[j] = largest(z[j] + torch.addmv(b[j], z.T, g[j], alpha=-1), n_kept)
    return z


def largest(z: Float[Tensor, "*batch d"], n_kept: int) -> Float[Tensor, "*batch d"]:
    """H_s(z): the s entries of largest absolute value, and zero elsewhere."""
    index = z.abs().topk(n_kept).indices
    return torch.zeros_like(z).scatter_(-1, index, z.gather(-1, index))


def encode(x: Float[Tensor, "n d"], z: Float[Tensor, "k d"]) -> Float[Tensor, "n k"]:
    """The least squares coefficients of tokens, at least 0 each (NNLS)."""
    q = z @ z.T

    def of(part: slice) -> Tensor:
        p = z @ x[part].T
        now = torch.zeros_like(p)
        for _ in range(ENCODE_SWEEPS // Y_SWEEPS):
            before, now = now, nonnegative(p, q, now, Y_SWEEPS)
            if (now - before).abs().max() <= ENCODED * now.max():
                break
        return now.T

    with team(x.device):
        return torch.cat([x.new_zeros(0, len(z)), *each(of, chunks(x))])


def chunks(x: Float[Tensor, "n d"]) -> Iterator[slice]:
    """Tokens at a time. The size changes rounding only."""
    size = ON_CPU if x.device.type == "cpu" else ELSEWHERE
    yield from (slice(i, i + size) for i in range(0, len(x), size))


def left(
    x: Float[Tensor, "n d"],
    z: Float[Tensor, "k d"],
    y: Float[Tensor, "k n"],
    rows: slice | Int[Tensor, " m"],
) -> Float[Tensor, "m d"]:
    """What a factorisation leaves of some tokens."""
    return x[rows] - y[:, rows].T @ z


def unexplained(
    x: Float[Tensor, "n d"], z: Float[Tensor, "k d"], y: Float[Tensor, "k n"]
) -> Float[Tensor, " n"]:
    """The squared norm of what is left of each token."""
    return torch.cat(each(lambda part: left(x, z, y, part).square().sum(1), chunks(x)))


def moved(
    x: Float[Tensor, "n d"], now: Sweep, n: int, n_kept: int, generator: torch.Generator
) -> tuple[Float[Tensor, "k d"], Float[Tensor, "k n"]]:
    """The features and coefficients with the n that are needed least put where the loss is.

    What the loss would rise without a feature is taken to be ``|y|^2 |z|^2 (1 - c^2)``, with c its
    cosine with the most similar other one, which would take its tokens over. It goes to what is
    left of a token, drawn with its share of the loss.
    """
    z, y = now.z.clone(), now.y.clone()
    q = z @ z.T
    square = q.diagonal().clamp_min(torch.finfo(q.dtype).tiny)
    cosine = q / (square.sqrt().unsqueeze(1) * square.sqrt())
    twin = cosine.fill_diagonal_(0).max(1).values.clamp_min(0)
    least = (y.square().sum(1) * square * (1 - twin.square())).argsort()[:n]
    loss = unexplained(x, z, y).double().cpu()
    loss += 1e-6 * loss.mean() or 1.0  # a token that is explained may be drawn where all are
    rows = torch.multinomial(loss, n, generator=generator).to(x.device)
    z[least], y[least] = largest(left(x, now.z, now.y, rows), n_kept), 0
    return z, y
