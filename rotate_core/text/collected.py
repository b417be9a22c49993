"""Activations of a model on text.

    from rotate_core.text import activations
    x = activations(model, "gensim-wikipedia", layers=[15], site="residual", n_tokens=20_000)[15]
    x.values, x.context(0)

What does not fit in memory is streamed, batch by batch. What several chapters share is kept in a
folder, and a pass is made only for the layers that are not there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
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
from rotate_core.text.labelled import Activations
from rotate_core.text.sites import (
    MEMORY,
    SITES,
    at_every_position,
    check_memory,
    check_site,
    read_site,
    read_sites,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel


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


def at_sites(
    model: Model | PreTrainedModel,
    text: Windows,
    *,
    layer: int,
    sites: Sequence[str] = SITES,
    batch: int = 8,
    memory: float = MEMORY,
) -> dict[str, Activations]:
    """Activations at several sites of one layer, by site: one pass for all of them.

    Args:
        model: from `load_model`; or a loaded transformers model, as it is.
        text: windows.
        layer: from 0.
        sites: some of :data:`.SITES`.
        batch: windows at a time.
        memory: bytes that all results together may take.

    Raises:
        ValueError: there is no such site, or the results would need more than ``memory``.
        IndexError: the layer is out of range.
    """
    network = _network(model, torch.float32, None)
    sizes = loaded_architecture(network)[1]
    widths = [sizes.d_mlp if site == "hidden" else sizes.d_model for site in sites]
    check_memory(text.counted(text.tokens).numel() * sum(widths), memory)
    parts = [
        read_sites(network, tokens, [(layer, site) for site in sites])
        for tokens in text.tokens.split(batch)
    ]
    values = {
        site: torch.cat([text.counted(part[layer, site]) for part in parts]) for site in sites
    }
    return {site: _labelled(model, text, values[site], layer, site) for site in sites}


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
        ValueError: skip is below 0; and what :func:`activations` raises. When the first batch is
            asked for: until then nothing is read.
    """
    if skip < 0:
        raise ValueError(f"skip={skip}: wanted a number of windows, 0 or more")
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
