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
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from torch.nn.functional import softplus

from rotate_core.dictionaries.mixture import Mixture, orthogonal
from rotate_core.dictionaries.settings import PAPER_REGIONS, RegionSettings
from rotate_core.storage import versions, write_whole
from rotate_core.text.labelled import Context

FORMAT = "rotate_core regions 1"
MANIFEST, TENSORS = "manifest.json", "regions.safetensors"
OPTIONAL = ("top_rows", "contexts", "history")
"""Fields that are not there where nothing is known."""
PUBLISHED = ("mu", "dir_raw", "scale_rho", "psi_rho", "pi_logits")
"""Tensors of the authors' state_dict."""
PUBLISHED_FLOOR = 1e-8
"""Added to the noise where a checkpoint does not name its own eps_floor, as the authors' reader
does."""


def to_do(folder: Path, asked: Mapping[str, Any]) -> bool:
    """Whether a folder still lacks the regions that are asked for; it is then theirs.

    What is asked for is kept in asked.json, so that a run that was killed is gone on with, and
    never one of something else.

    Raises:
        ValueError: the folder is of other regions; the message says what differs.
    """
    file = folder / "asked.json"
    if file.exists():
        try:
            known = dict(json.loads(file.read_text(encoding="utf-8")))
        except ValueError as error:
            raise ValueError(f"{file} is damaged: {error}; delete the folder") from error
        if others := [k for k in {*asked, *known} if known.get(k) != asked.get(k)]:
            told = ", ".join(f"{k}: {known.get(k)} -> {asked.get(k)}" for k in sorted(others))
            raise ValueError(f"{folder} is of other regions ({told}): wanted another folder")
    else:
        write_whole(file, (json.dumps(asked, indent=1) + "\n").encode())
    return not (folder / TENSORS).exists()


def write_fields(folder: Path, fields: Mapping[str, Any]) -> None:
    """Write the fields of regions; see :meth:`.Regions.write`."""
    tensors = {name: value for name, value in fields.items() if isinstance(value, Tensor)}
    content: dict[str, Any] = {"format": FORMAT}
    for name in fields.keys() - tensors.keys():
        value = fields[name]
        if isinstance(value, RegionSettings):
            value = dataclasses.asdict(value)
        content[name] = None if value != value else value  # JSON has no NaN
    content["versions"] = versions("rotate_core", "torch")
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    if (folder / TENSORS).exists():
        raise FileExistsError(f"{folder} holds regions already: wanted another folder")
    write_whole(folder / MANIFEST, text.encode())
    write_whole(folder / TENSORS, save({k: v.contiguous() for k, v in tensors.items()}))


def read_fields(path: Path, names: Iterable[str]) -> dict[str, Any]:
    """The fields of regions, of these names; see :meth:`.Regions.read`."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: there are no regions")
    fields = _own(path, set(names)) if path.is_dir() else published(path)
    mixture = Mixture(**{f.name: fields[f.name] for f in dataclasses.fields(Mixture)})
    check_shapes(path, mixture)
    if path.is_dir():
        return fields
    return fields | vars(orthogonal(mixture))


def _own(folder: Path, names: set[str]) -> dict[str, Any]:
    for name in (MANIFEST, TENSORS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} holds no whole regions: there is no {name} in it")
    fields = read_manifest(folder)
    fields.pop("versions", None)
    path = folder / TENSORS
    try:
        fields |= load(path.read_bytes())
        if odd := {*fields, *OPTIONAL} ^ {*names, *OPTIONAL}:
            raise ValueError(f"fields that are missing, or not known: {', '.join(sorted(odd))}")
        fields["settings"] = RegionSettings(**fields["settings"])
        if fields["held_out"] is None:
            fields["held_out"] = math.nan
        if fields.get("history") is not None:
            fields["history"] = tuple(fields["history"])
        if fields.get("contexts") is not None:
            fields["contexts"] = tuple(
                tuple(Context(*context) for context in row) for row in fields["contexts"]
            )
    except (SafetensorError, ValueError, TypeError) as error:
        raise ValueError(f"{path} or its {MANIFEST} is damaged: {error}") from error
    return fields


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
