"""An ablated model's card, and the upload of what has a card: it, or what steers a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from rotate_core.models.fetch import PACKAGED

if TYPE_CHECKING:
    from torch import Tensor

    from rotate_core.models import Model

MODELS = {"config.json": "A model without some channels", "steering.safetensors": "A steered model"}
"""What is uploaded, by the file that tells."""
CARD = """\
---
license: {licence}
{base}tags:
- interpretability
- rotate
- ablated
---

# {name} without some channels

{name} (checksum `{checksum}`), with directions taken out of {n} weight vectors of its MLP neurons by
[ROTATE](https://arxiv.org/abs/2604.06005)'s companion rotate-core, mode `{mode}`. Every other tensor, the tokenizer and the configuration are the
original's. Layers and neurons count from 0:

| layer | kind | neuron | directions |
|---|---|---|---|
{rows}

It was made to see what the model does without them, and was neither trained nor evaluated after that. What the original's card says of its uses and
limits holds here; its licence does, too.
"""  # noqa: E501


def model_card(
    model: Model, ablations: Iterable[tuple[int, int, str, Tensor]], *, mode: str
) -> str:
    """The card of a model without some channels: what it is made of, and what was taken out.

    Args:
        model: the original.
        ablations: as for :func:`.edit.ablate`.
        mode: as for :func:`.edit.ablate`.
    """
    taken = Counter((layer, kind, neuron) for layer, neuron, kind, _ in ablations)
    return CARD.format(
        licence=PACKAGED[model.name].card_licence if model.name in PACKAGED else "other",
        base=f"base_model: {model.name}\n" if model.commit else "",
        name=model.name,
        checksum=model.checksum,
        n=len(taken),
        mode=mode,
        rows="\n".join(f"| {' | '.join(map(str, where))} | {taken[where]} |" for where in taken),
    )


def push_model(
    directory: str | Path, repository: str, *, private: bool = True, revision: str | None = None
) -> str:
    """Upload a model with its card, with huggingface_hub's own token.

    Args:
        directory: from :func:`.edit.save_ablated` or :func:`.steered.save_steering`.
        repository: "organisation/name"; made where it is not there.
        private: whether it is made for you alone.
        revision: a branch of it, made where it is not there; None is the main one.

    Returns:
        Its address.

    Raises:
        FileNotFoundError: it has no card, or neither a checkpoint nor vectors to steer with.
    """
    from huggingface_hub import HfApi

    there = {path.name for path in Path(directory).iterdir()}
    if "README.md" not in there or there.isdisjoint(MODELS):
        raise FileNotFoundError(
            f"{directory} has no README.md beside {' or '.join(MODELS)}: give what save_ablated or "
            "save_steering wrote"
        )
    api = HfApi()
    url = api.create_repo(repository, private=private, exist_ok=True)
    if revision is not None:
        api.create_branch(repository, branch=revision, exist_ok=True)
    message = next(MODELS[name] for name in MODELS if name in there)
    api.upload_folder(
        repo_id=repository, folder_path=directory, revision=revision, commit_message=message
    )
    return str(url)
