"""GGUF -> a checkpoint directory: dequantised once, into the one format that is read here."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from rotate_core.models.architectures import LARGEST_SIZE
from rotate_core.models.checkpoint import Checkpoint, copy_edited
from rotate_core.models.extras import import_extra, pretrained
from rotate_core.models.tokens import visible

PARTS = {"token_embd": "embedding", "ffn_gate": "gate", "ffn_up": "in", "ffn_down": "out"}
"""The tensors whose quantisation is told, by the last part of their names in a GGUF file."""

SIZES = (".block_count", ".feed_forward_length", ".embedding_length", ".vocab_size")


def import_converter() -> tuple[Any, Any]:
    """The packages gguf and transformers; ModuleNotFoundError says what to install."""
    names = ("gguf", "transformers", "accelerate")  # the last is for the second
    gguf, transformers, _ = (import_extra(name, "converting a GGUF file") for name in names)
    return gguf, transformers


def convert_gguf(file: Path, directory: Path, origin: dict[str, Any]) -> None:
    """Write a GGUF file as a checkpoint directory, its tokenizer included.

    The weights are written in float32, which holds the dequantised values exactly; float16 would
    be off by a relative 2e-4. The whole model is in memory meanwhile. Raises what
    :func:`rotate_core.load_model` says.

    Args:
        file: the GGUF file.
        directory: is made.
        origin: goes into config.json under "rotate_core", where the quantisation is added: the
            bits per weight by GGUF type, for the embedding and for each kind of neuron vector.
    """
    gguf, transformers = import_converter()
    quantization = _quantization(gguf, file)  # first, as it notices a damaged file
    source = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    loaded = pretrained("AutoModelForCausalLM", str(file), **source, dtype=torch.float32)
    config = loaded.config
    # A model loaded from GGUF refuses to be saved: a plain one takes its weights over.
    config.__dict__.pop("quantization_config", None)  # transformers 4 sets none
    config.rotate_core = origin | {"quantization": quantization}
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    model.load_state_dict(loaded.state_dict(), assign=True)
    model.tie_weights()
    model.generation_config = loaded.generation_config
    model.save_pretrained(directory)
    pretrained("AutoTokenizer", str(file), **source).save_pretrained(directory)
    for weights in directory.glob("*.safetensors"):  # written for their owner; caches are shared
        shutil.copymode(directory / "config.json", weights)


def requantise(checkpoint: Checkpoint, directory: Path, quantization: str = "Q8_0") -> Path:
    """Copy a checkpoint, its MLP weights rounded to what a GGUF type can hold; in their precision.

    Args:
        checkpoint: such as `load_model(name).checkpoint`.
        directory: a folder that does not exist yet.
        quantization: a type that gguf can write, such as Q8_0 (8 bits, blocks of 32) or Q4_0.

    Returns:
        The directory, for `load_model`.

    Raises:
        ValueError: no such type, or a tensor's rows are no multiple of its blocks.
        FileExistsError, OSError: as for :func:`.copy_edited`.
    """
    gguf = import_extra("gguf", "rounding weights")
    wanted = gguf.GGMLQuantizationType.__members__.get(quantization)
    if wanted is None:
        known = ", ".join(gguf.GGMLQuantizationType.__members__)
        raise ValueError(f"quantization={quantization!r}: wanted one of {known}")

    def round_off(tensor: torch.Tensor) -> None:
        stored = gguf.quants.quantize(tensor.float().numpy(), wanted)
        tensor.copy_(torch.from_numpy(gguf.quants.dequantize(stored, wanted)))

    names = checkpoint.architecture
    weights = dict.fromkeys(names.weight(kind).name for kind in names.kinds)  # a tensor once
    layers = range(checkpoint.sizes.n_layers)
    edits = [(name.format(layer=layer), round_off) for layer in layers for name in weights]
    card = f"The MLP weights of {checkpoint.path.name}, rounded to {quantization}.\n"
    copy_edited(checkpoint, directory, edits, card=card)
    return directory


def converted_size(file: Path) -> int:
    """Bytes that a GGUF file takes as a checkpoint, at most: float32 weights, tokenizer files.

    The latter have its tokens and merges two to four times, and more by rewriting each.
    """
    tensors = _tensors(import_converter()[0], file)
    beside = file.stat().st_size - sum(int(tensor.n_bytes) for tensor in tensors)
    return 4 * sum(int(tensor.n_elements) for tensor in tensors) + 10 * beside + 2**20


def _tensors(gguf: Any, file: Path) -> list[Any]:
    try:
        reader = gguf.GGUFReader(file)
        for name, field in reader.fields.items():  # transformers would make as many layers as told
            if name.endswith(SIZES) and not 0 < int(field.parts[-1][0]) <= LARGEST_SIZE:
                raise ValueError(f"{name} is {int(field.parts[-1][0])}")
        return list(reader.tensors)
    except Exception as error:  # whatever the reader stumbles over
        said = visible(str(error), keep=" ")
        raise ValueError(
            f"{file} ({file.stat().st_size:,} bytes) is no whole GGUF file ({said}); copy it anew"
        ) from error


def _quantization(gguf: Any, file: Path) -> dict[str, dict[str, float]]:
    bits: dict[str, dict[str, float]] = {}
    for tensor in _tensors(gguf, file):
        name, _, suffix = tensor.name.rpartition(".")
        part = PARTS.get(name.rpartition(".")[2])
        if part and suffix == "weight":
            block, n_bytes = gguf.GGML_QUANT_SIZES[tensor.tensor_type]
            bits.setdefault(part, {})[tensor.tensor_type.name] = 8 * n_bytes / block
    return bits
