"""Tokens as strings: what each decodes to, which ones are no text, how to show them."""

from __future__ import annotations

import contextlib
import json
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from tokenizers import AddedToken, Tokenizer
from torch import Tensor

from rotate_core.models.checkpoint import read_json
from rotate_core.models.extras import pretrained

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

RESERVED = re.compile(
    r"<unused_?\d+>|\[unused\d+\]|<\|reserved_special_token_\d+\|>|<reserved_?\d+>|<\|dummy_\d+\|>"
    r"|\[multimodal\]|<(start|end)_of_(image|audio)>|<(image|audio)_soft_token>|<mask>"
)
"""Tokens that training on text never saw: spares, masks, and the markers of other modalities."""
SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token")
"""What a tokenizer's vocabulary lacks of its special tokens is added in this order, others last."""
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template.jinja", "tokenizer.model", "vocab.json", "merges.txt"),
)
_BYTE_PIECE = re.compile(r"<0x([0-7][0-9A-F])>")
"""A byte that is a whole character."""


def load_tokenizer(directory: Path, locate: Callable[[str], Path]) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint, of transformers.

    Args:
        directory: where its files are ...
        locate: ... once this was called with their names.

    Raises:
        FileNotFoundError: there is none that transformers can load.
        ModuleNotFoundError: transformers is not installed.
    """
    for name in TOKENIZER_FILES:
        with contextlib.suppress(FileNotFoundError):  # no tokenizer has all of them
            locate(name)
    try:
        what = f"the tokenizer of {directory}"
        return pretrained("AutoTokenizer", what, pretrained_model_name_or_path=str(directory))
    except ValueError as error:
        raise FileNotFoundError(
            f"{error}; add its tokenizer.json, or build a Vocabulary of your own"
        ) from error


def read_tokens(directory: Path, locate: Callable[[str], Path]) -> Tokenizer:
    """The tokens of a checkpoint: its tokenizer.json, with every special token marked as special.

    Arguments and errors are those of :func:`load_tokenizer`, which is asked where there is no
    tokenizer.json. Unlike that one, it needs no transformers.

    Raises:
        ValueError: a file of the tokenizer is damaged.
    """
    try:
        file = locate("tokenizer.json")
    except FileNotFoundError:
        loaded: Any = load_tokenizer(directory, locate)
        loaded.backend_tokenizer.add_special_tokens(loaded.all_special_tokens)
        return loaded.backend_tokenizer
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the package has no type of its own
        said = visible(str(error), keep=" ")
        raise ValueError(f"{file} is no whole tokenizer ({said}); copy it anew") from error
    config = _read_optional(locate, "tokenizer_config.json")
    if "added_tokens_decoder" not in config:
        config |= _read_optional(locate, "special_tokens_map.json")
    try:
        added = [AddedToken(**t) for t in (config.get("added_tokens_decoder") or {}).values()]
        tokenizer.add_tokens(added)
        tokenizer.add_special_tokens(_special_tokens(config))
    except Exception as error:
        raise ValueError(
            f"{directory / 'tokenizer_config.json'} has bad tokens among its added or special ones "
            f"({visible(str(error), keep=' ')}); copy it anew"
        ) from error
    if not tokenizer.get_vocab_size():
        raise ValueError(f"{file} has no tokens; copy it anew")
    return tokenizer


def excluded_tokens(tokenizer: Tokenizer, d_vocab: int) -> Int[Tensor, " n_excluded"]:
    """The tokens that stand for no text: special ones, spares ("<unused7>"), dead byte pieces.

    A byte piece such as "<0x41>" is dead when the vocabulary has its character ("A") as well: then
    the tokenizer never uses it. In Gemma 3 those 109 are one vector up to a cosine of 0.9996.

    Args:
        tokenizer: from :func:`read_tokens`.
        d_vocab: tokens from this number on are left out.

    Returns:
        (n_excluded,) int64, ascending.

    Source: the paper's code excludes special, unused and rare tokens of Gemma 2 by a list of
    5,295 of them, and none of Llama's; the rules here are ours.
    """
    ids = tokenizer.get_vocab()
    excluded = {i for i, added in tokenizer.get_added_tokens_decoder().items() if added.special}
    for token, i in ids.items():
        if RESERVED.fullmatch(token):
            excluded.add(i)
        elif match := _BYTE_PIECE.fullmatch(token):
            character = chr(int(match[1], 16))
            if character in ids or character.replace(" ", "▁") in ids:
                excluded.add(i)
    return torch.tensor(sorted(i for i in excluded if i < d_vocab), dtype=torch.int64)


def token_strings(tokenizer: Tokenizer, d_vocab: int) -> tuple[str, ...]:
    """The string of each token in the middle of a text: leading space kept, stray bytes named.

    A tokenizer's own `decode([i])` drops the leading space of a sentencepiece token, and makes one
    and the same "\ufffd" of every token that is a part of a character. Here its bytes are
    named: "<0xE2>".

    Args:
        tokenizer: from :func:`read_tokens`.
        d_vocab: how many tokens; a number that is no token's reads "<no token 50000>".

    Returns:
        d_vocab strings.
    """
    pieces = {i: piece for piece, i in tokenizer.get_vocab().items() if i < d_vocab}
    decoder = json.loads(tokenizer.decoder.__getstate__()) if tokenizer.decoder else {}
    types = {part.get("type") for part in [decoder, *decoder.get("decoders", [])]}
    if "ByteLevel" in types:
        table = _byte_alphabet()
        strings = {i: _from_bytes(piece, table) for i, piece in pieces.items()}
    elif types & {"Metaspace", "ByteFallback"}:
        strings = {i: piece.replace("▁", " ") for i, piece in pieces.items()}
    else:
        strings = {i: tokenizer.decode([i], skip_special_tokens=False) for i in pieces}
    strings |= {i: added.content for i, added in tokenizer.get_added_tokens_decoder().items()}
    return tuple(strings.get(i, f"<no token {i}>") for i in range(d_vocab))


_SYMBOLS = {" ": "␣", "\n": "⏎", "\r": "␍", "\t": "⇥", "\u00a0": "⍽"}
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0")
"""Letters and marks that nothing is drawn for."""


def visible(token: str, *, keep: str = "") -> str:
    """A token with all that cannot be seen made visible, for figures, tables and terminals.

    " until" -> "␣until"; a line end -> "⏎"; a zero-width space -> "<U+200B>", and so what steers a
    terminal or the direction of text; a combining accent in front gets a dotted circle to sit on;
    the empty token reads "∅". A message can keep its spaces and line ends.
    """
    shown = "◌" if unicodedata.combining(token[:1] or " ") else ""
    for character in token:
        # Categories C: control, format, unassigned, private use, surrogate. Z: separators.
        hidden = unicodedata.category(character)[0] in "CZ" or character in _BLANK
        code = f"<U+{ord(character):04X}>" if hidden else character
        shown += character if character in keep else _SYMBOLS.get(character, code)
    return shown or "" if keep else shown or "∅"


def _read_optional(locate: Callable[[str], Path], name: str) -> dict[str, Any]:
    try:
        return read_json(locate(name), added_tokens_decoder=dict)
    except FileNotFoundError:
        return {}


def _special_tokens(config: dict[str, Any]) -> list[str]:
    """The tokens that a tokenizer's configuration calls special, such as its `eos_token`."""
    values = [config.get(key) for key in (*SPECIAL, *config) if key.endswith("_token")]
    for kind in ("model_specific", "extra", "additional"):
        more = config.get(f"{kind}_special_tokens") or ()
        if not isinstance(more, list | dict | tuple):
            raise TypeError(f"{kind}_special_tokens: {more!r}")
        values += more.values() if isinstance(more, dict) else more
    contents = (value.get("content") if isinstance(value, dict) else value for value in values)
    return [content for content in contents if isinstance(content, str)]


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's alphabet: a printable byte is its own character, the others come from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = sorted(set(range(0x100)) - set(printable))
    return {chr(b): b for b in printable} | {chr(0x100 + n): b for n, b in enumerate(others)}


def _from_bytes(piece: str, table: dict[str, int]) -> str:
    if not all(character in table for character in piece):
        return piece  # a token that was added in plain text
    # A byte b that is part of no whole character becomes U+DC00 + b, and then its name.
    text = bytes(table[character] for character in piece).decode(errors="surrogateescape")
    return re.sub("[\udc80-\udcff]", lambda byte: f"<0x{ord(byte[0]) - 0xDC00:02X}>", text)
