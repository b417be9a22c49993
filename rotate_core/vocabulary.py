"""The vocabulary as a neuron sees it: the projection U, a weight and a string for each token."""

from __future__ import annotations

import codecs
import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LARGE_NORM_QUANTILE = 0.99
LARGE_NORM_WEIGHT = 1e-4

# Tokens that a model's makers kept in reserve: their rows of the embedding were hardly trained.
RESERVED = re.compile(
    r"<unused_?\d+>|\[unused\d+\]|<\|reserved_special_token_\d+\|>|<reserved_\d+>"
)


@dataclass(frozen=True, eq=False, init=False, repr=False)
class Vocabulary:
    """The map from residual vectors to token scores (the paper's U), with what is known of its tokens.

    A residual vector c has the logits `projection.T @ c`. The projection is used as it is: neither
    centred nor normalised.

    Args:
        projection: U, (d_model, d_vocab), floating point, finite; a column is a token.
        token_weights: m, (d_vocab,) in [0, 1] and not all zero. None: `norm_token_weights(projection)`,
            which is where the paper starts.
        tokens: d_vocab strings. None: the column numbers "0", "1", ...
        name: what U is, for tables and figures, such as "unembedding".

    Raises:
        TypeError: the projection or the weights are not tensors, or a token is not a string.
        ValueError: a shape, a weight or a value of U is out of the stated range.

    Source: section 3 of the paper (projection) and its released code (weights).
    """

    projection: Float[Tensor, "d_model d_vocab"]
    """U; floating point, on any device."""
    token_weights: Float[Tensor, " d_vocab"]
    """m, the weight each token starts with; at least float32, on the projection's device."""
    tokens: Sequence[str]
    """What each token decodes to on its own, leading space kept."""
    name: str
    """What U is, for tables and figures."""

    def __init__(
        self,
        projection: Float[Tensor, "d_model d_vocab"],
        token_weights: Float[Tensor, " d_vocab"] | None = None,
        tokens: Sequence[str] | None = None,
        name: str = "",
    ) -> None:
        _check_projection(projection)
        d_vocab = projection.shape[1]
        if token_weights is None:
            weights = norm_token_weights(projection)
        else:
            weights = _checked_weights(token_weights, projection)
        strings = tuple(map(str, range(d_vocab))) if tokens is None else tuple(tokens)
        if len(strings) != d_vocab:
            raise ValueError(
                f"tokens has {len(strings)} strings, U has {d_vocab} columns; give one each"
            )
        for i, token in enumerate(strings):
            if not isinstance(token, str):
                raise TypeError(f"tokens[{i}] is {token!r}, a {type(token).__name__}; give a str")
        object.__setattr__(self, "projection", projection)
        object.__setattr__(self, "token_weights", weights)
        object.__setattr__(self, "tokens", strings)
        object.__setattr__(self, "name", name)

    @property
    def d_model(self) -> int:
        """Width of the residual stream: rows of U."""
        return self.projection.shape[0]

    @property
    def d_vocab(self) -> int:
        """Number of tokens: columns of U."""
        return self.projection.shape[1]

    def token(self, i: int) -> str:
        """The string of token i."""
        return self.tokens[i]

    def top_tokens(
        self, scores: Float[Tensor, " d_vocab"], k: int = 10, *, largest: bool = True
    ) -> list[tuple[str, float]]:
        """The k tokens with the largest (or the smallest) scores, most extreme first.

        Args:
            scores: (d_vocab,), such as z-scores of `projection.T @ c`.
            k: how many, cut at d_vocab.
            largest: False for the negative tail.

        Returns:
            (token, score) pairs.

        Raises:
            ValueError: scores has another shape, or k < 1.
        """
        if scores.shape != (self.d_vocab,):
            raise ValueError(
                f"scores has shape {tuple(scores.shape)}; give one score a token, ({self.d_vocab},)"
            )
        if k < 1:
            raise ValueError(f"k is {k}; ask for at least 1 token")
        top = torch.topk(scores, min(k, self.d_vocab), largest=largest)
        return [
            (self.tokens[i], s)
            for i, s in zip(top.indices.tolist(), top.values.tolist(), strict=True)
        ]

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Vocabulary:
        """The same vocabulary with U on another device or in another precision (the weights keep theirs)."""
        projection = self.projection.to(device=device, dtype=dtype)
        if projection is self.projection:
            return self
        return Vocabulary(projection, self.token_weights, self.tokens, self.name)

    def __repr__(self) -> str:
        n_excluded = int((self.token_weights == 0).sum())
        n_reduced = int(((self.token_weights > 0) & (self.token_weights < 1)).sum())
        name = f"{self.name!r}, " if self.name else ""
        return (
            f"Vocabulary({name}d_model={self.d_model}, d_vocab={self.d_vocab}, "
            f"{n_excluded} tokens excluded, {n_reduced} with reduced weight)"
        )


def norm_token_weights(
    projection: Float[Tensor, "d_model d_vocab"],
    *,
    quantile: float = LARGE_NORM_QUANTILE,
    weight: float = LARGE_NORM_WEIGHT,
    excluded: Int[Tensor, " n_excluded"] | None = None,
) -> Float[Tensor, " d_vocab"]:
    """Token weights to start from: 1, less for columns of U with a large norm, 0 for excluded tokens.

    Args:
        projection: U, (d_model, d_vocab).
        quantile: columns whose Euclidean norm is above this quantile, taken over all columns, ...
        weight: ... get this weight.
        excluded: token numbers that get 0: special, unused or rare tokens.

    Returns:
        (d_vocab,), float32 (float64 for a float64 projection), on the projection's device.

    Raises:
        ValueError: the quantile or the weight is outside [0, 1].
        IndexError: an excluded token is not a column of U.

    Source: the paper's released code.
    """
    if not 0 <= quantile <= 1:
        raise ValueError(f"quantile is {quantile}; give a number in [0, 1]")
    if not 0 <= weight <= 1:
        raise ValueError(f"weight is {weight}; give a number in [0, 1]")
    dtype = torch.promote_types(projection.dtype, torch.float32)
    norms = torch.linalg.vector_norm(projection, dim=0, dtype=dtype)
    weights = torch.ones_like(norms)
    weights[norms > torch.quantile(norms, quantile)] = weight
    if excluded is not None and excluded.numel():
        low, high = int(excluded.min()), int(excluded.max())
        if low < 0 or high >= len(weights):
            raise IndexError(
                f"excluded holds token {low if low < 0 else high}; U has tokens 0 to {len(weights) - 1}"
            )
        weights[excluded.to(weights.device)] = 0
    return weights


def excluded_tokens(tokenizer: PreTrainedTokenizerBase, d_vocab: int) -> Int[Tensor, " n_excluded"]:
    """Numbers of the tokens that are no text: special tokens, and those held in reserve ("<unused7>").

    Args:
        tokenizer: of transformers.
        d_vocab: tokens from this number on are left out.

    Returns:
        (n_excluded,) int64, ascending.

    Source: the paper's released code excludes special and unused tokens; the pattern is ours.
    """
    special = set(tokenizer.all_special_ids)
    special |= {i for i, added in tokenizer.added_tokens_decoder.items() if added.special}
    reserved = {i for token, i in tokenizer.get_vocab().items() if RESERVED.fullmatch(token)}
    return torch.tensor(sorted(i for i in special | reserved if i < d_vocab), dtype=torch.int64)


def token_strings(tokenizer: PreTrainedTokenizerBase, d_vocab: int) -> tuple[str, ...]:
    """What each token decodes to when it stands inside a text: leading space kept, stray bytes named.

    A tokenizer's own `decode([i])` drops the leading space of sentencepiece tokens, and turns every
    token that is a part of a character into the same "\ufffd". Here such bytes read "<0xE2>".

    Args:
        tokenizer: of transformers.
        d_vocab: how many tokens; numbers the tokenizer does not use read "<no token 50000>".

    Returns:
        d_vocab strings.
    """
    added = {i: token.content for i, token in tokenizer.added_tokens_decoder.items()}
    pieces = tokenizer.convert_ids_to_tokens(list(range(min(d_vocab, len(tokenizer)))))
    spelling = _spelling(tokenizer)
    if spelling == "bytes":
        table = _byte_of_character()
        strings = [_from_bytes(piece, table) if piece is not None else None for piece in pieces]
    elif spelling == "metaspace":
        strings = [piece.replace("▁", " ") if piece is not None else None for piece in pieces]
    else:
        strings = tokenizer.batch_decode([[i] for i in range(len(pieces))])
    strings += [None] * (d_vocab - len(strings))
    return tuple(
        added[i] if i in added else f"<no token {i}>" if string is None else string
        for i, string in enumerate(strings)
    )


_SYMBOLS = {" ": "␣", "\n": "⏎", "\r": "␍", "\t": "⇥", "\xa0": "⍽"}


def visible(token: str) -> str:
    """A token with everything that cannot be seen made visible, for figures and tables on screen.

    " until" -> "␣until", a line end -> "⏎", a tab -> "⇥", a zero-width space -> "<U+200B>", a combining
    accent gets its dotted circle, and the empty token reads "∅".
    """
    if not token:
        return "∅"
    shown = "".join(_visible_character(character) for character in token)
    return f"◌{shown}" if unicodedata.combining(token[0]) else shown


def _visible_character(character: str) -> str:
    if character in _SYMBOLS:
        return _SYMBOLS[character]
    # Cc control, Cf format, Cn unassigned, Co private, Cs surrogate; Z* separators
    if unicodedata.category(character)[0] in "CZ":
        return f"<U+{ord(character):04X}>"
    return character


def _check_projection(projection: Tensor) -> None:
    if not isinstance(projection, Tensor):
        raise TypeError(f"projection is a {type(projection).__name__}; give a torch.Tensor")
    if projection.ndim != 2 or 0 in projection.shape:
        raise ValueError(f"projection has shape {tuple(projection.shape)}; give (d_model, d_vocab)")
    if not projection.is_floating_point():
        raise ValueError(f"projection has dtype {projection.dtype}; give a floating-point dtype")
    finite = torch.isfinite(projection).all(dim=0)
    if not finite.all():
        token = int(torch.nonzero(~finite)[0])
        raise ValueError(f"column {token} of the projection holds inf or nan; give finite values")


def _checked_weights(weights: Tensor, projection: Tensor) -> Tensor:
    if not isinstance(weights, Tensor):
        raise TypeError(f"token_weights is a {type(weights).__name__}; give a torch.Tensor or None")
    if weights.shape != projection.shape[1:]:
        raise ValueError(
            f"token_weights has shape {tuple(weights.shape)}, U has {projection.shape[1]} columns; "
            f"give shape ({projection.shape[1]},)"
        )
    weights = weights.to(projection.device, torch.promote_types(weights.dtype, torch.float32))
    outside = ~((weights >= 0) & (weights <= 1))  # true for nan as well
    if outside.any():
        i = int(torch.nonzero(outside)[0])
        raise ValueError(f"token_weights[{i}] is {float(weights[i])}; give weights in [0, 1]")
    if not weights.any():
        raise ValueError("token_weights is zero for every token; leave at least one token in")
    return weights


def _spelling(tokenizer: PreTrainedTokenizerBase) -> str:
    """How the tokenizer's vocabulary spells text: "bytes" (GPT-2's), "metaspace" (▁ for space), "other"."""
    decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    if decoder is None:
        return "other"
    state = json.loads(decoder.__getstate__())
    types = {part["type"] for part in [state, *state.get("decoders", [])]}
    if "ByteLevel" in types:
        return "bytes"
    return "metaspace" if types & {"Metaspace", "ByteFallback"} else "other"


def _byte_of_character() -> dict[str, int]:
    """GPT-2's alphabet: printable bytes stand for themselves, the others for characters from 256 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(256 + n): byte for n, byte in enumerate(others)}


def _from_bytes(piece: str, table: dict[str, int]) -> str:
    try:
        return bytes([table[character] for character in piece]).decode(
            "utf-8", "rotate_core.name_bytes"
        )
    except KeyError:  # not spelled in bytes: a token added without being declared so
        return piece


def _name_bytes(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    bad: Iterable[int] = error.object[error.start : error.end]
    return "".join(f"<0x{byte:02X}>" for byte in bad), error.end


codecs.register_error("rotate_core.name_bytes", _name_bytes)
