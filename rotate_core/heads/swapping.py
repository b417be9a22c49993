"""The causal test of a subspace: two keys swap what they have in it; does attention follow?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rotate_core.null.matched import own_seed


@dataclass(frozen=True, eq=False)
class Swapped:
    """What a swap did to attention, one value a prompt."""

    before: Float[Tensor, " n"]
    """The other key's share of what the two get together, ``a_other / (a_attended + a_other)``."""
    after: Float[Tensor, " n"]
    """The same behind the swap."""
    flipped: Bool[Tensor, " n"]
    """Whether the largest logit of all keys has gone to the other key."""

    @property
    def change(self) -> Float[Tensor, " n"]:
        """How far attention has gone over to the other key: 0 not at all, 1 fully."""
        return self.after - self.before


def swap(
    q: Float[Tensor, "n d"],
    k: Float[Tensor, "n n_keys d"],
    attended: Int[Tensor, " n"],
    other: Int[Tensor, " n"],
    basis: Float[Tensor, "d rank"],
    *,
    scaling: float = 1.0,
    softcap: float | None = None,
) -> Swapped:
    """Swap the coordinates of two keys in a subspace, and look where the head attends.

    Args:
        q: a query of each prompt.
        k: its keys.
        attended: which of them is attended.
        other: which of them it is swapped with.
        basis: orthonormal, such as `Subspace.key`; of rank 0 nothing is swapped.
        scaling: of logits; as `QueriesKeys` has it.
        softcap: as `QueriesKeys` has it.

    Source: arXiv:2602.04752.
    """

    def logits(keys: Tensor) -> Tensor:
        x = scaling * torch.einsum("bd,bmd->bm", q, keys)
        return x if softcap is None else softcap * (x / softcap).tanh()

    rows = torch.arange(len(q))
    moved = (k[rows, other] - k[rows, attended]) @ basis @ basis.T
    new = k.clone()
    new[rows, attended] += moved
    new[rows, other] -= moved
    before, after = logits(k), logits(new)
    old_share, new_share = (
        torch.sigmoid(x[rows, other] - x[rows, attended]) for x in (before, after)
    )
    flipped = (after.argmax(1) == other) & (before.argmax(1) != other)
    return Swapped(old_share, new_share, flipped)


def random_subspaces(
    d: int, rank: int, n: int = 10, *, seed: int = 0
) -> list[Float[Tensor, "d rank"]]:
    """Orthonormal bases of random subspaces: what any subspace of that rank would do."""
    generator = torch.Generator().manual_seed(own_seed(seed, "subspaces", d, rank))
    return list(torch.linalg.qr(torch.randn(n, d, rank, generator=generator))[0])
