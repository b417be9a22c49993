"""What neurons do on text: hooks on the real model, one pass for any number of neurons.

All that a neuron of a layer does follows from the MLP's input x: a gated neuron's activation is
``a(x) = act(g . x) (u . x)``, and x is what the hooks collect, or its products with the rows one
asks for. An edited neuron, or a matched vector whose vector is no neuron's, is one more row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from rotate_core.models.architectures import ARCHITECTURES

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MEMORY = 8 * 2**30
"""Bytes that the results of one pass may take, unless the caller says otherwise."""


def mlp_of(model: PreTrainedModel, layer: int) -> torch.nn.Module:
    """The MLP module of a layer, whatever the family calls it."""
    architecture = ARCHITECTURES[model.config.get_text_config().model_type]
    name = architecture.in_.name.format(layer=layer).rsplit(".", 2)[0]
    prefix, *others = architecture.prefixes
    modules = dict(model.named_modules())
    for candidate in (name, *(other + name.removeprefix(prefix) for other in others)):
        if candidate in modules:
            return modules[candidate]
    raise ValueError(f"{type(model).__name__} has no module {name!r}")


def activation_function(model: PreTrainedModel) -> torch.nn.Module:
    """The nonlinearity of the MLP: applied to the gate (to in, where there is no gate)."""
    from transformers.activations import ACT2FN

    config = model.config.get_text_config()
    names = ("hidden_activation", "hidden_act", "activation_function")
    return ACT2FN[next(value for name in names if (value := getattr(config, name, None)))]


def mlp_inputs(
    model: PreTrainedModel,
    tokens: Int[Tensor, "n_windows length"],
    rows: Mapping[int, Float[Tensor, "n_rows d_model"] | None],
    *,
    batch: int = 8,
    memory: float = MEMORY,
    progress: bool = True,
) -> dict[int, Float[Tensor, "n_windows length n_rows"]]:
    """Products of the MLP input of some layers with some vectors, at every position: one pass.

    The pass ends behind the deepest of the layers.

    Args:
        model: a loaded transformers model; run in its own precision, where it is.
        tokens: windows of equal length, without padding.
        rows: for each layer, the vectors to multiply with; None for the input x itself.
        batch: windows at a time.
        memory: bytes that all results together may take.
        progress: show a bar.

    Returns:
        For each layer, float32 on the CPU.

    Raises:
        ValueError: the results would need more than ``memory``.
    """
    d_model = model.config.get_text_config().hidden_size
    widths = {layer: d_model if r is None else len(r) for layer, r in rows.items()}
    needed = 4 * tokens.numel() * sum(widths.values())
    if needed > memory:
        raise ValueError(
            f"results of {needed / 2**30:.1f} GiB, memory={memory / 2**30:.1f} GiB: "
            "ask for fewer tokens, layers or rows"
        )
    results = {layer: torch.empty(*tokens.shape, width) for layer, width in widths.items()}
    device = model.device
    at = slice(0, 0)

    def collect(layer: int, x: Tensor) -> None:
        r = rows[layer]
        values = x.float() if r is None else x.float() @ r.to(x.device, torch.float32).T
        results[layer][at] = values.cpu()

    def stop(*_: Any) -> None:
        raise _Enough  # nothing that lies behind is asked for

    last = mlp_of(model, max(rows)).register_forward_hook(stop)
    try:
        with torch.no_grad(), mlp_input_hooks(model, dict.fromkeys(rows, collect)):
            starts = range(0, len(tokens), batch)
            for start in tqdm(starts, unit="batch", disable=not progress, leave=False):
                at = slice(start, start + batch)
                with suppress(_Enough):
                    model.base_model(tokens[at].to(device), use_cache=False)
    finally:
        last.remove()
    return results


class _Enough(Exception):
    """Ends a forward pass behind the deepest layer that is read."""


@contextmanager
def mlp_input_hooks(model: PreTrainedModel, collectors: Mapping[int, Any]) -> Iterator[None]:
    """Call ``collectors[layer](layer, x)`` with each MLP's input; the hooks go with the context."""
    handles = []
    try:
        for layer, collect in collectors.items():

            def hook(_: Any, args: Any, *, layer: int = layer, collect: Any = collect) -> None:
                collect(layer, args[0])

            handles.append(mlp_of(model, layer).register_forward_pre_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def neuron_activations(
    x: Float[Tensor, "*batch d_model"],
    gate: Float[Tensor, "n_neurons d_model"] | None,
    in_: Float[Tensor, "n_neurons d_model"],
    act: torch.nn.Module,
) -> Float[Tensor, "*batch n_neurons"]:
    """``act(g . x) (u . x)``; ``act(u . x)`` where there is no gate (biases are left out)."""
    if gate is None:
        return act(x @ in_.T)
    return act(x @ gate.T) * (x @ in_.T)
