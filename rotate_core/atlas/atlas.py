"""An atlas: the channels of many neurons in a folder, computed once, to be read and searched.

    from rotate_core import Atlas, load_model
    atlas = Atlas.build("atlas/", load_model("smollm2-135m"), layers=[29], neurons=25, null=100)
    atlas = Atlas.open("atlas/")
    atlas.summary()
    atlas.search("until")

The folder's layout: :mod:`rotate_core.atlas.shards`. Its making: :mod:`rotate_core.atlas.build`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch
from torch import Tensor

from rotate_core.atlas import hub, index
from rotate_core.atlas.build import build_atlas
from rotate_core.atlas.manifest import Manifest, Shard, listed
from rotate_core.atlas.manifest_file import read_manifest
from rotate_core.atlas.shards import (
    SCHEMA,
    is_there,
    read_columns,
    read_shard,
    read_tokens,
    readable,
)
from rotate_core.atlas.verify import lacking, verify
from rotate_core.channels import Channels
from rotate_core.models import Model, load_model
from rotate_core.models.tokens import visible
from rotate_core.models.vocabulary import Vocabulary
from rotate_core.null.calibration import SIGNIFICANT, Calibration

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

CALIBRATED = index.CALIBRATED.names


@dataclass(frozen=True, eq=False)
class Atlas:
    """The channels of many neurons, on disk. What is not whole yet is not shown."""

    folder: Path
    manifest: Manifest
    model: Model | None = None
    """For U; None: loaded by the manifest's name when U is asked for."""

    @staticmethod
    def open(
        folder: str | os.PathLike[str],
        *,
        model: Model | None = None,
        revision: str | None = None,
        layers: Sequence[int] | None = None,
    ) -> Atlas:
        """An atlas in a folder, or on a hub as "organisation/name" (a dataset, fetched once).

        Args:
            folder: where it is.
            model: for U; None: loaded when U is asked for.
            revision: of a hub's atlas; None is its main branch.
            layers: of a hub's atlas, to fetch these alone; None fetches all.

        Raises:
            FileNotFoundError: there is no atlas.
            ValueError: it is damaged, or of another model than the one given.
        """
        path = hub.fetched(folder, revision=revision, layers=layers)
        manifest = read_manifest(path)
        if model is not None and model.checksum != manifest.checksum:
            raise ValueError(
                f"{path} is of {manifest.model} with checksum {manifest.checksum}, the model "
                f"{model.name} has {model.checksum}"
            )
        return Atlas(path, manifest, model)

    @staticmethod
    def build(folder: str | os.PathLike[str], model: Model, **options: Any) -> Atlas:
        """Make an atlas or go on with one; options as of :func:`.build.build_atlas`."""
        build_atlas(folder, model, **options)
        return Atlas.open(folder, model=model)

    def push_to_hub(
        self,
        repository: str,
        *,
        private: bool = True,
        revision: str | None = None,
        licence: str | None = None,
    ) -> str:
        """Upload the atlas as a dataset with a card, with huggingface_hub's own token.

        Args:
            repository: "organisation/name"; made where it is not there.
            private: whether it is made for you alone.
            revision: a branch of it, made where it is not there; None is the main one.
            licence: of the model, as a hub's cards name it; None is that of a packaged model.

        Returns:
            Its address.

        Raises:
            ValueError: the atlas is damaged or not complete.
        """
        return hub.push(
            self.folder,
            self.manifest,
            repository,
            private=private,
            revision=revision,
            licence=licence,
        )

    def verify(self) -> list[str]:
        """What is damaged or missing, a line each: every file is read, and its checksum taken."""
        return verify(self.folder, self.manifest)

    # --- What is there --------------------------------------------------------------------------

    def shards(
        self, *, layer: int | None = None, kind: str | None = None, null: bool = False
    ) -> list[Shard]:
        """The shards that are there.

        Raises:
            ValueError: no such layer or kind is planned.
        """
        groups = self.manifest.groups()
        layers = sorted({number for number, _ in groups})
        if layer is not None and layer not in layers:
            raise ValueError(f"layer {layer}: {self.folder} has {listed(layers)}")
        kinds = sorted({name for number, name in groups if layer in (None, number)})
        if kind is not None and kind not in kinds:
            raise ValueError(f"kind {kind!r}: {self.folder} has {listed(kinds)}")
        return [
            shard
            for shard in self.manifest.shards
            if shard.null == null
            and layer in (None, shard.layer)
            and kind in (None, shard.kind)
            and is_there(self.folder, shard)
        ]

    def table(
        self,
        columns: Sequence[str] | None = None,
        *,
        layer: int | None = None,
        kind: str | None = None,
        null: bool = False,
    ) -> pd.DataFrame:
        """One row per channel: the columns of :meth:`Channels.table` and the channels' evidence.

        p- and q-values are missing where the null is, and until the layer and kind are complete.

        Args:
            columns: which; the fewer, the faster. None for all but the whole tails, which are
                there by name: ``tail_ids`` (token numbers) and ``tail_z``; see
                :data:`.shards.SCHEMA`.
            layer: None for all.
            kind: None for all.
            null: the matched vectors instead of the neurons.
        """
        shards = self.shards(layer=layer, kind=kind, null=null)
        if not shards:
            raise ValueError(f"{self.folder} has no whole shard yet; run `rotate decompose` again")
        if columns is None:
            shown = [name for name in SCHEMA.names if not name.startswith("tail_")]
            at = shown.index("polarity")
            shown[at:at] = CALIBRATED
            columns = ["top_tokens" if name == "top_ids" else name for name in shown]
        stored = [name for name in columns if name not in CALIBRATED]
        table = read_columns(self.folder, self.manifest, shards, stored)
        if len(stored) < len(columns):
            calibration = index.read_calibration(self.folder, self.manifest, shards)
            table = pa.table({c: (table if c in stored else calibration)[c] for c in columns})
        return readable(table, self.tokens)

    def channels(
        self, *, layer: int, kind: str, neuron: int | None = None, null: bool = False
    ) -> Channels:
        """The channels of a layer and kind, or of one neuron, as :func:`decompose` returned them.

        They have their token strings; what needs U loads it from the model.

        Raises:
            ValueError: no such layer, kind or neuron, naming what there is; or a damaged shard.
        """
        shards = self.shards(layer=layer, kind=kind, null=null)
        if neuron is not None:
            shards = [shard for shard in shards if neuron in shard.indices]
        if not shards:
            group = f"layer {layer}, {kind}"
            planned = sorted(i for s in self.manifest.group(layer, kind) for i in s.indices)
            if neuron not in (None, *planned):
                has = listed(planned)
                raise ValueError(f"{group} has no neuron {neuron}: {self.folder} has {has}")
            what = "planned" if neuron is None else f"neuron {neuron} is planned"
            raise ValueError(f"{group}: {what}, and not there yet; run `rotate decompose` again")
        parts = [read_shard(self.folder, self.manifest, shard) for shard in shards]
        row_of = {i: row for row, i in enumerate(i for shard in shards for i in shard.indices)}
        indices = sorted(row_of) if neuron is None else [neuron]
        rows = [row_of[i] for i in indices]
        arrays = {name: torch.cat([part[name] for part in parts])[rows] for name in parts[0]}
        calibration = index.read_calibration(self.folder, self.manifest, shards)
        calibrated = not calibration["q_value"].null_count
        for name in CALIBRATED if calibrated else ():
            values = torch.tensor(calibration[name].to_numpy())
            arrays[name] = values.view(-1, self.manifest.n_channels_of(layer, kind))[rows]
        return Channels(
            **arrays,
            calibration=self.calibration(layer, kind) if calibrated else None,
            vocabulary=_Vocabulary(self, layer),
            settings=self.manifest.settings_of(layer, kind),
            seed=self.manifest.seed,
            indices=tuple(indices),
            model=self.manifest.model,
            layer=layer,
            kind=kind,
        )

    def calibration(self, layer: int, kind: str) -> Calibration:
        """The neurons and matched vectors that p- and q-values of a layer and kind are over."""
        manifest = self.manifest
        n_neurons = sum(len(shard.indices) for shard in manifest.group(layer, kind))
        return Calibration(n_neurons, manifest.null, manifest.statistic)

    # --- Questions ------------------------------------------------------------------------------

    def search(self, word: str, *, limit: int | None = 20) -> pd.DataFrame:
        """Channels with a token in their tail that reads as ``word``, the strongest first.

        Whole tails are searched: where nothing is found, no channel that is there has the word.
        Case and the space around a token do not count. Strength is how far out the token is in the
        channel (its z-score) times the channel's support: how far out it is in the neuron. What is
        planned and not there is told in a warning of :mod:`logging`.
        """
        hits = index.search(self.folder, self.manifest, self.tokens, word, limit)
        if lines := lacking(self.folder, self.manifest):
            missing = f"{self.folder} is not complete: {listed(lines, 3)}"
            log.warning("%s; run the same `rotate decompose` again", missing)
        frame = readable(hits, self.tokens)
        return frame.assign(top_tokens=frame["top_tokens"].map(list))

    def summary(self) -> pd.DataFrame:
        """One row per layer and kind: how many, how sharp, how close, and how many beyond the null.

        ``floor`` is how many channels ranks alone would need beyond all matched vectors for any
        q-value below 0.1: see :meth:`.Calibration.fewest`.
        """
        import pandas as pd

        names = ["kurtosis", "cosine", "support"]
        rows = []
        for layer, kind in self.manifest.groups():
            if not self.shards(layer=layer, kind=kind):
                continue
            calibration = self.calibration(layer, kind)
            columns = [*names, "neuron", "channel", "q_value", "converged"]
            frame = self.table(columns, layer=layer, kind=kind)
            row = {
                "layer": layer,
                "kind": kind,
                "neurons": frame["neuron"].nunique(),
                "planned": calibration.n_neurons,
                "channels": len(frame),
                "converged": frame["converged"].mean(),
                **frame[names].median(),
            }
            if self.shards(layer=layer, kind=kind, null=True):
                null = self.table(names, layer=layer, kind=kind, null=True)
                row |= null.median().add_prefix("null_")
            if frame["q_value"].notna().all():
                row["floor"] = calibration.fewest()
                significant = frame["q_value"] < SIGNIFICANT
                row["significant"] = significant.mean()
                row["significant_first"] = significant[frame["channel"] == 0].mean()
            rows.append(row)
        return pd.DataFrame(rows)

    @cached_property
    def tokens(self) -> tuple[str, ...]:
        """The strings of the vocabulary."""
        return read_tokens(self.folder, self.manifest)

    @cached_property
    def _loaded(self) -> Model:
        """The model, the atlas's own or by its name."""
        model = self.model or load_model(self.manifest.model)
        if model.checksum != self.manifest.checksum:
            raise ValueError(
                f"{self.manifest.model} has checksum {model.checksum} here, the atlas is of "
                f"{self.manifest.checksum}: give the model to Atlas.open(..., model=)"
            )
        return model

    def vocabulary(self, layer: int) -> Vocabulary:
        """The vocabulary that a layer was decomposed with, out of the model."""
        made = self.manifest
        return self._loaded.vocabulary(layer, side=made.side, fold_norm=made.fold_norm)

    def __repr__(self) -> str:
        there, planned = self.shards(), [s for s in self.manifest.shards if not s.null]
        return (
            f"Atlas of {visible(self.manifest.model, keep=' ')} in {self.folder}: "
            f"{len(there)} of {len(planned)} shards, "
            f"{sum(len(s.indices) for s in there)} vectors x {self.manifest.n_channels} channels, "
            f"{self.manifest.null} matched vectors for each layer and kind"
        )


@dataclass(frozen=True, eq=False)
class _Vocabulary:
    """A layer's vocabulary for :class:`Channels`: tokens out of the atlas, U out of the model."""

    atlas: Atlas
    layer: int

    @property
    def tokens(self) -> Sequence[str]:
        return self.atlas.tokens

    @property
    def projection(self) -> Tensor:
        return self.atlas.vocabulary(self.layer).projection

    @property
    def token_weights(self) -> Tensor:
        return self.atlas.vocabulary(self.layer).token_weights
