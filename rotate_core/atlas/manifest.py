"""What an atlas is made of, and what is planned for it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

from rotate_core.models.architectures import KINDS
from rotate_core.rotation.settings import SOLVER_VERSION, Settings

MOST_NEURONS = 1 << 20
"""Of a layer: a number beyond is a mistake. The largest open models have 2^16 and fewer."""


@dataclass(frozen=True)
class Shard:
    """Neurons, or matched vectors, of a layer and kind: computed and written in one piece."""

    layer: int
    kind: str
    indices: tuple[int, ...]
    """Numbers of neurons in their layer, or of vectors in the null; ascending."""
    null: bool = False

    @property
    def group(self) -> tuple[int, str]:
        """Its layer and kind."""
        return self.layer, self.kind

    @property
    def stem(self) -> str:
        """Its path in the atlas, without an ending. A planned neuron is in one shard only."""
        what = "null" if self.null else "neurons"
        return f"{group_path(*self.group)}/{what}-{self.indices[0]:05d}-{self.indices[-1]:05d}"


def group_path(layer: int, kind: str) -> str:
    """The folder of a layer and kind."""
    return f"layer-{layer:02d}/{kind}"


@dataclass(frozen=True)
class Manifest:
    """The settings of an atlas, fixed once it is begun, and its shards, of which more may come."""

    model: str
    checksum: str
    """Of the model's weights, as :attr:`Model.checksum`."""
    settings: Settings
    n_channels: int
    seed: int
    null: int
    """Matched vectors for each layer and kind; 0: no p-values."""
    statistic: str
    """What channels are ranked by against the null: one of :data:`.STATISTICS`."""
    side: str
    """Which vocabulary matrix, as in :meth:`Model.vocabulary`."""
    fold_norm: bool
    versions: dict[str, str]
    solver_version: int = SOLVER_VERSION
    """1 where a manifest does not say. Neurons and a null of different solvers do not compare."""
    exceptions: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    """What a layer ("22") or one kind of it ("18/out") has otherwise: fields of :class:`Settings`,
    and ``max_channels``, a bound on ``n_channels``. A kind's come after its layer's."""
    shards: tuple[Shard, ...] = ()
    """Everything planned, whether it is there or not."""

    def settings_of(self, layer: int, kind: str) -> Settings:
        """The settings that a layer and kind, and its null, are decomposed with."""
        changes = self._exception(layer, kind)
        changes.pop("max_channels", None)
        return dataclasses.replace(self.settings, **changes)

    def n_channels_of(self, layer: int, kind: str) -> int:
        """The channels of each neuron of a layer and kind."""
        return min(self.n_channels, self._exception(layer, kind).get("max_channels", math.inf))

    def n_channels_in(self, shard: Shard) -> int:
        """The channels of a shard."""
        return len(shard.indices) * self.n_channels_of(*shard.group)

    def _exception(self, layer: int, kind: str) -> dict[str, Any]:
        of_layer = self.exceptions.get(str(layer), {})
        return of_layer | self.exceptions.get(f"{layer}/{kind}", {})

    def check_exceptions(self, n_layers: float = math.inf) -> None:
        """Refuse exceptions that are not understood.

        Raises:
            ValueError: a key that names no layer or kind of the model, an unknown setting or a bad
                value; the message names the key.
        """
        for key, changes in self.exceptions.items():
            layer, slash, kind = key.partition("/") if isinstance(key, str) else ("", "", "")
            if not layer.isdecimal() or int(layer) >= n_layers or (slash and kind not in KINDS):
                raise ValueError(
                    f"exception for {key!r}: wanted a layer of the model, such as '18', or a kind "
                    "of one, such as '18/out'"
                )
            most = changes.get("max_channels", 1) if isinstance(changes, dict) else 0
            if type(most) is not int or most < 1:
                raise ValueError(
                    f"exception for {key!r}: {changes!r}: wanted settings by name, max_channels at "
                    "least 1"
                )
            try:
                self.settings_of(int(layer), kind)
            except (TypeError, ValueError) as error:
                raise ValueError(f"exception for {key!r}: {error}") from None

    def digest(self, shard: Shard | None = None) -> str:
        """What a shard, or a piece of the whole, is made with: all that it depends on, hashed.

        Other shards beside it, and the versions of packages, do not count.
        """
        part = "" if shard is None else f"{shard.stem} {format_indices(shard.indices)}"
        return hashlib.sha256(f"{self._made_with}{part}".encode()).hexdigest()

    @cached_property
    def _made_with(self) -> str:
        fixed = dataclasses.asdict(dataclasses.replace(self, shards=(), versions={}))
        # Not in atlases that are older than these two.
        if self.settings.precision == "full":
            del fixed["settings"]["precision"]
        if self.solver_version == 1:
            del fixed["solver_version"]
        return json.dumps(fixed, sort_keys=True)

    def differences(self, other: Manifest) -> list[str]:
        """Each difference that keeps channels of the two apart, as "name: here -> there"."""
        pairs: list[tuple[str, Any, Any]] = []
        for name in (field.name for field in dataclasses.fields(self)):
            here, there = getattr(self, name), getattr(other, name)
            if name == "settings":
                names = [field.name for field in dataclasses.fields(Settings)]
                pairs += [(key, getattr(here, key), getattr(there, key)) for key in names]
            elif name not in ("versions", "shards"):
                pairs.append((name, here, there))
        return [f"{name}: {here} -> {there}" for name, here, there in pairs if here != there]

    def group(self, layer: int, kind: str, *, null: bool = False) -> tuple[Shard, ...]:
        """The planned shards of a layer and kind."""
        return tuple(self._grouped.get((layer, kind, null), ()))

    def shards_of(self, layer: int, kind: str) -> tuple[Shard, ...]:
        """The planned shards of a layer and kind, and of its matched vectors."""
        return self.group(layer, kind, null=True) + self.group(layer, kind)

    def groups(self) -> list[tuple[int, str]]:
        """Layers and kinds that have planned neurons, in order."""
        return sorted((layer, kind) for layer, kind, null in self._grouped if not null)

    @cached_property
    def _grouped(self) -> dict[tuple[int, str, bool], list[Shard]]:
        groups: dict[tuple[int, str, bool], list[Shard]] = {}
        for shard in self.shards:
            groups.setdefault((*shard.group, shard.null), []).append(shard)
        return groups


# --- Numbers of neurons as text -----------------------------------------------------------------


def parse_indices(text: str) -> tuple[int, ...]:
    """Numbers out of text: "0-3,8" -> (0, 1, 2, 3, 8), ascending, each once."""
    numbers: set[int] = set()
    for part in text.replace(",", " ").split():
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ValueError(f"{part!r} is no number and no range such as 0-99")
        if max(len(first), len(last)) > 9 or int(last or first) >= MOST_NEURONS:
            raise ValueError(f"{part[:40]!r}: no layer has so many neurons")
        low, high = int(first), int(last or first)
        if high < low:
            raise ValueError(f"the range {part} runs backwards")
        numbers.update(range(low, high + 1))
    return tuple(sorted(numbers))


def format_indices(indices: Sequence[int]) -> str:
    """Numbers as text: (0, 1, 2, 3, 8) -> "0-3,8"."""
    parts = []
    for _, pairs in groupby(enumerate(indices), key=lambda pair: pair[1] - pair[0]):
        run = [index for _, index in pairs]
        parts.append(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}")
    return ",".join(parts)


def listed(values: Sequence[object], most: int = 12) -> str:
    """Values for a message: "0 to 29", "gate, in, out", "1, 5, ... (40)"."""
    if isinstance(values, range):
        return f"{values[0]} to {values[-1]}"
    shown = ", ".join(map(str, values[:most]))
    return shown if len(values) <= most else f"{shown}, ... ({len(values)})"
