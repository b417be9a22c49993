"""Contrastive covariances: the low-rank parts of a head's query-key space that a feature uses.

    part = contrastive(queries, positive_keys, negative_keys)
    part.rank, part.p_value, part.attribute(q, k)

Source: Lee, Belinkov, Viegas and Wattenberg (arXiv:2602.04752). The null is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

ENERGY = 0.99
"""Share of the squared singular values that a subspace holds at least (the paper's)."""
LEVEL = 0.05
"""A singular value counts where at most this share of the null's largest ones reach it."""
REST = "rest"
"""What :func:`attribute` calls all that no subspace has."""


@dataclass(frozen=True, eq=False)
class Subspace:
    """The directions of a head's queries and keys in which a feature meets itself."""

    query: Float[Tensor, "d_head rank"]
    """Orthonormal: left singular vectors of the contrastive covariance."""
    key: Float[Tensor, "d_head rank"]
    """Orthonormal: right singular vectors."""
    singular_values: Float[Tensor, " d_head"]
    """All of them, descending."""
    null: Float[Tensor, " n_permutations"]
    """The largest singular value of each permutation, ascending."""
    energy_rank: int
    """Values that hold 99% of the squared energy, the paper's rank; noise has one, too."""
    name: str = "feature"

    @property
    def rank(self) -> int:
        """Values that the 99% rule counts and that are above the null as well; 0 for none."""
        return self.query.shape[1]

    @property
    def p_value(self) -> float:
        """Of the largest singular value: its rank among those of permuted labels."""
        reached = int((self.null >= self.singular_values[0]).sum())
        return (reached + 1) / (len(self.null) + 1)

    def attribute(
        self, q: Float[Tensor, "*batch n_queries d"], k: Float[Tensor, "*batch n_keys d"]
    ) -> dict[str, Float[Tensor, "*batch n_queries n_keys"]]:
        """:func:`attribute` to this subspace alone, and the rest."""
        return attribute(q, k, [self])

    def named(self, name: str) -> Subspace:
        """The same under another name."""
        return replace(self, name=name)

    def __repr__(self) -> str:
        return f"Subspace({self.name!r}, rank {self.rank}, p = {self.p_value:.2g})"


def contrastive(
    queries: Float[Tensor, "n d"],
    positive_keys: Float[Tensor, "n n_positive d"] | Float[Tensor, "n d"],
    negative_keys: Float[Tensor, "n n_negative d"] | Float[Tensor, "n d"],
    *,
    centred: bool = False,
    n_permutations: int = 99,
    seed: int = 0,
    name: str = "feature",
) -> Subspace:
    """Singular vectors of ``E[q k+^T] - E[q k-^T]``, as many as hold energy and beat chance.

    Second moments as they are: what positives and negatives have in common cancels. A prompt weighs
    1, and its keys of a kind share that.

    What it finds is *there* in queries and in keys; whether the head uses it, :func:`.swap` tells.
    A head of random weights has such subspaces, too, where its input has the feature.

    The null permutes which of a prompt's keys are positive. Its *largest* singular values are what
    each value is held against, so that a rank of 1 or more is found in nothing in one case of
    twenty.

    Args:
        queries: of prompts.
        positive_keys: keys of each prompt that share the feature with its query.
        negative_keys: keys that do not. Whatever else tells the two apart is found as well.
        centred: take the queries' mean away. The covariance is expected to be the same where keys
            of both kinds have one mean, as where every value is asked for as often. Without it, the
            mean query multiplies what chance leaves of that, and the null grows with it.
        n_permutations: of labels within prompts; 19 or more.
        seed: of the permutations.
        name: of the feature.

    Raises:
        ValueError: shapes that do not fit, values that are not finite, or too few permutations.

    Source: arXiv:2602.04752 for the covariance and the 99% rule. Ours: the permutations, centring.
    """
    positive, negative = (
        keys.unsqueeze(1) if keys.ndim == 2 else keys for keys in (positive_keys, negative_keys)
    )
    _check(queries, positive, negative, n_permutations)
    if centred:
        queries = queries - queries.mean(0)
    keys = torch.cat([positive, negative], 1)
    n_positive, n_keys = positive.shape[1], keys.shape[1]
    weight = torch.full((n_keys,), -1 / (n_keys - n_positive))
    weight[:n_positive] = 1 / n_positive
    u, s, vt = torch.linalg.svd(_covariance(queries, keys, weight.repeat(len(keys), 1)))

    generator = torch.Generator().manual_seed(seed)
    null = []
    for _ in range(n_permutations):
        order = torch.rand(keys.shape[:2], generator=generator).argsort(1)
        null.append(_covariance(queries, keys, weight[order]))
    largest = torch.linalg.matrix_norm(torch.stack(null), ord=2).sort().values
    energy = s.square().cumsum(0) / s.square().sum()
    energy_rank = min(int((energy < ENERGY).sum()) + 1, len(s))
    chance = torch.quantile(largest, 1 - LEVEL, interpolation="higher")
    rank = min(energy_rank, int((s > chance).sum()))
    return Subspace(u[:, :rank], vt[:rank].T, s, largest, energy_rank, name)


def _covariance(
    queries: Float[Tensor, "n d"], keys: Float[Tensor, "n m d"], weight: Float[Tensor, "n m"]
) -> Float[Tensor, "d d"]:
    """The mean over prompts of a query times the weighted sum of its keys."""
    return queries.T @ torch.bmm(weight.to(keys).unsqueeze(1), keys).squeeze(1) / len(queries)


def _check(queries: Tensor, positive: Tensor, negative: Tensor, n_permutations: int) -> None:
    shapes = [tuple(x.shape) for x in (queries, positive, negative)]
    n, d = queries.shape if queries.ndim == 2 else (0, 0)
    if not n or any(len(s) != 3 or (s[0], s[2]) != (n, d) or not s[1] for s in shapes[1:]):
        raise ValueError(
            f"queries {shapes[0]}, positive_keys {shapes[1]}, negative_keys {shapes[2]}: "
            "wanted (n, d_head) and twice (n, n_keys, d_head)"
        )
    for what, x in (("queries", queries), ("keys", positive), ("keys", negative)):
        if not x.isfinite().all():
            raise ValueError(f"{what} hold inf or nan: wanted finite values")
    if n_permutations < round(1 / LEVEL) - 1:
        raise ValueError(f"n_permutations={n_permutations}: wanted 19 at least, for a level of 5%")


def attribute(
    q: Float[Tensor, "*batch n_queries d"],
    k: Float[Tensor, "*batch n_keys d"],
    parts: Sequence[Subspace],
) -> dict[str, Float[Tensor, "*batch n_queries n_keys"]]:
    """``q . k`` as an exact sum over named subspaces of the query, and the rest.

    ``q = P_1 q + P_2 q + ... + rest``. Each subspace is made orthogonal to those before it: what
    two share goes to the one that is **named first**, so another order gives other parts. Products
    are before scaling and before any cap, behind which parts do not add up.

    Raises:
        ValueError: two parts of one name, or one that is called "rest".

    Source: arXiv:2602.04752.
    """
    names = [part.name for part in parts]
    if len({*names, REST}) <= len(names):
        raise ValueError(f"names {names}: wanted different ones, and none {REST!r}")
    found, rest = {}, q
    for part in parts:
        basis = part.query.to(q)
        inside = _orthonormal(basis, [p.query.to(q) for p in parts[: names.index(part.name)]])
        found[part.name] = q @ inside @ inside.T @ k.transpose(-1, -2)
        rest = rest - q @ inside @ inside.T
    return found | {REST: rest @ k.transpose(-1, -2)}


def _orthonormal(
    basis: Float[Tensor, "d rank"], before: Sequence[Float[Tensor, "d rank"]]
) -> Float[Tensor, "d smaller"]:
    """An orthonormal basis of what is left of a span beside earlier ones."""
    for i, other in enumerate(before):
        own = _orthonormal(other, before[:i])
        basis = basis - own @ (own.T @ basis)
    u, s, _ = torch.linalg.svd(basis, full_matrices=False)
    return u[:, s > 1e-5]
