"""How to decompose: every choice of the method in one frozen object."""

from __future__ import annotations

import operator
from dataclasses import dataclass

from rotate_core.rotation.moments import Objective, real_number

SOLVERS = ("geodesic", "householder")
DEFLATIONS = ("mask", "subtract", "subtract-grid")
STARTS = ("weight", "reflection")

_CHOICES = {"solver": SOLVERS, "deflation": DEFLATIONS, "start": STARTS}
_SWITCHES = ("raise_masked", "joint", "precondition")
_COUNTS = ("restarts", "n_reflections", "max_iter")
_POSITIVE = ("threshold", "masked_weight", "learning_rate", "gradient_tolerance")
_NOT_NEGATIVE = ("lambda_kurtosis", "lambda_fidelity", "skewness_threshold", "tolerance")


class _Following(float):
    """A number that follows from another field: chosen anew when that field is replaced."""


class _FollowingCount(int):
    """The same for a count."""


@dataclass(frozen=True)
class Settings:
    """How to decompose. The defaults are ours; :data:`PAPER` holds the paper's values.

    Every field holds the value that is used. ``masked_weight`` and ``max_iter``, left out or None,
    follow from the moments and the solver, and do so again in ``dataclasses.replace`` or an
    override of :func:`rotate_core.decompose`. Equal settings act alike, so a value that was given
    but is the one that would follow is no exception.

    Raises:
        ValueError: an unknown name, no number, or one that is not finite, not whole where it
            counts something, or out of range.
    """

    solver: str = "geodesic"
    """"geodesic" (ours: conjugate gradients on the sphere) or "householder" (the paper's AdamW)."""
    moments: str = "weighted"
    """"weighted" (ours: token weights are sample weights) or "scaled" (the paper's: factors)."""
    lambda_kurtosis: float = 0.3
    lambda_fidelity: float = 1.0
    threshold: float = 4.0
    """Tokens whose z-score in the channel's projection is beyond this are masked
    (paper: 4 on Gemma, 6 on Llama)."""
    skewness_threshold: float = 10.0
    """Skewness beyond which only the heavier tail is masked."""
    masked_weight: float = None  # type: ignore[assignment]  # never None once made
    """Weight of a masked token; follows from the moments: 1e-6 for weighted, the paper's 0.01 for
    scaled."""
    raise_masked: bool = False
    """Give a tail's tokens the masked weight even where theirs was lower (0 or 1e-4), as the
    authors' code does. Ours: masking only ever lowers a weight, so what is excluded stays so."""
    deflation: str = "mask"
    """"mask" the channel's tokens, "subtract" the channel from w (ours: projected out), or
    "subtract-grid" (the authors' ablation: see :mod:`rotate_core.rotation.subtraction`)."""
    start: str = "weight"
    """Where the geodesic solver begins: at the neuron itself ("weight"), or at a "reflection"
    of it that is drawn like the paper's start: at a cosine with w of about 1 - 2/d_model."""
    restarts: int = 1
    """Solve from so many starts and keep the best objective: the first is ``start``, the second the
    optimum under four times lambda_fidelity, closer to w, and each further one the next of the
    tokens that w itself projects onto most strongly. The householder solver draws anew."""
    n_reflections: int = 1
    """Reflections of the householder solver (the paper's ablation)."""
    learning_rate: float = 8e-4
    """Of the householder solver (paper: 8e-4, and 2e-3 in some layers)."""
    joint: bool = False
    """The householder solver minimises the batch's mean loss, as the authors' code does, and not
    each neuron's by itself: see :func:`rotate_core.rotation.reflection.solve`. Channels then depend on
    the batch, and so on how neurons are cut into batches (``memory``, an atlas's shards)."""
    precondition: bool = True
    """Precondition the geodesic solver with the inverse covariance of the vocabulary."""
    tolerance: float = 1e-5
    """The geodesic solver stops a neuron when an iteration gains less than this in F, and its
    gradient is small as well."""
    gradient_tolerance: float = 3e-3
    """Length of F's gradient along the unit sphere, below which it is small. F and the sphere have
    no unit, so this holds for any model. The rule it was set by: as small as float32 allows, since
    most plateaus are steeper. Where F curves down by c along its gradient, its square / (2 c) is
    left to gain; once that is less than F's rounding, 1.2e-7, it falls no further, which for c = 15
    is at 1.9e-3. That is also the most of 384 channels of SmolLM2-135M that went on until they
    gained less than 1e-9 (the median: 4e-4; in float64, 16 of them reach 1.5e-4 at most). Half
    as much again is for other models and larger vocabularies."""
    max_iter: int = None  # type: ignore[assignment]  # never None once made
    """Iterations at most; follows from the solver: 200 for geodesic, 10,000 (the paper's) for
    householder."""

    def __post_init__(self) -> None:
        for name, known in _CHOICES.items():
            if (value := getattr(self, name)) not in known:
                raise ValueError(f"{name}={value!r}: wanted one of {', '.join(known)}")
        for name in _SWITCHES:
            if not isinstance(value := getattr(self, name), bool):
                raise ValueError(f"{name}={value!r}: wanted True or False")
        following = {
            "masked_weight": _Following(1e-6 if self.moments == "weighted" else 0.01),
            "max_iter": _FollowingCount(200 if self.solver == "geodesic" else 10_000),
        }
        for name, follows in following.items():
            if isinstance(getattr(self, name), _Following | _FollowingCount | None):
                object.__setattr__(self, name, follows)
        for name in _COUNTS:
            object.__setattr__(self, name, _count(name, getattr(self, name)))
        for name in _POSITIVE + _NOT_NEGATIVE:
            value = real_number(name, getattr(self, name))
            if value < 0 or (value == 0 and name in _POSITIVE):
                wanted = "above 0" if name in _POSITIVE else "at least 0"
                raise ValueError(f"{name}={value:g}: wanted {wanted}")
            object.__setattr__(self, name, value)
        if self.masked_weight > 1:
            raise ValueError(f"masked_weight={self.masked_weight:g}: wanted at most 1")
        for name, follows in following.items():
            if getattr(self, name) == follows:
                object.__setattr__(self, name, follows)
        _ = self.objective  # checks the moments

    @property
    def objective(self) -> Objective:
        """What the solver maximises."""
        return Objective(self.lambda_kurtosis, self.lambda_fidelity, self.moments)


def _count(name: str, value: object) -> int:
    """A whole number from 1; True is none, nor is 3.0."""
    try:
        whole = None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        whole = None
    if whole is None or whole < 1:
        raise ValueError(f"{name}={value!r}: wanted a whole number of at least 1")
    return whole


PAPER = Settings(solver="householder", moments="scaled")
"""The paper's values (its settings for Gemma; Llama has threshold=6). What the authors' code does
beyond them, ``joint=True`` and ``raise_masked=True``, has to be asked for: with the first,
channels depend on the batch."""
