"""Take channels out of a model's neurons: for a while, or in a checkpoint of its own.

A channel is taken out of one weight vector w of a neuron (its gate, in or out), on raw weights:

``"subtract"``  ``w <- w - c`` with c as it is given. A channel has the norm of its neuron, so
                scale it first: :func:`contributions` gives the part of w that is channel k's.
``"project"``   ``w <- w - C^T (C C^T)^-1 C w``: w keeps nothing in the span of the vectors given.
                For one vector that is ``w - (w . c) c / |c|^2``.

An edited weight is computed in float64 and rounded once to the weight's own precision, by the same
lines of code for a model in memory and for a file.
"""

from __future__ import annotations

import json
import shutil
import struct
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from rotate_core.models.architectures import ARCHITECTURES, Architecture, Weight

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from rotate_core.models import Model

MODES = ("subtract", "project")
RANK_TOLERANCE = 1e-6
"""Singular values below this share of the largest are rounding: the vectors come in float32."""
Ablation: TypeAlias = "tuple[int, int, str, Tensor]"
"""(layer, neuron, kind, vector of d_model values)."""
_Targets: TypeAlias = "dict[tuple[int, str], dict[int, Tensor]]"
"""(layer, kind) -> neuron -> the vectors (n, d_model) to take out of it, float64."""


@contextmanager
def ablate(
    model: PreTrainedModel, ablations: Iterable[Ablation], *, mode: str = "subtract"
) -> Iterator[PreTrainedModel]:
    """Run a model without some channels of some neurons (paper, section 5, causal tests).

    Within the context the weights themselves are edited, so everything that reads them sees it:
    forward passes, generate, gradients. On leaving, also by an exception, the original bytes
    are put back. Contexts nest: an inner one edits what the outer one left.

    Args:
        model: a loaded transformers model of a family in `ARCHITECTURES`; edited in place.
        ablations: (layer, neuron, kind, vector); a neuron may be named several times.
        mode: "subtract" the vectors as they are given, or "project" their span out.

    Yields:
        The model.

    Raises:
        TypeError: the model is none of transformers', or a vector is no tensor.
        ValueError: unknown mode, kind or family; a vector's shape; quantised or offloaded weights.
        IndexError: a layer or neuron out of range.
    """
    config = _text_config(model)
    architecture = _architecture(config.get("model_type"), type(model).__name__)
    targets = _targets(ablations, architecture, config, mode)
    parameters = dict(model.named_parameters())
    originals: list[tuple[Tensor, Tensor]] = []
    try:
        with torch.no_grad():
            for (layer, kind), neurons in targets.items():
                place = architecture.weight(kind)
                weight = _find(parameters, place.name.format(layer=layer), architecture)
                rows = _as_rows(weight.data, place)
                for neuron, vectors in neurons.items():
                    originals.append((rows[neuron], rows[neuron].clone()))
                    rows[neuron].copy_(_edited(rows[neuron], vectors, mode))
        yield model
    finally:
        with torch.no_grad():
            for row, original in reversed(originals):
                row.copy_(original)


def save_ablated(
    model: Model, ablations: Iterable[Ablation], directory: str | Path, *, mode: str = "subtract"
) -> Path:
    """Write the checkpoint of a model without some channels; `from_pretrained` loads it.

    Every file is copied; then the edited vectors, and nothing else, are overwritten in the copy.
    The tokenizer, the configuration and every other tensor are the original's byte for byte. Loaded
    in the checkpoint's own precision, the logits are those within :func:`ablate`.

    Args:
        model: from `load_model`.
        ablations: as for :func:`ablate`.
        directory: a folder that does not exist yet; it appears when it is whole.
        mode: as for :func:`ablate`.

    Returns:
        The directory.

    Raises:
        FileExistsError: there is something at `directory`.
        OSError: it cannot be written.
        ValueError, IndexError, TypeError: as for :func:`ablate`.
    """
    checkpoint = model.checkpoint
    architecture = checkpoint.architecture
    targets = _targets(ablations, architecture, checkpoint.config, mode)
    target = Path(directory)
    if target.exists():
        raise FileExistsError(f"{target} exists; name a folder that does not")
    for file in sorted(set(checkpoint.files.values())):
        checkpoint.locate(file)  # fetches what is not here yet
    if model.commit:
        _ = model.tokenizer  # of a model on the hub: fetched as well
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as folder:
        copy = Path(folder) / target.name
        shutil.copytree(checkpoint.path, copy)
        for (layer, kind), neurons in targets.items():
            place = architecture.weight(kind)
            name = _resolve(checkpoint.files, place.name.format(layer=layer), architecture)
            with _writable_tensor(copy / checkpoint.files[name], name) as weight:
                rows = _as_rows(weight, place)
                for neuron, vectors in neurons.items():
                    rows[neuron].copy_(_edited(rows[neuron], vectors, mode))
        copy.rename(target)
    return target


def contributions(
    weight_vectors: Float[Tensor, "n_neurons d_model"],
    channel_vectors: Float[Tensor, "n_neurons n_channels d_model"],
) -> Float[Tensor, "n_neurons n_channels d_model"]:
    """The part ``alpha_k c_k`` of each neuron that each of its channels explains, by least squares.

    ``alpha`` minimises ``|w - sum_k alpha_k c_k|`` over all channels of the neuron together, at
    minimum norm where they are linearly dependent. Ours: the paper's own weighting is not public.

    Returns:
        What :func:`ablate` subtracts to take a channel out; their sum reconstructs w.
    """
    channels = channel_vectors.double().transpose(1, 2)  # (n_neurons, d_model, n_channels)
    w = weight_vectors.double().unsqueeze(2)
    alpha = torch.linalg.lstsq(
        channels, w, rcond=RANK_TOLERANCE, driver="gelsd"
    ).solution  # (n_neurons, n_channels, 1)
    return (alpha * channel_vectors.double()).to(channel_vectors.dtype)


# --- one weight vector --------------------------------------------------------------------------


def _edited(w: Tensor, vectors: Float[Tensor, "n d_model"], mode: str) -> Tensor:
    """The weight vector without the vectors, in float64."""
    exact = w.double()
    vectors = vectors.to(w.device)
    if mode == "subtract":
        return exact - vectors.sum(0)
    u, s, _ = torch.linalg.svd(vectors.T, full_matrices=False)
    basis = u[:, s > s.max() * RANK_TOLERANCE]
    return exact - basis @ (basis.T @ exact)


def _as_rows(weight: Tensor, place: Weight) -> Tensor:
    """A view of a weight with a row for each neuron of one kind."""
    rows = weight if place.axis == 0 else weight.T
    d_mlp = len(rows) // place.parts
    return rows[place.part * d_mlp : (place.part + 1) * d_mlp]


# --- what was asked for -------------------------------------------------------------------------


def _targets(
    ablations: Iterable[Ablation], architecture: Architecture, config: dict[str, object], mode: str
) -> _Targets:
    if mode not in MODES:
        raise ValueError(f"mode={mode!r}: wanted one of {', '.join(MODES)}")
    n_layers, d_model, d_mlp = _sizes(architecture, config)
    collected: dict[tuple[int, str], dict[int, list[Tensor]]] = {}
    for layer, neuron, kind, vector in ablations:
        architecture.weight(kind)  # raises for a kind that there is not
        for what, number, n in (("layer", layer, n_layers), ("neuron", neuron, d_mlp)):
            if not 0 <= number < n:
                raise IndexError(f"{what} is {number}; the model has {what}s 0 to {n - 1}")
        if not isinstance(vector, Tensor):
            raise TypeError(f"a vector is a {type(vector).__name__}; give a torch.Tensor")
        if vector.shape != (d_model,):
            raise ValueError(f"a vector has shape {tuple(vector.shape)}; give ({d_model},)")
        if not torch.isfinite(vector).all():
            raise ValueError(f"the vector for neuron {neuron}, layer {layer}, holds inf or nan")
        if mode == "project" and not vector.any():
            raise ValueError(f"the vector for neuron {neuron}, layer {layer}, is 0: no direction")
        neurons = collected.setdefault((int(layer), kind), {})
        neurons.setdefault(int(neuron), []).append(vector.detach().double())
    return {
        place: {neuron: torch.stack(vectors) for neuron, vectors in neurons.items()}
        for place, neurons in collected.items()
    }


def _sizes(architecture: Architecture, config: dict[str, object]) -> tuple[int, int, int]:
    d_model = config[architecture.d_model]
    d_mlp = config.get(architecture.d_mlp) or 4 * d_model  # type: ignore[operator]  # GPT-2's null
    return config[architecture.n_layers], d_model, d_mlp  # type: ignore[return-value]


def _text_config(model: PreTrainedModel) -> dict[str, object]:
    config = getattr(model, "config", None)
    if config is None or not hasattr(config, "get_text_config"):
        raise TypeError(
            f"model is a {type(model).__name__}; give the one of load_model(...).transformers()"
        )
    return config.get_text_config().to_dict()


def _architecture(family: object, what: str) -> Architecture:
    if family not in ARCHITECTURES:
        raise ValueError(
            f"{what} has model_type {family!r}; known are {', '.join(ARCHITECTURES)} "
            ""
            "(one more is one more row in rotate_core/models/architectures.py)"
        )
    return ARCHITECTURES[str(family)]


def _resolve(names: Iterable[str], name: str, architecture: Architecture) -> str:
    known = set(names)
    prefix, *others = architecture.prefixes
    for candidate in (name, *(other + name.removeprefix(prefix) for other in others)):
        if candidate in known:
            return candidate
    raise ValueError(f"the model has no tensor {name!r}, which its model_type should have")


def _find(
    parameters: dict[str, torch.nn.Parameter], name: str, architecture: Architecture
) -> Tensor:
    parameter = parameters[_resolve(parameters, name, architecture)]
    if not parameter.is_floating_point() or parameter.is_meta:
        where = "offloaded" if parameter.is_meta else f"quantised ({parameter.dtype})"
        raise ValueError(f"{name!r} is {where}; load the model unquantised, on one device")
    return parameter


# --- a tensor in a file -------------------------------------------------------------------------

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@contextmanager
def _writable_tensor(file: Path, name: str) -> Iterator[Tensor]:
    """A tensor of a safetensors file, mapped for writing.

    The format: 8 bytes with the length of a JSON header, the header, the data.
    """
    import numpy as np

    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))[name]
    if header["dtype"] not in _DTYPES:
        raise ValueError(
            f"{name!r} of {file} is stored as {header['dtype']}: no floating-point weight"
        )
    begin, end = header["data_offsets"]
    file.chmod(file.stat().st_mode | 0o200)  # a cache may keep its files read-only
    data = np.memmap(
        file, dtype=np.uint8, mode="r+", offset=8 + length + begin, shape=(end - begin,)
    )
    yield torch.from_numpy(data).view(_DTYPES[header["dtype"]]).view(header["shape"])
    data.flush()
