"""The widget: embeds what it can show by itself, and answers where a kernel runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget
import traitlets

from rotate_core.decomposition import decompose
from rotate_core.experiments.sample import first_channels
from rotate_core.explorer.describe import describe
from rotate_core.explorer.jobs import Jobs
from rotate_core.explorer.live import SLIDERS, Answer, Live
from rotate_core.explorer.page import STATIC, page_script
from rotate_core.settings import Settings
from rotate_core.support import calibrate, matched_vectors

if TYPE_CHECKING:
    from torch import Tensor

    from rotate_core.atlas import Atlas
    from rotate_core.channels import Channels
    from rotate_core.models import Model
    from rotate_core.neurons import Neurons

Choice = tuple[int, str, int]
"""(layer, kind, neuron)."""


class Explorer(anywidget.AnyWidget):
    """Look at neurons channel by channel, and rotate them with other settings.

    In a notebook Python answers: any neuron, the paper's solver too, texts with a channel switched
    off. Without a kernel the widget shows the neurons that it was given; with a `file` a reader
    can rotate them in the browser.

    Args:
        model: from :func:`rotate_core.load_model`.
        atlas: where channels are looked up first.
        neurons: (layer, kind, neuron) of those to embed, the first one to be shown first. None: the
            first neuron of the atlas, or of the middle layer.
        notes: a word on some of them.
        null: matched vectors a layer and kind to calibrate the embedded neurons against, where the
            atlas has none. 0 for none: then no channel has a q-value.
        n_channels: channels of each.
        settings: how to decompose; None is the atlas's, or ours.
        file: U for the browser, from :func:`rotate_core.explorer.book.served_file`.

    Raises:
        ValueError, IndexError, TypeError: there is no such neuron.
    """

    _esm = STATIC / "explorer.js"
    _css = STATIC / "explorer.css"
    content = traitlets.Dict().tag(sync=True)
    """All that the widget shows by itself."""

    def __init__(
        self,
        model: Model,
        atlas: Atlas | None = None,
        *,
        neurons: Iterable[Choice] | None = None,
        notes: dict[Choice, str] | None = None,
        null: int = 0,
        n_channels: int | None = None,
        settings: Settings | None = None,
        file: dict[str, str | int] | None = None,
    ) -> None:
        super().__init__()
        if atlas is not None:
            settings = settings or atlas.manifest.settings
            n_channels = n_channels or atlas.manifest.n_channels
        self._live = Live(model, atlas, settings or Settings(), n_channels or 5)
        self._jobs = Jobs(self.send)
        chosen = [tuple(choice) for choice in neurons] if neurons is not None else [self._first()]
        self.content = content(self._live, chosen, notes or {}, null, file)  # type: ignore[arg-type]
        self.on_msg(self._receive)

    def save(
        self, path: str | Path, *, n_neurons: int | None = None, compact: bool = False
    ) -> None:
        """Write a script that shows the explorer in any page: ``<script src="PATH">``.

        Args:
            path: where to.
            n_neurons: the first so many of those embedded; None for all.
            compact: only the neuron, its channels and the sliders.
        """
        neurons = self.content["neurons"][:n_neurons]
        content = self.content | {"neurons": neurons, "compact": compact}
        Path(path).write_text(page_script(content), encoding="utf-8")

    def __repr__(self) -> str:
        return f"Explorer({self._live.model.name!r}, {len(self.content['neurons'])} neurons)"

    def _repr_mimebundle_(self, **options: Any) -> Any:
        """The widget for Jupyter, and a script for pages that are made of the notebook."""
        bundle = super()._repr_mimebundle_(**options)
        data = bundle[0] if isinstance(bundle, tuple) else bundle
        if data is not None:
            data["text/html"] = f"<script>{page_script(self.content)}</script>"
        return bundle

    def _first(self) -> Choice:
        if self._live.atlas is not None:
            for shard in self._live.atlas.shards():
                return (shard.layer, shard.kind, shard.indices[0])
        return (self._live.model.n_layers // 2, self._live.model.kinds[-1], 0)

    def _receive(self, _: Any, message: dict[str, Any], __: Any) -> None:
        kind, id_ = message.get("type"), str(message.get("id"))
        answers: dict[str, Answer] = {
            "stored": self._live.stored,
            "decompose": self._live.decompose,
            "search": self._live.search,
            "prompt": self._live.prompt,
        }
        if kind == "hello":
            self.send({"type": "result", "id": id_})
        elif kind == "cancel":
            self._jobs.cancel(id_)
        elif kind in answers:
            answer = answers[kind]
            self._jobs.start(id_, lambda job: answer(message, job))


def content(
    live: Live,
    neurons: Sequence[Choice],
    notes: dict[Choice, str],
    null: int,
    file: dict[str, str | int] | None,
) -> dict[str, Any]:
    """All that the explorer shows by itself, ready for JSON."""
    model = live.model
    groups: dict[tuple[int, str], list[int]] = {}
    for layer, kind, index in neurons:
        groups.setdefault((layer, kind), []).append(index)
    described: dict[Choice, dict[str, Any]] = {}
    for (layer, kind), indices in groups.items():
        for channels in _stored(live, layer, kind, indices, null):
            for neuron in describe(channels, source=live.source(channels)):
                described[layer, kind, neuron["index"]] = neuron
    for choice, note in notes.items():
        if choice in described:
            described[choice]["note"] = note
    settings = {name: getattr(live.settings, name) for name in SLIDERS}
    return {
        "info": {
            "model": model.name,
            "n_layers": model.n_layers,
            "d_mlp": model.d_mlp,
            "kinds": list(model.kinds),
        },
        "neurons": [described[choice] for choice in neurons],
        "settings": settings | {"n_channels": live.n_channels},
        "file": file,
    }


def _stored(live: Live, layer: int, kind: str, indices: list[int], null: int) -> Iterable[Channels]:
    """Channels of some neurons of one layer and kind: from the atlas, else decomposed here."""
    missing = []
    for index in indices:
        known = live.from_atlas({"layer": layer, "kind": kind, "index": index})
        if known is None:
            missing.append(index)
        else:
            known = first_channels(known, live.n_channels)
            yield dataclasses.replace(known, vocabulary=live.vocabulary(layer))
    if missing:
        channels = _solve(live, live.model.neurons(layer, kind, missing), layer)
        matched = _null(live, layer, kind, null)
        yield channels if matched is None else calibrate(channels, matched)


def _null(live: Live, layer: int, kind: str, n: int) -> Channels | None:
    """The atlas's matched vectors where they were made as ours would be, else n of our own."""
    if live.atlas is not None:
        made = live.atlas.manifest
        alike = (made.settings, made.statistic) == (live.settings, "core")
        plain = (made.side, made.fold_norm) == ("auto", False)
        enough = (layer, kind) in made.groups() and made.n_channels >= live.n_channels
        if alike and plain and enough and live.atlas.shards(layer=layer, kind=kind, null=True):
            known = live.atlas.channels(layer=layer, kind=kind, null=True)
            return dataclasses.replace(known, vocabulary=live.vocabulary(layer))
    if not n:
        return None
    return _solve(live, matched_vectors(live.model.neurons(layer, kind).vectors, n), layer)


def _solve(live: Live, neurons: Neurons | Tensor, layer: int) -> Channels:
    return decompose(
        neurons,
        live.vocabulary(layer),
        n_channels=live.n_channels,
        settings=live.settings,
        progress=False,
    )
