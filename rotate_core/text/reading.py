"""Some neurons of a layer as they read a text: what the causal chapters work on."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rotate_core.text.activations import neuron_activations
from rotate_core.text.corpus import Windows


@dataclass(frozen=True, eq=False)
class ReadingNeurons:
    """A text, the MLP input at each of its positions, and the vectors that neurons read it by."""

    windows: Windows
    x: Float[Tensor, "n_windows length d_model"]
    """The MLP input of the layer."""
    vectors: dict[str, Float[Tensor, "n_neurons d_model"]]
    """By kind: in, and gate where the MLP is gated."""
    act: torch.nn.Module
    token_read: str = "current"
    """The token to look up in tails: "current" or "next"."""

    def activation(self) -> Float[Tensor, "n_windows length n_neurons"]:
        """Each neuron's activation at every position."""
        return neuron_activations(self.x, self.vectors.get("gate"), self.vectors["in"], self.act)

    def edited(
        self,
        row: int,
        x: Float[Tensor, "*batch d_model"],
        vectors: dict[str, Float[Tensor, "n_edits d_model"]],
    ) -> Float[Tensor, "*batch n_edits"]:
        """One neuron's activation at MLP inputs ``x``, with other vectors of a kind for its own."""
        own = {kind: rows[row : row + 1] for kind, rows in self.vectors.items()}
        return replace(self, x=x, vectors=own | vectors).activation()

    def tokens(self, *, other: bool = False) -> Int[Tensor, " n_positions"]:
        """The token read at each counted position; ``other``: the one that is not."""
        return self.windows.next if (self.token_read == "next") != other else self.windows.current
