"""A steered model to publish: what is added to its activations, in a file, and a card.

Steering is no weight. Behind an MLP it would be a bias, and of the families in `ARCHITECTURES`
GPT-2's alone always has one. So the model stays where it is, and what goes to a hub are the
vectors: they name the model that they are for, and take no more room than a few numbers do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from rotate_core.models.fetch import PACKAGED
from rotate_core.models.hub import hub_file
from rotate_core.models.neurons import check_layer
from rotate_core.storage import write_whole
from rotate_core.text.sites import SITES, check_site
from rotate_core.text.steering import added, steer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from rotate_core.models import Model

NAME = "steering.safetensors"
TENSOR = re.compile(rf"layers\.(\d+)\.({'|'.join(SITES)})", re.ASCII)
Steering: TypeAlias = "Mapping[tuple[int, str], Tensor]"
"""(layer, site) -> what is added there at every position: d_model values, or d_mlp at "hidden"."""
CARD = """\
---
license: {licence}
{base}tags:
- interpretability
- rotate
- steering
---

# {name}, steered

Vectors that are added to activations of {name} (checksum `{checksum}`) at every position, of the prompt and of what is generated. Its weights are not
here, and are not changed. Layers count from 0; of the sites, `residual` is the stream behind a whole layer and `mlp_out` what its MLP adds to it:

| layer | site | length of the vector |
|---|---|---|
{rows}

```python
from rotate_core import load_model
from rotate_core.text.steered import read_steering, steered

model = load_model("{name}")
steering = read_steering("organisation/name", model=model)    # this repository, or a folder with its files
with steered(model.transformers(), steering) as network:
    ...
```

Made with the companion of [ROTATE](https://arxiv.org/abs/2604.06005), rotate-core. Without it: `{file}` has a tensor `layers.LAYER.SITE` for each row.

It was made to see what the model does with them, and was not evaluated. What the model's card says of its uses and limits holds here; its licence does,
too.
"""  # noqa: E501


def save_steering(model: Model, steering: Steering, directory: str | Path) -> Path:
    """Write what steers a model, and a model card; :func:`.share.push_model` uploads them.

    Args:
        model: that it is for.
        steering: strengths are in the vectors: ``{(20, "residual"): 8 * unit}``.
        directory: a folder that does not exist yet.

    Returns:
        The directory.

    Raises:
        FileExistsError: there is something at `directory`.
        ValueError, IndexError: no vector, one of a wrong shape or not finite, no such site, layer.
    """
    directory = Path(directory)
    if directory.exists():
        raise FileExistsError(f"{directory} exists; name a folder that does not")
    if not steering:
        raise ValueError("there is no vector: wanted one at least, by layer and site")
    tensors = {}
    for (number, site), vector in sorted(steering.items()):
        check_site(site)
        layer = check_layer(number, model.n_layers)
        width = model.d_mlp if site == "hidden" else model.d_model
        if vector.shape != (width,) or not torch.isfinite(vector).all():
            raise ValueError(
                f"layer {layer}, {site}: shape {tuple(vector.shape)}; wanted ({width},), all finite"
            )
        tensors[f"layers.{layer}.{site}"] = vector.detach().float().cpu().contiguous()
    made_for = {"model": model.name, "checksum": model.checksum}
    write_whole(directory / NAME, save(tensors, made_for))
    write_whole(directory / "README.md", _card(model, tensors).encode())
    return directory


def _card(model: Model, tensors: Mapping[str, Tensor]) -> str:
    rows = []
    for name, vector in tensors.items():
        _, layer, site = name.split(".")
        rows.append(f"| {layer} | {site} | {vector.norm():.4g} |")
    return CARD.format(
        licence=PACKAGED[model.name].card_licence if model.name in PACKAGED else "other",
        base=f"base_model: {model.name}\n" if model.commit else "",
        name=model.name,
        checksum=model.checksum,
        rows="\n".join(rows),
        file=NAME,
    )


def read_steering(
    where: str | Path, *, model: Model | None = None, revision: str | None = None
) -> dict[tuple[int, str], Tensor]:
    """What :func:`save_steering` wrote, from a folder or a hub; float32, on the CPU.

    Args:
        where: a folder, or a hub's "organisation/name".
        model: compared with the one that the vectors are for; None: not compared.
        revision: of the hub's repository; None is the newest.

    Raises:
        FileNotFoundError: there is no such file in it.
        ValueError: it is no file of steering, or of another model.
    """
    folder = Path(where)
    path = folder / NAME if folder.exists() else hub_file(NAME, str(where), revision)
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no {NAME}: give what save_steering wrote")
    try:
        with safe_open(path, "pt") as file:
            made_for = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file: {error}") from None
    checksum = made_for.get("checksum")
    if model is not None and checksum != model.checksum:
        raise ValueError(
            f"{path} is for {made_for.get('model')} with checksum {checksum}; the model "
            f"{model.name} has {model.checksum}"
        )
    steering = {}
    for name, vector in tensors.items():
        found = TENSOR.fullmatch(name)
        if found is None or vector.ndim != 1:
            raise ValueError(f"{path}: {name!r} is no vector layers.LAYER.SITE")
        steering[int(found[1]), found[2]] = vector
    return steering


@contextmanager
def steered(network: PreTrainedModel, steering: Steering) -> Iterator[PreTrainedModel]:
    """Run a model with every vector added at its layer and site; :func:`.steering.steer` says how.

    Raises:
        TypeError, ValueError, IndexError: as for :func:`.steering.steer`.
    """
    with ExitStack() as stack:
        for (layer, site), vector in steering.items():
            stack.enter_context(steer(network, layer, added(vector), site=site))
        yield network
