"""The widget: embeds what it can show by itself, and answers where a kernel runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget
import traitlets

from rotate_core.explorer.describe import describe, slider_values
from rotate_core.explorer.jobs import Jobs
from rotate_core.explorer.live import Answer, Live
from rotate_core.explorer.page import STATIC, page_script
from rotate_core.explorer.passages import reader
from rotate_core.explorer.source import NeuronId, Source, unlike_defaults
from rotate_core.explorer.texts import Texts
from rotate_core.null.calibration import SIGNIFICANT
from rotate_core.rotation.settings import Settings
from rotate_core.storage import write_whole

if TYPE_CHECKING:
    from rotate_core.atlas import Atlas
    from rotate_core.channels import Channels
    from rotate_core.models import Model
    from rotate_core.text import Activations


class Explorer(anywidget.AnyWidget):
    """Look at neurons channel by channel, and rotate them with other settings.

    In a notebook Python answers: any neuron, the paper's solver too, texts with a channel switched
    off, or with the model steered along it. Without a kernel the widget shows the neurons that it
    was given; with a `file` a reader can rotate them in the browser.

    Args:
        model: from :func:`rotate_core.load_model`.
        atlas: where channels are looked up first. Its side, folding and seed are used for
            everything.
        neurons: (layer, kind, neuron) of those to embed, the first one to be shown first. None: the
            first neuron of the atlas, or of the middle layer.
        notes: a word on any of them.
        null: matched vectors of each layer and kind to hold the embedded neurons against, where the
            atlas has not calibrated it. They give a p-value and no q-value: there is nothing to
            adjust over.
        n_channels: channels of each; None is as many as the atlas has, or 5.
        settings: how to decompose; None is the atlas's, or ours. With others than the atlas's its
            stored channels and matched vectors are not used.
        file: U for the browser, from :func:`rotate_core.explorer.book.served_file`. Left out, with
            a reason on the page, where the browser's solver cannot do what the settings ask for.
        compact: only the neuron, its channels and the sliders.
        inputs: of held-out text at "mlp_in", by layer, from :func:`rotate_core.text.activations`:
            neurons of these layers are shown on ten passages of it.

    Raises:
        ValueError, IndexError, TypeError: there is no such neuron, the atlas is of another model,
            or the inputs are of another site.
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
        neurons: Iterable[tuple[int, str, int]] | None = None,
        notes: dict[tuple[int, str, int], str] | None = None,
        null: int = 0,
        n_channels: int | None = None,
        settings: Settings | None = None,
        file: dict[str, str | int] | None = None,
        compact: bool = False,
        inputs: Mapping[int, Activations] | None = None,
    ) -> None:
        super().__init__()
        source = Source(model, atlas, settings, n_channels)
        self._live, self._texts = Live(source), Texts(source)
        self._jobs = Jobs(self.send)
        chosen = [self._first()] if neurons is None else [NeuronId(*neuron) for neuron in neurons]
        self.content = content(self._live.source, chosen, notes or {}, null, file, inputs)
        self.content |= {"compact": compact}
        self.on_msg(self._receive)

    def save(self, path: str | Path) -> None:
        """Write a script that shows the explorer in any page: ``<script src="PATH">``."""
        write_whole(Path(path), page_script(self.content).encode())

    def __repr__(self) -> str:
        return f"Explorer({self._live.model.name!r}, {len(self.content['neurons'])} neurons)"

    def _repr_mimebundle_(self, **options: Any) -> Any:
        """The widget for Jupyter, and a script for pages that are made of the notebook."""
        bundle = super()._repr_mimebundle_(**options)
        data = bundle[0] if isinstance(bundle, tuple) else bundle
        if data is not None:
            data["text/html"] = f"<script>{page_script(self.content)}</script>"
        return bundle

    def _first(self) -> NeuronId:
        if self._live.source.atlas is not None:
            for shard in self._live.source.atlas.shards():
                return NeuronId(shard.layer, shard.kind, shard.indices[0])
        return NeuronId(self._live.model.n_layers // 2, self._live.model.kinds[-1], 0)

    def _receive(self, _: Any, message: dict[str, Any], __: Any) -> None:
        kind, id_ = message.get("type"), str(message.get("id"))
        answers: dict[str, Answer] = {
            "stored": self._live.stored,
            "decompose": self._live.decompose,
            "search": self._live.search,
            "prompt": self._texts.prompt,
            "steer": self._texts.steer,
        }
        if kind == "hello":
            self.send({"type": "result", "id": id_})
        elif kind == "cancel":
            self._jobs.cancel(id_)
        elif kind in answers:
            answer = answers[kind]
            self._jobs.start(id_, lambda job: answer(message, job))


BROWSERS = ("lambda_kurtosis", "lambda_fidelity", "threshold")
"""Settings that the browser's solver takes; all others are as :class:`Settings` has them."""


def content(
    source: Source,
    neurons: Sequence[NeuronId],
    notes: Mapping[tuple[int, str, int], str],
    null: int,
    file: dict[str, str | int] | None,
    inputs: Mapping[int, Activations] | None = None,
) -> dict[str, Any]:
    """All that the explorer shows by itself, ready for JSON."""
    model = source.model
    groups: dict[tuple[int, str], list[int]] = {}
    for layer, kind, index in neurons:
        groups.setdefault((layer, kind), []).append(index)
    described: dict[NeuronId, dict[str, Any]] = {}
    read = reader(source, inputs) if inputs else None
    for (layer, kind), indices in groups.items():
        for channels in _channels(source, layer, kind, indices, null):
            neuron = NeuronId(layer, kind, channels.indices[0])
            described[neuron] = describe(channels, source=source.sentence(channels))
            if read is not None:
                described[neuron]["text"] = read(channels)
            if neuron in notes:
                described[neuron]["note"] = notes[neuron]
    refusal = _refusal(source.settings) if file is not None else ""
    return {
        "info": {
            "model": model.name,
            "n_layers": model.n_layers,
            "d_mlp": model.d_mlp,
            "kinds": list(model.kinds),
            "significant": SIGNIFICANT,
        },
        "neurons": [described[neuron] for neuron in neurons],
        "settings": slider_values(source.settings) | {"n_channels": source.n_channels},
        "python": _python(source),
        "file": None if refusal else file,
        "refusal": refusal,
    }


def _channels(
    source: Source, layer: int, kind: str, indices: list[int], null: int
) -> Iterator[Channels]:
    """Channels of neurons of one layer and kind: from the atlas, else decomposed here."""
    missing = []
    for index in indices:
        if (channels := source.stored(NeuronId(layer, kind, index))) is None:
            missing.append(index)
        else:
            yield channels
    if missing:
        if null:
            source.draw_null(layer, kind, null)
        yield from source.decompose(source.neurons(layer, kind, missing))


def _refusal(settings: Settings) -> str:
    """The reason why a browser cannot rotate with these settings; empty where it can."""
    beyond = [
        f"{name}={value!r}"
        for name, value in unlike_defaults(settings).items()
        if name not in BROWSERS
    ]
    if not beyond:
        return ""
    return (
        f"These channels were made with {', '.join(beyond)}, which the solver for browsers does "
        "not have: they can be rotated in a notebook only."
    )


def _python(source: Source) -> dict[str, dict[str, Any]]:
    """Arguments of the five lines of Python that have no slider: of each call, by name."""
    rest = source.hidden(source.settings)
    names = ("side", "fold_norm")
    return {
        "neurons": {name: rest[name] for name in names[1:] if name in rest},
        "vocabulary": {name: rest[name] for name in names if name in rest},
        "decompose": {name: value for name, value in rest.items() if name not in names},
        "defaults": slider_values(Settings()),
    }
