"""The map of architectures: what each model family calls the tensors that hold its neurons."""

from __future__ import annotations

from dataclasses import dataclass

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
    """Which part of that axis, where several kinds share a tensor, ..."""
    parts: int = 1
    """... and of how many."""


@dataclass(frozen=True)
class Architecture:
    """What a model family calls its tensors and its sizes. The defaults are Llama's."""

    gate: Weight | None = Weight("model.layers.{layer}.mlp.gate_proj.weight", axis=0)
    """None: the MLP is not gated."""
    in_: Weight = Weight("model.layers.{layer}.mlp.up_proj.weight", axis=0)
    out: Weight = Weight("model.layers.{layer}.mlp.down_proj.weight", axis=1)
    mlp_norm: str = "model.layers.{layer}.post_attention_layernorm.weight"
    """The norm in front of the MLP."""
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
    n_layers: str = "num_hidden_layers"
    """The key of config.json for the number of layers, ..."""
    d_model: str = "hidden_size"
    """... for the width of the residual stream, ..."""
    d_mlp: str = "intermediate_size"
    """... and for the number of neurons in a layer."""

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


# Gemma's norms multiply by 1 + weight. From Gemma 2 on there are norms on both sides of the MLP.
_GEMMA = Architecture(norm_offset=1.0, tied=True)
_GEMMA_2 = Architecture(
    norm_offset=1.0, tied=True, mlp_norm="model.layers.{layer}.pre_feedforward_layernorm.weight"
)
_PHI_3 = Architecture(  # gate and in are the two halves of one tensor
    gate=Weight("model.layers.{layer}.mlp.gate_up_proj.weight", axis=0, part=0, parts=2),
    in_=Weight("model.layers.{layer}.mlp.gate_up_proj.weight", axis=0, part=1, parts=2),
)
_GPT_2 = Architecture(  # Conv1D keeps (inputs, outputs), the transpose of Linear
    gate=None,
    in_=Weight("transformer.h.{layer}.mlp.c_fc.weight", axis=1),
    out=Weight("transformer.h.{layer}.mlp.c_proj.weight", axis=0),
    mlp_norm="transformer.h.{layer}.ln_2.weight",
    final_norm="transformer.ln_f.weight",
    embedding="transformer.wte.weight",
    tied=True,
    prefixes=("transformer.", ""),
    n_layers="n_layer",
    d_model="n_embd",
    d_mlp="n_inner",
)

ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture(),
    "mistral": Architecture(),
    "qwen2": Architecture(),
    "qwen3": Architecture(),
    "gemma": _GEMMA,
    "gemma2": _GEMMA_2,
    "gemma3_text": _GEMMA_2,
    "phi3": _PHI_3,
    "gpt2": _GPT_2,
}
"""One row a family, by config.json's `model_type`. To add one, add a row."""
