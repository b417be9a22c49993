"""Activations of a model on text, each with the token, its context and its document.

    from rotate_core.text import activations
    x = activations(model, "gensim-wikipedia", layers=[15], site="residual", n_tokens=20_000)[15]
    x.values, x.context(0)

What does not fit in memory is streamed, batch by batch. What several chapters share is kept in a
folder, and a pass is made only for the layers that are not there.
"""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rotate_core.models import Model
from rotate_core.models.architectures import loaded_architecture
from rotate_core.models.neurons import check_layer
from rotate_core.text.corpus import (
    COUNTED,
    SPLITS,
    Windows,
    read_documents,
    split_documents,
    windows,
)
from rotate_core.text.kept import Kept
from rotate_core.text.sites import MEMORY, at_every_position, check_memory, check_site, read_site

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Context(NamedTuple):
    """A token in its text."""

    left: str
    token: str
    right: str
    title: str
    """Of the document."""


@dataclass(frozen=True, eq=False, repr=False)
class Activations:
    """Activations at one site of one layer; a row is a token of a text."""

    values: Float[Tensor, "n_tokens width"]
    """float32, on the CPU; neither centred nor scaled."""
    window: Int[Tensor, " n_tokens"]
    """Which of the windows each token is in ..."""
    place: Int[Tensor, " n_tokens"]
    """... and where: never the first position or the last (see :meth:`Windows.counted`)."""
    windows: Windows = dataclasses.field(repr=False)
    """The text."""
    model: str
    layer: int
    site: str
    """One of :data:`.SITES`."""

    @property
    def token_ids(self) -> Int[Tensor, " n_tokens"]:
        """The token of each row."""
        return self.windows.tokens[self.window, self.place]

    @property
    def document(self) -> Int[Tensor, " n_tokens"]:
        """Which document each row is from; an index into ``windows.titles``."""
        return self.windows.document[self.window]

    @property
    def source(self) -> str:
        """What the text is called."""
        return self.windows.source

    def context(self, row: int, n: int = 10) -> Context:
        """The token of a row with n tokens on its left and its right, as far as its window goes."""
        at, window = int(self.place[row]), int(self.window[row])
        words = [self.windows.strings[i] for i in self.windows.tokens[window].tolist()]
        left, right = "".join(words[max(0, at - n) : at]), "".join(words[at + 1 : at + 1 + n])
        return Context(left, words[at], right, self.windows.titles[self.windows.document[window]])

    def take(self, rows: Int[Tensor, " n"] | Bool[Tensor, " n_tokens"]) -> Activations:
        """Some of the rows, by number or by mask."""
        kept = {name: getattr(self, name)[rows] for name in ("values", "window", "place")}
        return dataclasses.replace(self, **kept)

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        n, width = self.values.shape
        text = f", {self.source}" if self.source else ""
        return (
            f"Activations({n:,} tokens of {len(self.document.unique())} documents x {width}; "
            f"{self.model}, layer {self.layer}, {self.site}{text})"
        )

    def _repr_html_(self) -> str:
        return f"<code>{html.escape(repr(self))}</code>"


def activations(
    model: Model | PreTrainedModel,
    text: str | Windows,
    *,
    layers: Iterable[int],
    site: str,
    n_tokens: int | None = None,
    split: str | None = "train",
    window: int = 128,
    seed: int = 0,
    batch: int = 8,
    memory: float = MEMORY,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device | None = None,
    cache: str | Path | None = None,
    progress: bool = True,
) -> dict[int, Activations]:
    """Activations at a site of some layers at every token of a text: one pass for all layers.

    The first and the last position of each window do not count, as everywhere in this package: the
    first is an attention sink, and the start token where there is one.

    Args:
        model: from `load_model`; or a loaded transformers model, as it is.
        text: a name for :func:`.read_documents`, which needs a `Model`; or windows.
        layers: from 0.
        site: one of :data:`.SITES`.
        n_tokens: of a named text: read at most so many, those that do not count included.
        split: of a named text: "train", "validation" or "test", split by document; None for all.
        window: of a named text: tokens in a window.
        seed: of a named text: of the split.
        batch: windows at a time.
        memory: bytes that all results together may take.
        dtype: what a `Model` is loaded in; results are float32 whatever it is.
        device: where a `Model` runs; None is the CPU.
        cache: a folder where each layer and site is kept. It is read where the model's checksum,
            the tokens, the precision and the versions of what computes are the same; a damaged file
            is named in a warning and made anew. Needs a `Model`.
        progress: show a bar.

    Returns:
        By layer.

    Raises:
        ValueError: the results would need more than ``memory``; no such site or split.
        IndexError: a layer is out of range.
        TypeError: a name of a text, or a cache, for what is no `Model`.
        What reading a text raises: see :func:`.read_documents`.
    """
    check_site(site)
    sizes = model.checkpoint.sizes if isinstance(model, Model) else loaded_architecture(model)[1]
    layers = list(dict.fromkeys(check_layer(layer, sizes.n_layers) for layer in layers))
    cut = _windows(model, text, split, window, n_tokens, seed)
    n_places = len(range(cut.tokens.shape[1])[COUNTED])
    width = sizes.d_mlp if site == "hidden" else sizes.d_model
    check_memory(len(layers) * len(cut) * n_places * width, memory)

    folder = None
    if cache is not None:
        if not isinstance(model, Model):
            raise TypeError("cache needs a model's checksum: give the Model of load_model")
        folder = Kept(Path(cache), model.name, model.checksum, cut.tokens, dtype)
    shape = (len(cut) * n_places, width)
    values: dict[int, Tensor] = {}
    if folder:
        kept = {layer: folder.read(site, layer, shape) for layer in layers}
        values = {layer: x for layer, x in kept.items() if x is not None}
    if missing := [layer for layer in layers if layer not in values]:
        passed = at_every_position(
            _network(model, dtype, device),
            cut.tokens,
            missing,
            site=site,
            places=COUNTED,
            batch=batch,
            memory=memory,
            progress=progress,
        )
        for layer, x in passed.items():
            values[layer] = x.flatten(0, 1)
            if folder:
                folder.write(site, layer, values[layer])
    return {layer: _labelled(model, cut, values[layer], layer, site) for layer in layers}


def stream(
    model: Model | PreTrainedModel,
    text: str | Windows,
    *,
    layer: int,
    site: str,
    split: str | None = None,
    window: int = 128,
    seed: int = 0,
    batch: int = 8,
    skip: int = 0,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device | None = None,
) -> Iterator[Activations]:
    """Activations at a site of one layer, a batch of windows at a time: for more than fits.

    Only the tokens of the text are in memory as a whole. Between two batches the model has no hooks
    and can be used. What is yielded is in the order of the text, so a pass that was cut off goes on
    where it was: skip the windows that were seen.

    Args:
        model: from `load_model`; or a loaded transformers model, as it is.
        text: a name for :func:`.read_documents`, which needs a `Model`; or windows.
        layer: from 0.
        site: one of :data:`.SITES`.
        split: of a named text: "train", "validation" or "test"; None for all.
        window: of a named text: tokens in a window.
        seed: of a named text: of the split.
        batch: windows at a time.
        skip: windows that are left out at the beginning.
        dtype: what a `Model` is loaded in.
        device: where a `Model` runs; None is the CPU.

    Yields:
        The counted positions of a batch of windows; all but the last batch are of one size.

    Raises:
        As :func:`activations` does, when the first batch is asked for.
    """
    check_site(site)
    cut = _windows(model, text, split, window, None, seed)
    network = _network(model, dtype, device)
    for start in range(skip, len(cut), batch):
        x = read_site(network, cut.tokens[start : start + batch], [layer], site=site)[layer]
        yield _labelled(model, cut, cut.counted(x), layer, site, start=start)


def _network(
    model: Model | PreTrainedModel, dtype: torch.dtype, device: str | torch.device | None
) -> PreTrainedModel:
    if not isinstance(model, Model):
        return model
    network: Any = model.transformers(dtype)
    return network if device is None else network.to(device)


def _windows(
    model: Model | PreTrainedModel,
    text: str | Windows,
    split: str | None,
    length: int,
    n_tokens: int | None,
    seed: int,
) -> Windows:
    if isinstance(text, Windows):
        return text
    if not isinstance(model, Model):
        raise TypeError(f"text={text!r} needs a tokenizer: give a Model of load_model, or Windows")
    documents = read_documents(text)
    if split is not None:
        if split not in SPLITS:
            raise ValueError(f"split={split!r}: wanted one of {', '.join(SPLITS)}, or None")
        documents = split_documents(documents, seed=seed)[split]
    return windows(
        documents,
        model.tokenizer,
        length=length,
        n_tokens=n_tokens,
        source=text if split is None else f"{text}, {split}",
    )


def _labelled(
    model: Model | PreTrainedModel,
    cut: Windows,
    values: Tensor,
    layer: int,
    site: str,
    *,
    start: int = 0,
) -> Activations:
    """Values at the counted positions of the windows from ``start`` on, as Activations."""
    places = torch.arange(cut.tokens.shape[1])[COUNTED]
    window = torch.arange(start, start + len(values) // len(places))
    return Activations(
        values=values,
        window=window.repeat_interleave(len(places)),
        place=places.repeat(len(window)),
        windows=cut,
        model=model.name if isinstance(model, Model) else str(model.config.name_or_path),
        layer=layer,
        site=site,
    )
