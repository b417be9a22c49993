"""A toy head whose answer is known: do contrastive covariances find what was built in (chapter 16)?

Sixteen tokens, each ``A1 z1 + A2 z2 + payload + noise`` with z1 of N and z2 of M signs, and a query
``B1 z1 + B2 z2`` of one of them. One head of attention learns to give that token's payload. All
configurations and seeds are trained at once, as one batch of heads.

Source: arXiv:2602.04752 for the task and the claims. Ours: the learning rate, heads that have
learned nothing as a null, and that positives and negatives are drawn apart (see :func:`pairs`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot
from tqdm.auto import tqdm

from rotate_core.heads import Subspace, contrastive, random_subspaces, swap
from rotate_core.null.matched import own_seed

if TYPE_CHECKING:
    import pandas as pd

SIZES = tuple(product((3, 5, 7), repeat=2))
"""(N, M)."""
MOST = max(max(size) for size in SIZES)
"""Signs are padded to so many with zeros, so that sizes fit in one batch."""
D_MODEL, N_TOKENS, N_CLASSES, NOISE = 32, 16, 10, 0.01
BATCH, LEARNING_RATE = 256, 1e-2
CHECK, PATIENCE = 100, 5
"""Steps between two looks at the accuracy; looks without a gain after which training ends."""
FACTORS = ("z1", "z2")
TRAINED, UNTRAINED = "trained", "untrained"


@dataclass(frozen=True, eq=False)
class Toys:
    """Heads of one width, one for each of :data:`SIZES` and seed; features are rows."""

    embedding: Float[Tensor, "n_sizes seeds features d_model"]
    """A1, A2 and the payloads; rows of signs that a size does not have are 0."""
    asking: Float[Tensor, "n_sizes seeds features d_model"]
    """B1 and B2, in the same rows."""
    query: Float[Tensor, "n_sizes seeds d_head d_model"]
    key: Float[Tensor, "n_sizes seeds d_head d_model"]
    readout: Float[Tensor, "n_sizes seeds n_classes d_model"]
    """Value and output in one matrix."""

    @property
    def d_head(self) -> int:
        """Width of a query and a key."""
        return self.query.shape[2]


@dataclass(frozen=True, eq=False)
class Contexts:
    """Contexts of every size. The first token is the one asked for: attention knows no order."""

    features: Float[Tensor, "n_sizes n n_tokens features"]
    asked: Float[Tensor, "n_sizes n features"]
    noise: Float[Tensor, "n n_tokens d_model"]
    right: Int[Tensor, "n_sizes n"]
    """The class of the first token's payload."""


def contexts(n: int, generator: torch.Generator) -> Contexts:
    """Random contexts. No other token has all signs of the one asked for: one of its is turned."""
    signs = _signs((len(SIZES), n, N_TOKENS, 2 * MOST), generator) * _valid()[:, None, None]
    asked = signs[:, :, 0]
    signs = _unlike(signs, asked.unsqueeze(2), _valid()[:, None, None], generator)
    signs[:, :, 0] = asked
    payload = torch.randint(N_CLASSES, signs.shape[:3], generator=generator)
    return Contexts(
        features=torch.cat([signs, one_hot(payload, N_CLASSES)], -1),
        asked=torch.nn.functional.pad(asked, (0, N_CLASSES)),
        noise=NOISE * torch.randn(n, N_TOKENS, D_MODEL, generator=generator),
        right=payload[:, :, 0],
    )


def untrained(d_head: int, seeds: int, *, seed: int) -> Toys:
    """Heads with random weights of unit gain, and the residual streams that they read."""
    g = torch.Generator().manual_seed(own_seed(seed, "toy", d_head))

    def random(rows: int) -> Tensor:
        shape = (len(SIZES), seeds, rows, D_MODEL)
        return torch.randn(shape, generator=g) / D_MODEL**0.5

    there = torch.nn.functional.pad(_valid(), (0, N_CLASSES), value=1.0)[:, None, :, None]
    features = there.shape[2]
    embedding, asking = random(features) * there, random(features) * there
    return Toys(embedding, asking, random(d_head), random(d_head), random(N_CLASSES))


def log_odds(toys: Toys, given: Contexts) -> Float[Tensor, "n_sizes seeds n n_classes"]:
    """Of payload classes. Tokens are never formed: a head reads them feature by feature."""
    q = torch.einsum("cbf,csfd,cshd->csbh", given.asked, toys.asking, toys.query)
    reads = torch.einsum("csbh,cshd->csbd", q / toys.d_head**0.5, toys.key)
    of_feature = torch.einsum("csbd,csfd->csbf", reads, toys.embedding)
    logits = torch.einsum("csbf,cbtf->csbt", of_feature, given.features)
    logits = logits + torch.einsum("csbd,btd->csbt", reads, given.noise)
    seen = torch.einsum("csbt,cbtf->csbf", logits.softmax(-1), given.features)
    of_class = torch.einsum("csfd,cskd->csfk", toys.embedding, toys.readout)
    return torch.einsum("csbf,csfk->csbk", seen, of_class)


def train(
    toys: Toys, *, max_steps: int, seed: int, progress: bool = True
) -> tuple[Toys, Float[Tensor, "n_sizes seeds"]]:
    """The same heads, trained until their mean accuracy on held-out contexts stays where it is.

    Returns:
        The heads, and the accuracy of each.
    """
    g = torch.Generator().manual_seed(own_seed(seed, "contexts", toys.d_head))
    held = contexts(4 * BATCH, g)
    names = ("query", "key", "readout")
    weights = {name: getattr(toys, name).clone().requires_grad_() for name in names}
    trained = replace(toys, **weights)
    optimizer = torch.optim.AdamW(weights.values(), lr=LEARNING_RATE)
    best, waited = 0.0, 0
    for step in tqdm(range(max_steps), unit="step", disable=not progress, leave=False):
        given = contexts(BATCH, g)
        odds = log_odds(trained, given)
        right = given.right.unsqueeze(1).expand(odds.shape[:3])
        loss = cross_entropy(odds.flatten(0, 2), right.flatten()) * odds.shape[:2].numel()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % CHECK == 0:
            mean = float(accuracy(trained, held).mean())
            best, waited = (mean, 0) if mean > best + 5e-4 else (best, waited + 1)
            if waited == PATIENCE:
                break
    return replace(toys, **{n: w.detach() for n, w in weights.items()}), accuracy(trained, held)


@torch.no_grad()
def accuracy(toys: Toys, given: Contexts) -> Float[Tensor, "n_sizes seeds"]:
    """Share of the contexts whose payload each head gives."""
    right = log_odds(toys, given).argmax(-1) == given.right.unsqueeze(1)
    return right.float().mean(-1)


def pairs(
    toys: Toys, size: int, seed: int, factor: int, n: int, generator: torch.Generator
) -> tuple[Float[Tensor, "n d_head"], Float[Tensor, "n d_head"], Float[Tensor, "n d_head"]]:
    """Queries with keys that share one factor with them, and keys that do not.

    The other factor and the payload of a key are drawn for each key. If they were the same of both
    keys, as in the paper, the two would differ in the N directions of A1 alone, and the rank could
    not come out above N, whatever the head does. The expected moments are the same.
    """
    valid = _valid()[size]
    own = (torch.arange(2 * MOST) // MOST == factor) * valid
    asked = _signs((n, 2 * MOST), generator) * valid

    def key(*, shared: bool) -> Tensor:
        signs = _signs((n, 2 * MOST), generator) * valid
        part = asked * own if shared else _unlike(signs * own, asked * own, own, generator)
        payload = one_hot(torch.randint(N_CLASSES, (n,), generator=generator), N_CLASSES)
        x = torch.cat([part + signs * (valid - own), payload], 1) @ toys.embedding[size, seed]
        x = x + NOISE * torch.randn(x.shape, generator=generator)
        return x @ toys.key[size, seed].T

    queries = asked @ toys.asking[size, seed, : 2 * MOST] @ toys.query[size, seed].T
    return queries, key(shared=True), key(shared=False)


def measure(
    heads: dict[str, Toys], right: Float[Tensor, "n_sizes seeds"], *, n_pairs: int, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Ranks of both factors in every head, and what swaps do to those that were trained.

    Args:
        heads: trained and untrained ones of one width, of the same residual streams.
        right: accuracy of the trained ones.
        n_pairs: keys of either kind behind a covariance.
        seed: of pairs, permutations and random subspaces.

    Returns:
        One row per head and factor: d_head, N, M, seed, what, factor, size, rank, energy_rank,
        p_value, fits (N + M <= d_head), overlap (mean squared cosine of the two factors' key
        subspaces), accuracy. And one row per trained head and part swapped: part ("z1", "z2",
        "both"), change and flipped, and the same of random subspaces of equal rank.
    """
    import pandas as pd

    ranks: list[dict[str, Any]] = []
    swaps: list[dict[str, Any]] = []
    given = contexts(2 * BATCH, torch.Generator().manual_seed(own_seed(seed, "swaps")))
    for (what, toys), (c, size) in product(heads.items(), enumerate(SIZES)):
        for s in range(toys.query.shape[1]):
            g = torch.Generator().manual_seed(own_seed(seed, what, toys.d_head, *size, s))
            parts = [
                contrastive(*pairs(toys, c, s, f, n_pairs, g), seed=seed, name=name)
                for f, name in enumerate(FACTORS)
            ]
            label = {"d_head": toys.d_head, "N": size[0], "M": size[1], "seed": s}
            least = max(1, min(part.rank for part in parts))
            more = {
                "what": what,
                "fits": sum(size) <= toys.d_head,
                "overlap": float((parts[0].key.T @ parts[1].key).square().sum()) / least,
                "accuracy": float(right[c, s]) if what == TRAINED else float("nan"),
            }
            ranks += [
                label
                | {"factor": part.name, "size": n, "rank": part.rank}
                | {"energy_rank": part.energy_rank, "p_value": part.p_value}
                | more
                for part, n in zip(parts, size, strict=True)
            ]
            if what == TRAINED:
                swaps += [label | row for row in _swaps(toys, given, c, s, parts, seed)]
    return pd.DataFrame(ranks), pd.DataFrame(swaps)


def _swaps(
    toys: Toys, given: Contexts, c: int, s: int, parts: list[Subspace], seed: int
) -> list[dict[str, Any]]:
    """What swaps with the second token do, in contexts whose first is the one attended."""
    q = given.asked[c] @ toys.asking[c, s] @ toys.query[c, s].T
    k = (given.features[c] @ toys.embedding[c, s] + given.noise) @ toys.key[c, s].T
    attended = torch.einsum("bd,bmd->bm", q, k).argmax(1) == 0
    q, k = q[attended], k[attended]
    first = torch.zeros(len(q), dtype=torch.long)
    both = torch.linalg.svd(torch.cat([part.key for part in parts], 1), full_matrices=False)
    bases = {part.name: part.key for part in parts} | {"both": both.U[:, both.S > 1e-3]}
    rows = []
    for name, basis in bases.items():
        drawn = random_subspaces(*basis.shape, seed=seed)
        own, *null = (
            swap(q, k, first, first + 1, b, scaling=toys.d_head**-0.5) for b in (basis, *drawn)
        )
        rows.append(
            {"part": name, "rank": basis.shape[1]}
            | {"change": float(own.change.mean()), "flipped": float(own.flipped.float().mean())}
            | {"random change": sum(float(x.change.mean()) for x in null) / len(null)}
            | {"random flipped": sum(float(x.flipped.float().mean()) for x in null) / len(null)}
        )
    return rows


def _valid() -> Float[Tensor, "n_sizes signs"]:
    """1 where a size has a sign, else 0: z1 in the first :data:`MOST` places, z2 in the others."""
    place = torch.arange(MOST)
    return torch.stack([torch.cat([place < n for n in size]) for size in SIZES]).float()


def _signs(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randint(2, shape, generator=generator) * 2.0 - 1


def _unlike(signs: Tensor, other: Tensor, valid: Tensor, generator: torch.Generator) -> Tensor:
    """Signs that differ from others: one, of those that are valid, is turned where they agree."""
    chance = torch.rand(signs.shape, generator=generator) * valid
    turned = one_hot(chance.argmax(-1), signs.shape[-1])
    same = (signs == other).all(-1, keepdim=True)
    return torch.where(same & (turned == 1), -signs, signs)
