"""Likeness of tokens, so that a description can tell of tokens that it does not list.

Two kernels are reported, as each favours a method: *exact* (the same token, but for case and space:
favours what was read off text) and *related* (cosine of vectors learned on the train text by PPMI
and SVD; never U, which would favour what was read off the weights).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from rotate_core.experiments.descriptions.weights import Description

KERNELS = ("exact", "related")
SPAN = 5
"""Tokens on either side that count as context."""
LEAST_SEEN = 5
"""Occurrences in the train text that a token needs to get a vector."""


@dataclass(frozen=True, eq=False)
class Kernels:
    """Two measures of how alike two tokens are, from 0 to 1."""

    form: Int[Tensor, " d_vocab"]
    """Tokens with the same number are the same but for case and space."""
    vectors: Float[Tensor, "d_vocab n_dimensions"]
    """Unit vectors learned from text; 0 for tokens that the text has too rarely."""

    @staticmethod
    def learn(
        train: Int[Tensor, "n_windows length"],
        tokens: Sequence[str],
        *,
        n_dimensions: int = 100,
        seed: int = 0,
    ) -> Kernels:
        """PPMI of tokens near each other, and its truncated SVD (Levy and Goldberg).

        Args:
            train: windows of the train text only.
            tokens: strings of the vocabulary.
            n_dimensions: of the vectors.
            seed: of the SVD's start.
        """
        from scipy.sparse import coo_matrix
        from scipy.sparse.linalg import svds

        forms: dict[str, int] = {}
        form = torch.tensor([forms.setdefault(t.strip().lower(), len(forms)) for t in tokens])
        d_vocab = len(tokens)
        steps = range(1, SPAN + 1)
        before = torch.cat([train[:, :-step].flatten() for step in steps]).numpy()
        after = torch.cat([train[:, step:].flatten() for step in steps]).numpy()
        counts = coo_matrix((np.ones(len(before)), (before, after)), (d_vocab, d_vocab)).tocsr()
        counts = counts + counts.T
        kept = np.flatnonzero(np.bincount(train.flatten(), minlength=d_vocab) >= LEAST_SEEN)
        ppmi = counts[kept][:, kept].tocoo()
        total, margin = ppmi.sum(), np.asarray(ppmi.sum(0)).ravel()
        ppmi.data = np.log(ppmi.data * total / (margin[ppmi.row] * margin[ppmi.col])).clip(0)
        start = np.random.default_rng(seed).standard_normal(len(kept))
        u, s, _ = svds(ppmi, k=min(n_dimensions, len(kept) - 2), v0=start)
        vectors = torch.zeros(d_vocab, len(s))
        vectors[torch.from_numpy(kept)] = torch.from_numpy(u * s**0.5).float()
        return Kernels(form, torch.nn.functional.normalize(vectors))

    def alike(
        self, token: Int[Tensor, " n"], other: Int[Tensor, " m"], kernel: str
    ) -> Float[Tensor, "n m"]:
        """The kernel between each two tokens; a token is as like itself as can be, by either.

        Raises:
            ValueError: an unknown kernel.
        """
        if kernel not in KERNELS:
            raise ValueError(f"kernel={kernel!r}: wanted one of {', '.join(KERNELS)}")
        same = (self.form[token][:, None] == self.form[other][None]).float()
        if kernel == "exact":
            return same
        return torch.maximum(self.vectors[token] @ self.vectors[other].T, same).clamp_min(0)

    def predict(
        self,
        description: Description,
        token: Int[Tensor, " n"],
        previous: Int[Tensor, " n"],
        kernel: str,
    ) -> Float[Tensor, " n"]:
        """The activation that a description predicts: max over its tokens of weight x kernel.

        Args:
            description: empty ones predict 0 everywhere.
            token: at each position.
            previous: the token before each position, for descriptions that look back.
            kernel: "exact" or "related".

        Returns:
            From 0 to 1 each.
        """
        if not description.ids:
            return torch.zeros(len(token))
        ids = torch.tensor(description.ids)
        alike = self.alike(token, ids, kernel)
        if any(description.back):
            back = torch.tensor(description.back) == 1
            alike = torch.where(back, self.alike(previous, ids, kernel), alike)
        return (alike * torch.tensor(description.weights)).amax(1)
