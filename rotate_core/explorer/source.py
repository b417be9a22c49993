"""The source of the explorer's channels: an atlas, or a decomposition made exactly like it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from rotate_core.channels import Channels, first_channels, take
from rotate_core.decomposition import decompose
from rotate_core.explorer.describe import SLIDERS, slider_values
from rotate_core.models.neurons import Neurons
from rotate_core.null.calibration import SIGNIFICANT, calibrate_among
from rotate_core.null.evidence import statistics
from rotate_core.null.matched import matched_vectors, own_seed
from rotate_core.rotation.settings import Settings

if TYPE_CHECKING:
    from rotate_core.atlas import Atlas
    from rotate_core.models import Model
    from rotate_core.models.vocabulary import Vocabulary


class NeuronId(NamedTuple):
    """A neuron of a model, by its numbers."""

    layer: int
    kind: str
    neuron: int


class Null(NamedTuple):
    """Matched vectors of one layer and kind, that channels are calibrated against."""

    statistic: str
    """What channels are ranked by: one of :data:`rotate_core.null.STATISTICS`."""
    values: Float[Tensor, "n_null n_channels"]
    """Its values of matched vectors' channels."""
    indices: tuple[int, ...] = ()
    """Numbers of the neurons that an atlas has calibrated; none without an atlas."""
    p_value: Float[Tensor, "n_neurons n_channels"] | None = None
    """Their p-values, one row per neuron."""


class Source:
    """One way to make channels, everywhere: side, folding, seed and all settings are the atlas's.

    A q-value is a statement about many channels, of which a share is false, so it is never taken
    over the handful of neurons that a page happens to show: where an atlas has calibrated a layer
    and kind, it is over the atlas's neurons, and elsewhere there is none.

    Args:
        model: whose neurons.
        atlas: None: the vocabulary's side is "auto", norms are not folded in, the seed is 0.
        settings: None for the atlas's, or ours. Others than the atlas's: nothing that it has stored
            is used, since it was made otherwise.
        n_channels: of each neuron; None for the atlas's, or 5.

    Raises:
        ValueError: the atlas is of another model.
    """

    def __init__(
        self,
        model: Model,
        atlas: Atlas | None = None,
        settings: Settings | None = None,
        n_channels: int | None = None,
    ) -> None:
        made = None if atlas is None else atlas.manifest
        if made is not None and made.checksum != model.checksum:
            raise ValueError(
                f"the atlas is of {made.model} with checksum {made.checksum}, the model "
                f"{model.name} has {model.checksum}: wanted the same"
            )
        self.model = model
        self.atlas = atlas
        self.settings = settings or (made.settings if made else Settings())
        self.n_channels = n_channels or (made.n_channels if made else 5)
        self.side, self.fold_norm, self.seed = (
            (made.side, made.fold_norm, made.seed) if made else ("auto", False, 0)
        )
        self.matching_atlas = atlas if made and made.settings == self.settings else None
        """The atlas, if its channels and matched vectors were made as this one's are."""
        self._nulls: dict[tuple[int, str], Null | None] = {}

    def vocabulary(self, layer: int) -> Vocabulary:
        """The layer's vocabulary, of the atlas's side and folded where the atlas's is."""
        return self.model.vocabulary(layer, side=self.side, fold_norm=self.fold_norm)

    def neurons(self, layer: int, kind: str, indices: Sequence[int] | None = None) -> Neurons:
        """Weight vectors, folded where the atlas's are; None for the whole layer."""
        return self.model.neurons(layer, kind, indices, fold_norm=self.fold_norm)

    def stored(self, neuron: NeuronId) -> Channels | None:
        """A neuron's first channels out of the atlas; None if it has none that are made alike."""
        layer, kind, index = neuron
        atlas = self.matching_atlas
        if atlas is None or (layer, kind) not in atlas.manifest.groups():
            return None
        if atlas.manifest.n_channels_of(layer, kind) < self.n_channels:
            return None
        if not any(index in shard.indices for shard in atlas.shards(layer=layer, kind=kind)):
            return None
        channels = atlas.channels(layer=layer, kind=kind, neuron=index)
        channels = dataclasses.replace(channels, vocabulary=self.vocabulary(layer))
        return first_channels(channels, self.n_channels)

    def decompose(
        self,
        neurons: Neurons,
        *,
        settings: Settings | None = None,
        n_channels: int | None = None,
        on_channel: Callable[[int], object] | None = None,
    ) -> list[Channels]:
        """The channels of each neuron by itself, calibrated where there is something made alike.

        Args:
            neurons: of one layer and kind.
            settings: None for those of the layer and kind.
            n_channels: of each neuron; None for the source's.
            on_channel: as :func:`rotate_core.decompose` takes it.
        """
        usual = self._settings_of(neurons.layer, neurons.kind)
        channels = self._decompose(
            neurons,
            n_channels=n_channels or self.n_channels,
            settings=settings or usual,
            on_channel=on_channel,
        )
        alone = [take(channels, [row]) for row in range(channels.n_neurons)]
        null = self._null(neurons.layer, neurons.kind)
        if null is None or channels.settings != usual:
            return alone
        return [_calibrated(neuron, null) for neuron in alone]

    def draw_null(self, layer: int, kind: str, n: int) -> None:
        """Decompose n matched vectors of a layer and kind to compare with, where there are none."""
        if self._null(layer, kind) is not None:
            return
        own = own_seed(self.seed, layer, kind)  # as an atlas draws them
        drawn = matched_vectors(self.neurons(layer, kind).vectors, n, seed=own)
        vectors = Neurons(drawn, self.model.name, layer, kind, tuple(range(n)), self.fold_norm)
        settings = self._settings_of(layer, kind)
        channels = self._decompose(vectors, n_channels=self.n_channels, settings=settings)
        self._nulls[layer, kind] = Null("core", statistics(channels, ("core",))["core"])

    def _settings_of(self, layer: int, kind: str) -> Settings:
        """Those of a layer and kind: an atlas may have exceptions."""
        atlas = self.matching_atlas
        return self.settings if atlas is None else atlas.manifest.settings_of(layer, kind)

    def _decompose(self, neurons: Neurons, **options: Any) -> Channels:
        u = self.vocabulary(neurons.layer)
        return decompose(neurons, u, seed=self.seed, progress=False, **options)

    def _null(self, layer: int, kind: str) -> Null | None:
        """The null of a layer and kind, if there is one."""
        group = (layer, kind)
        if group not in self._nulls:
            atlas = self.matching_atlas
            self._nulls[group] = None if atlas is None else _null_of(atlas, layer, kind)
        return self._nulls[group]

    # --- In words -------------------------------------------------------------------------------

    def sentence(self, channels: Channels) -> str:
        """One sentence on how channels were made, and on what p and q are over."""
        options = [f"{name}={value!r}" for name, value in self.hidden(channels.settings).items()]
        listed = f" ({', '.join(options)})" if options else ""
        return (
            f"{channels.n_channels} channels per neuron, by the {channels.settings.solver} "
            f"solver{listed}; {self._measured(channels)}."
        )

    def _measured(self, channels: Channels) -> str:
        if channels.calibration is not None:
            grey = f"; grey: not told apart from random vectors' (q not below {SIGNIFICANT:g})"
            return f"{channels.calibration}{'' if channels.q_value is None else grey}"
        if self.atlas is None or self.matching_atlas is not None:
            return "not measured against a null"
        made = self.atlas.manifest
        differences = made.differences(dataclasses.replace(made, settings=self.settings))
        return f"not measured: the atlas was made otherwise ({'; '.join(differences)})"

    def hidden(self, settings: Settings) -> dict[str, Any]:
        """Arguments without a slider that are not as by default, by their names in Python."""
        unlike = unlike_defaults(settings)
        here = {"seed": self.seed, "side": self.side, "fold_norm": self.fold_norm}
        usual = {"seed": 0, "side": "auto", "fold_norm": False}
        return {name: value for name, value in unlike.items() if name not in SLIDERS} | {
            name: value for name, value in here.items() if value != usual[name]
        }


def _null_of(atlas: Atlas, layer: int, kind: str) -> Null | None:
    """An atlas's matched vectors and p-values; None where it has not calibrated the group."""
    if (layer, kind) not in atlas.manifest.groups():
        return None
    if not all(atlas.shards(layer=layer, kind=kind, null=null) for null in (False, True)):
        return None
    channels = atlas.channels(layer=layer, kind=kind)
    if channels.p_value is None:  # p-values are written when the last neuron is there
        return None
    columns, statistic = ["neuron", "channel"], atlas.manifest.statistic
    table = atlas.table([*columns, statistic], layer=layer, kind=kind, null=True)
    values = torch.tensor(table.sort_values(columns)[statistic].to_numpy(), dtype=torch.float64)
    values = values.view(-1, channels.n_channels)
    return Null(statistic, values, channels.indices, channels.p_value)


def _calibrated(channels: Channels, null: Null) -> Channels:
    """One neuron's channels, with q-values among the atlas's other neurons if there are any."""
    others = null.p_value
    if others is not None:
        others = others[torch.tensor(null.indices) != channels.indices[0]]
    return calibrate_among(channels, null.values, others, statistic=null.statistic)


def unlike_defaults(settings: Settings) -> dict[str, Any]:
    """The fields of settings that are not as :class:`Settings` has them, by name.

    A field without a slider is compared with what follows from those that have one: 10,000
    iterations are nothing of their own where the solver is the paper's.
    """
    following = dataclasses.asdict(Settings(**slider_values(settings)))
    usual = following | slider_values(Settings())
    values = dataclasses.asdict(settings)
    return {name: value for name, value in values.items() if value != usual[name]}
