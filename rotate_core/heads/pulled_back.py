"""A head's directions as directions of the residual stream: vocabulary channels of a head (ours).

directions = pull_back(model, part.key, layer=16, head=3, side="key")
channels = decompose(directions, model.vocabulary(16))
null = decompose(random_directions(model, 100, layer=16, head=3, side="key"), ...)
calibrate(channels, null)
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from rotate_core.models import Model, Neurons
from rotate_core.models.neurons import check_layer
from rotate_core.null.matched import own_seed

SIDES = ("query", "key")


def pull_back(
    model: Model,
    directions: Float[Tensor, "d_head n"],
    *,
    layer: int,
    head: int,
    side: str,
) -> Neurons:
    """Directions v of a head's queries or keys as ``g * W^T (h * v)``, which residuals are read by.

    ``W`` is the head's W_Q or W_K. ``g`` is the gain of the norm in front of the attention, folded
    in, and ``h`` that of the head's own norm (Qwen 3, Gemma 3) or 1. What norms divide by is a
    positive number for each token, and is left out; so are biases.

    Rotary position is left out, too: the result is exact at position 0. Elsewhere a key is turned,
    plane by plane, by up to its position times the plane's frequency. A direction that a contrast
    has found over many positions lies where little is turned, or it would have averaged out.

    Args:
        model: from `load_model`.
        directions: columns, such as `Subspace.key`.
        layer: from 0.
        head: of the query heads, from 0; its key is that of its group.
        side: "query" or "key".

    Returns:
        A row for each direction, for `decompose`; its kind says which head's it is.

    Raises:
        ValueError: no such side, directions of another length, or heads of another size than
            config.json says.
        IndexError: no such layer or head.
    """
    if side not in SIDES:
        raise ValueError(f"side={side!r}: wanted one of {', '.join(SIDES)}")
    checkpoint, layer = model.checkpoint, check_layer(layer, model.n_layers)
    names, sizes = checkpoint.architecture, checkpoint.architecture.heads(checkpoint.config)
    if not 0 <= head < sizes.n_heads:
        raise IndexError(f"head is {head}; a layer has heads 0 to {sizes.n_heads - 1}")
    if directions.ndim != 2 or directions.shape[0] != sizes.d_head:
        raise ValueError(
            f"directions of shape {tuple(directions.shape)}: wanted ({sizes.d_head}, n)"
        )

    def gain(name: str) -> Tensor:
        return names.norm_offset + checkpoint.tensor(name.format(layer=layer))

    projection = names.query if side == "query" else names.key
    number = names.head_number(sizes, head, side)
    rows = slice(sizes.d_head * number, sizes.d_head * (number + 1))
    wide = checkpoint.shape(projection.name.format(layer=layer))[projection.axis]
    n_heads = sizes.n_heads if side == "query" else sizes.n_key_heads
    if names.key != names.query and wide != n_heads * sizes.d_head:  # some layers of Gemma 4
        raise ValueError(
            f"the {n_heads} heads of layer {layer} have {wide // n_heads} entries each, and not "
            f"{sizes.d_head} as by config.json: such layers are not read"
        )
    w = checkpoint.tensor(
        projection.name.format(layer=layer), lambda stored: projection.rows(stored)[rows]
    )
    v = directions.T.to(w)
    if names.head_norms is not None:
        h = gain(names.head_norms[SIDES.index(side)])
        v = v * (h if len(h) == sizes.d_head else h[rows])  # one norm over all heads: OLMo 2
    vectors = v @ w
    if names.attention_norm is not None:
        vectors = vectors * gain(names.attention_norm)
    return Neurons(vectors, model.name, layer, f"{side} of head {head}", tuple(range(len(v))))


def random_directions(
    model: Model, n: int, *, layer: int, head: int, side: str, seed: int = 0
) -> Neurons:
    """Random directions of the same head, pulled back: the null of its channels.

    What a head reads is a span of the residual stream; these lie in it as well, and mean nothing.
    """
    d = model.checkpoint.architecture.heads(model.checkpoint.config).d_head
    generator = torch.Generator().manual_seed(own_seed(seed, "directions", layer, head, side))
    draws = torch.nn.functional.normalize(torch.randn(n, d, generator=generator), dim=1)
    return pull_back(model, draws.T, layer=layer, head=head, side=side)
