"""An atlas on a hub: a dataset with a card, uploaded whole, fetched whole or by layer."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rotate_core.atlas.manifest import Manifest, group_path
from rotate_core.atlas.page import NAME, page
from rotate_core.atlas.verify import verify
from rotate_core.models.fetch import PACKAGED
from rotate_core.models.model import HUB_ID

ENDINGS = ("json", "parquet", "safetensors", "sha256")
"""Of the files of an atlas that a hub has."""
CONFIGS = {"neurons": "neurons-*", "null": "null-*", "calibration": "calibration", "index": "index"}
"""The tables that a hub's viewer shows, each by the name of its files in a layer and kind."""
CARD = """\
---
license: {licence}
tags:
- interpretability
- rotate
configs:
{configs}
---

# Vocabulary channels of {model}

The MLP neurons of {model} (checksum `{checksum}`), taken apart into directions that are peaked over the vocabulary, from the weights alone, by
[ROTATE](https://arxiv.org/abs/2604.06005). Made with rotate-core {version}.

```python
from rotate_core import Atlas

atlas = Atlas.open("{repository}"{revision})    # or layers=[{layer}]: that layer alone
atlas.search("until")
atlas.channels(layer={layer}, kind="{kind}", neuron={neuron}).vectors
```

| what | |
|---|---|
| layers and kinds | {groups} |
| channels of each neuron | {n_channels} |
| matched vectors of each layer and kind | {null} |
| seed | {seed} |
| settings | `{settings}` |

Without Python: download `atlas.html` and open it in a browser. It reads this dataset by ranges, what is looked at and no more.

Tables: `neurons` has one row per channel, `null` the same for matched vectors, `calibration` p- and q-values in the order of the neurons, `index` tokens to
channels. Tokens are numbers, whose strings are in `tokens.json`; the directions are in the safetensors files beside the tables.

{reading}

The weights that this was computed from are under the model's own licence, and so is what is derived from them.
"""  # noqa: E501
WITH_NULL = """\
Any vector has sharp channels: a kurtosis is no evidence that a channel is the neuron's. A q-value is: the expected share of channels as good as this one that
{null} random vectors with the layer's mean and covariance would show as well; it is over the neurons of one layer and kind, a position at a time."""  # noqa: E501
WITHOUT_NULL = """\
Any vector has sharp channels, and this atlas has no null: nothing here says which of its channels are the neurons' own."""  # noqa: E501


def fetched(
    repository: str | os.PathLike[str],
    *,
    revision: str | None = None,
    layers: Sequence[int] | None = None,
) -> Path:
    """The folder of an atlas: a folder that is here, or a hub's dataset, fetched once.

    Args:
        repository: a folder, or a hub's "organisation/name".
        revision: a branch, tag or commit of the dataset; None is its main branch.
        layers: fetch these alone; None fetches all.

    Raises:
        FileNotFoundError: the hub has no such dataset, or no such revision of it.
        ValueError: a revision or layers of a folder that is here.
    """
    path = Path(repository)
    if path.exists() or not (isinstance(repository, str) and HUB_ID.fullmatch(repository)):
        if revision is not None or layers is not None:
            raise ValueError(f"{path} is no hub's atlas: revision and layers choose what to fetch")
        return path
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    folders = [""] if layers is None else ["[!l]", *(group_path(n, "") for n in layers)]
    patterns = [f"{folder}*.{ending}" for folder in folders for ending in ENDINGS]
    where: dict[str, Any] = {"repo_type": "dataset", "revision": revision}
    try:
        return Path(snapshot_download(repository, **where, allow_patterns=patterns))
    except RevisionNotFoundError as error:
        raise FileNotFoundError(f"the hub's {repository} has no revision {revision!r}") from error
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"there is no folder {repository!r} here and no such dataset on the hub, or it is "
            "private (then 'hf auth login' helps)"
        ) from error


def push(
    folder: Path,
    manifest: Manifest,
    repository: str,
    *,
    private: bool,
    revision: str | None,
    licence: str | None,
) -> str:
    """Upload an atlas, its card and its page, once every checksum is as written.

    Returns:
        The dataset's address.

    Raises:
        ValueError: a file is damaged, or something that is planned is missing.
    """
    from huggingface_hub import HfApi

    if lines := verify(folder, manifest):
        raise ValueError(
            f"{folder} is not whole: {lines[0]}; run the same `rotate decompose` again"
        )
    api = HfApi()
    where: dict[str, Any] = {"repo_id": repository, "repo_type": "dataset"}
    url = api.create_repo(**where, private=private, exist_ok=True)
    if revision is not None:
        api.create_branch(**where, branch=revision, exist_ok=True)
    text = card(folder, manifest, repository, revision=revision, licence=licence)
    said: dict[str, Any] = {"revision": revision, "commit_message": f"Atlas of {manifest.model}"}
    patterns = [f"*.{ending}" for ending in ENDINGS]
    api.upload_folder(**where, **said, folder_path=folder, allow_patterns=patterns)
    beside = {"README.md": text.encode("utf-8"), NAME: page(_address(repository, revision))}
    for name, content in beside.items():
        api.upload_file(**where, **said, path_in_repo=name, path_or_fileobj=content)
    return str(url)


def _address(repository: str, revision: str | None) -> str:
    """Where the hub serves the dataset's files."""
    from huggingface_hub import hf_hub_url

    return hf_hub_url(repository, NAME, repo_type="dataset", revision=revision).removesuffix(NAME)


def card(
    folder: Path,
    manifest: Manifest,
    repository: str,
    *,
    revision: str | None = None,
    licence: str | None = None,
) -> str:
    """The dataset's card: its tables for the viewer, settings, null, and how to read it.

    Args:
        folder: the atlas.
        manifest: of it.
        repository: what the hub will call it.
        revision: that it goes to.
        licence: of the model, as the hub names it; None is that of a packaged model, else "other".
    """
    known = PACKAGED[manifest.model].card_licence if manifest.model in PACKAGED else "other"
    layer, kind = manifest.groups()[-1]
    tables = [name for name, stem in CONFIGS.items() if any(folder.glob(f"*/*/{stem}.parquet"))]
    configs = [
        f'- config_name: "{name}"\n  data_files: "layer-*/*/{CONFIGS[name]}.parquet"'
        for name in tables
    ]
    reading = WITH_NULL if manifest.null else WITHOUT_NULL
    return CARD.format(
        licence=licence or known,
        configs="\n".join(configs),
        model=manifest.model,
        checksum=manifest.checksum,
        version=manifest.versions.get("rotate_core", "of an unknown version"),
        repository=repository,
        revision="" if revision is None else f', revision="{revision}"',
        layer=layer,
        kind=kind,
        neuron=min(i for shard in manifest.group(layer, kind) for i in shard.indices),
        groups=", ".join(f"{layer}/{kind}" for layer, kind in manifest.groups()),
        n_channels=manifest.n_channels,
        null=manifest.null,
        seed=manifest.seed,
        settings=json.dumps(dataclasses.asdict(manifest.settings)),
        reading=reading.format(null=manifest.null),
    )
