"""The weight vectors of MLP neurons, as rows of one tensor that knows where they come from."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from rotate_core.models.checkpoint import Checkpoint


@dataclass(frozen=True, eq=False)
class Neurons:
    """Weight vectors of some neurons of one layer, and where they come from.

    Raises ValueError if there is not one index for each vector.
    """

    vectors: Float[Tensor, "n_neurons d_model"] = field(repr=False)
    """w of section 3 of the paper, one row per neuron; float32, on the CPU."""
    model: str
    """The model's name."""
    layer: int
    """From 0."""
    kind: str
    """ "gate", "in" or "out"."""
    indices: tuple[int, ...]
    """The neurons' numbers in their layer, from 0."""
    fold_norm: bool = False
    """Whether the gain of the norm in front of the MLP was multiplied in (not in the paper)."""

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or len(self.vectors) != len(self.indices):
            raise ValueError(
                f"vectors has shape {tuple(self.vectors.shape)} for {len(self.indices)} indices; "
                "give (n_neurons, d_model)"
            )

    def __len__(self) -> int:
        return len(self.indices)


def read_neurons(
    checkpoint: Checkpoint, layer: int, kind: str, indices: Iterable[int] | None, fold_norm: bool
) -> tuple[Float[Tensor, "n_neurons d_model"], tuple[int, ...]]:
    """The weight vectors that `Model.neurons` describes, and the neurons' numbers."""
    names, sizes = checkpoint.architecture, checkpoint.sizes
    weight = names.weight(kind)
    layer = check_layer(layer, sizes.n_layers)
    numbers = _check_indices(indices, sizes.d_mlp)
    name = weight.name.format(layer=layer)
    shape = (sizes.d_mlp * weight.parts, sizes.d_model)
    shape = shape if weight.axis == 0 else shape[::-1]
    chosen = slice(None) if indices is None else list(numbers)
    vectors = checkpoint.tensor(name, lambda stored: weight.rows(stored)[chosen], shape=shape)
    vectors = vectors.contiguous()
    if fold_norm and kind != "out" and names.mlp_norm is not None:
        norm = names.mlp_norm.format(layer=layer)
        vectors *= names.norm_offset + checkpoint.tensor(norm, shape=(sizes.d_model,))
    finite = torch.isfinite(vectors).all(dim=1)
    if not finite.all():
        bad = numbers[int(torch.nonzero(~finite)[0])]
        raise ValueError(f"{kind!r} of neuron {bad}, layer {layer}, {checkpoint.path}: inf or nan")
    return vectors, numbers


def check_layer(layer: int, n_layers: int) -> int:
    """The layer's number as an int, if there is such a layer; else TypeError or IndexError."""
    number = _integer(layer, "layer")
    if not 0 <= number < n_layers:
        raise IndexError(f"layer is {number}; the model has layers 0 to {n_layers - 1}")
    return number


def _check_indices(indices: Iterable[int] | None, d_mlp: int) -> tuple[int, ...]:
    if indices is None:
        return tuple(range(d_mlp))
    if isinstance(indices, Tensor):
        indices = indices.tolist()
    if not hasattr(indices, "__iter__"):
        raise TypeError(f"indices is {indices!r}; give a list of neuron numbers, or None for all")
    numbers = tuple(_integer(index, "an index") for index in indices)
    if not numbers:
        raise ValueError("indices is empty; give at least one neuron number, or None for all")
    for number, count in Counter(numbers).items():
        if not 0 <= number < d_mlp:
            raise IndexError(f"there is no neuron {number}; a layer has neurons 0 to {d_mlp - 1}")
        if count > 1:
            raise ValueError(f"neuron {number} stands twice in indices; give each once")
    return numbers


def _integer(value: Any, what: str) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{what} is {value!r}; give an integer") from None
