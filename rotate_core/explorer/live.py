"""What Python answers when the explorer asks: rotate, search, run a text."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rotate_core.decomposition import ConvergenceWarning, decompose
from rotate_core.explorer.describe import Place, describe
from rotate_core.explorer.jobs import Job
from rotate_core.settings import Settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from rotate_core.atlas import Atlas
    from rotate_core.channels import Channels
    from rotate_core.models import Model
    from rotate_core.vocabulary import Vocabulary

MOST_CHANNELS = 50
SIGNIFICANT = 0.1
"""q-value above which a channel is shown in grey."""
N_HITS = 20
N_NEXT = 10
SLIDERS = ("lambda_kurtosis", "lambda_fidelity", "threshold", "solver", "moments")
"""Settings that the explorer has a control for."""


class Live:
    """Answers for one model; each public method takes a request and returns an answer, as JSON."""

    def __init__(
        self, model: Model, atlas: Atlas | None, settings: Settings, n_channels: int
    ) -> None:
        self.model = model
        self.atlas = atlas
        self.settings = settings
        self.n_channels = n_channels
        self._vocabularies: dict[int, Vocabulary] = {}
        self._latest: tuple[Any, Channels] | None = None

    # --- channels -------------------------------------------------------------------------------

    def stored(self, request: dict[str, Any], job: Job) -> dict[str, Any]:
        """A neuron's channels from the atlas; decomposed with the default settings if not there."""
        place = _place(request)
        channels = self.from_atlas(place)
        if channels is None:
            channels = self._decompose(place, self.settings, self.n_channels, job)
        return {"neuron": describe(channels, source=self.source(channels))[0]}

    def decompose(self, request: dict[str, Any], job: Job) -> dict[str, Any]:
        """A neuron's channels with the settings of the sliders."""
        settings, n_channels = self._settings(request)
        channels = self._decompose(_place(request), settings, n_channels, job)
        return {"neuron": describe(channels)[0]}

    def source(self, channels: Channels) -> str:
        """A sentence on where channels come from."""
        text = f"{channels.n_channels} channels a neuron, by the {channels.settings.solver} solver"
        if channels.q_value is None:
            return f"{text}; not measured against a null."
        return f"{text}; grey: not told apart from those of random vectors (q > {SIGNIFICANT})."

    def from_atlas(self, place: Place) -> Channels | None:
        """The neuron's channels as the atlas has them; None if it does not."""
        if self.atlas is None:
            return None
        try:
            channels = self.atlas.channels(
                layer=place["layer"], kind=place["kind"], neuron=place["index"]
            )
        except ValueError:  # the atlas does not have it
            return None
        self._latest = None
        return channels

    def _decompose(self, place: Place, settings: Settings, n_channels: int, job: Job) -> Channels:
        key = (tuple(place.values()), settings, n_channels)
        if self._latest is not None and self._latest[0] == key:
            return self._latest[1]
        job.progress(0)
        found = iter(range(1, n_channels + 1))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # each card says so
            channels = decompose(
                self.model.neurons(place["layer"], place["kind"], [place["index"]]),
                self.vocabulary(place["layer"]),
                n_channels=n_channels,
                settings=settings,
                progress=False,
                on_channel=lambda: job.progress(next(found) / n_channels),
            )
        self._latest = (key, channels)
        return channels

    def vocabulary(self, layer: int) -> Vocabulary:
        """The layer's vocabulary, kept: reading it takes longer than a channel."""
        if layer not in self._vocabularies:
            self._vocabularies[layer] = self.model.vocabulary(layer)
        return self._vocabularies[layer]

    def _settings(self, request: dict[str, Any]) -> tuple[Settings, int]:
        given = request["settings"]
        n_channels = int(given["n_channels"])
        if not 1 <= n_channels <= MOST_CHANNELS:
            raise ValueError(f"n_channels={n_channels}: wanted 1 to {MOST_CHANNELS}")
        return Settings(**{name: given[name] for name in SLIDERS}), n_channels

    # --- search ---------------------------------------------------------------------------------

    def search(self, request: dict[str, Any], job: Job) -> dict[str, Any]:
        """Neurons by a token: channels of the atlas, or neurons of the layer that point to it."""
        word = str(request["token"])
        if self.atlas is not None:
            found = self.atlas.search(word, limit=N_HITS)
            hits = [
                {
                    "layer": int(row.layer),
                    "kind": row.kind,
                    "index": int(row.neuron),
                    "channel": int(row.channel),
                    "token": word,
                    "z": float(row.z),
                }
                for row in found.itertuples()
            ]
            return {"hits": hits, "text": "Channels of the atlas with this token, strongest first."}
        layer, kind = _place(request)["layer"], request["kind"]
        text = (
            f"Neurons of layer {layer}, {kind}, that point to the token most, of all in the layer."
        )
        return {"hits": self._pointing_to(word, layer, kind), "text": text}

    def _pointing_to(self, word: str, layer: int, kind: str) -> list[dict[str, Any]]:
        vocabulary = self.vocabulary(layer)
        wanted = word.strip().lower()
        ids = [i for i, token in enumerate(vocabulary.tokens) if token.strip().lower() == wanted]
        if not ids:
            raise ValueError(f"no token of {self.model.name} reads {word!r}")
        w = self.model.neurons(layer, kind).vectors
        projection = vocabulary.projection
        mean = projection.mean(1)
        centred = projection - mean.unsqueeze(1)
        covariance = centred @ centred.T / projection.shape[1]
        scale = ((w @ covariance) * w).sum(1).clamp_min(torch.finfo(w.dtype).tiny).sqrt()
        z = (w @ centred[:, ids]) / scale.unsqueeze(1)
        value, column = z.abs().max(1)
        return [
            {
                "layer": layer,
                "kind": kind,
                "index": i,
                "channel": None,
                "token": vocabulary.tokens[ids[int(column[i])]],
                "z": float(z[i, column[i]]),
            }
            for i in value.topk(min(N_HITS, len(value))).indices.tolist()
        ]

    # --- a text ---------------------------------------------------------------------------------

    def prompt(self, request: dict[str, Any], job: Job) -> dict[str, Any]:
        """The neuron on a text, and the next token; with one channel switched off, both again.

        A channel is switched off by subtracting the part of the weight vector that is its own (see
        :func:`rotate_core.experiments.ablation.contributions`).
        """
        from rotate_core.experiments.ablation import ablate, contributions

        place = _place(request)
        ids = self.model.tokenizer(str(request["text"]), return_tensors="pt").input_ids
        if not ids.numel():
            raise ValueError("the text has no token")
        job.progress(0)
        before, p = self._run(ids, place)
        answer: dict[str, Any] = {
            "tokens": [self.vocabulary(place["layer"]).tokens[i] for i in ids[0].tolist()],
            "before": before.tolist(),
            "after": None,
        }
        q = p
        if (channel := request.get("channel")) is not None:
            channels = self._shown(request, place, job)
            part = contributions(channels.weight_vectors, channels.vectors)[0, int(channel)]
            job.progress(0.5)
            with ablate(
                self._transformers, [(place["layer"], place["index"], place["kind"], part)]
            ):
                after, q = self._run(ids, place)
            answer["after"] = after.tolist()
        return answer | {"next": self._next(p, q, place["layer"])}

    def _shown(self, request: dict[str, Any], place: Place, job: Job) -> Channels:
        """The channels that the request speaks of: those on the screen."""
        settings, n_channels = self._settings(request)
        if (settings, n_channels) == (self.settings, self.n_channels):
            stored = self.from_atlas(place)
            if stored is not None:
                return stored
        return self._decompose(place, settings, n_channels, job)

    @cached_property
    def _transformers(self) -> PreTrainedModel:
        return self.model.transformers()

    @torch.no_grad()
    def _run(self, ids: Tensor, place: Place) -> tuple[Tensor, Tensor]:
        """The neuron's activation at each token, and the probabilities of the next one."""
        from rotate_core.experiments.activations import mlp_of

        out = self.model.checkpoint.architecture.weight("out").name.rsplit(".", 2)[1]
        seen: list[Tensor] = []

        def collect(_: Any, args: tuple[Tensor, ...]) -> None:
            seen.append(args[0][0, :, place["index"]].float())

        down = getattr(mlp_of(self._transformers, place["layer"]), out)
        handle = down.register_forward_pre_hook(collect)
        try:
            logits = self._transformers(ids).logits[0, -1]
        finally:
            handle.remove()
        return seen[0], logits.float().softmax(0)

    def _next(self, p: Tensor, q: Tensor, layer: int) -> list[dict[str, Any]]:
        """The likeliest next tokens, and those that change most."""
        tokens = self.vocabulary(layer).tokens
        p, q = p[: len(tokens)], q[: len(tokens)]
        n = min(N_NEXT // 2 if p is not q else N_NEXT, len(p))
        chosen = dict.fromkeys((q - p).abs().topk(n).indices.tolist()) if p is not q else {}
        chosen |= dict.fromkeys(p.topk(n).indices.tolist())
        return [{"token": tokens[i], "before": float(p[i]), "after": float(q[i])} for i in chosen]


Answer = Callable[[dict[str, Any], Job], dict[str, Any]]


def _place(request: dict[str, Any]) -> Place:
    return Place(
        layer=int(request["layer"]), kind=str(request["kind"]), index=int(request["index"])
    )
