"""Activations as a fit takes them, and what it refuses."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rotate_core.decomposition import usable_device
from rotate_core.dictionaries.settings import RegionSettings

if TYPE_CHECKING:
    from rotate_core.text.labelled import Activations


def checked(x: Tensor | Activations, device: str | torch.device | None) -> Tensor:
    """Activations as a fit takes them: float32 or float64, on a device.

    Raises:
        ValueError: another shape or type, values that are not finite, a device without float64.
    """
    values = x if isinstance(x, Tensor) else x.values
    if values.ndim != 2 or not values.is_floating_point():
        raise ValueError(
            f"activations of shape {tuple(values.shape)}, {values.dtype}: wanted (n_tokens, d), "
            "floating"
        )
    if bad := int((~values.isfinite().all(1)).sum()):
        raise ValueError(f"{bad} of {len(values)} tokens are not finite: wanted none")
    device = usable_device(device or values.device)
    return values.to(device, torch.promote_types(values.dtype, torch.float32))


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


def check_factors(x: Float[Tensor, "n d"], n_features: int) -> None:
    """Refuse tokens that nothing can be factorised of; for what a fit sees of them.

    Raises:
        ValueError: see :func:`.snmf`.
    """
    if n_features < 1:
        raise ValueError(f"n_features={n_features}: wanted at least 1")
    if len(x) < n_features:
        raise ValueError(
            f"{len(x)} tokens for {n_features} features: wanted at least as many (outliers are not "
            "counted)"
        )
    if not x.any():
        raise ValueError(f"all {len(x)} tokens are zero: wanted activations")


def floor_of(x: Float[Tensor, "n d"], settings: RegionSettings) -> float:
    """The least noise, in the activations' own unit."""
    return settings.floor * float(x.double().var(0, correction=0).mean())


def within(x: Tensor, outliers: float | None) -> Bool[Tensor, " n"]:
    """Whether each token's norm is within so many times the median."""
    norms = x.norm(dim=1)
    return norms <= (math.inf if outliers is None else outliers * norms.median())


def origin(x: Tensor | Activations, top_rows: Tensor) -> dict[str, Any]:
    """What activations know of themselves, as fields of a fit."""
    if isinstance(x, Tensor):
        return {}
    return {
        "model": x.model, "layer": x.layer, "site": x.site, "contexts": x.contexts(top_rows),
    }  # fmt: skip
