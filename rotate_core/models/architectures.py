"""The map of architectures: what each model family calls the tensors that hold its neurons."""

from __future__ import annotations

import reprlib
from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LARGEST_SIZE = 1_000_000
"""Beyond every model: a list of so many numbers is still a list."""
KINDS = ("gate", "in", "out")
"""The weight vectors of a gated neuron: two that it reads by, one that it writes."""


@dataclass(frozen=True)
class Weight:
    """Where the vectors of one kind are kept."""

    name: str
    """The tensor, with `{layer}` for the layer's number."""
    axis: int
    """0: a neuron is a row. 1: a neuron is a column."""
    part: int = 0
    parts: int = 1
    """Which part of that axis and of how many, where several kinds share a tensor."""

    def rows(self, tensor: Tensor) -> Tensor:
        """A view of the tensor with one row per neuron, (d_mlp, d_model)."""
        return (tensor if self.axis == 0 else tensor.T).chunk(self.parts)[self.part]


class Heads(NamedTuple):
    """Numbers of query heads, of key heads (fewer where queries share), of a head's entries."""

    n_heads: int
    n_key_heads: int
    d_head: int


class Sizes(NamedTuple):
    """Numbers of layers, of a residual vector's entries, and of neurons in a layer."""

    n_layers: int
    d_model: int
    d_mlp: int


@dataclass(frozen=True)
class Architecture:
    """A model family's names of its tensors and its sizes. The defaults are Llama's."""

    gate: Weight | None = Weight("model.layers.{layer}.mlp.gate_proj.weight", axis=0)
    """None: the MLP is not gated."""
    in_: Weight = Weight("model.layers.{layer}.mlp.up_proj.weight", axis=0)
    out: Weight = Weight("model.layers.{layer}.mlp.down_proj.weight", axis=1)
    query: Weight = Weight("model.layers.{layer}.self_attn.q_proj.weight", axis=0)
    key: Weight = Weight("model.layers.{layer}.self_attn.k_proj.weight", axis=0)
    """Of one name with the query's: keys stand behind all queries, as values do behind keys."""
    interleaved: bool = False
    """In one tensor, a head's query, key and value stand together instead."""
    attention_norm: str | None = "model.layers.{layer}.input_layernorm.weight"
    """The norm in front of the attention; None: it reads the residual stream as it is."""
    head_norms: tuple[str, str] | None = None
    """Norms of a head's query and of its key, or of all heads' together, in front of rotary
    position; None: there are none."""
    mlp_norm: str | None = "model.layers.{layer}.post_attention_layernorm.weight"
    """The norm in front of the MLP; None: it reads the residual stream as it is."""
    norm_behind_mlp: str | None = None
    """A norm between the MLP and the residual stream; None: there is none."""
    final_norm: str = "model.norm.weight"
    norm_offset: float = 0.0
    """A norm's gain is this plus its weight."""
    embedding: str = "model.embed_tokens.weight"
    unembedding: str = "lm_head.weight"
    tied: bool = False
    """Whether these two are one, where config.json does not say (its `tie_word_embeddings`)."""
    prefixes: tuple[str, ...] = ("model.", "", "model.language_model.", "language_model.model.")
    """The prefix of the names above, then what other checkpoints of the family have in its place:
    a model saved without its head has none, a multimodal one has a longer one."""
    size_keys: tuple[str, str, str] = ("num_hidden_layers", "hidden_size", "intermediate_size")
    """The keys of config.json for `Sizes`."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """Those of `KINDS` that a neuron of this family has."""
        return KINDS if self.gate else KINDS[1:]

    def weight(self, kind: str) -> Weight:
        """Where the vectors of one kind are kept.

        Raises:
            ValueError: no such kind, or `gate` of an MLP that is not gated.
        """
        weight = {"gate": self.gate, "in": self.in_, "out": self.out}.get(kind)
        if weight is None:
            reason = "its MLP is not gated" if kind == "gate" else "there is no such kind"
            raise ValueError(f"kind is {kind!r}, but {reason}; choose from {self.kinds}")
        return weight

    def resolve(self, name: str, names: Container[str]) -> str | None:
        """Which of `names`, under any prefix, is meant by a name above; None if there is none."""
        prefix, *others = self.prefixes
        candidates = (name, *(other + name.removeprefix(prefix) for other in others))
        return next((candidate for candidate in candidates if candidate in names), None)

    def head_number(self, heads: Heads, head: int, side: str) -> int:
        """Which block of d_head rows of `query` or `key` is a query head's, or its key's."""
        if self.interleaved:
            return 3 * head + (side == "key")
        if side == "query":
            return head
        behind = heads.n_heads * (self.key == self.query)
        return behind + head * heads.n_key_heads // heads.n_heads

    def sizes(self, config: Mapping[str, Any], where: object) -> Sizes:
        """The sizes in a configuration; ValueError, which says where it is from, for a bad one."""
        values: dict[str, Any] = {key: config.get(key) for key in self.size_keys}
        if "n_inner" in values and values["n_inner"] is None:  # what GPT-2 means by null
            values["n_inner"] = 4 * values["n_embd"] if type(values["n_embd"]) is int else None
        for key, size in values.items():
            if type(size) is not int or not 1 <= size <= LARGEST_SIZE:
                raise ValueError(
                    f"{where} has {key}: {reprlib.repr(size)}; a positive integer is needed, "
                    f"{LARGEST_SIZE} at most"
                )
        return Sizes(*values.values())

    def heads(self, config: Mapping[str, Any]) -> Heads:
        """The heads in a configuration that :meth:`sizes` has accepted."""
        get = config.get
        n_heads = int(get("num_attention_heads") or get("n_head") or 0)
        d_head = get("head_dim") or config[self.size_keys[1]] // n_heads
        return Heads(n_heads, int(get("num_key_value_heads") or n_heads), int(d_head))


# Gemma's norms multiply by 1 + weight. From Gemma 2 on there are norms on both sides of the MLP.
_GEMMA = Architecture(norm_offset=1.0, tied=True)
_GEMMA_2 = Architecture(
    norm_offset=1.0,
    tied=True,
    mlp_norm="model.layers.{layer}.pre_feedforward_layernorm.weight",
    norm_behind_mlp="model.layers.{layer}.post_feedforward_layernorm.weight",
)
_HEAD_NORMS = (
    "model.layers.{layer}.self_attn.q_norm.weight",
    "model.layers.{layer}.self_attn.k_norm.weight",
)
_OLMO_2 = Architecture(  # all of its norms stand behind what they belong to
    attention_norm=None,
    head_norms=_HEAD_NORMS,
    mlp_norm=None,
    norm_behind_mlp="model.layers.{layer}.post_feedforward_layernorm.weight",
)
_PHI_3_ATTENTION = Weight("model.layers.{layer}.self_attn.qkv_proj.weight", axis=0)
_PHI_3 = Architecture(  # gate and in are the two halves of one tensor
    gate=Weight("model.layers.{layer}.mlp.gate_up_proj.weight", axis=0, part=0, parts=2),
    in_=Weight("model.layers.{layer}.mlp.gate_up_proj.weight", axis=0, part=1, parts=2),
    query=_PHI_3_ATTENTION,
    key=_PHI_3_ATTENTION,
)
_GPT_2_ATTENTION = Weight("transformer.h.{layer}.attn.c_attn.weight", axis=1)
_GPT_2 = Architecture(  # Conv1D keeps (inputs, outputs), the transpose of Linear
    gate=None,
    in_=Weight("transformer.h.{layer}.mlp.c_fc.weight", axis=1),
    out=Weight("transformer.h.{layer}.mlp.c_proj.weight", axis=0),
    query=_GPT_2_ATTENTION,
    key=_GPT_2_ATTENTION,
    attention_norm="transformer.h.{layer}.ln_1.weight",
    mlp_norm="transformer.h.{layer}.ln_2.weight",
    final_norm="transformer.ln_f.weight",
    embedding="transformer.wte.weight",
    tied=True,
    prefixes=("transformer.", ""),
    size_keys=("n_layer", "n_embd", "n_inner"),
)
_NEOX_ATTENTION = Weight("gpt_neox.layers.{layer}.attention.query_key_value.weight", axis=0)
_NEOX = Architecture(
    gate=None,
    in_=Weight("gpt_neox.layers.{layer}.mlp.dense_h_to_4h.weight", axis=0),
    out=Weight("gpt_neox.layers.{layer}.mlp.dense_4h_to_h.weight", axis=1),
    query=_NEOX_ATTENTION,
    key=_NEOX_ATTENTION,
    interleaved=True,
    attention_norm="gpt_neox.layers.{layer}.input_layernorm.weight",
    mlp_norm="gpt_neox.layers.{layer}.post_attention_layernorm.weight",
    final_norm="gpt_neox.final_layer_norm.weight",
    embedding="gpt_neox.embed_in.weight",
    unembedding="embed_out.weight",
    prefixes=("gpt_neox.", ""),
)

ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture(),
    "mistral": Architecture(),
    "qwen2": Architecture(),
    "qwen3": Architecture(head_norms=_HEAD_NORMS),
    "gemma": _GEMMA,
    "gemma2": _GEMMA_2,
    "gemma3_text": replace(_GEMMA_2, head_norms=_HEAD_NORMS),
    "gemma4_text": replace(_GEMMA_2, norm_offset=0.0, head_norms=_HEAD_NORMS),
    "olmo2": _OLMO_2,
    "phi3": _PHI_3,
    "gpt2": _GPT_2,
    "gpt_neox": _NEOX,
}
"""One row per family, by config.json's `model_type`. To add one, add a row."""


EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
"""What config.json calls the number of a layer's experts."""


def architecture_of(config: Mapping[str, Any], where: object) -> Architecture:
    """The row for a configuration; ValueError, which says where it is from, if there is none."""
    family = config.get("model_type")
    if experts := next((n for key in EXPERTS if (n := config.get(key))), None):
        raise ValueError(
            f"{where} has model_type {family!r} with {reprlib.repr(experts)} experts in a layer: a "
            "mixture of experts, and which neurons a token meets depends on it; give a dense model"
        )
    if config.get("use_double_wide_mlp") and config.get("num_kv_shared_layers"):
        raise ValueError(
            f"{where} has use_double_wide_mlp: its last {config['num_kv_shared_layers']} layers "
            "have twice as many neurons as the others; layers of one width are needed"
        )
    if family not in ARCHITECTURES:
        raise ValueError(
            f"{where} has model_type {family!r}; known are {', '.join(ARCHITECTURES)} "
            "(one more is one more row in rotate_core/models/architectures.py)"
        )
    return ARCHITECTURES[family]


def loaded_architecture(model: PreTrainedModel) -> tuple[Architecture, Sizes]:
    """The row for a model that transformers has loaded, and its sizes.

    Raises:
        TypeError: it is no such model.
        ValueError: its family is not in `ARCHITECTURES`.
    """
    name = type(model).__name__
    if not hasattr(getattr(model, "config", None), "get_text_config"):
        raise TypeError(f"model is a {name}; give the one of load_model(...).transformers()")
    config = model.config.get_text_config().to_dict()
    architecture = architecture_of(config, name)
    return architecture, architecture.sizes(config, name)
