"""Queries and keys of a running model, as its attention multiplies them.

They are read where transformers hands them to the function that attends: behind rotary position and
behind norms of queries and keys, whatever the family does in front of it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from rotate_core.models import Model
from rotate_core.models.architectures import loaded_architecture
from rotate_core.models.neurons import check_layer
from rotate_core.text.corpus import Windows
from rotate_core.text.sites import MEMORY, check_memory

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Places = slice | Sequence[int]
"""Positions in a window, the same of every window."""
NAME = "rotate_core"
"""What our attention is called in transformers' registry."""
_SEE: ContextVar[Callable[[Any, Tensor, Tensor, dict[str, Any]], None]] = ContextVar("_SEE")


@dataclass(frozen=True, eq=False)
class QueriesKeys:
    """Queries and keys of all heads of some layers, float32 on the CPU."""

    q: Float[Tensor, "n_layers n_heads n_windows n_queries d_head"]
    k: Float[Tensor, "n_layers n_key_heads n_windows n_keys d_head"]
    """Of each key head once; :meth:`of` gives a query head's own."""
    layers: tuple[int, ...]
    scaling: tuple[float, ...]
    """Of each layer: a logit is ``scaling * q . k``."""
    softcap: float | None
    """Gemma 2's: a logit x becomes ``softcap * tanh(x / softcap)``. None: it stays."""

    @property
    def n_heads(self) -> int:
        """Query heads of a layer."""
        return self.q.shape[1]

    def of(
        self, layer: int, head: int
    ) -> tuple[Float[Tensor, "n_windows n_queries d"], Float[Tensor, "n_windows n_keys d"]]:
        """A head's queries and keys, before scaling.

        Raises:
            ValueError: the layer was not read.
            IndexError: there is no such head.
        """
        if layer not in self.layers:
            raise ValueError(f"layer={layer}: wanted one that was read, of {self.layers}")
        if not 0 <= head < self.n_heads:
            raise IndexError(f"head is {head}; a layer has heads 0 to {self.n_heads - 1}")
        at, shared = self.layers.index(layer), self.n_heads // self.k.shape[1]
        return self.q[at, head], self.k[at, head // shared]

    def logits(self, layer: int, head: int) -> Float[Tensor, "n_windows n_queries n_keys"]:
        """What the model puts into its softmax, but for the mask."""
        q, k = self.of(layer, head)
        x = self.scaling[self.layers.index(layer)] * (q @ k.transpose(1, 2))
        return x if self.softcap is None else self.softcap * (x / self.softcap).tanh()


def read_heads(
    model: Model | PreTrainedModel,
    tokens: Windows | Int[Tensor, "n_windows length"],
    *,
    layer: int,
    head: int,
    batch: int = 8,
    progress: bool = True,
) -> tuple[Float[Tensor, "n_windows length d_head"], Float[Tensor, "n_windows length d_head"]]:
    """Queries and keys of one head at every position, after rotary position.

    Where queries share keys, the key is that of the head's group. ``q . k`` times the head's scale,
    capped where the model caps, is the logit that the model's softmax gets.

    Args:
        model: from `load_model`; or a loaded transformers model, run as and where it is.
        tokens: windows of equal length, without padding.
        layer: from 0.
        head: of the layer's query heads, from 0.
        batch: windows at a time.
        progress: show a bar.

    Raises:
        IndexError: no such layer or head.
        ValueError: the family is not known.
    """
    read = read_all_heads(model, tokens, layers=[layer], batch=batch, progress=progress)
    return read.of(layer, head)


def read_all_heads(
    model: Model | PreTrainedModel,
    tokens: Windows | Int[Tensor, "n_windows length"],
    *,
    layers: Iterable[int] | None = None,
    query_at: Places = slice(None),
    key_at: Places = slice(None),
    batch: int = 8,
    memory: float = MEMORY,
    progress: bool = True,
) -> QueriesKeys:
    """Queries and keys of all heads of some layers: one pass, which ends behind the deepest.

    Args:
        model: as for :func:`read_heads`.
        tokens: windows of equal length, without padding.
        layers: from 0; None for all.
        query_at: positions whose queries are kept.
        key_at: positions whose keys are kept.
        batch: windows at a time.
        memory: bytes that the result may take.
        progress: show a bar.

    Raises:
        IndexError: no such layer.
        ValueError: the result would need more than ``memory``; the family is not known.
    """
    network = model.transformers() if isinstance(model, Model) else model
    ids = tokens.tokens if isinstance(tokens, Windows) else tokens
    architecture, sizes = loaded_architecture(network)
    heads = architecture.heads(network.config.get_text_config().to_dict())
    layers = range(sizes.n_layers) if layers is None else layers
    layers = tuple(dict.fromkeys(check_layer(layer, sizes.n_layers) for layer in layers))
    places = torch.arange(ids.shape[1])
    chosen = [places[at if isinstance(at, slice) else list(at)] for at in (query_at, key_at)]
    shapes = [
        (len(layers), n, len(ids), len(at), heads.d_head)
        for n, at in zip((heads.n_heads, heads.n_key_heads), chosen, strict=True)
    ]
    check_memory(sum(torch.Size(shape).numel() for shape in shapes), memory)
    q, k = (torch.empty(shape) for shape in shapes)
    scaling, softcap = [0.0] * len(layers), None

    def keep(rows: slice, module: Any, query: Tensor, key: Tensor, options: dict[str, Any]) -> None:
        nonlocal softcap
        if module.layer_idx in layers:
            at = layers.index(module.layer_idx)
            q[at, :, rows] = query[:, :, chosen[0]].transpose(0, 1).float().cpu()
            k[at, :, rows] = key[:, :, chosen[1]].transpose(0, 1).float().cpu()
            scale = options.get("scaling")
            scaling[at] = query.shape[-1] ** -0.5 if scale is None else float(scale)
            softcap = options.get("softcap")
        if module.layer_idx == max(layers):
            raise _Enough

    starts = range(0, len(ids), batch)
    for start in tqdm(starts, unit="batch", disable=not progress, leave=False):
        rows = slice(start, start + batch)
        seen = attention_seen(network, partial(keep, rows))
        with torch.no_grad(), seen, suppress(_Enough):
            network.base_model(ids[rows].to(network.device), use_cache=False)
    return QueriesKeys(q, k, layers, tuple(scaling), softcap)


class _Enough(Exception):
    """Ends a forward pass at the deepest layer that is read."""


@contextmanager
def attention_seen(
    network: PreTrainedModel, see: Callable[[Any, Tensor, Tensor, dict[str, Any]], None]
) -> Iterator[None]:
    """Show what attends, inside of a with statement; it attends as the family's eager function.

    Behind it the model attends as before. Only the name stays in transformers' registry.

    Args:
        network: a loaded transformers model.
        see: gets the attention module, queries, keys (batch, heads, length, d_head), and options of
            which ``scaling`` and ``softcap`` are some.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, eager_mask)
    before = network.config._attn_implementation
    token = _SEE.set(see)
    try:
        network.set_attn_implementation(NAME)
        yield
    finally:
        network.set_attn_implementation(before)
        _SEE.reset(token)


def _attend(module: Any, query: Tensor, key: Tensor, *args: Any, **options: Any) -> Any:
    """Show, then attend as the file that defines the module does."""
    _SEE.get()(module, query, key, options)
    own = sys.modules[type(module).__module__]
    return own.eager_attention_forward(module, query, key, *args, **options)
