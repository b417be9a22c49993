"""Neurons on text: hooks on the real model, one pass for any number of neurons.

All that a neuron of a layer does follows from the MLP's input x: a gated neuron's activation is
``a(x) = act(g . x) (u . x)``, and x is what the hooks collect, or its products with the rows one
asks for. An edited neuron, or a matched vector whose vector is no neuron's, is one more row.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from rotate_core.models.architectures import loaded_architecture

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MEMORY = 8 * 2**30
"""Bytes that the results of one pass may take, unless the caller says otherwise."""


def mlp_of(model: PreTrainedModel, layer: int) -> torch.nn.Module:
    """The MLP module of a layer, whatever the family calls it."""
    architecture, _ = loaded_architecture(model)
    name = architecture.in_.name.format(layer=layer).rsplit(".", 2)[0]
    actual = architecture.resolve(name, dict(model.named_modules()))
    if actual is None:
        raise ValueError(f"{type(model).__name__} has no module {name!r}")
    return model.get_submodule(actual)


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
    """The MLP input x of some layers, or its products with vectors, at every position: one pass.

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
    d_model = loaded_architecture(model)[1].d_model
    widths = {layer: d_model if r is None else len(r) for layer, r in rows.items()}
    needed = 4 * tokens.numel() * sum(widths.values())
    if needed > memory:
        raise ValueError(
            f"results of {needed / 2**30:.1f} GiB, memory={memory / 2**30:.1f} GiB: "
            "ask for fewer tokens, layers or rows"
        )
    results = {layer: torch.empty(*tokens.shape, width) for layer, width in widths.items()}

    def collect(layer: int, _: Any, args: tuple[Tensor, ...]) -> None:
        x, vectors = args[0].float(), rows[layer]
        products = x if vectors is None else x @ vectors.to(x).T
        results[layer][start : start + batch] = products.cpu()

    def stop(*_: Any) -> None:
        raise _Enough  # nothing that lies behind is asked for

    with ExitStack() as hooks, torch.no_grad():
        for layer in rows:
            hook = partial(collect, layer)
            hooks.enter_context(mlp_of(model, layer).register_forward_pre_hook(hook))
        hooks.enter_context(mlp_of(model, max(rows)).register_forward_hook(stop))
        for start in tqdm(
            range(0, len(tokens), batch), unit="batch", disable=not progress, leave=False
        ):
            with suppress(_Enough):
                window = tokens[start : start + batch].to(model.device)
                model.base_model(window, use_cache=False)
    return results


class _Enough(Exception):
    """Ends a forward pass behind the deepest layer that is read."""


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
