"""Steering: what passes a site of a running model is replaced by a function of it, for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from rotate_core.text.sites import hook_at

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextmanager
def steer(
    network: PreTrainedModel,
    layer: int,
    function: Callable[[Float[Tensor, "*batch width"]], Float[Tensor, "*batch width"]],
    *,
    site: str = "residual",
) -> Iterator[PreTrainedModel]:
    """Run a model with the activations at one site replaced by a function of them.

    Within the context this holds for every position of every forward pass: in `generate`, for the
    prompt and for each new token. Gradients flow through the function. On leaving, also by an
    exception, it is gone. Contexts nest: at the same site, the inner function gets what the outer
    one returns.

    Args:
        network: a loaded transformers model of a family in `ARCHITECTURES`.
        layer: from 0.
        function: gets float32 (float64 in a float64 model), on the network's device, and returns as
            many values. They are rounded to the network's precision: a function that returns what
            it gets changes no bit.
        site: one of :data:`.SITES`.

    Yields:
        The network.

    Raises:
        TypeError: the model is none of transformers'.
        ValueError: no such site or family; the function returns another shape.
        IndexError: the layer is out of range.
    """
    replacing = widened(function)

    def replaced(x: Tensor) -> Tensor:
        y = replacing(x)
        if y.shape != x.shape:
            raise ValueError(
                f"the function made {tuple(y.shape)} of {tuple(x.shape)}: it has to keep the shape"
            )
        return y

    with hook_at(network, layer, site, replaced):
        yield network


def widened(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A function that gets float32 (or float64), of what passes in any precision; rounded back."""
    return lambda x: function(x.to(torch.promote_types(x.dtype, torch.float32))).to(x)


def added(
    vector: Float[Tensor, "*any width"], alpha: float | Float[Tensor, "*any"] = 1.0
) -> Callable[[Tensor], Tensor]:
    """For :func:`steer`: ``x + alpha v``; both broadcast, so that each prompt may have its own."""
    return lambda x: x + torch.as_tensor(alpha).to(x) * vector.to(x)


def pulled(
    point: Float[Tensor, "*any width"], alpha: float | Float[Tensor, "*any"]
) -> Callable[[Tensor], Tensor]:
    """For :func:`steer`: ``(1 - alpha) x + alpha mu``, which lands on mu at alpha = 1.

    Source: Shafran et al. (2026), arXiv:2602.02464, steering towards a centroid.
    """

    def towards(x: Tensor) -> Tensor:
        by = torch.as_tensor(alpha).to(x)
        return (1 - by) * x + by * point.to(x)

    return towards
