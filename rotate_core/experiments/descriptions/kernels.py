"""How alike two tokens are, so that a description can tell of tokens that it does not list.

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


@dataclass(frozen=True, eq=False)
class Kernels:
    """How alike two tokens are, from 0 to 1, in two ways."""

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
        span: int = 5,
        least: int = 5,
        seed: int = 0,
    ) -> Kernels:
        """PPMI of tokens within ``span`` of each other, and its truncated SVD (Levy and Goldberg).

        Args:
            train: windows of the train text only.
            tokens: strings of the vocabulary.
            n_dimensions: of the vectors.
            span: tokens on either side that count as context.
            least: occurrences that a token needs.
            seed: of the SVD's start.
        """
        from scipy.sparse import coo_matrix
        from scipy.sparse.linalg import svds

        forms: dict[str, int] = {}
        form = torch.tensor([forms.setdefault(t.strip().lower(), len(forms)) for t in tokens])
        d_vocab = len(tokens)
        pairs = [
            torch.stack([train[:, :-step].flatten(), train[:, step:].flatten()])
            for step in range(1, span + 1)
        ]
        a, b = torch.cat(pairs, 1).numpy()
        counts = coo_matrix(([1.0] * len(a), (a, b)), (d_vocab, d_vocab)).tocsr()
        counts = counts + counts.T
        seen = torch.bincount(train.flatten(), minlength=d_vocab).numpy()
        kept = (seen >= least).nonzero()[0]
        ppmi = counts[kept][:, kept].tocoo()
        total, margin = ppmi.sum(), np.asarray(ppmi.sum(0)).ravel()
        data = torch.tensor(ppmi.data * total / (margin[ppmi.row] * margin[ppmi.col])).log()
        ppmi.data = data.clamp_min(0).numpy()
        n = min(n_dimensions, len(kept) - 2)
        start = np.random.default_rng(seed).standard_normal(len(kept))
        u, s, _ = svds(ppmi, k=n, v0=start)
        vectors = torch.zeros(d_vocab, n)
        vectors[torch.from_numpy(kept)] = torch.from_numpy(u * s**0.5).float()
        norm = vectors.norm(dim=1, keepdim=True)
        return Kernels(form, vectors / norm.clamp_min(1e-12))

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
        kernel: str,
        *,
        previous: Int[Tensor, " n"] | None = None,
    ) -> Float[Tensor, " n"]:
        """The activation that a description predicts: max over its tokens of weight x kernel.

        Args:
            description: empty ones predict 0 everywhere.
            token: at each position.
            kernel: "exact" or "related".
            previous: the token before each position, for descriptions that look back.

        Returns:
            From 0 to 1 each.

        Raises:
            ValueError: a description that looks back, and nothing to look at.
        """
        if not description.ids:
            return torch.zeros(len(token))
        ids, weights = torch.tensor(description.ids), torch.tensor(description.weights)
        if not any(description.back):
            return (self.alike(token, ids, kernel) * weights).amax(1)
        if previous is None:
            raise ValueError("this description looks for tokens before a position: give previous")
        before = torch.tensor(description.back) == 1
        alike = torch.cat(
            [
                self.alike(token, ids[~before], kernel) * weights[~before],
                self.alike(previous, ids[before], kernel) * weights[before],
            ],
            dim=1,
        )
        return alike.amax(1)
