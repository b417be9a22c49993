"""The options of the method in one frozen record: objective, solver, masking."""

from __future__ import annotations

import operator
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any

from torch import Tensor

from .moments import MOMENTS, slog

SOLVER_VERSION = 2
"""Higher wherever the same settings end at other channels, beyond rounding."""
_CHOICES = {
    "solver": ("geodesic", "householder"),
    "moments": MOMENTS,
    "deflation": ("mask", "subtract", "subtract-grid"),
    "start": ("tails", "weight", "reflection"),
    "precision": ("full", "bfloat16"),
}
_LARGEST, _MOST = 1e30, 10**6
_ABOVE_0 = ("threshold", "masked_weight", "learning_rate", "gradient_tolerance")


class _Following(float):
    """A number that follows from another field: taken anew when that field is replaced."""


class _FollowingCount(int):
    """The same for a count."""


@dataclass(frozen=True)
class Settings:
    """Options of a decomposition: the defaults are ours, :data:`PAPER` holds the paper's values.

    Every field holds the value that is used, so equal settings act alike. ``masked_weight`` and
    ``max_iter``, left out or None, follow from moments and solver, in ``dataclasses.replace``, too.

    Raises:
        ValueError: an unknown name, or no number that is finite, whole for a count, and in range.
    """

    solver: str = "geodesic"
    """"geodesic" (ours: conjugate gradients on the sphere) or "householder" (the paper's AdamW)."""
    moments: str = "weighted"
    """"weighted" (ours: token weights are sample weights) or "scaled" (the paper's: factors)."""
    lambda_kurtosis: float = 0.3
    lambda_fidelity: float = 1.0
    """Weights in F of the projection's sparsity and of closeness to the neuron (the paper's)."""
    threshold: float = 4.0
    """Tokens beyond this z-score in the channel are its tail (paper: 4 on Gemma, 6 on Llama)."""
    skewness_threshold: float = 10.0
    """Skewness beyond which only the heavier side is the tail."""
    masked_weight: float = None  # type: ignore[assignment]  # never None once made
    """Weight of a masked token: 1e-6 for weighted moments, the paper's 0.01 for scaled ones."""
    raise_masked: bool = False
    """Give a tail's tokens the masked weight even where theirs was lower (0 or 1e-4), as the
    authors' code does. Ours: masking only ever lowers a weight, so what is excluded stays so."""
    deflation: str = "mask"
    """"mask" the channel's tokens, "subtract" the channel from w (ours: projected out), or
    "subtract-grid" (the authors' ablation: :func:`.deflate.subtract_by_grid`)."""
    start: str = "tails"
    """Where the geodesic solver begins: two climbs, one towards either tail of the neuron's own
    logits ("tails"), at the neuron itself ("weight"), or at a "reflection" of it that is drawn like
    the paper's start: at a cosine with w of about 1 - 2/d_model."""
    restarts: int = 1
    """From "tails", the better of the two climbs goes on after 8 iterations; with more restarts
    others climb beside them, from w and towards the tokens that w projects onto most strongly, and
    the best ``restarts`` go on. The highest end is the channel. Other starts and the householder
    solver follow each of so many to its end, drawn anew where they are drawn."""
    n_reflections: int = 1
    """Reflections of the householder solver (the paper's ablation)."""
    learning_rate: float = 8e-4
    """Of the householder solver (paper: 8e-4, and 2e-3 in some layers)."""
    joint: bool = False
    """The householder solver minimises the batch's mean loss, as the authors' code does, and not
    each neuron's by itself (:func:`.reflection.solve`). Channels then depend on the batch."""
    precision: str = "full"
    """Of the geodesic solver's products with U after the fifth iteration: "full", or "bfloat16"
    until an iteration gains less than ``tolerance``: for a GPU, and large batches. The last ones,
    and all that is reported, are in full precision again."""
    precondition: bool = True
    """Precondition the geodesic solver by how F curves down (:mod:`.curvature`)."""
    tolerance: float = 1e-5
    """The geodesic solver stops where an iteration gains less in F, and the gradient is small."""
    gradient_tolerance: float = 3e-3
    """Length of F's gradient along the unit sphere below which it is small, about what float32
    allows: where F curves down by c along its gradient g, ``g^2 / (2 c)`` is left to gain; for
    c = 15 that is F's rounding, 1.2e-7, at 1.9e-3."""
    max_iter: int = None  # type: ignore[assignment]  # never None once made
    """Iterations at most: 200 for geodesic, 10,000 (the paper's) for householder."""

    def __post_init__(self) -> None:
        following = {
            "masked_weight": _Following(1e-6 if self.moments == "weighted" else 0.01),
            "max_iter": _FollowingCount(200 if self.solver == "geodesic" else 10_000),
        }
        for field in fields(self):
            name, value = field.name, getattr(self, field.name)
            if name in following and isinstance(value, _Following | _FollowingCount | None):
                value = following[name]
            elif name in _CHOICES and value not in _CHOICES[name]:
                raise ValueError(f"{name}={value!r}: wanted one of {', '.join(_CHOICES[name])}")
            elif field.type == "bool" and not isinstance(value, bool):
                raise ValueError(f"{name}={value!r}: wanted True or False")
            elif field.type == "int":
                value = _count(name, value)
            elif field.type == "float":
                value = _number(name, value, above_0=name in _ABOVE_0)
            value = following[name] if following.get(name) == value else value
            object.__setattr__(self, name, value)
        if self.masked_weight > 1:
            raise ValueError(f"masked_weight={self.masked_weight:g}: wanted at most 1")

    def objective(self, kurtosis: Tensor, cosine: Tensor) -> Tensor:
        """F, to be maximised: ``lambda_kurtosis slog(k) + lambda_fidelity cos(w, s)``."""
        return self.lambda_kurtosis * slog(kurtosis) + self.lambda_fidelity * cosine


def _number(name: str, value: Any, *, above_0: bool) -> float:
    """A finite number of at least 0; True is none."""
    real = isinstance(value, Real) and not isinstance(value, bool)
    if not (real and abs(value) <= _LARGEST):
        raise ValueError(f"{name}={value!r}: wanted a finite number, {_LARGEST:g} at most")
    if value < 0 or (above_0 and value == 0):
        raise ValueError(f"{name}={value:g}: wanted {'above 0' if above_0 else 'at least 0'}")
    return float(value)


def _count(name: str, value: object) -> int:
    """A whole number from 1; True is none, nor is 3.0."""
    try:
        whole = None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        whole = None
    if whole is None or not 1 <= whole <= _MOST:
        raise ValueError(f"{name}={value!r}: wanted a whole number of at least 1, {_MOST} at most")
    return whole


PAPER = Settings(solver="householder", moments="scaled")
"""The paper's values (its settings for Gemma; Llama has threshold=6). What the authors' code does
beyond them, ``joint=True`` and ``raise_masked=True``, has to be asked for."""
