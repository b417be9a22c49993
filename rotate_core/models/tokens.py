"""Tokens as strings: what each decodes to, which ones are no text, how to show them."""

from __future__ import annotations

import codecs
import contextlib
import json
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Int
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

RESERVED = re.compile(
    r"<unused_?\d+>|\[unused\d+\]|<\|reserved_special_token_\d+\|>|<reserved_?\d+>|<\|dummy_\d+\|>"
    r"|\[multimodal\]|<(start|end)_of_(image|audio)>|<(image|audio)_soft_token>"
)
"""Tokens that training on text never saw: spares, and the markers of other modalities."""

_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")


TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
)


def load_tokenizer(directory: Path, locate: Callable[[str], Path]) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint, of transformers.

    Args:
        directory: where its files are ...
        locate: ... once this was called with their names.

    Raises:
        FileNotFoundError: there is none that transformers can load.
    """
    from transformers import AutoTokenizer

    for name in TOKENIZER_FILES:
        with contextlib.suppress(FileNotFoundError):  # no tokenizer has all of them
            locate(name)
    try:
        return AutoTokenizer.from_pretrained(str(directory))
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"{directory} has no tokenizer that transformers can load "
            f"({str(error).strip().splitlines()[0]}); add its tokenizer.json, or build a "
            "Vocabulary of your own"
        ) from error


def excluded_tokens(tokenizer: PreTrainedTokenizerBase, d_vocab: int) -> Int[Tensor, " n_excluded"]:
    """The tokens that stand for no text: special ones, spares ("<unused7>"), dead byte pieces.

    A byte piece such as "<0x41>" is dead when the vocabulary has its character ("A") as well: then
    the tokenizer never uses it. In Gemma 3 those 109 are one vector up to a cosine of 0.9996.

    Args:
        tokenizer: of transformers.
        d_vocab: tokens from this number on are left out.

    Returns:
        (n_excluded,) int64, ascending.

    Source: the paper's code excludes special, unused and rare tokens of Gemma 2 by a list of
    5,295 of them, and none of Llama's; the rules here are ours.
    """
    ids = tokenizer.get_vocab()
    excluded = set(tokenizer.all_special_ids)
    excluded |= {i for i, added in tokenizer.added_tokens_decoder.items() if added.special}
    excluded |= {i for token, i in ids.items() if RESERVED.fullmatch(token)}
    for token, i in ids.items():
        if (match := _BYTE_PIECE.fullmatch(token)) and (byte := int(match[1], 16)) < 0x80:
            character = chr(byte)
            if character in ids or character.replace(" ", "▁") in ids:
                excluded.add(i)
    return torch.tensor(sorted(i for i in excluded if i < d_vocab), dtype=torch.int64)


def token_strings(tokenizer: PreTrainedTokenizerBase, d_vocab: int) -> tuple[str, ...]:
    """What each token decodes to in the middle of a text: leading space kept, stray bytes named.

    A tokenizer's own `decode([i])` drops the leading space of a sentencepiece token, and makes one
    and the same "\ufffd" of every token that is a part of a character. Here its bytes are
    named: "<0xE2>".

    Args:
        tokenizer: of transformers.
        d_vocab: how many tokens; a number that is no token's reads "<no token 50000>".

    Returns:
        d_vocab strings.
    """
    pieces = {i: piece for piece, i in tokenizer.get_vocab().items() if i < d_vocab}
    spelling = _spelling(tokenizer)
    if spelling == "bytes":
        table = _byte_alphabet()
        strings = {i: _from_bytes(piece, table) for i, piece in pieces.items()}
    elif spelling == "metaspace":
        strings = {i: piece.replace("▁", " ") for i, piece in pieces.items()}
    else:
        decoded = tokenizer.batch_decode([[i] for i in pieces])
        strings = dict(zip(pieces, decoded, strict=True))
    strings |= {i: added.content for i, added in tokenizer.added_tokens_decoder.items()}
    return tuple(strings.get(i, f"<no token {i}>") for i in range(d_vocab))


_SYMBOLS = {" ": "␣", "\n": "⏎", "\r": "␍", "\t": "⇥", "\u00a0": "⍽"}


def visible(token: str) -> str:
    """A token with all that cannot be seen made visible, for figures and tables on screen.

    " until" -> "␣until"; a line end -> "⏎"; a zero-width space -> "<U+200B>"; a combining accent
    in front gets a dotted circle to sit on; the empty token reads "∅".
    """
    if not token:
        return "∅"
    shown = "".join(_visible_character(character) for character in token)
    return f"◌{shown}" if unicodedata.combining(token[0]) else shown


def _visible_character(character: str) -> str:
    if character in _SYMBOLS:
        return _SYMBOLS[character]
    # Categories C: control, format, unassigned, private use, surrogate. Z: separators.
    if unicodedata.category(character)[0] in "CZ":
        return f"<U+{ord(character):04X}>"
    return character


def _spelling(tokenizer: PreTrainedTokenizerBase) -> str:
    """How pieces are spelled: "bytes" (GPT-2's alphabet), "metaspace" (▁ for space) or "other"."""
    decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    if decoder is None:
        return "other"
    state = json.loads(decoder.__getstate__())
    types = {part["type"] for part in [state, *state.get("decoders", [])]}
    if "ByteLevel" in types:
        return "bytes"
    return "metaspace" if types & {"Metaspace", "ByteFallback"} else "other"


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's alphabet: a printable byte is its own character, the others come from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = sorted(set(range(0x100)) - set(printable))
    return {chr(b): b for b in printable} | {chr(0x100 + n): b for n, b in enumerate(others)}


def _from_bytes(piece: str, table: dict[str, int]) -> str:
    if not all(character in table for character in piece):
        return piece  # a token that was added in plain text
    return bytes(table[character] for character in piece).decode(errors="rotate_core.name_bytes")


def _name_bytes(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    bad = error.object[error.start : error.end]
    return "".join(f"<0x{byte:02X}>" for byte in bad), error.end


codecs.register_error("rotate_core.name_bytes", _name_bytes)
