"""Where the explorer's channels come from: an atlas, or a decomposition made exactly like it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from rotate_core.channels import first_channels
from rotate_core.decomposition import decompose
from rotate_core.explorer.describe import SLIDERS
from rotate_core.explorer.evidence import Comparison, measure
from rotate_core.models.neurons import Neurons
from rotate_core.null.calibration import SIGNIFICANT
from rotate_core.null.evidence import statistics
from rotate_core.null.matched import matched_vectors, own_seed
from rotate_core.rotation.settings import Settings

if TYPE_CHECKING:
    from rotate_core.atlas import Atlas
    from rotate_core.channels import Channels
    from rotate_core.models import Model
    from rotate_core.models.vocabulary import Vocabulary

Group = tuple[int, str]
"""(layer, kind)."""


class Source:
    """One way to make channels, everywhere: side, folding, seed and all settings are the atlas's.

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
        self.reads_atlas = made is not None and made.settings == self.settings
        """Whether the atlas's channels and matched vectors were made as this one's are."""
        self._vocabularies: dict[int, Vocabulary] = {}
        self._comparisons: dict[Group, Comparison | None] = {}

    def vocabulary(self, layer: int) -> Vocabulary:
        """The layer's vocabulary, kept: reading it takes longer than a channel."""
        if layer not in self._vocabularies:
            self._vocabularies[layer] = self.model.vocabulary(
                layer, side=self.side, fold_norm=self.fold_norm
            )
        return self._vocabularies[layer]

    def settings_of(self, layer: int, kind: str) -> Settings:
        """Those of a layer and kind: an atlas may have exceptions."""
        if self.atlas is None or not self.reads_atlas:
            return self.settings
        return self.atlas.manifest.settings_of(layer, kind)

    def neurons(self, layer: int, kind: str, indices: Sequence[int] | None = None) -> Neurons:
        """Weight vectors, folded where the atlas's are; None for the whole layer."""
        return self.model.neurons(layer, kind, indices, fold_norm=self.fold_norm)

    def stored(self, layer: int, kind: str, index: int) -> Channels | None:
        """A neuron's first channels out of the atlas; None if it has none that are made alike."""
        if self.atlas is None or not self.reads_atlas:
            return None
        made = self.atlas.manifest
        if (layer, kind) not in made.groups():
            return None
        if made.n_channels_of(layer, kind) < self.n_channels:
            return None
        if not any(index in shard.indices for shard in self.atlas.shards(layer=layer, kind=kind)):
            return None
        known = self.atlas.channels(layer=layer, kind=kind, neuron=index)
        known = dataclasses.replace(known, vocabulary=self.vocabulary(layer))
        return first_channels(known, self.n_channels)

    def decompose(
        self,
        neurons: Neurons,
        *,
        settings: Settings | None = None,
        n_channels: int | None = None,
        on_channel: Callable[[], object] | None = None,
    ) -> Channels:
        """Channels of neurons of one layer and kind, measured where there is something alike."""
        alike = self.settings_of(neurons.layer, neurons.kind)
        channels = decompose(
            neurons,
            self.vocabulary(neurons.layer),
            n_channels=n_channels or self.n_channels,
            settings=settings or alike,
            seed=self.seed,
            progress=False,
            on_channel=on_channel,
        )
        against = self.comparison(neurons.layer, neurons.kind)
        if against is None or channels.settings != alike:
            return channels
        return measure(channels, against)

    def comparison(self, layer: int, kind: str) -> Comparison | None:
        """What channels of a layer and kind are held against, if there is anything."""
        group = (layer, kind)
        if group not in self._comparisons:
            found = None
            if self.atlas is not None and self.reads_atlas:
                found = Comparison.from_atlas(self.atlas, layer, kind)
            self._comparisons[group] = found
        return self._comparisons[group]

    def draw_null(self, layer: int, kind: str, n: int) -> None:
        """Decompose n matched vectors of a layer and kind to compare with, where there are none."""
        if self.comparison(layer, kind) is not None:
            return
        own = own_seed(self.seed, layer, kind)  # as an atlas draws them
        drawn = matched_vectors(self.neurons(layer, kind).vectors, n, seed=own)
        vectors = Neurons(drawn, self.model.name, layer, kind, tuple(range(n)), self.fold_norm)
        values = statistics(self.decompose(vectors), ("core",))["core"]
        self._comparisons[layer, kind] = Comparison("core", values)

    def n_null(self, channels: Channels) -> int | None:
        """How many matched vectors the p-values are against; None where there are no p-values."""
        if channels.p_value is None:
            return None
        against = self._comparison_of(channels)
        if against is None:  # an atlas that grows: neurons that are new in it are not there yet
            return None if self.atlas is None else self.atlas.manifest.null
        return len(against.null)

    def _comparison_of(self, channels: Channels) -> Comparison | None:
        if channels.layer is None or channels.kind is None:
            return None
        return self.comparison(channels.layer, channels.kind)

    # --- In words -------------------------------------------------------------------------------

    def sentence(self, channels: Channels) -> str:
        """How channels were made, and what is known of them."""
        return f"{self._made(channels)}; {self._measured(channels)}."

    def _made(self, channels: Channels) -> str:
        text = (
            f"{channels.n_channels} channels per neuron, by the {channels.settings.solver} solver"
        )
        options = [f"{name}={value!r}" for name, value in self.hidden(channels.settings).items()]
        return f"{text} ({', '.join(options)})" if options else text

    def _measured(self, channels: Channels) -> str:
        n_null = self.n_null(channels)
        if n_null is None:
            if self.atlas is not None and not self.reads_atlas:
                return f"not measured: the atlas was made otherwise ({self._differences()})"
            return "not measured against a null"
        vectors = f"{n_null} matched vectors"
        if channels.q_value is None:
            return f"p-values against {vectors}; no q-value: nothing to adjust over"
        said: object = channels.calibration
        if said is None:
            against = self._comparison_of(channels)
            known = set() if against is None else set(against.indices)
            number = f"the {len(known)} neurons" if known else "the neurons"
            added = ", with this one added" if known - set(channels.indices) == known else ""
            said = (
                f"q-values over {number} that the atlas has of layer {channels.layer}, "
                f"{channels.kind}{added}, against {vectors}"
            )
        return f"{said}; grey: not told apart from random vectors' (q not below {SIGNIFICANT:g})"

    def _differences(self) -> str:
        """What the atlas was made with and this is not."""
        if self.atlas is None:
            return ""
        made = self.atlas.manifest
        wanted = dataclasses.replace(made, settings=self.settings)
        return "; ".join(made.differences(wanted))

    def hidden(self, settings: Settings) -> dict[str, Any]:
        """What has no slider and is not as by default, by the names of arguments in Python."""
        found = {
            name: value for name, value in unlike_defaults(settings).items() if name not in SLIDERS
        }
        for name, value, default in (
            ("seed", self.seed, 0),
            ("side", self.side, "auto"),
            ("fold_norm", self.fold_norm, False),
        ):
            if value != default:
                found[name] = value
        return found


def unlike_defaults(settings: Settings) -> dict[str, Any]:
    """The fields of settings that are not as :class:`Settings` has them, by name.

    A field without a slider is compared with what follows from those that have one: 10,000
    iterations are nothing of their own where the solver is the paper's.
    """
    sliders = {name: getattr(settings, name) for name in SLIDERS}
    ours, following = Settings(), Settings(**sliders)
    names = [field.name for field in dataclasses.fields(Settings)]
    return {
        name: getattr(settings, name)
        for name in names
        if getattr(settings, name) != getattr(ours if name in SLIDERS else following, name)
    }
