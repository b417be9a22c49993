"""mfa(): from activations to regions."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm.auto import tqdm

from rotate_core.decomposition import ConvergenceWarning, check_device
from rotate_core.dictionaries import em, gradient
from rotate_core.dictionaries.mixture import Mixture, orthogonal, read, readers
from rotate_core.dictionaries.regions import Regions
from rotate_core.dictionaries.settings import RegionSettings
from rotate_core.dictionaries.start import start

if TYPE_CHECKING:
    from rotate_core.text.activations import Activations

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
    values = _values(x, device)
    kept = _within(values, settings.outliers)
    rows = kept.nonzero().flatten().cpu()
    generator = torch.Generator().manual_seed(seed)
    fitted, held = rows, rows[:0]
    if held_out is None and settings.held_out:
        order = rows[torch.randperm(len(rows), generator=generator)]
        n_held = int(settings.held_out * len(rows))
        held, fitted = order[:n_held].sort().values, order[n_held:].sort().values
    check(values[fitted.to(values.device)], n_regions, settings)

    mean = values[kept].double().mean(0)
    tokens = values[fitted.to(values.device)] - mean.to(values)
    if held_out is None:
        unseen = values[held.to(values.device)]
    else:
        unseen = _values(held_out, values.device)
        unseen = unseen[_within(unseen, settings.outliers)].to(values)
    unseen = unseen - mean.to(values)

    begin = best_start(tokens, unseen, n_regions, settings, generator, memory)
    found = _run(tokens, begin, settings, generator, memory, progress)
    mixture = orthogonal(found.mixture.to(mean))
    counts, top = _top(tokens, mixture, memory)
    top_rows = torch.where(top < 0, top, fitted[top])
    regions = Regions(
        **result(mixture.shifted(mean), values.dtype),
        n_tokens=counts,
        log_likelihood=found.history[-1],
        held_out=mean_log_prob(unseen, mixture, memory),
        n_outliers=int((~kept).sum()),
        n_reseeded=found.n_reseeded,
        n_iter=len(found.history) - 1,
        converged=found.converged,
        settings=settings,
        seed=seed,
        history=tuple(found.history) if history else None,
        top_rows=top_rows,
        **_origin(x, top_rows),
    )
    if not regions.converged:
        warnings.warn(
            f"the likelihood still rises after {regions.n_iter} passes: raise max_iter, or "
            "tolerance",
            ConvergenceWarning,
            stacklevel=2,
        )
    return regions


def check(x: Float[Tensor, "n d"], n_regions: int, settings: RegionSettings) -> None:
    """Refuse tokens that no regions can be fitted to; for what a fit sees of them.

    Raises:
        ValueError: see :func:`mfa`.
    """
    n, d = x.shape
    if n_regions < 1:
        raise ValueError(f"n_regions={n_regions}: wanted at least 1")
    if n < max(n_regions, 2):
        raise ValueError(
            f"{n} tokens for {n_regions} regions: wanted at least as many, and two (outliers and "
            "held-out tokens are not counted)"
        )
    if settings.rank >= d:
        raise ValueError(f"rank={settings.rank}: wanted less than the {d} dimensions")
    if not (x != x[0]).any():
        raise ValueError(f"all {n} tokens are the same: wanted activations that vary")


def floor_of(x: Float[Tensor, "n d"], settings: RegionSettings) -> float:
    """The least noise, in the activations' own unit."""
    return settings.floor * float(x.double().var(0, correction=0).mean())


def best_start(
    x: Float[Tensor, "n d"],
    unseen: Float[Tensor, "m d"],
    n_regions: int,
    settings: RegionSettings,
    generator: torch.Generator,
    memory: float | None,
) -> Mixture:
    """The best of several short runs of EM, by held-out likelihood.

    Source: Biernacki, Celeux and Govaert (2003), "em-EM"; the choice by held-out tokens is ours.
    """
    s, floor = settings, floor_of(x, settings)
    best, best_value = None, -math.inf
    for _ in range(s.n_starts):
        n = min(len(x), max(s.start_tokens * n_regions, s.start_tokens))
        some = x[torch.randperm(len(x), generator=generator)[:n].to(x.device)]
        mixture = start(
            some, n_regions, rank=s.rank, noise=s.noise, floor=floor, how=s.start,
            generator=generator,
        )  # fmt: skip
        if s.n_starts == 1:
            return mixture
        passes = em.fit(some, mixture, noise=s.noise, floor=floor, top=s.top, memory=memory)
        for _, (mixture, value, _) in zip(range(s.start_iter + 1), passes, strict=False):
            pass
        if len(unseen):
            value = mean_log_prob(unseen, mixture, memory)
        if value > best_value or best is None:
            best, best_value = mixture, value
    assert best is not None
    return best


class _Found(NamedTuple):
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
) -> _Found:
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
        for mixture, value, n_dead in passes:
            bar.set_postfix_str(f"{value:.2f} nats a token")
            gain = value - history[-1] if history else math.inf
            history.append(value)
            converged = not n_dead and abs(gain) < s.tolerance * x.shape[1]
            if converged or len(history) > s.max_iter:
                break
            n_reseeded += n_dead
            bar.update()
    return _Found(mixture, history, n_reseeded, converged)


def mean_log_prob(x: Float[Tensor, "n d"], mixture: Mixture, memory: float | None) -> float:
    """Mean log likelihood a token; NaN of none."""
    made = readers(mixture, x)
    rows = em.chunks(len(x), mixture, memory, x.element_size())
    total = sum(float(read(x[part], made)[0].logsumexp(1).double().sum()) for part in rows)
    return total / len(x) if len(x) else math.nan


def result(mixture: Mixture, dtype: torch.dtype) -> dict[str, Tensor]:
    """The parameters as fields of :class:`Regions`."""
    like = torch.empty(0, dtype=dtype)
    return {f.name: getattr(mixture.to(like), f.name) for f in dataclasses.fields(Mixture)}


def _top(x: Tensor, mixture: Mixture, memory: float | None) -> tuple[Tensor, Tensor]:
    """Tokens that each region is most responsible for: how many; rows of the densest, padded."""
    made = readers(mixture, x)
    k = len(made.constant)
    joint = [
        read(x[part], made)[0].max(1) for part in em.chunks(len(x), mixture, memory, x.itemsize)
    ]
    density = torch.cat([part.values for part in joint]).cpu()
    member = torch.cat([part.indices for part in joint]).cpu()
    top = torch.full((k, N_TOP), -1)
    for region in range(k):
        rows = (member == region).nonzero().flatten()
        rows = rows[density[rows].argsort(descending=True, stable=True)[:N_TOP]]
        top[region, : len(rows)] = rows
    return member.bincount(minlength=k), top


def _values(x: Tensor | Activations, device: str | torch.device | None) -> Tensor:
    values = x if isinstance(x, Tensor) else x.values
    if values.ndim != 2 or not values.is_floating_point():
        raise ValueError(
            f"activations of shape {tuple(values.shape)}, {values.dtype}: wanted (n_tokens, d), "
            "floating"
        )
    if bad := int((~values.isfinite().all(1)).sum()):
        raise ValueError(f"{bad} of {len(values)} tokens are not finite: wanted none")
    device = device or values.device
    check_device(device)
    return values.to(device, torch.promote_types(values.dtype, torch.float32))


def _within(x: Tensor, outliers: float | None) -> Bool[Tensor, " n"]:
    """Whether each token's norm is within so many times the median."""
    norms = x.norm(dim=1)
    return norms <= (math.inf if outliers is None else outliers * norms.median())


def _origin(x: Tensor | Activations, top_rows: Tensor) -> dict[str, Any]:
    """What activations know of themselves, as fields of :class:`Regions`."""
    if isinstance(x, Tensor):
        return {}
    contexts = tuple(tuple(x.context(i) for i in row if i >= 0) for row in top_rows.tolist())
    return {"model": x.model, "layer": x.layer, "site": x.site, "contexts": contexts}
