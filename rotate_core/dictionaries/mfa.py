"""mfa(): from activations to regions."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from rotate_core.decomposition import ConvergenceWarning
from rotate_core.dictionaries import em, gradient
from rotate_core.dictionaries.checks import check, checked, floor_of, origin, within
from rotate_core.dictionaries.mixture import (
    Mixture,
    chunks,
    mean_log_prob,
    orthogonal,
    read,
    readers,
)
from rotate_core.dictionaries.regions import Regions
from rotate_core.dictionaries.settings import RegionSettings
from rotate_core.dictionaries.start import best_start

if TYPE_CHECKING:
    from rotate_core.text.labelled import Activations

N_TOP = 50
"""Top positions kept of each region."""


def mfa(
    x: Float[Tensor, "n d"] | Activations,
    n_regions: int,
    *,
    settings: RegionSettings | None = None,
    held_out: Float[Tensor, "m d"] | Activations | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    memory: float | None = None,
    history: bool = False,
    progress: bool = True,
    **overrides: Any,
) -> Regions:
    """Fit a mixture of factor analyzers to activations (arXiv:2602.02464).

    Tokens of an outlying norm are dropped; several short runs begin at k-means of their own, and
    the one with the best held-out likelihood goes on until it gains no more.

    Args:
        x: one token a row. The fit is in float64 if they are, else in float32 with sums in float64.
        n_regions: K.
        settings: None for ours, :data:`.PAPER_REGIONS` for the paper's.
        held_out: tokens to choose a start by; None: a share of ``x``, as ``settings`` has it.
        seed: of all draws.
        device: where to compute; None: where x is.
        memory: bytes that the work may take beside x; None: 256 MiB. It changes rounding only.
        history: keep the log likelihood of each pass.
        progress: show a bar.
        overrides: any field of :class:`RegionSettings`, such as ``rank=4``.

    Returns:
        The regions, on the CPU.

    Raises:
        ValueError: shapes that do not fit, non-finite values, fewer tokens than regions, a rank of
            d or more, tokens that are all the same, a device without float64.
        TypeError: an unknown setting.

    Warns:
        ConvergenceWarning: after ``max_iter`` passes the likelihood still rises.
    """
    settings = dataclasses.replace(settings or RegionSettings(), **overrides)
    values = checked(x, device)
    kept = within(values, settings.outliers)
    rows = kept.nonzero().flatten().cpu()
    generator = torch.Generator().manual_seed(seed)
    fitted, held = rows, rows[:0]
    if held_out is None and settings.held_share:
        order = rows[torch.randperm(len(rows), generator=generator)]
        n_held = int(settings.held_share * len(rows))
        held, fitted = order[:n_held].sort().values, order[n_held:].sort().values
    tokens = values[fitted.to(values.device)]
    check(tokens, n_regions, settings)
    mean = tokens.double().mean(0)
    tokens = tokens - mean.to(values)
    if held_out is None:
        unseen = values[held.to(values.device)]
    else:
        unseen = checked(held_out, values.device)
        unseen = unseen[within(unseen, settings.outliers)].to(values)
    unseen = unseen - mean.to(values)

    begin = best_start(tokens, unseen, n_regions, settings, generator, memory)
    run = _run(tokens, begin, settings, generator, memory, progress)
    mixture = orthogonal(run.mixture.to(mean))
    counts, top = _top(tokens, mixture, memory)
    top_rows = torch.where(top < 0, top, fitted[top])
    regions = Regions(
        **parameters(mixture.shifted(mean), values.dtype),
        n_tokens=counts,
        log_likelihood=run.history[-1],
        held_out=mean_log_prob(unseen, mixture, memory),
        n_outliers=int((~kept).sum()),
        n_reseeded=run.n_reseeded,
        n_iter=len(run.history) - 1,
        converged=run.converged,
        settings=settings,
        seed=seed,
        history=tuple(run.history) if history else None,
        top_rows=top_rows,
        **origin(x, top_rows),
    )
    if not regions.converged:
        warnings.warn(
            f"the likelihood still rises after {regions.n_iter} passes: raise max_iter, or "
            "tolerance",
            ConvergenceWarning,
            stacklevel=2,
        )
    return regions


class _Run(NamedTuple):
    mixture: Mixture
    history: list[float]
    n_reseeded: int
    converged: bool


def _run(
    x: Tensor,
    begin: Mixture,
    settings: RegionSettings,
    generator: torch.Generator,
    memory: float | None,
    progress: bool,
) -> _Run:
    """Passes until one gains too little, or there are no more."""
    s = settings
    passes: Iterator[tuple[Mixture, float, int]]
    if s.solver == "em":
        passes = em.fit(x, begin, noise=s.noise, floor=floor_of(x, s), top=s.top, memory=memory)
    else:
        passes = gradient.fit(
            x, begin, learning_rate=s.learning_rate, batch=s.batch, generator=generator
        )
    history: list[float] = []
    n_reseeded, converged = 0, False
    with tqdm(total=s.max_iter, unit="pass", disable=not progress, leave=False) as bar:
        for found, value, n_dead in passes:
            mixture = found
            bar.set_postfix_str(f"{value:.2f} nats a token")
            gain = value - history[-1] if history else math.inf
            history.append(value)
            converged = not n_dead and abs(gain) < s.tolerance * x.shape[1]
            if converged or len(history) > s.max_iter:
                break
            n_reseeded += n_dead
            bar.update()
    return _Run(mixture, history, n_reseeded, converged)


def parameters(mixture: Mixture, dtype: torch.dtype) -> dict[str, Any]:
    """The parameters as fields of :class:`Regions`."""
    like = torch.empty(0, dtype=dtype)
    return {f.name: getattr(mixture.to(like), f.name) for f in dataclasses.fields(Mixture)}


def _top(x: Tensor, mixture: Mixture, memory: float | None) -> tuple[Tensor, Tensor]:
    """Tokens that each region is most responsible for: how many; rows of the densest, padded."""
    made = readers(mixture, x)
    k = len(made.constant)
    joint = [read(x[part], made)[0].max(1) for part in chunks(x, mixture, memory)]
    density = torch.cat([part.values for part in joint]).cpu()
    member = torch.cat([part.indices for part in joint]).cpu()
    top = torch.full((k, N_TOP), -1)
    for region in range(k):
        rows = (member == region).nonzero().flatten()
        rows = rows[density[rows].argsort(descending=True, stable=True)[:N_TOP]]
        top[region, : len(rows)] = rows
    return member.bincount(minlength=k), top
