"""GGUF -> a checkpoint directory: dequantised once, into the one format that is read here."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any


def convert_gguf(gguf: Path, directory: Path, origin: dict[str, Any]) -> Path:
    """Write a GGUF file as a checkpoint directory, its tokenizer included.

    The weights are written in float32, which holds the dequantised values exactly; float16 would
    be off by a relative 2e-4. The whole model is in memory meanwhile.

    Args:
        gguf: the file.
        directory: is made.
        origin: goes into config.json under "rotate_core", where the quantisation is added: the
            bits a weight by GGUF type, for the embedding and for each kind of neuron vector.

    Returns:
        The directory.

    Raises:
        ValueError: it is no whole GGUF file, or transformers cannot convert its architecture.
    """
    quantization = _quantization(gguf)  # first, as it notices a damaged file

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32
    )
    config = loaded.config
    # A model loaded from GGUF refuses to be saved: a plain one takes its weights over.
    config.__dict__.pop("quantization_config", None)  # transformers 4 sets none
    config.rotate_core = origin | {"quantization": quantization}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(loaded.state_dict(), assign=True)
    model.tie_weights()
    model.generation_config = loaded.generation_config
    model.save_pretrained(directory)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.save_pretrained(directory)
    for file in directory.glob("*.safetensors"):  # written for their owner alone; caches are shared
        shutil.copymode(directory / "config.json", file)
    return directory


def _quantization(gguf: Path) -> dict[str, dict[str, float]]:
    from gguf import GGML_QUANT_SIZES, GGUFReader

    try:
        tensors = GGUFReader(gguf).tensors
    except Exception as error:  # whatever the reader stumbles over
        raise ValueError(
            f"{gguf} ({gguf.stat().st_size:,} bytes) is no whole GGUF file ({error}); copy it anew"
        ) from error
    parts = {"token_embd": "embedding", "ffn_gate": "gate", "ffn_up": "in", "ffn_down": "out"}
    bits: dict[str, dict[str, float]] = {}
    for tensor in tensors:
        part, _, suffix = tensor.name.rpartition(".")
        kind = parts.get(part.rpartition(".")[2])
        if kind and suffix == "weight":
            block, n_bytes = GGML_QUANT_SIZES[tensor.tensor_type]
            bits.setdefault(kind, {})[tensor.tensor_type.name] = 8 * n_bytes / block
    return bits
