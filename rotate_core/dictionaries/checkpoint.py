"""Checkpoints of regions that the authors published: their tensors, and no code."""

from __future__ import annotations

import dataclasses
import math
import pickle
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import softplus

from rotate_core.dictionaries.mixture import Mixture
from rotate_core.dictionaries.settings import PAPER_REGIONS

PUBLISHED = ("mu", "dir_raw", "scale_rho", "psi_rho", "pi_logits")
"""Tensors of the authors' state_dict."""
PUBLISHED_FLOOR = 1e-8
"""Added to the noise where a checkpoint does not name its own eps_floor, as the authors' reader
does."""


def published(path: Path) -> dict[str, Any]:
    """The fields of regions in a checkpoint of the authors' layout: its tensors, and no code.

    ``W = dir / |dir| * softplus(scale_rho)``, ``Psi = softplus(psi_rho) + eps_floor``,
    ``pi = softmax(pi_logits)``; how many tokens it was fitted to is not in it.

    Raises:
        ValueError: it is damaged, holds more than tensors and numbers, or something else.

    Source: the layout of the checkpoints on the hub at ordavids1/ (arXiv:2602.02464).
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        state = content.get("state_dict", content)
        mu, directions, scale, noise, logits = (state[name].float() for name in PUBLISHED)
        floor = float((content.get("meta") or {}).get("eps_floor", PUBLISHED_FLOOR))
    except (pickle.UnpicklingError, RuntimeError, EOFError, AttributeError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} is damaged, or no file of plain tensors: {reason}") from error
    except KeyError as error:
        raise ValueError(
            f"{path} holds no regions: {error} is missing of {', '.join(PUBLISHED)}"
        ) from error
    if directions.ndim != 3 or scale.shape != directions.shape[::2]:
        raise ValueError(
            f"{path}: dir_raw of shape {tuple(directions.shape)}, scale_rho of shape "
            f"{tuple(scale.shape)}: wanted (K, d, R) and (K, R)"
        )
    length = softplus(scale).unsqueeze(1)
    kind = "own" if noise.ndim == 2 else "shared"
    return {
        "weights": logits.softmax(0),
        "centroids": mu,
        "loadings": directions / directions.norm(dim=1, keepdim=True).clamp_min(1e-12) * length,
        "noise": softplus(noise) + floor,
        "n_tokens": torch.zeros(len(mu), dtype=torch.long),
        "log_likelihood": math.nan,
        "held_out": math.nan,
        "n_outliers": 0,
        "n_reseeded": 0,
        "n_iter": 0,
        "converged": True,
        "settings": dataclasses.replace(PAPER_REGIONS, rank=directions.shape[2], noise=kind),
        "seed": 0,
    }


def check_shapes(path: Path, mixture: Mixture) -> None:
    """Refuse parameters that do not fit each other, or are none.

    Raises:
        ValueError: with the file's name.
    """
    shapes = {f.name: tuple(getattr(mixture, f.name).shape) for f in dataclasses.fields(mixture)}
    if mixture.loadings.ndim == 3:
        k, d, _ = mixture.shape
        wanted = {"weights": ((k,),), "centroids": ((k, d),), "noise": ((d,), (k, d))}
        fits = all(shapes[name] in options for name, options in wanted.items())
    else:
        fits = False
    if not fits:
        raise ValueError(f"{path}: shapes {shapes} do not fit each other")
    values = (getattr(mixture, f.name) for f in dataclasses.fields(mixture))
    if not all(bool(v.isfinite().all()) for v in values) or bool((mixture.noise <= 0).any()):
        raise ValueError(f"{path}: wanted finite parameters, and noise above 0")
