"""Places in a running model where activations are read or changed, the same for every family.

Four sites of a layer, in the order in which a token passes them:

``"mlp_in"``    what the MLP reads: the residual stream behind the norm in front of it; d_model. In
                OLMo 2, which has no such norm, the residual stream itself. In Pythia attention and
                MLP read the same residual stream, side by side.
``"hidden"``    behind the nonlinearity, in front of the out weights: one entry a neuron; d_mlp
``"mlp_out"``   what the MLP adds to the residual stream; d_model. Where a norm follows the MLP
                (Gemma 2 to 4, OLMo 2), that is what the norm gives: W_out h alone never gets
                there. Gemma 4 then multiplies the whole residual stream by a number of the layer.
``"residual"``  the residual stream behind the whole layer; d_model. It is in front of the final
                norm, in the last layer too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from rotate_core.models.architectures import loaded_architecture
from rotate_core.models.neurons import check_layer

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle
    from transformers import PreTrainedModel

SITES = ("mlp_in", "hidden", "mlp_out", "residual")
MEMORY = 8 * 2**30
"""Bytes that the results of one call may take, unless the caller says otherwise."""


def check_site(site: str) -> None:
    """ValueError, with the sites to choose from, where there is no such site."""
    if site not in SITES:
        raise ValueError(f"site={site!r}: wanted one of {', '.join(SITES)}")


def mlp_of(network: PreTrainedModel, layer: int) -> torch.nn.Module:
    """The MLP module of a layer, whatever the family calls it."""
    return _module(network, layer, loaded_architecture(network)[0].in_.name, up=2)


def activation_function(network: PreTrainedModel) -> torch.nn.Module:
    """The nonlinearity of the MLP: applied to the gate (to in, where there is no gate)."""
    from transformers.activations import ACT2FN

    config = network.config.get_text_config()
    names = ("hidden_activation", "hidden_act", "activation_function")
    return ACT2FN[next(value for name in names if (value := getattr(config, name, None)))]


def neuron_activations(
    x: Float[Tensor, "*batch d_model"],
    gate: Float[Tensor, "n_neurons d_model"] | None,
    in_: Float[Tensor, "n_neurons d_model"],
    act: torch.nn.Module,
) -> Float[Tensor, "*batch n_neurons"]:
    """``act(g . x) (u . x)``; ``act(u . x)`` where there is no gate (biases are left out).

    From x at "mlp_in", this is "hidden" of any neurons: edited ones, and matched vectors, too.
    """
    if gate is None:
        return act(x @ in_.T)
    return act(x @ gate.T) * (x @ in_.T)


def at_every_position(
    network: PreTrainedModel,
    tokens: Int[Tensor, "n_windows length"],
    layers: Iterable[int],
    *,
    site: str = "mlp_in",
    rows: Mapping[int, Float[Tensor, "n_rows width"]] | None = None,
    places: slice = slice(None),
    batch: int = 8,
    memory: float = MEMORY,
    progress: bool = True,
) -> dict[int, Float[Tensor, "n_windows n_places width"]]:
    """Activations at a site of some layers, or their products with vectors, at every position.

    One pass for all layers. It ends behind the deepest of them.

    Args:
        network: a loaded transformers model; run in its own precision, where it is.
        tokens: windows of equal length, without padding.
        layers: from 0.
        site: one of :data:`SITES`.
        rows: for each layer, vectors to multiply with; the width is then their number.
        places: which positions of a window are kept.
        batch: windows at a time.
        memory: bytes that all results together may take.
        progress: show a bar.

    Returns:
        For each layer, float32 on the CPU.

    Raises:
        ValueError: the results would need more than ``memory``, or there is no such site.
        IndexError: a layer is out of range.
    """
    layers = list(dict.fromkeys(layers))
    sizes = loaded_architecture(network)[1]
    width = sizes.d_mlp if site == "hidden" else sizes.d_model
    widths = {layer: width if rows is None else len(rows[layer]) for layer in layers}
    n_windows, n_places = len(tokens), len(range(tokens.shape[1])[places])
    check_memory(n_windows * n_places * sum(widths.values()), memory)
    results = {layer: torch.empty(n_windows, n_places, n) for layer, n in widths.items()}
    starts = range(0, n_windows, batch)
    for start in tqdm(starts, unit="batch", disable=not progress, leave=False):
        read = read_site(network, tokens[start : start + batch], layers, site=site, rows=rows)
        for layer, x in read.items():
            results[layer][start : start + batch] = x[:, places]
    return results


def check_memory(n_values: int, memory: float) -> None:
    """ValueError where so many float32 values need more bytes than ``memory``."""
    if 4 * n_values > memory:
        raise ValueError(
            f"results of {4 * n_values / 2**30:.2g} GiB, memory={memory / 2**30:.2g} GiB: "
            "ask for fewer tokens or layers, or stream them"
        )


def read_site(
    network: PreTrainedModel,
    tokens: Int[Tensor, "n_windows length"],
    layers: Sequence[int],
    *,
    site: str,
    rows: Mapping[int, Float[Tensor, "n_rows width"]] | None = None,
) -> dict[int, Float[Tensor, "n_windows length width"]]:
    """:func:`at_every_position` of one batch, without checks of memory."""
    found = read_sites(network, tokens, [(layer, site) for layer in layers], rows=rows)
    return {layer: x for (layer, _), x in found.items()}


@torch.no_grad()
def read_sites(
    network: PreTrainedModel,
    tokens: Int[Tensor, "n_windows length"],
    places: Sequence[tuple[int, str]],
    *,
    rows: Mapping[int, Float[Tensor, "n_rows width"]] | None = None,
) -> dict[tuple[int, str], Float[Tensor, "n_windows length width"]]:
    """Activations of one batch at sites of layers, by (layer, site): one pass for all of them."""
    found: dict[tuple[int, str], Tensor] = {}
    last = max(places, key=lambda place: (place[0], SITES.index(place[1])))

    def collect(place: tuple[int, str], x: Tensor) -> None:
        x = x.float()
        found[place] = (x if rows is None else x @ rows[place[0]].to(x).T).cpu()
        if place == last:
            raise _Enough  # nothing that lies behind is asked for

    with ExitStack() as hooks, suppress(_Enough):
        for layer, site in places:
            hooks.enter_context(hook_at(network, layer, site, partial(collect, (layer, site))))
        network.base_model(tokens.to(network.device), use_cache=False)
    return found


class _Enough(Exception):
    """Ends a forward pass behind the last site that is read."""


def hook_at(
    network: PreTrainedModel, layer: int, site: str, function: Callable[[Tensor], Tensor | None]
) -> RemovableHandle:
    """Call a function with what passes a site; what it returns, if anything, goes on instead.

    Raises:
        TypeError: the model is none of transformers'.
        ValueError: no such site or family.
        IndexError: the layer is out of range.
    """
    architecture, sizes = loaded_architecture(network)
    check_site(site)
    layer = check_layer(layer, sizes.n_layers)
    find = partial(_module, network, layer)

    def before(_: Any, args: tuple[Any, ...]) -> Any:
        new = function(args[0])
        return None if new is None else (new, *args[1:])

    def behind(_: Any, __: Any, output: Any) -> Any:
        if not isinstance(output, tuple):
            return function(output)
        new = function(output[0])
        return None if new is None else (new, *output[1:])

    if site == "mlp_in":
        return mlp_of(network, layer).register_forward_pre_hook(before)
    if site == "hidden":
        return find(architecture.out.name, up=1).register_forward_pre_hook(before)
    if site == "residual":
        return find(architecture.in_.name, up=3).register_forward_hook(behind)
    if architecture.norm_behind_mlp:
        return find(architecture.norm_behind_mlp, up=1).register_forward_hook(behind)
    return mlp_of(network, layer).register_forward_hook(behind)


def _module(network: PreTrainedModel, layer: int, tensor: str, *, up: int) -> torch.nn.Module:
    """The module so many levels above a tensor of the family's map."""
    name = tensor.format(layer=layer).rsplit(".", up)[0]
    actual = loaded_architecture(network)[0].resolve(name, dict(network.named_modules()))
    if actual is None:
        raise ValueError(f"{type(network).__name__} has no module {name!r}")
    return network.get_submodule(actual)
