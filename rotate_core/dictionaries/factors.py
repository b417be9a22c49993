"""The factors of some activations: the one result type, in memory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rotate_core.dictionaries import folder, hals
from rotate_core.dictionaries.learned import Learned
from rotate_core.dictionaries.settings import FactorSettings

if TYPE_CHECKING:
    import pandas as pd

    from rotate_core.models import Model
    from rotate_core.text.labelled import Activations


N_TOP = 50
"""Top positions kept of each feature."""


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Factors(Learned):
    """k features of MLP activations, ``A = Y Z`` with ``Y >= 0`` (arXiv:2506.10920).

    Every tensor is on the CPU, in the precision of the activations. ``history`` is of losses as
    shares of the energy; a feature is strongest where its coefficient is largest.
    """

    vectors: Float[Tensor, "k d_mlp"]
    """Z: sparse combinations of neurons, of length 1."""
    support: Int[Tensor, "k s"]
    """The neurons that a feature may use, the largest entry first."""
    coefficients: Float[Tensor, "n k"]
    """Y: how much of each feature is in each token of the fit, outliers too; none of a stream."""
    scale: Float[Tensor, " d_mlp"] | None
    """What each neuron was divided by for the fit; None: they were taken as they are."""
    explained: float
    """1 - |A - Y Z|^2 / |A|^2 of the tokens of the fit, each neuron in units of ``scale``."""
    n_revived: int
    """Times that a feature which no token used was put elsewhere."""
    settings: FactorSettings

    what = "factors"

    @staticmethod
    def read(path: str | Path) -> Factors:
        """Read the folder that :meth:`write` wrote.

        Raises:
            FileNotFoundError: there are no factors.
            ValueError: they are damaged, or something else.
        """
        return Factors(**folder.read(Path(path), Factors, FactorSettings, Factors.what))

    @property
    def n_features(self) -> int:
        """K."""
        return len(self.vectors)

    n_parts = n_features

    # --- Reading and writing --------------------------------------------------------------------

    def encode(self, x: Float[Tensor, "n d_mlp"] | Activations) -> Float[Tensor, "n k"]:
        """The coefficients of any tokens: nonnegative least squares, where and as precise as x."""
        values = self.scaled(x if isinstance(x, Tensor) else x.values)
        return hals.encode(values, self.scaled(self.vectors.to(values)))

    def reconstruct(self, coefficients: Float[Tensor, "n k"]) -> Float[Tensor, "n d_mlp"]:
        """``Y Z``."""
        return coefficients @ self.vectors.to(coefficients)

    def energy_explained(
        self,
        x: Float[Tensor, "n d_mlp"] | Activations,
        coefficients: Float[Tensor, "n k"] | None = None,
    ) -> float:
        """1 - |A - Y Z|^2 / |A|^2 of any tokens, as :attr:`explained`.

        Args:
            x: tokens.
            coefficients: theirs, where they are known.
        """
        values = x if isinstance(x, Tensor) else x.values
        y = self.encode(values) if coefficients is None else coefficients
        total, loss = 0.0, 0.0
        for part in hals.chunks(values):
            rest = self.scaled(values[part] - self.reconstruct(y[part]))
            loss += float(rest.double().square().sum())
            total += float(self.scaled(values[part]).double().square().sum())
        return 1 - loss / total if total else math.nan

    def written(self, model: Model, layer: int | None = None) -> Float[Tensor, "k d_model"]:
        """What each feature writes to the residual stream: ``z W_out``, section 3 of the paper.

        Where a norm follows the MLP, times its gain (:meth:`rotate_core.Model.written`).

        Raises:
            ValueError: the model has MLPs of another width, or there is no layer.
        """
        layer = self.layer if layer is None else layer
        if layer is None or model.d_mlp != self.vectors.shape[1]:
            raise ValueError(
                f"{self.vectors.shape[1]} neurons of layer {layer}: wanted a layer, and the "
                f"{model.d_mlp} neurons of {model.name}"
            )
        return model.written(layer, self.vectors.float() @ model.neurons(layer, "out").vectors)

    def scaled(self, values: Float[Tensor, "n d_mlp"]) -> Float[Tensor, "n d_mlp"]:
        """Activations or features as a fit sees them: each neuron in units of :attr:`scale`."""
        if values.ndim != 2 or values.shape[1] != self.vectors.shape[1]:
            raise ValueError(
                f"activations of shape {tuple(values.shape)}: wanted (n_tokens, "
                f"{self.vectors.shape[1]})"
            )
        values = values.to(torch.promote_types(values.dtype, torch.float32))
        return values if self.scale is None else values / self.scale.to(values)

    # --- Showing --------------------------------------------------------------------------------

    def table(self, k: int = 5) -> pd.DataFrame:
        """One row per feature, the largest first; k tokens of its top positions, each once.

        ``weight`` is the share of the coefficients' squares that is this feature's, ``active`` the
        share of tokens that it is in; ``neurons`` are the k largest of its support.
        """
        import pandas as pd

        columns: dict[str, Any] = {"feature": range(self.n_features)}
        if len(y := self.coefficients):
            square = y.square().sum(0)
            columns["weight"] = (square / square.sum()).numpy()
            columns["active"] = (y > 0).float().mean(0).numpy()
        columns["neurons"] = self.support[:, :k].tolist()
        if (tokens := self.top_tokens(k)) is not None:
            columns["top_tokens"] = tokens
        frame = pd.DataFrame(columns)
        if "weight" in frame:
            frame = frame.sort_values("weight", ascending=False, ignore_index=True)
        return frame

    def _title(self) -> str:
        k, d = self.vectors.shape
        return (
            f"{self._origin()}{k} features of {self.support.shape[1]} of {d} neurons; "
            f"{self.explained:.1%} of the energy explained; "
            f"{self.n_iter} sweeps{'' if self.converged else ', not converged'}"
        )


def top_rows(coefficients: Float[Tensor, "n k"]) -> Int[Tensor, "k n_top"]:
    """The tokens with most of each feature, -1 where no more have any."""
    top = coefficients.topk(min(N_TOP, len(coefficients)), dim=0)
    return torch.where(top.values > 0, top.indices, -1).T.cpu()


def finished(
    z: Float[Tensor, "k d_mlp"], scale: Float[Tensor, " d_mlp"] | None, *, n_kept: int, **known: Any
) -> Factors:
    """Factors of the features that a fit ends with; of no tokens yet.

    Args:
        z: in units of ``scale``.
        scale: of each neuron.
        n_kept: s.
        known: the other fields.
    """
    vectors = z if scale is None else z * scale
    norm = vectors.norm(dim=1, keepdim=True)
    vectors = (vectors / torch.where(norm > 0, norm, 1)).cpu()
    return Factors(
        vectors=vectors,
        support=z.cpu().abs().topk(n_kept).indices,
        coefficients=vectors.new_zeros(0, len(vectors)),
        scale=None if scale is None else scale.cpu(),
        explained=known.pop("explained", math.nan),
        **known,
    )
