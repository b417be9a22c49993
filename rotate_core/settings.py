"""How to decompose: every choice of the method in one frozen object."""

from __future__ import annotations

from dataclasses import dataclass

from rotate_core.kurtosis import Objective

SOLVERS = ("geodesic", "householder")
DEFLATIONS = ("mask", "subtract")
STARTS = ("weight", "reflection")


@dataclass(frozen=True)
class Settings:
    """How to decompose. The defaults are ours; :data:`PAPER` holds the paper's values."""

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
    masked_weight: float | None = None
    """Weight of a masked token; None is 1e-6 for weighted moments, the paper's 0.01 for scaled."""
    deflation: str = "mask"
    """"mask" the channel's tokens, or "subtract" the channel from w (the paper's ablation)."""
    start: str = "weight"
    """Where the geodesic solver begins: at the neuron itself ("weight"), or at a "reflection"
    of it that is drawn like the paper's start: at a cosine with w of about 1 - 2/d_model."""
    restarts: int = 1
    """Solve from so many starts and keep the best objective: the first is ``start``, the second the
    optimum under four times lambda_fidelity, closer to w, and each further one the next of the
    tokens that w itself projects onto most strongly. The householder solver draws anew."""
    n_reflections: int = 1
    """Reflections of the householder solver (the paper's ablation)."""
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
    max_iter: int | None = None
    """Iterations at most; None is 200 for geodesic, 10,000 (the paper's) for householder."""

    def __post_init__(self) -> None:
        for name, known in (("solver", SOLVERS), ("deflation", DEFLATIONS), ("start", STARTS)):
            value = getattr(self, name)
            if value not in known:
                raise ValueError(f"{name}={value!r}: wanted one of {', '.join(known)}")
        for name in ("restarts", "n_reflections", "max_iter"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: wanted at least 1")
        if not self.threshold > 0:
            raise ValueError(f"threshold={self.threshold}: wanted a z-score above 0")
        if self.masked_weight is not None and not 0 < self.masked_weight <= 1:
            raise ValueError(f"masked_weight={self.masked_weight}: wanted above 0, at most 1")
        if not self.tolerance >= 0:
            raise ValueError(f"tolerance={self.tolerance}: wanted at least 0")
        if not self.gradient_tolerance > 0:
            raise ValueError(f"gradient_tolerance={self.gradient_tolerance}: wanted above 0")
        _ = self.objective

    @property
    def objective(self) -> Objective:
        """What the solver maximises."""
        return Objective(self.lambda_kurtosis, self.lambda_fidelity, self.moments)

    @property
    def iteration_limit(self) -> int:
        """``max_iter``, or the one that goes with the solver."""
        if self.max_iter is not None:
            return self.max_iter
        return 200 if self.solver == "geodesic" else 10_000

    @property
    def weight_when_masked(self) -> float:
        """``masked_weight``, or the one that goes with the moments."""
        if self.masked_weight is not None:
            return self.masked_weight
        return 1e-6 if self.moments == "weighted" else 0.01


PAPER = Settings(solver="householder", moments="scaled", masked_weight=0.01)
"""The paper's values (its settings for Gemma; Llama has threshold=6)."""
