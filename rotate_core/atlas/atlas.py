"""An atlas: the channels of many neurons in a folder, computed once, to be read and searched.

    from rotate_core import Atlas, load_model
    atlas = Atlas.build("atlas/", load_model("smollm2-135m"), layers=[29], neurons=25, null=100)
    atlas = Atlas.open("atlas/")
    atlas.summary()
    atlas.search("until")

The folder's layout: :mod:`rotate_core.atlas.shards`. Its making: :mod:`rotate_core.atlas.build`.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rotate_core.atlas.manifest import Manifest, Shard, read_manifest
from rotate_core.atlas.shards import (
    is_there,
    read_arrays,
    read_schema,
    read_table,
    read_tokens,
    readable,
    table_path,
)
from rotate_core.channels import Channels
from rotate_core.models import Model, load_model
from rotate_core.models.model import HUB_ID
from rotate_core.models.vocabulary import Vocabulary
from rotate_core.null.calibration import SIGNIFICANT, Calibration
from rotate_core.storage import damaged

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow.dataset as ds


@dataclass(frozen=True, eq=False)
class StoredVocabulary:
    """Token strings out of an atlas; U itself only when asked for, out of the model."""

    tokens: Sequence[str]
    load: Callable[[], Vocabulary]

    @cached_property
    def _loaded(self) -> Vocabulary:
        return self.load()

    @property
    def projection(self) -> Tensor:
        """U, (d_model, d_vocab)."""
        return self._loaded.projection

    @property
    def token_weights(self) -> Tensor:
        """Weights that each token starts with, (d_vocab,)."""
        return self._loaded.token_weights


@dataclass(frozen=True, eq=False)
class Atlas:
    """The channels of many neurons, on disk. What is not whole yet is not shown."""

    folder: Path
    manifest: Manifest
    model: Model | None = None
    """For U; None: loaded by the manifest's name when U is asked for."""

    @staticmethod
    def open(folder: str | os.PathLike[str], *, model: Model | None = None) -> Atlas:
        """An atlas in a folder, or on a hub as "organisation/name" (a dataset, fetched once).

        Raises:
            FileNotFoundError: there is no atlas.
            ValueError: it is damaged, or of another model than the one given.
        """
        path = Path(folder)
        if not path.exists() and isinstance(folder, str) and HUB_ID.fullmatch(folder):
            path = _from_hub(folder)
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
        from rotate_core.atlas.build import build_atlas

        build_atlas(folder, model, **options)
        return Atlas.open(folder, model=model)

    def push_to_hub(self, repository: str, *, private: bool = True) -> str:
        """Upload the atlas as a dataset, with huggingface_hub's own token; returns its address."""
        from huggingface_hub import HfApi

        api = HfApi()
        url = api.create_repo(repository, repo_type="dataset", private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repository,
            repo_type="dataset",
            folder_path=self.folder,
            allow_patterns=["*.json", "*.parquet", "*.safetensors"],
            commit_message=f"Atlas of {self.manifest.model}",
        )
        return str(url)

    # --- What is there --------------------------------------------------------------------------

    def shards(
        self, *, layer: int | None = None, kind: str | None = None, null: bool = False
    ) -> list[Shard]:
        """The shards that are there.

        Raises:
            ValueError: no such layer or kind is planned.
        """
        self._check(layer, kind)
        return [
            shard
            for shard in self.manifest.shards
            if shard.null == null
            and layer in (None, shard.layer)
            and kind in (None, shard.kind)
            and is_there(self.folder, shard)
        ]

    def dataset(self, **which: Any) -> ds.Dataset:
        """All tables as one pyarrow dataset, for queries that need not read it all.

        As they are stored (:mod:`rotate_core.atlas.shards`): tokens are numbers, whose strings are
        ``tokens``, and the tail's side is +1, -1 or 0. Takes the arguments of :meth:`shards`.
        """
        import pyarrow.dataset as ds

        shards = self.shards(**which)
        if not shards:
            raise ValueError(f"{self.folder} has no whole shard yet; run `rotate decompose` again")
        paths = [table_path(self.folder, shard) for shard in shards]
        schema = read_schema(paths[0])
        return ds.dataset([str(path) for path in paths], schema=schema, format="parquet")

    def table(
        self,
        columns: Sequence[str] | None = None,
        *,
        layer: int | None = None,
        kind: str | None = None,
        null: bool = False,
    ) -> pd.DataFrame:
        """One row per channel: the columns of :meth:`Channels.table` with support, p- and q-value.

        p- and q-values are missing where the null is, and until the layer and kind are complete.

        Args:
            columns: which; the fewer, the faster. None for all but the whole tails, which are
                there by name: ``tail_ids`` (token numbers) and ``tail_z``; see
                :mod:`rotate_core.atlas.shards`.
            layer: None for all.
            kind: None for all.
            null: the matched vectors instead of the neurons.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        dataset = self.dataset(layer=layer, kind=kind, null=null)
        if columns is None:
            stored = [name for name in dataset.schema.names if not name.startswith("tail_")]
            columns = ["top_tokens" if name == "top_ids" else name for name in stored]
        fields = {name: pc.field(name) for name in columns}
        if "top_tokens" in fields:
            fields["top_tokens"] = pc.field("top_ids")
        try:
            table = dataset.to_table(columns=fields)
        except (pa.ArrowException, OSError) as error:
            for fragment in dataset.get_fragments():  # name the one that it is
                read_table(Path(fragment.path))
            raise ValueError(f"{self.folder}: {error}") from error
        return readable(table, pa.array(self.tokens)).to_pandas()

    def channels(
        self, *, layer: int, kind: str, neuron: int | None = None, null: bool = False
    ) -> Channels:
        """The channels of a layer and kind, or of one neuron, as :func:`decompose` returned them.

        They know their token strings; what needs U loads it from the model.

        Raises:
            ValueError: no such layer, kind or neuron, naming what there is; or a damaged shard.
        """
        shards = self.shards(layer=layer, kind=kind, null=null)
        if neuron is not None:
            shards = [shard for shard in shards if neuron in shard.indices]
        if not shards:
            raise ValueError(self._missing(layer, kind, neuron))
        parts = [self._read(shard, neuron) for shard in shards]
        arrays = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        indices = tuple(i for shard in shards for i in shard.indices if neuron in (None, i))
        order = sorted(range(len(indices)), key=indices.__getitem__)
        known = {  # p- and q-values come last
            name: values[order] for name, values in arrays.items() if not values.isnan().any()
        }
        return Channels(
            **known,
            calibration=self.calibration(layer, kind) if "q_value" in known else None,
            vocabulary=StoredVocabulary(self.tokens, lambda: self.vocabulary(layer)),
            settings=self.manifest.settings_of(layer, kind),
            seed=self.manifest.seed,
            indices=tuple(indices[i] for i in order),
            model=self.manifest.model,
            layer=layer,
            kind=kind,
        )

    def calibration(self, layer: int, kind: str) -> Calibration:
        """What the q-values of a layer and kind are over."""
        manifest = self.manifest
        n_neurons = sum(len(shard.indices) for shard in manifest.group(layer, kind))
        return Calibration(n_neurons, manifest.null, manifest.statistic)

    def _read(self, shard: Shard, neuron: int | None) -> dict[str, Any]:
        import pyarrow.compute as pc

        path = table_path(self.folder, shard)
        names = {field.name for field in dataclasses.fields(Channels)} - {"model", "layer", "kind"}
        stored = [name for name in read_schema(path).names if name in names]
        table = read_table(path, stored).combine_chunks()
        shape = (len(shard.indices), self.manifest.n_channels_of(*shard.group))
        arrays: dict[str, Any] = read_arrays(path.with_suffix(".safetensors"))
        if len(table) != shape[0] * shape[1] or arrays["vectors"].shape[:2] != shape:
            raise damaged(path, f"wanted {shape[0]} neurons x {shape[1]} channels")
        for name in stored:
            if name in ("top_ids", "top_z"):
                values = torch.tensor(pc.list_flatten(table[name]).to_numpy()).view(*shape, -1)
                arrays[name] = values.long() if name == "top_ids" else values
            else:
                arrays[name] = torch.tensor(table[name].to_numpy()).view(shape)
        rows = range(shape[0]) if neuron is None else [shard.indices.index(neuron)]
        return {name: values[list(rows)] for name, values in arrays.items()}

    # --- Questions ------------------------------------------------------------------------------

    def search(self, word: str, *, limit: int | None = 20) -> pd.DataFrame:
        """Channels with a token in their tail that reads as ``word``, the strongest first.

        Whole tails are searched: where nothing is found, no channel that is there has the word.
        Case and the space around a token do not count. Strength is how far out the token is in the
        channel (its z-score) times the channel's support: how far out it is in the neuron.
        """
        from rotate_core.atlas.search import search

        return search(self, word, limit)

    def summary(self) -> pd.DataFrame:
        """One row per layer and kind: how many, how sharp, how close, and how many beyond the null.

        ``floor`` is how many channels ranks alone would need beyond all matched vectors for any
        q-value below 0.1: see :class:`rotate_core.channels.Calibration`.
        """
        import pandas as pd

        names = ["kurtosis", "cosine", "support"]
        rows = []
        for layer, kind in self.manifest.groups():
            if not self.shards(layer=layer, kind=kind):
                continue
            frame = self.table(
                [*names, "neuron", "channel", "q_value", "converged"], layer=layer, kind=kind
            )
            row: dict[str, Any] = {
                "layer": layer,
                "kind": kind,
                "neurons": frame["neuron"].nunique(),
            }
            planned = sum(len(shard.indices) for shard in self.manifest.group(layer, kind))
            row |= {
                "planned": planned,
                "channels": len(frame),
                "converged": frame["converged"].mean(),
            }
            row |= {name: frame[name].median() for name in names}
            if self.shards(layer=layer, kind=kind, null=True):
                null = self.table(names, layer=layer, kind=kind, null=True)
                row |= {f"null_{name}": null[name].median() for name in names}
            if frame["q_value"].notna().all():
                row["floor"] = self.calibration(layer, kind).fewest()
                significant = frame["q_value"] < SIGNIFICANT
                row["significant"] = significant.mean()
                row["significant_first"] = significant[frame["channel"] == 0].mean()
            rows.append(row)
        return pd.DataFrame(rows)

    @cached_property
    def tokens(self) -> tuple[str, ...]:
        """The strings of the vocabulary."""
        return read_tokens(self.folder)

    def vocabulary(self, layer: int) -> Vocabulary:
        """The vocabulary that a layer was decomposed with, out of the model."""
        model = self.model or load_model(self.manifest.model)
        if model.checksum != self.manifest.checksum:
            raise ValueError(
                f"{self.manifest.model} has checksum {model.checksum} here, the atlas is of "
                f"{self.manifest.checksum}: give the model to Atlas.open(..., model=)"
            )
        return model.vocabulary(layer, side=self.manifest.side, fold_norm=self.manifest.fold_norm)

    # --- Errors ---------------------------------------------------------------------------------

    def _check(self, layer: int | None, kind: str | None) -> None:
        groups = self.manifest.groups()
        layers = sorted({number for number, _ in groups})
        if layer is not None and layer not in layers:
            raise ValueError(f"layer {layer}: {self.folder} has {_listed(layers)}")
        kinds = sorted({name for number, name in groups if layer in (None, number)})
        if kind is not None and kind not in kinds:
            raise ValueError(f"kind {kind!r}: {self.folder} has {_listed(kinds)}")

    def _missing(self, layer: int, kind: str, neuron: int | None) -> str:
        place = f"layer {layer}, {kind}"
        planned = {i for shard in self.manifest.group(layer, kind) for i in shard.indices}
        if neuron is None or neuron in planned:
            what = "planned" if neuron is None else f"neuron {neuron} is planned"
            return f"{place}: {what}, and not there yet; run `rotate decompose` again"
        return f"{place} has no neuron {neuron}: {self.folder} has {_listed(sorted(planned))}"

    def __repr__(self) -> str:
        there, planned = self.shards(), [s for s in self.manifest.shards if not s.null]
        return (
            f"Atlas of {self.manifest.model} in {self.folder}: "
            f"{len(there)} of {len(planned)} shards, "
            f"{sum(len(s.indices) for s in there)} vectors x {self.manifest.n_channels} channels, "
            f"{self.manifest.null} matched vectors for each layer and kind"
        )


def _listed(values: Iterable[object], most: int = 12) -> str:
    values = list(values)
    shown = ", ".join(map(str, values[:most]))
    return shown if len(values) <= most else f"{shown}, ... ({len(values)})"


def _from_hub(repository: str) -> Path:
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.parquet", "*.safetensors"]
    return Path(snapshot_download(repository, repo_type="dataset", allow_patterns=patterns))
