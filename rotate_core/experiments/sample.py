"""Some of the neurons, or of the channels, of a result; and a seed for each that draws."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rotate_core.channels import Channels


def take(channels: Channels, rows: Sequence[int]) -> Channels:
    """The channels of some of the neurons, by row and in the order given."""
    chosen = list(rows)
    changes: dict[str, Any] = {name: value[chosen] for name, value in _arrays(channels).items()}
    indices = tuple(channels.indices[row] for row in chosen)
    return dataclasses.replace(channels, indices=indices, **changes)


def join(parts: Sequence[Channels]) -> Channels:
    """Several results with one vocabulary as one, neurons numbered by row: a batch to go on with.

    Small batches are slow, and neurons do not influence each other. :func:`split` takes it apart.
    """
    arrays = [_arrays(part) for part in parts]
    names = set.intersection(*map(set, arrays)) - {"history"}
    changes: dict[str, Any] = {name: torch.cat([some[name] for some in arrays]) for name in names}
    n = len(changes["vectors"])
    labels: dict[str, Any] = {"indices": tuple(range(n)), "layer": None, "kind": None}
    return dataclasses.replace(parts[0], **changes, **labels, history=None)


def split(channels: Channels, parts: Sequence[Channels]) -> list[Channels]:
    """Channels of joined neurons, apart and with the parts' own labels again."""
    found, start = [], 0
    for part in parts:
        some = take(channels, range(start, start + part.n_neurons))
        labels: dict[str, Any] = {
            n: getattr(part, n) for n in ("indices", "layer", "kind", "model")
        }
        found.append(dataclasses.replace(some, **labels))
        start += part.n_neurons
    return found


def first_channels(channels: Channels, n: int) -> Channels:
    """The first n channels of every neuron."""
    arrays = _arrays(channels)
    del arrays["weight_vectors"]
    changes: dict[str, Any] = {name: value[:, :n] for name, value in arrays.items()}
    return dataclasses.replace(channels, **changes)


def _arrays(channels: Channels) -> dict[str, Tensor]:
    """The arrays that a result has, by name."""
    fields = {field.name: getattr(channels, field.name) for field in dataclasses.fields(channels)}
    return {name: value for name, value in fields.items() if isinstance(value, Tensor)}
