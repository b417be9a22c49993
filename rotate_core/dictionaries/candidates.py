"""What a way to take a layer apart offers to whoever looks for a concept in it (ours).

Every method offers candidates, each with a reading side (a number at every token, for detection)
and a writing side (what it does to an activation, for steering). A new method is one function that
returns :class:`Candidates`; where it reads and writes along vectors, it is one call of
:func:`linear`.

Whoever has many candidates finds one that fits by chance. So each method also offers as many
candidates that mean nothing: mixtures of its own, of the same mean and covariance, read and written
by the same rule.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from rotate_core.null.matched import matched_mixtures, own_seed
from rotate_core.text import Activations, added, pulled

if TYPE_CHECKING:
    from rotate_core.channels import Channels
    from rotate_core.dictionaries.factors import Factors
    from rotate_core.dictionaries.regions import Regions
    from rotate_core.dictionaries.sae import SAE
    from rotate_core.models import Model

Sites = Mapping[str, Activations]
"""Activations of the same tokens, by site."""
Read = Callable[[Sites], Float[Tensor, "n_tokens n"]]


@dataclass(frozen=True, eq=False)
class Writing:
    """How candidates steer: each adds its vector to what passes a site, or pulls it to a point."""

    site: str
    """One of :data:`.SITES`."""
    vectors: Float[Tensor, "n width"]
    pull: bool = False
    """Pull, by a share of the way that is 1 at most, instead of adding any multiple."""

    def function(
        self, rows: Int[Tensor, " m"], alphas: Float[Tensor, " m"]
    ) -> Callable[[Tensor], Float[Tensor, "m length width"]]:
        """For :func:`rotate_core.text.steer`: in the i-th text, candidate rows[i] by alphas[i].

        A text alone, (1, length, width), becomes m. An alpha of 0 changes no bit.
        """
        vectors, by = self.vectors[rows].unsqueeze(1), alphas.view(-1, 1, 1)
        return pulled(vectors, by) if self.pull else added(vectors, by)


@dataclass(frozen=True, eq=False)
class Candidates:
    """n candidates of one method at one layer."""

    method: str
    labels: tuple[str, ...]
    """Of each candidate, for people."""
    read: Read
    """How much of each candidate there is at each token."""
    write: Writing | None
    """None: they read, and write nowhere."""
    chance: Callable[[int], Candidates]
    """As many candidates that mean nothing, by seed."""

    def __len__(self) -> int:
        return len(self.labels)


def linear(
    method: str,
    labels: Sequence[str],
    vectors: Float[Tensor, "n width"],
    *,
    site: str,
    writes: bool = True,
) -> Candidates:
    """Candidates that are directions at a site: read by a product, written by adding.

    Args:
        method: its name.
        labels: of each direction.
        vectors: of any length; they are read and written as unit vectors.
        site: one of :data:`.SITES`.
        writes: False where what is read there is not what is written.
    """
    unit = normalize(vectors.float())

    def chance(seed: int) -> Candidates:
        drawn = matched_mixtures(unit, seed=own_seed(seed, method))
        return linear(method, labels, drawn, site=site, writes=writes)

    def read(x: Sites) -> Float[Tensor, "n_tokens n"]:
        return x[site].values @ unit.to(x[site].values).T

    return Candidates(method, tuple(labels), read, Writing(site, unit) if writes else None, chance)


# --- Methods --------------------------------------------------------------------------------------


def from_channels(channels: Sequence[Channels], model: Model | None = None) -> Candidates:
    """ROTATE's channels of one layer, each towards its tail (arXiv:2604.06005).

    Args:
        channels: of out vectors, which are read and written at the MLP's output; or of gate and in
            vectors together, which are read where the MLP reads, and write nothing.
        model: of the channels: where a norm follows the MLP, as in Gemma, its gain is
            applied to out vectors. None: there is no such norm.

    Raises:
        ValueError: out vectors among others.
    """
    kinds = [part.kind for part in channels]
    out = kinds == ["out"]
    if "out" in kinds and not out:
        raise ValueError(f"channels of kinds {kinds}: wanted those of out alone, or no out")
    labels: list[str] = []
    vectors: list[Tensor] = []
    for part in channels:
        signs = torch.where(part.polarity < 0, -1, 1).unsqueeze(2)
        towards = (signs * part.vectors).flatten(0, 1)
        if out and model is not None and part.layer is not None:
            towards = model.written(part.layer, towards)
        vectors.append(towards)
        labels += [
            f"{part.kind} {i}, channel {c}" for i in part.indices for c in range(part.n_channels)
        ]
    name = f"ROTATE, {' and '.join(map(str, kinds))}"
    site = "mlp_out" if out else "mlp_in"
    return linear(name, labels, torch.cat(vectors), site=site, writes=out)


def from_factors(factors: Factors) -> Candidates:
    """SNMF's features: read by their coefficients, written to the neurons (arXiv:2506.10920)."""

    def chance(seed: int) -> Candidates:
        drawn = matched_mixtures(factors.vectors, seed=own_seed(seed, "SNMF"))
        return from_factors(dataclasses.replace(factors, vectors=drawn))

    return Candidates(
        "SNMF",
        tuple(f"feature {i}" for i in range(factors.n_features)),
        lambda x: factors.encode(x["hidden"]),
        Writing("hidden", normalize(factors.vectors.float())),
        chance,
    )


def from_regions(regions: Regions, *, parts: str) -> Candidates:
    """MFA's regions (arXiv:2602.02464): their centroids, or the directions within them.

    Args:
        regions: of the residual stream.
        parts: "centroids", read by responsibilities, written by pulling towards them; or "local":
            each loading in both signs, read by its coordinate times its region's responsibility,
            written by adding it.

    Raises:
        ValueError: other parts.
    """
    if parts not in ("centroids", "local"):
        raise ValueError(f"parts={parts!r}: wanted centroids or local")
    method, field = f"MFA, {parts}", "centroids" if parts == "centroids" else "loadings"
    site = regions.site or "residual"

    def chance(seed: int) -> Candidates:
        rows = _rows(regions, field)
        drawn = matched_mixtures(rows, seed=own_seed(seed, method))
        if parts == "local":
            k, d, rank = regions.loadings.shape
            drawn = drawn.view(k, rank, d).transpose(1, 2)
        changes: dict[str, Any] = {field: drawn}
        return from_regions(dataclasses.replace(regions, **changes), parts=parts)

    numbers = range(regions.n_regions)
    if parts == "centroids":
        labels = [f"region {k}" for k in numbers]
        write = Writing(site, regions.centroids, pull=True)
        return Candidates(
            method, tuple(labels), lambda x: regions.responsibilities(x[site]), write, chance
        )
    rank = regions.loadings.shape[2]
    signs = {1: "+", -1: "-"}
    labels = [
        f"region {k}, {sign}{r}" for sign in signs.values() for k in numbers for r in range(rank)
    ]
    directions = normalize(_rows(regions, field).float())

    def read(x: Sites) -> Float[Tensor, "n_tokens n"]:
        within = regions.within(x[site]).flatten(1)
        return torch.cat([within, -within], 1)

    return Candidates(
        method, tuple(labels), read, Writing(site, torch.cat([directions, -directions])), chance
    )


def _rows(regions: Regions, field: str) -> Float[Tensor, "n d"]:
    """The centroids, or all loadings, as rows."""
    if field == "centroids":
        return regions.centroids
    return regions.loadings.transpose(1, 2).flatten(0, 1)


def from_sae(sae: SAE) -> Candidates:
    """A sparse autoencoder's latents: read by the encoder, written by the decoder.

    Chance mixes encoder, bias and decoder rows alike, so that what reads and what writes go
    together as they did.

    Raises:
        ValueError: it does not say which site it is of.
    """
    site, width = sae.site, sae.decoder.shape[1]
    if site is None:
        raise ValueError("an SAE of an unknown site: wanted one; give site= to SAE.read")

    def chance(seed: int) -> Candidates:
        rows = torch.cat([sae.encoder, sae.encoder_bias.unsqueeze(1), sae.decoder], 1)
        mixed = matched_mixtures(rows, seed=own_seed(seed, "SAE"))
        encoder, bias, decoder = mixed.split([width, 1, width], 1)
        changes: dict[str, Any] = {
            "encoder": encoder,
            "encoder_bias": bias.squeeze(1),
            "decoder": decoder,
        }
        return from_sae(dataclasses.replace(sae, **changes))

    labels = tuple(f"latent {i}" for i in range(sae.n_latents))
    write = Writing(site, normalize(sae.decoder.float()))
    return Candidates("SAE", labels, lambda x: sae.encode(x[site]), write, chance)


def difference_of_means(
    values: Float[Tensor, "n_tokens width"],
    concepts: Sequence[str],
    *,
    site: str,
    method: str = "difference of means",
) -> Candidates:
    """For each concept the mean of its tokens less that of all others; supervised.

    Args:
        values: activations.
        concepts: of each token.
        site: where they are from, and where the difference is written.
        method: its name.
    """
    names = list(dict.fromkeys(concepts))
    inside = torch.tensor([[name == each for each in concepts] for name in names])
    share = inside.to(values) / inside.sum(1, keepdim=True)
    other = (~inside).to(values) / (~inside).sum(1, keepdim=True)
    return linear(method, names, (share - other) @ values, site=site)
