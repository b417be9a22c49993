"""The regions of some activations: the one result type, in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rotate_core.dictionaries import folder
from rotate_core.dictionaries.checkpoint import check_shapes, published
from rotate_core.dictionaries.learned import Learned, check_number
from rotate_core.dictionaries.mixture import Mixture, Readers, chunks, orthogonal, read, readers
from rotate_core.dictionaries.settings import RegionSettings
from rotate_core.text.steering import added, pulled

if TYPE_CHECKING:
    import pandas as pd

    from rotate_core.text.labelled import Activations

PARTS = ("both", "centroid", "local")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Regions(Learned):
    """K regions of activation space: a mixture of factor analyzers (arXiv:2602.02464).

    Every tensor is on the CPU, in the precision of the activations; a function given activations
    works in theirs, where they are. ``history`` is of log likelihoods a token, which fall by
    reseeding alone; a region is strongest where its density is highest, of the tokens that it is
    most responsible for.
    """

    centroids: Float[Tensor, "K d"]
    """mu: where a region is. A position, not a direction."""
    loadings: Float[Tensor, "K d R"]
    """W: how far it extends and where to; orthogonal in each region, the largest first."""
    noise: Float[Tensor, " d"] | Float[Tensor, "K d"]
    """Psi: the variance that is left in each dimension."""
    weights: Float[Tensor, " K"]
    """pi: shares of the tokens; they sum to 1."""
    n_tokens: Int[Tensor, " K"]
    """Tokens of the fit that a region is most responsible for; 0 where that is not known."""
    log_likelihood: float
    """Of the tokens of the fit, nats a token."""
    held_out: float
    """The same of tokens that the fit did not see; NaN: there were none."""
    n_reseeded: int
    """Times that a region without tokens was put elsewhere."""
    settings: RegionSettings

    what = "regions"

    @staticmethod
    def read(path: str | Path) -> Regions:
        """Read what :meth:`write` or ``rotate regions`` wrote, or a checkpoint of the authors'.

        Args:
            path: a folder, or the authors' .ckpt or .pt file; nothing in it is executed.

        Raises:
            FileNotFoundError: there is nothing.
            ValueError: it is damaged, or something else.
        """
        path = Path(path)
        if not path.exists():
            raise FileNotFoundError(f"{path}: there are no regions")
        if path.is_dir():
            fields = folder.read(path, Regions, RegionSettings, Regions.what)
        else:
            fields = published(path)
        mixture = Mixture(**{f.name: fields[f.name] for f in dataclasses.fields(Mixture)})
        check_shapes(path, mixture)
        if not path.is_dir():
            fields |= vars(orthogonal(mixture))
        return Regions(**fields)

    # --- Reading activations --------------------------------------------------------------------

    @property
    def n_regions(self) -> int:
        """K."""
        return len(self.weights)

    n_parts = n_regions

    @property
    def mixture(self) -> Mixture:
        """The parameters alone."""
        return Mixture(self.weights, self.centroids, self.loadings, self.noise)

    def log_prob(self, x: Tensor | Activations) -> Float[Tensor, " n"]:
        """Log p(x) of each token, in nats."""
        return self._over(x, lambda y, r: read(y, r)[0].logsumexp(1))

    def responsibilities(self, x: Tensor | Activations) -> Float[Tensor, "n K"]:
        """p(k | x), the share of each region in each token."""
        return self._over(x, lambda y, r: read(y, r)[0].softmax(1))

    def local(self, x: Tensor | Activations, region: int | None = None) -> Float[Tensor, "n R"]:
        """E[z | x, k], the coordinates within a region, in units of its loadings.

        Args:
            x: tokens.
            region: k; None: of each token the one that is most responsible for it.
        """
        if region is not None:
            check_number(region, self.n_regions, "region")

        def coordinates(y: Tensor, r: Readers) -> Tensor:
            joint, z = read(y, r)
            if region is not None:
                return z[:, region]
            return z[torch.arange(len(y)), joint.argmax(1)]

        return self._over(x, coordinates)

    def within(self, x: Tensor | Activations) -> Float[Tensor, "n K R"]:
        """``r_k z_k``: the coordinates within every region, by its share in the token."""

        def weighted(y: Tensor, r: Readers) -> Tensor:
            joint, z = read(y, r)
            return joint.softmax(1).unsqueeze(2) * z

        return self._over(x, weighted)

    def reconstruct(self, x: Tensor | Activations, *, parts: str = "both") -> Float[Tensor, "n d"]:
        """``sum_k r_k (mu_k + W_k z_k)``: what the regions say of each token.

        Args:
            x: tokens.
            parts: "both"; "centroid" for ``sum r_k mu_k``; "local" for ``sum r_k W_k z_k``.
        """
        if parts not in PARTS:
            raise ValueError(f"parts={parts!r}: wanted {', '.join(PARTS)}")
        m = self.mixture

        def rebuilt(y: Tensor, r: Readers) -> Tensor:
            joint, z = read(y, r)
            share = joint.softmax(1)
            total = torch.zeros_like(y)
            if parts != "local":
                total += share @ m.centroids.to(y)
            if parts != "centroid":
                loadings = m.loadings.permute(0, 2, 1).flatten(0, 1).to(y)
                total += (share.unsqueeze(2) * z).flatten(1) @ loadings
            return total

        return self._over(x, rebuilt)

    def _over(self, x: Tensor | Activations, of: Callable[[Tensor, Readers], Tensor]) -> Tensor:
        """A function of centred tokens, chunk by chunk."""
        values = x if isinstance(x, Tensor) else x.values
        if values.ndim != 2 or values.shape[1] != self.centroids.shape[1]:
            raise ValueError(
                f"activations of shape {tuple(values.shape)}: wanted (n_tokens, "
                f"{self.centroids.shape[1]})"
            )
        values = values.to(torch.promote_types(values.dtype, torch.float32))
        m = self.mixture.to(values.new_empty(0, dtype=torch.float64))
        made = readers(m.shifted(-m.mean), values)
        rows = chunks(values, m, None)
        mean = m.mean.to(values)
        parts = [of(values[part] - mean, made) for part in rows]
        return torch.cat(parts) if parts else of(values, made)

    # --- Steering -------------------------------------------------------------------------------

    def towards(self, region: int, alpha: float) -> Callable[[Tensor], Tensor]:
        """The function ``x -> (1 - alpha) x + alpha mu_k``, for :func:`rotate_core.text.steer`.

        A centroid is a position, so x is moved towards it and not by it; alpha 1 lands on it.
        """
        check_number(region, self.n_regions, "region")
        return pulled(self.centroids[region], alpha)

    def moved(self, region: int, z: Float[Tensor, " R"]) -> Callable[[Tensor], Tensor]:
        """The function ``x -> x + W_k z``; a z of N(0, I) is what the region's own tokens have."""
        check_number(region, self.n_regions, "region")
        by = torch.as_tensor(z, dtype=self.loadings.dtype)
        if by.shape != self.loadings.shape[2:]:
            raise ValueError(
                f"z of shape {tuple(by.shape)}: wanted ({self.loadings.shape[2]},), one a direction"
            )
        return added(self.loadings[region] @ by)

    # --- Showing --------------------------------------------------------------------------------

    def effective_rank(self) -> Float[Tensor, " K"]:
        """How many directions a region extends in: ``(sum s)^2 / sum s^2`` of squared lengths s."""
        s = self.loadings.square().sum(1)
        return s.sum(1).square() / s.square().sum(1).clamp_min(torch.finfo(s.dtype).tiny)

    def table(self, k: int = 5) -> pd.DataFrame:
        """One row per region, the largest first; k tokens of its top positions, each once."""
        import pandas as pd

        columns: dict[str, Any] = {
            "region": range(self.n_regions),
            "weight": self.weights.numpy(),
            "n_tokens": self.n_tokens.numpy(),
            "effective_rank": self.effective_rank().numpy(),
        }
        if (tokens := self.top_tokens(k)) is not None:
            columns["top_tokens"] = tokens
        return pd.DataFrame(columns).sort_values("weight", ascending=False, ignore_index=True)

    def _title(self) -> str:
        k, d, rank = self.mixture.shape
        return (
            f"{self._origin()}{k} regions of rank {rank} in {d} dimensions, "
            f"{self.settings.noise} noise; "
            f"{self.log_likelihood:.1f} nats a token, held out {self.held_out:.1f}; "
            f"{self.n_iter} passes{'' if self.converged else ', not converged'}"
        )
