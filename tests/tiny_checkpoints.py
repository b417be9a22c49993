"""What the tests' tiny checkpoints are made with: one row per architecture, a few sizes, a text."""

from __future__ import annotations

import json
from pathlib import Path

FAMILIES = (
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma",
    "gemma2",
    "gemma3_text",
    "gemma4_text",
    "olmo2",
    "phi3",
    "gpt2",
    "gpt_neox",
)
N_LAYERS, D_MODEL, D_MLP, VOCAB_SIZE = 3, 32, 48, 400

TEXT = "The cat sat on the mat, and until then the other cats had been waiting. Été naïve 日本語.\n"


def tiny_config(family: str, **changes: object):
    """The family's configuration, made small; the embedding is padded beyond 300 tokens."""
    from transformers import AutoConfig

    if family == "gpt2":
        sizes = {"n_layer": N_LAYERS, "n_embd": D_MODEL, "n_inner": D_MLP, "n_head": 2}
    else:
        sizes = {
            "num_hidden_layers": N_LAYERS,
            "hidden_size": D_MODEL,
            "intermediate_size": D_MLP,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 16,
        }
    if family == "gemma4_text":  # its global layers have heads of their own size
        sizes |= {"global_head_dim": 16, "hidden_size_per_layer_input": 4}
        sizes["vocab_size_per_layer_input"] = VOCAB_SIZE
    sizes["vocab_size"] = VOCAB_SIZE
    special = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    return AutoConfig.for_model(family, **sizes | special | changes)


def edit_config(directory: Path, **changes: object) -> None:
    """Change values of config.json; None removes one."""
    file = directory / "config.json"
    config = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
