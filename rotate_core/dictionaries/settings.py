"""How regions, factors and sparse autoencoders are fitted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

NOISES = ("shared", "isotropic", "own")
SOLVERS = ("em", "gradient")
STARTS = ("pca", "random")
FACTOR_SOLVERS = ("hals", "multiplicative")
FACTOR_STARTS = ("tokens", "pca", "random")


def _one_of(settings: Any, **known: tuple[str, ...]) -> None:
    for name, values in known.items():
        if getattr(settings, name) not in values:
            raise ValueError(f"{name}={getattr(settings, name)!r}: wanted {', '.join(values)}")


def _whole(settings: Any, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if type(value) is not int or value < 1:
            raise ValueError(f"{name}={value!r}: wanted a whole number of at least 1")


def _tolerant(settings: Any) -> None:
    if not settings.tolerance >= 0:
        raise ValueError(f"tolerance={settings.tolerance}: wanted at least 0")
    _outlying(settings)


def _outlying(settings: Any) -> None:
    if settings.outliers is not None and not settings.outliers > 1:
        raise ValueError(f"outliers={settings.outliers}: wanted None, or above 1 median")


@dataclass(frozen=True)
class RegionSettings:
    """Settings of :func:`.mfa`; the defaults are ours, :data:`PAPER_REGIONS` the paper's."""

    rank: int = 8
    """R, the directions in which a region is extended."""
    noise: str = "shared"
    """What is left beside them: one variance a dimension, "shared" by all regions (the paper's);
    one for all dimensions ("isotropic"); or one a dimension of each region's "own"."""
    solver: str = "em"
    """"em", or "gradient": the paper's Adam."""
    start: str = "pca"
    """Around k-means' centroids: "pca" of each cluster; or "random" directions of length 1 and
    noise 1, whatever the activations' scale (the paper's)."""
    n_starts: int = 4
    """Short runs, each from k-means of its own; the best on held-out tokens goes on."""
    start_iter: int = 5
    """Passes of a short run."""
    start_tokens: int = 200
    """Tokens a region that a short run is made on: at most all."""
    held_share: float = 0.1
    """Share of the tokens that no fit sees; 0: starts are compared on what they were fitted to."""
    outliers: float | None = 10.0
    """Tokens of a norm above so many times the median are left out; None keeps them. In small
    models a handful of tokens carries most of the variance."""
    floor: float = 1e-4
    """Least noise, as a share of the activations' mean variance."""
    tolerance: float = 1e-5
    """Stop where a pass gains less, in nats a token and dimension."""
    max_iter: int = 100
    """Passes over the tokens at most."""
    top: int | None = None
    """Regions a token is weighed between, those of the nearest centroids; None: all. For
    thousands of regions."""
    learning_rate: float = 1e-3
    """Of Adam."""
    batch: int = 128
    """Tokens a step of Adam."""

    def __post_init__(self) -> None:
        _one_of(self, noise=NOISES, solver=SOLVERS, start=STARTS)
        _whole(self, "rank", "n_starts", "start_iter", "start_tokens", "max_iter", "batch")
        if self.top is not None:
            _whole(self, "top")
        for name in ("floor", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)}: wanted a number above 0")
        if not 0 <= self.held_share < 1:
            raise ValueError(f"held_share={self.held_share}: wanted a share from 0 to below 1")
        _tolerant(self)
        if self.solver == "gradient" and (self.noise == "isotropic" or self.top is not None):
            raise ValueError("solver='gradient' has noise shared or own, and weighs all regions")


PAPER_REGIONS = RegionSettings(
    rank=10, solver="gradient", start="random", n_starts=1, outliers=None, max_iter=10
)
"""As the authors' tutorial fits: 10 passes of Adam, 128 tokens a step, learning rate 1e-3.

Source: arXiv:2602.02464 and its released code (MIT), by notes on both.
"""


@dataclass(frozen=True)
class FactorSettings:
    """Settings of :func:`.snmf`; the defaults are ours, :data:`PAPER_FACTORS` the paper's."""

    share: float = 0.01
    """Of the neurons that a feature may use, rounded up; 1: all."""
    scale_neurons: bool = False
    """Each neuron in units of its own root mean square, so that no loud one decides what fits."""
    solver: str = "hals"
    """"hals", every step of which is exact; or "multiplicative", the paper's."""
    start: str = "tokens"
    """Features to begin with: "tokens" drawn apart from each other; "pca", which is as good as the
    principal components less one; or "random" (the paper's)."""
    n_starts: int = 3
    """Short runs, each from a start of its own; the one of the lowest loss goes on."""
    start_iter: int = 10
    """Sweeps of a short run, and of a move."""
    start_tokens: int = 200
    """Tokens a feature that a start is chosen on: at most all."""
    n_moves: int = 8
    """Times that the features that are needed least are tried where the loss is; what ends lower
    is kept. For "hals" alone."""
    outliers: float | None = 10.0
    """Tokens of a norm above so many times the median are left out; None keeps them."""
    tolerance: float = 1e-4
    """A sweep gains too little below this share of the loss ..."""
    patience: int = 3
    """... and the fit ends after so many of them in a row."""
    max_iter: int = 200
    """Sweeps over the tokens at most; those of short runs and moves are not counted."""

    def __post_init__(self) -> None:
        _one_of(self, solver=FACTOR_SOLVERS, start=FACTOR_STARTS)
        _whole(self, "n_starts", "start_iter", "start_tokens", "patience", "max_iter")
        if type(self.n_moves) is not int or self.n_moves < 0:
            raise ValueError(f"n_moves={self.n_moves!r}: wanted a whole number of at least 0")
        if not 0 < self.share <= 1:
            raise ValueError(f"share={self.share}: wanted a share above 0 and up to 1")
        _tolerant(self)


PAPER_FACTORS = FactorSettings(
    solver="multiplicative", start="random", n_starts=1, n_moves=0, outliers=None,
    tolerance=1e-9, patience=1500, max_iter=20_000,
)  # fmt: skip
"""As the authors fit Llama and Gemma; share=0.05 for GPT-2. They stop where the loss, and not a
share of it, gains less than 1e-4: on their data about a billionth of it.

Source: arXiv:2506.10920 and its released code, by notes on both.
"""


@dataclass(frozen=True)
class SAESettings:
    """Settings of :func:`.topk_sae`."""

    n_active: int = 16
    """Latents that a token has at most; k of the paper."""
    passes: int = 20
    """Over the tokens."""
    batch: int = 256
    """Tokens a step."""
    learning_rate: float = 3e-3
    """Of Adam at first; it falls to 0 over the second half of the passes."""
    aux: float = 1 / 32
    """Weight of the error that dead latents alone are to explain (AuxK); 0: they are left dead."""
    outliers: float | None = 10.0
    """Tokens of a norm above so many times the median are left out; None keeps them."""

    def __post_init__(self) -> None:
        _whole(self, "n_active", "passes", "batch")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate={self.learning_rate}: wanted a number above 0")
        if not self.aux >= 0:
            raise ValueError(f"aux={self.aux}: wanted at least 0")
        _outlying(self)
