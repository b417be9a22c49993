"""How a mixture of factor analyzers is fitted."""

from __future__ import annotations

from dataclasses import dataclass

NOISES = ("shared", "isotropic", "own")
SOLVERS = ("em", "gradient")
STARTS = ("pca", "random")


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
        for name, known in (("noise", NOISES), ("solver", SOLVERS), ("start", STARTS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r}: wanted {', '.join(known)}")
        for name in ("rank", "n_starts", "start_iter", "start_tokens", "max_iter", "batch", "top"):
            value = getattr(self, name)
            if (value is not None or name != "top") and (type(value) is not int or value < 1):
                raise ValueError(f"{name}={value!r}: wanted a whole number of at least 1")
        for name in ("floor", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)}: wanted a number above 0")
        if not self.tolerance >= 0:
            raise ValueError(f"tolerance={self.tolerance}: wanted at least 0")
        if not 0 <= self.held_share < 1:
            raise ValueError(f"held_share={self.held_share}: wanted a share from 0 to below 1")
        if self.outliers is not None and not self.outliers > 1:
            raise ValueError(f"outliers={self.outliers}: wanted None, or above 1 median")
        if self.solver == "gradient" and (self.noise == "isotropic" or self.top is not None):
            raise ValueError("solver='gradient' has noise shared or own, and weighs all regions")


PAPER_REGIONS = RegionSettings(
    rank=10, solver="gradient", start="random", n_starts=1, outliers=None, max_iter=10
)
"""As the authors' tutorial fits: 10 passes of Adam, 128 tokens a step, learning rate 1e-3.

Source: arXiv:2602.02464 and its released code (MIT), by notes on both.
"""
