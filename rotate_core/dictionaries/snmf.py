"""snmf(): from activations to features that are sparse combinations of neurons."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from rotate_core.decomposition import ConvergenceWarning
from rotate_core.dictionaries import hals, multiplicative
from rotate_core.dictionaries.checks import check_factors, checked, origin, within
from rotate_core.dictionaries.factor_start import start
from rotate_core.dictionaries.factors import Factors, finished, top_rows
from rotate_core.dictionaries.hals import Sweep
from rotate_core.dictionaries.settings import FactorSettings
from rotate_core.rotation.threads import team

if TYPE_CHECKING:
    from rotate_core.text.labelled import Activations

ROUGHLY = 10
"""Before moves, a fit ends at so many times the tolerance."""
MOVED = 10
"""A move takes one of so many features, at least one."""


def snmf(
    x: Float[Tensor, "n d"] | Activations,
    n_features: int,
    *,
    settings: FactorSettings | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    history: bool = False,
    progress: bool = True,
    **overrides: Any,
) -> Factors:
    """Factorise activations into nonnegative coefficients and sparse features (arXiv:2506.10920).

    ``x`` is taken to be ``Y Z`` with ``Y >= 0`` and few neurons in each row of Z. Nothing is
    centred: a coefficient of 0 says that a feature is not there. Several short runs begin at tokens
    of their own, the one of the lowest loss goes on; then features that are hardly needed are tried
    elsewhere, until a sweep gains too little.

    Args:
        x: one token a row, as of ``activations(..., site="hidden")``. The fit is in float64 if they
            are, else in float32 with losses in float64.
        n_features: k.
        settings: None for ours, :data:`.PAPER_FACTORS` for the paper's.
        seed: of all draws.
        device: where to compute; None: where x is.
        history: keep the loss after each sweep, as a share of the energy. With "hals" it never
            rises.
        progress: show a bar.
        overrides: any field of :class:`.FactorSettings`, such as ``share=0.05``.

    Returns:
        The factors, on the CPU.

    Raises:
        ValueError: shapes that do not fit, non-finite values, fewer tokens than features, tokens
            that are all zero.
        TypeError: an unknown setting.

    Warns:
        ConvergenceWarning: after ``max_iter`` sweeps the loss still falls.
    """
    s = dataclasses.replace(settings or FactorSettings(), **overrides)
    values = checked(x, device)
    kept = within(values, s.outliers)
    scale = neuron_scale(values[kept]) if s.scale_neurons else None
    tokens = values[kept] if scale is None else values[kept] / scale
    check_factors(tokens, n_features)
    n_kept = math.ceil(s.share * tokens.shape[1])
    generator = torch.Generator().manual_seed(seed)
    with team(values.device), tqdm(unit="sweep", disable=not progress, leave=False) as bar:
        z = best_start(tokens, n_features, n_kept, s, generator)
        run = _Run(tokens, n_kept, s, bar)
        run.go(z, generator)
    total = float(tokens.double().square().sum())
    factors = finished(
        run.sweep.z,
        scale,
        n_kept=n_kept,
        n_outliers=int((~kept).sum()),
        n_revived=run.n_revived,
        n_iter=run.n_iter,
        converged=run.converged,
        settings=s,
        seed=seed,
        history=tuple(loss / total for loss in run.losses) if history else None,
    )
    coefficients = factors.encode(values)
    rows = top_rows(coefficients)
    factors = dataclasses.replace(
        factors,
        coefficients=coefficients.cpu(),
        explained=factors.energy_explained(values[kept], coefficients[kept]),
        top_rows=rows,
        **origin(x, rows),
    )
    if not factors.converged:
        warnings.warn(
            f"the loss still falls after {factors.n_iter} sweeps: raise max_iter, or tolerance",
            ConvergenceWarning,
            stacklevel=2,
        )
    return factors


def neuron_scale(x: Float[Tensor, "n d"]) -> Float[Tensor, " d"]:
    """Each neuron's root mean square; 1 of a neuron that is always 0."""
    power = x.double().square().mean(0).sqrt()
    return torch.where(power > 0, power, 1).to(x)


def best_start(
    x: Float[Tensor, "n d"],
    n_features: int,
    n_kept: int,
    s: FactorSettings,
    generator: torch.Generator,
) -> Float[Tensor, "k d"]:
    """The features of the best of some short runs, by their loss on the same tokens."""
    some = x[
        torch.randperm(len(x), generator=generator)[: s.start_tokens * n_features].to(x.device)
    ]
    best: Sweep | None = None
    for _ in range(s.n_starts):
        z = start(some, n_features, n_kept, how=s.start, generator=generator)
        if s.n_starts == 1:
            return z
        run = next(islice(_sweeps(some, z, n_kept, s, generator), s.start_iter, None))
        if best is None or run.loss < best.loss:
            best = run
    assert best is not None
    return best.z


def _sweeps(
    x: Float[Tensor, "n d"],
    z: Float[Tensor, "k d"],
    n_kept: int,
    s: FactorSettings,
    generator: torch.Generator,
) -> Iterator[Sweep]:
    """Sweeps of a solver from given features; the paper's begins at random coefficients instead."""
    if s.solver == "hals":
        y = hals.encode(x, z).T.contiguous() if s.start == "pca" else None
        return hals.fit(x, z, n_kept, y=y)
    if s.start == "random":
        y = torch.rand(len(z), len(x), generator=generator, dtype=x.dtype).to(x.device)
    else:
        y = hals.encode(x, z).T
    return multiplicative.fit(x, y, n_kept)


class _Run:
    """A fit under way: its best sweep, the losses that led there, and how it stands."""

    sweep: Sweep

    def __init__(self, x: Tensor, n_kept: int, s: FactorSettings, bar: tqdm[Any]) -> None:
        self.x, self.n_kept, self.s, self.bar = x, n_kept, s, bar
        self.losses: list[float] = []
        self.rounding = 1e-6 * float(x.double().square().sum())
        """A loss below is as good as none."""
        self.n_iter = self.n_counted = self.n_revived = 0
        self.converged = False

    def go(self, z: Float[Tensor, "k d"], generator: torch.Generator) -> None:
        """From a start to the end."""
        s, moves = self.s, self.s.n_moves if self.s.solver == "hals" else 0
        sweeps = _sweeps(self.x, z, self.n_kept, s, generator)
        self._converge(sweeps, s.tolerance * (ROUGHLY if moves else 1))
        if not moves or not self.converged:
            return
        for _ in range(moves):
            z, y = hals.moved(self.x, self.sweep, max(1, len(z) // MOVED), self.n_kept, generator)
            for trial in islice(hals.fit(self.x, z, self.n_kept, y=y), s.start_iter):
                self._count(trial)
            if trial.loss < self.sweep.loss:
                self.sweep = trial
                self.losses.append(trial.loss)
        again = hals.fit(self.x, self.sweep.z, self.n_kept, y=self.sweep.y)
        self._converge(again, s.tolerance)

    def _converge(self, sweeps: Iterator[Sweep], tolerance: float) -> None:
        """Go on until as many sweeps as ``patience`` gained too little, or there are no more."""
        poor = 0
        for sweep in sweeps:
            self._count(sweep)
            self.n_counted += 1
            best = self.losses[-1] if self.losses else math.inf
            if sweep.loss < best:  # the multiplicative update may rise
                self.sweep = sweep
                self.losses.append(sweep.loss)
            little = best - sweep.loss < tolerance * max(self.losses[-1], self.rounding)
            poor = poor + 1 if little and not sweep.n_revived else 0
            self.converged = poor >= self.s.patience
            if self.converged or self.n_counted > self.s.max_iter:
                return

    def _count(self, sweep: Sweep) -> None:
        self.n_iter += 1
        self.n_revived += sweep.n_revived
        self.bar.update()
