"""Regions on disk: a folder of our own, and the checkpoints that the authors published.

    manifest.json          settings, where the activations are from, likelihoods, contexts
    regions.safetensors    the parameters; written last, so regions are there when it is

Nothing is ever unpickled: JSON and safetensors are read, and a checkpoint's tensors alone.
"""

from __future__ import annotations

import dataclasses
import json
import math
import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from torch.nn.functional import softplus

from rotate_core.dictionaries.mixture import Mixture, orthogonal
from rotate_core.dictionaries.regions import Regions
from rotate_core.dictionaries.settings import PAPER_REGIONS, RegionSettings
from rotate_core.storage import versions, write_whole
from rotate_core.text.collected import Context

FORMAT = "rotate_core regions 1"
MANIFEST, TENSORS = "manifest.json", "regions.safetensors"
PUBLISHED = ("mu", "dir_raw", "scale_rho", "psi_rho", "pi_logits")
"""Tensors of the authors' state_dict."""
PUBLISHED_FLOOR = 1e-8
"""Added to the noise where a checkpoint does not name its own eps_floor, as the authors' reader
does."""


def write_regions(regions: Regions, folder: Path) -> Path:
    """See :meth:`.Regions.write`."""
    content: dict[str, Any] = {"format": FORMAT}
    tensors: dict[str, Tensor] = {}
    for field in dataclasses.fields(regions):
        value = getattr(regions, field.name)
        if isinstance(value, Tensor):
            tensors[field.name] = value.contiguous()
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            content[field.name] = dataclasses.asdict(value)
        else:
            content[field.name] = None if value != value else value  # JSON has no NaN
    content["versions"] = versions("rotate_core", "torch")
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    manifest, file = folder / MANIFEST, folder / TENSORS
    if file.exists():
        raise FileExistsError(f"{folder} holds regions already: wanted another folder")
    write_whole(manifest, text.encode())
    write_whole(file, save(tensors))
    return folder


def read_regions(path: Path) -> Regions:
    """See :meth:`.Regions.read`."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: there are no regions")
    return _own(path) if path.is_dir() else published(path)


def _own(folder: Path) -> Regions:
    for name in (MANIFEST, TENSORS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} holds no whole regions: there is no {name} in it")
    content = read_manifest(folder)
    content.pop("versions", None)
    path = folder / TENSORS
    try:
        tensors = load(path.read_bytes())
        content["settings"] = RegionSettings(**content["settings"])
        if content["held_out"] is None:
            content["held_out"] = math.nan
        if content["history"] is not None:
            content["history"] = tuple(content["history"])
        if content["contexts"] is not None:
            content["contexts"] = tuple(
                tuple(Context(*context) for context in row) for row in content["contexts"]
            )
        regions = Regions(**content, **tensors)
    except (SafetensorError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} or its {MANIFEST} is damaged: {error}") from error
    check_shapes(path, regions.mixture)
    return regions


def read_manifest(folder: Path) -> dict[str, Any]:
    """The content of manifest.json, without its format.

    Raises:
        ValueError: it is damaged, or of something else.
    """
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        written = content.pop("format", None)
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} is no manifest of regions: {error}") from error
    if written != FORMAT:
        raise ValueError(f"{path} has format {written!r}: wanted {FORMAT!r}")
    return dict(content)


def published(path: Path) -> Regions:
    """Read a checkpoint of the authors' layout: its tensors, and no code.

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
    loadings = directions / directions.norm(dim=1, keepdim=True).clamp_min(1e-12) * length
    mixture = Mixture(logits.softmax(0), mu, loadings, softplus(noise) + floor)
    check_shapes(path, mixture)
    mixture = orthogonal(mixture)
    k, _, rank = mixture.shape
    kind = "own" if mixture.noise.ndim == 2 else "shared"
    return Regions(
        weights=mixture.weights,
        centroids=mixture.centroids,
        loadings=mixture.loadings,
        noise=mixture.noise,
        n_tokens=torch.zeros(k, dtype=torch.long),
        log_likelihood=math.nan,
        held_out=math.nan,
        n_outliers=0,
        n_reseeded=0,
        n_iter=0,
        converged=True,
        settings=dataclasses.replace(PAPER_REGIONS, rank=rank, noise=kind),
        seed=0,
    )


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
