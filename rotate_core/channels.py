"""The vocabulary channels of some neurons: the one result type, in memory."""

from __future__ import annotations

import dataclasses
import html
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rotate_core.models.tokens import visible
from rotate_core.rotation.settings import Settings

if TYPE_CHECKING:
    import pandas as pd

POLARITIES = {1: "+", -1: "-", 0: "±"}
"""How a table writes the tail that a channel masks."""


class VocabularyLike(Protocol):
    """The part of a vocabulary that decompose needs: three attributes; a named tuple will do.

    :class:`rotate_core.Vocabulary` has them, and checks them. Neither a hash nor a weak reference
    is asked for. U may be in half precision: it is widened to float32 for the work.
    """

    @property
    def projection(self) -> Tensor:
        """U, (d_model, d_vocab)."""

    @property
    def token_weights(self) -> Tensor:
        """The weights m, (d_vocab,), from 0 to 1."""

    @property
    def tokens(self) -> Sequence[str]:
        """One string per token."""


class NeuronsLike(Protocol):
    """Weight vectors that know where they come from; :class:`rotate_core.Neurons` does."""

    @property
    def vectors(self) -> Tensor:
        """The weight vectors w, (n_neurons, d_model)."""

    @property
    def model(self) -> str:
        """Name of the model."""

    @property
    def layer(self) -> int:
        """Number of the layer."""

    @property
    def kind(self) -> str:
        """One of "gate", "in" and "out"."""

    @property
    def indices(self) -> tuple[int, ...]:
        """Neuron numbers within the layer."""


class Shown:
    """Shows itself as a table under a title: in a terminal, and in a notebook."""

    _column_width: ClassVar[int] = 60
    """Characters of a column, in a terminal."""

    def _title(self) -> str:
        raise NotImplementedError

    def _display(self, most: int) -> pd.DataFrame:
        raise NotImplementedError

    def __repr__(self) -> str:
        try:
            width = self._column_width
            table = self._display(20).to_string(index=False, max_colwidth=width)
        except ModuleNotFoundError:  # the base install has no pandas
            table = 'for a table: pip install "rotate-core[atlas]"'
        return f"{type(self).__name__} of {self._title()}\n{table}"

    def _repr_html_(self) -> str | None:
        try:
            table = self._display(60).to_html(index=False, escape=True, border=0)
        except ModuleNotFoundError:
            return None
        name = type(self).__name__
        return f"<p><strong>{name}</strong> of {html.escape(self._title())}</p>{table}"


@dataclass(frozen=True, eq=False, repr=False)
class Channels(Shown):
    """The vocabulary channels of some neurons: arrays of (n_neurons, n_channels, ...)."""

    vectors: Float[Tensor, "n_neurons n_channels d_model"]
    """Each of its neuron's norm; on the CPU, like everything here."""
    weight_vectors: Float[Tensor, "n_neurons d_model"]
    """The neurons themselves, w."""
    kurtosis: Float[Tensor, "n_neurons n_channels"]
    """Excess kurtosis of the unweighted projection ``U^T c``."""
    skewness: Float[Tensor, "n_neurons n_channels"]
    """Skewness of the unweighted projection."""
    cosine: Float[Tensor, "n_neurons n_channels"]
    """Cosine with the neuron's weight vector."""
    objective: Float[Tensor, "n_neurons n_channels"]
    """F at the end, under the token weights that the channel was found with."""
    gradient_norm: Float[Tensor, "n_neurons n_channels"]
    """Norm of F's gradient along the unit sphere at the end."""
    n_iter: Int[Tensor, "n_neurons n_channels"]
    converged: Bool[Tensor, "n_neurons n_channels"]
    n_masked: Int[Tensor, "n_neurons n_channels"]
    """Tokens in the channel's tail that no earlier channel of the neuron had masked."""
    polarity: Int[Tensor, "n_neurons n_channels"]
    """+1 or -1: the one tail that is masked; 0: both."""
    top_ids: Int[Tensor, "n_neurons n_channels n_top"]
    """Token numbers, heaviest first: by z, by -z, or where both tails count by ``|z|``."""
    top_z: Float[Tensor, "n_neurons n_channels n_top"]
    """Their z-scores in the channel's unweighted projection."""
    vocabulary: VocabularyLike
    settings: Settings
    seed: int
    indices: tuple[int, ...]
    """Neuron numbers (row numbers where plain vectors were given)."""
    model: str | None = None
    layer: int | None = None
    kind: str | None = None
    history: Float[Tensor, "n_neurons n_channels n_points"] | None = None
    """F after each iteration (each 100 steps for householder), NaN after the end; if asked for."""
    support: Float[Tensor, "n_neurons n_channels"] | None = None
    p_value: Float[Tensor, "n_neurons n_channels"] | None = None
    q_value: Float[Tensor, "n_neurons n_channels"] | None = None
    calibration: Any = None
    """What p- and q-values are over, where there are any: :class:`rotate_core.null.Calibration`."""

    @property
    def n_neurons(self) -> int:
        """Number of neurons."""
        return self.vectors.shape[0]

    @property
    def n_channels(self) -> int:
        """Channels of each neuron."""
        return self.vectors.shape[1]

    def top_tokens(
        self, neuron: int = 0, channel: int = 0, k: int | None = None
    ) -> list[tuple[str, float]]:
        """The k tokens of a channel's heavy tail with their z-scores, heaviest first.

        Args:
            neuron: row, not the neuron's number in its layer.
            channel: from 0.
            k: at most as many as were kept (50, or all tokens); None is 10 of them.
        """
        for name, value, n in (
            ("neuron", neuron, self.n_neurons),
            ("channel", channel, self.n_channels),
        ):
            if not -n <= operator.index(value) < n:
                raise IndexError(f"{name}={value}: there are {n}, counted from 0")
        n_top = self.top_ids.shape[2]
        k = min(10, n_top) if k is None else operator.index(k)
        if not 1 <= k <= n_top:
            raise ValueError(f"k={k}: wanted 1 to {n_top}, the tokens kept with a channel")
        ids, z = self.top_ids[neuron, channel, :k], self.top_z[neuron, channel, :k]
        tokens = self.vocabulary.tokens
        return [(tokens[i], value) for i, value in zip(ids.tolist(), z.tolist(), strict=True)]

    def table(self, k: int = 10) -> pd.DataFrame:
        """One row per channel, with its k top tokens as a list of strings."""
        import pandas as pd

        n, c = self.n_neurons, self.n_channels
        most = min(operator.index(k), self.top_ids.shape[2])
        columns: dict[str, Any] = {
            "model": self.model,
            "layer": self.layer,
            "kind": self.kind,
            "neuron": [index for index in self.indices for _ in range(c)],
            "channel": list(range(c)) * n,
        }
        for name in ("kurtosis", "skewness", "cosine", "n_masked", "n_iter", "converged"):
            columns[name] = getattr(self, name).flatten().numpy()
        columns["polarity"] = [POLARITIES[t] for t in self.polarity.flatten().tolist()]
        columns["top_tokens"] = [
            [token for token, _ in self.top_tokens(i, j, most)] for i in range(n) for j in range(c)
        ]
        for name in ("objective", "gradient_norm", "support", "p_value", "q_value"):
            if (value := getattr(self, name)) is not None:
                columns[name] = value.flatten().numpy()
        return pd.DataFrame(columns)

    def _title(self) -> str:
        origin = f"{self.model}, layer {self.layer}, {self.kind}: " if self.model else ""
        return (
            f"{visible(origin, keep=' ')}{self.n_neurons} neurons x {self.n_channels} channels "
            f"({self.settings.solver}, {self.settings.moments} moments)"
            + (f"; {self.calibration}" if self.calibration is not None else "")
        )

    def _display(self, most: int) -> pd.DataFrame:
        names = ["neuron", "channel", "kurtosis", "cosine", "n_masked", "polarity"]
        names += ["p_value", "q_value"]
        table = self.table(k=6).head(most)
        tokens = table["top_tokens"].map(lambda row: " ".join(map(visible, row)))
        shown = table[[name for name in names if name in table]]
        if "p_value" in shown:  # two digits of a small p are worth more than "0.00"
            ps = {name: shown[name].map("{:.2g}".format) for name in ("p_value", "q_value")}
            shown = shown.assign(**ps)
        return shown.round(2).assign(top_tokens=tokens)


def take(channels: Channels, rows: Sequence[int]) -> Channels:
    """The channels of some of the neurons, by row and in the order given."""
    chosen = list(rows)
    changes: dict[str, Any] = {name: value[chosen] for name, value in _arrays(channels).items()}
    indices = tuple(channels.indices[row] for row in chosen)
    return dataclasses.replace(channels, indices=indices, **changes)


def join(parts: Sequence[Channels]) -> Channels:
    """Several results with one vocabulary as one, neurons numbered by row: a batch to go on with.

    Small batches are slow, and neurons do not influence each other. :func:`split` takes it apart.
    """
    arrays = [_arrays(part) for part in parts]
    names = set.intersection(*map(set, arrays)) - {"history"}
    changes: dict[str, Any] = {name: torch.cat([part[name] for part in arrays]) for name in names}
    n = len(changes["vectors"])
    labels: dict[str, Any] = {"indices": tuple(range(n)), "layer": None, "kind": None}
    return dataclasses.replace(parts[0], **changes, **labels, history=None)


def split(channels: Channels, parts: Sequence[Channels]) -> list[Channels]:
    """Channels of joined neurons, apart and with the parts' own labels again."""
    apart, start = [], 0
    for part in parts:
        names = ("indices", "layer", "kind", "model")
        labels: dict[str, Any] = {name: getattr(part, name) for name in names}
        rows = range(start, start + part.n_neurons)
        apart.append(dataclasses.replace(take(channels, rows), **labels))
        start += part.n_neurons
    return apart


def first_channels(channels: Channels, n: int) -> Channels:
    """The first n channels of every neuron."""
    arrays = _arrays(channels)
    del arrays["weight_vectors"]
    changes: dict[str, Any] = {name: value[:, :n] for name, value in arrays.items()}
    return dataclasses.replace(channels, **changes)


def _arrays(channels: Channels) -> dict[str, Tensor]:
    """The arrays that a result has, by name."""
    fields = {field.name: getattr(channels, field.name) for field in dataclasses.fields(channels)}
    return {name: value for name, value in fields.items() if isinstance(value, Tensor)}
