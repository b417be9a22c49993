"""Tiny checkpoints of every architecture, with random weights and a real tokenizer, made once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_checkpoints import TEXT, tiny_config

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub: tests are offline


@pytest.fixture(scope="session")
def byte_tokenizer():
    """A byte-level BPE, as GPT-2's, Llama 3's and SmolLM2's are: 300 tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>", "<|reserved_special_token_0|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT] * 10, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")


@pytest.fixture(scope="session")
def piece_tokenizer():
    """A BPE of sentencepiece's kind, as Gemma's is: ▁ for space, and a piece for each byte."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<unused0>", "<unused1>"]
    pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    letters = sorted(set(TEXT.replace(" ", "▁")) - set("日本語\n"))
    merges = [("t", "h"), ("th", "e"), ("▁", "the"), ("▁", "c"), ("a", "t"), ("▁c", "at")]
    words = [first + second for first, second in merges]
    vocabulary = {piece: i for i, piece in enumerate([*special, *pieces, *letters, *words])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special[:4]])
    tokenizer.add_tokens([AddedToken("\n\n", normalized=False)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>")


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory, byte_tokenizer) -> Callable[..., Path]:
    """A function that writes a checkpoint directory: a family, and what is to be different."""

    def make(
        family: str,
        *,
        dtype: torch.dtype = torch.float32,
        shard_size: str = "5GB",
        **changes: object,
    ) -> Path:
        from transformers import AutoModelForCausalLM

        directory = tmp_path_factory.mktemp(family) / f"tiny-{family}"
        config = tiny_config(family, **changes)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(config)
            for name, parameter in model.named_parameters():
                if "norm" in name or "ln_" in name:  # else they are all ones, or all zeros
                    torch.nn.init.uniform_(parameter, 0.5, 1.5)
        model.to(dtype).save_pretrained(directory, max_shard_size=shard_size)
        byte_tokenizer.save_pretrained(directory)
        return directory

    return make


@pytest.fixture(scope="session")
def checkpoints(make_checkpoint) -> Callable[[str], Path]:
    """A function that gives the family's checkpoint, made once; not to be changed."""
    made: dict[str, Path] = {}

    def get(family: str) -> Path:
        if family not in made:
            made[family] = make_checkpoint(family)
        return made[family]

    return get


@pytest.fixture
def damaged(make_checkpoint) -> Path:
    """A Llama checkpoint of one's own, to damage."""
    return make_checkpoint("llama")
