"""Some of the neurons, or of the channels, of a result."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from rotate_core.channels import Channels


def take(channels: Channels, rows: Sequence[int]) -> Channels:
    """The channels of some of the neurons, by row and in the order given."""
    chosen = list(rows)
    changes: dict[str, Any] = {
        field.name: value[chosen]
        for field in dataclasses.fields(channels)
        if isinstance(value := getattr(channels, field.name), Tensor)
    }
    indices = tuple(channels.indices[row] for row in chosen)
    return dataclasses.replace(channels, indices=indices, **changes)


def first_channels(channels: Channels, n: int) -> Channels:
    """The first n channels of every neuron."""
    changes: dict[str, Any] = {
        field.name: value[:, :n]
        for field in dataclasses.fields(channels)
        if isinstance(value := getattr(channels, field.name), Tensor)
        and field.name != "weight_vectors"
    }
    return dataclasses.replace(channels, **changes)
