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

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from rotate_core.models.architectures import Architecture, Sizes, Weight, loaded_architecture
from rotate_core.models.checkpoint import copy_edited
from rotate_core.rotation.threads import team
from rotate_core.text.share import model_card

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from rotate_core.models import Model

MODES = ("subtract", "project")
RANK_TOLERANCE = 1e-6
"""Singular values below this share of the largest are rounding: the vectors come in float32."""
Ablation: TypeAlias = "tuple[int, int, str, Tensor]"
"""(layer, neuron, kind, vector of d_model values)."""
_Edit: TypeAlias = "tuple[str, Weight, dict[int, Tensor]]"
"""(tensor, where it has the neurons, neuron -> the vectors (n, d_model) to take out, float64)."""


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
    architecture, sizes = loaded_architecture(model)
    edits = _edits(ablations, architecture, sizes, mode)
    parameters = dict(model.named_parameters())
    originals: list[tuple[Tensor, Tensor]] = []
    try:
        for name, weight, neurons in edits:
            parameter = _find(parameters, name, architecture).data
            rows = weight.rows(parameter)
            originals += [(rows[neuron], rows[neuron].clone()) for neuron in neurons]
            _take_out(weight, neurons, mode, parameter)
        yield model
    finally:
        for row, original in reversed(originals):
            row.copy_(original)


def save_ablated(
    model: Model, ablations: Iterable[Ablation], directory: str | Path, *, mode: str = "subtract"
) -> Path:
    """Write the checkpoint of a model without some channels; `from_pretrained` loads it.

    Every file is copied; then the edited vectors, and nothing else, are overwritten in the copy.
    The tokenizer, the configuration and every other tensor are the original's byte for byte. Loaded
    in the checkpoint's own precision, the logits are those within :func:`ablate`. Its README.md is
    a model card that says what was taken out; :func:`.share.push_model` uploads it.

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
    checkpoint, ablations = model.checkpoint, list(ablations)
    edits = _edits(ablations, checkpoint.architecture, checkpoint.sizes, mode)
    if model.commit:
        _ = model.tokenizer  # of a model on the hub: its files are fetched, to be copied as well
    copy_edited(
        checkpoint,
        Path(directory),
        [(name, partial(_take_out, weight, neurons, mode)) for name, weight, neurons in edits],
        card=model_card(model, ablations, mode=mode),
    )
    return Path(directory)


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
    with team(w.device):  # small systems: threads would wait for each other, a second beside others
        alpha = torch.linalg.lstsq(
            channels, w, rcond=RANK_TOLERANCE, driver="gelsd"
        ).solution  # (n_neurons, n_channels, 1)
    return (alpha * channel_vectors.double()).to(channel_vectors.dtype)


def _take_out(weight: Weight, neurons: dict[int, Tensor], mode: str, tensor: Tensor) -> None:
    """Take vectors out of some neurons' rows of a tensor, in float64 and in place."""
    rows = weight.rows(tensor)
    for neuron, vectors in neurons.items():
        exact = rows[neuron].double()
        vectors = vectors.to(exact.device)
        if mode == "subtract":
            rows[neuron].copy_(exact - vectors.sum(0))
        else:
            u, s, _ = torch.linalg.svd(vectors.T, full_matrices=False)
            basis = u[:, s > s.max() * RANK_TOLERANCE]
            rows[neuron].copy_(exact - basis @ (basis.T @ exact))


def _edits(
    ablations: Iterable[Ablation], architecture: Architecture, sizes: Sizes, mode: str
) -> list[_Edit]:
    """The ablations by tensor and neuron, checked."""
    if mode not in MODES:
        raise ValueError(f"mode={mode!r}: wanted one of {', '.join(MODES)}")
    numbers = {"layer": sizes.n_layers, "neuron": sizes.d_mlp}
    by_weight: dict[tuple[int, str], dict[int, list[Tensor]]] = {}
    for layer, neuron, kind, vector in ablations:
        architecture.weight(kind)  # raises for a kind that there is not
        for what, number in (("layer", layer), ("neuron", neuron)):
            if not 0 <= number < (n := numbers[what]):
                raise IndexError(f"{what} is {number}; the model has {what}s 0 to {n - 1}")
        if not isinstance(vector, Tensor):
            raise TypeError(f"a vector is a {type(vector).__name__}; give a torch.Tensor")
        if vector.shape != (sizes.d_model,):
            raise ValueError(f"a vector has shape {tuple(vector.shape)}; give ({sizes.d_model},)")
        if not torch.isfinite(vector).all():
            raise ValueError(f"the vector for neuron {neuron}, layer {layer}, holds inf or nan")
        if mode == "project" and not vector.any():
            raise ValueError(f"the vector for neuron {neuron}, layer {layer}, is 0: no direction")
        neurons = by_weight.setdefault((int(layer), kind), {})
        neurons.setdefault(int(neuron), []).append(vector.detach().double())
    return [
        (weight.name.format(layer=layer), weight, {n: torch.stack(v) for n, v in neurons.items()})
        for (layer, kind), neurons in by_weight.items()
        for weight in [architecture.weight(kind)]
    ]


def _find(
    parameters: dict[str, torch.nn.Parameter], name: str, architecture: Architecture
) -> Tensor:
    actual = architecture.resolve(name, parameters)
    if actual is None:
        raise ValueError(f"the model has no tensor {name!r}, which its model_type should have")
    parameter = parameters[actual]
    if not parameter.is_floating_point() or parameter.is_meta:
        where = "offloaded" if parameter.is_meta else f"quantised ({parameter.dtype})"
        raise ValueError(f"{name!r} is {where}; load the model unquantised, on one device")
    return parameter
