"""Python's answers to the explorer on channels: rotate, search."""

from __future__ import annotations

import dataclasses
import itertools
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from rotate_core.decomposition import ConvergenceWarning
from rotate_core.explorer.describe import describe
from rotate_core.explorer.jobs import Job
from rotate_core.explorer.source import NeuronId, Source
from rotate_core.rotation.settings import Settings

if TYPE_CHECKING:
    from rotate_core.channels import Channels

MOST_CHANNELS = 50
N_HITS = 20


class Live:
    """Answers on one model's channels; each public method takes a request and returns JSON."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.model = source.model

    def stored(self, request: dict[str, Any], job: Job) -> dict[str, Any]:
        """A neuron's channels from the atlas; decomposed like them if not there."""
        neuron = neuron_id(request)
        channels = self.source.stored(neuron)
        if channels is None:
            channels = self._decompose(neuron, self.source.settings, self.source.n_channels, job)
        return {"neuron": describe(channels, source=self.source.sentence(channels))}

    def decompose(self, request: dict[str, Any], job: Job) -> dict[str, Any]:
        """A neuron's channels with the settings of the sliders."""
        channels = self._decompose(neuron_id(request), *self._settings(request), job)
        return {"neuron": describe(channels, source=self.source.sentence(channels))}

    def _decompose(
        self, neuron: NeuronId, settings: Settings, n_channels: int, job: Job
    ) -> Channels:
        layer, kind, index = neuron
        job.progress(0)
        done = itertools.count(1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # each card says so
            (channels,) = self.source.decompose(
                self.source.neurons(layer, kind, [index]),
                settings=settings,
                n_channels=n_channels,
                on_channel=lambda _: job.progress(next(done) / n_channels),
            )
        return channels

    def _settings(self, request: dict[str, Any]) -> tuple[Settings, int]:
        """The request's settings; fields that it does not name stay as the explorer has them."""
        given = dict(request.get("settings", {}))
        n_channels = int(given.pop("n_channels", self.source.n_channels))
        if not 1 <= n_channels <= MOST_CHANNELS:
            raise ValueError(f"n_channels={n_channels}: wanted 1 to {MOST_CHANNELS}")
        names = {field.name for field in dataclasses.fields(Settings)}
        if unknown := sorted(set(given) - names):
            raise ValueError(f"unknown setting {unknown[0]!r}: wanted {', '.join(sorted(names))}")
        return dataclasses.replace(self.source.settings, **given), n_channels

    def search(self, request: dict[str, Any], job: Job) -> dict[str, Any]:
        """Neurons by a token: channels of the atlas, or neurons of the layer that point to it."""
        word = str(request["token"])
        if self.source.matching_atlas is not None:
            rows = self.source.matching_atlas.search(word, limit=N_HITS).assign(token=word)
            rows = rows.rename(columns={"neuron": "index"})
            hits = rows[["layer", "kind", "index", "channel", "token", "z"]].to_dict("records")
            return {"hits": hits, "text": "Channels of the atlas with this token, strongest first."}
        layer, kind, _ = neuron_id(request)
        text = (
            f"Neurons of layer {layer}, {kind}, that point to the token most, of all in the layer."
        )
        return {"hits": self._pointing_to(word, layer, kind), "text": text}

    def _pointing_to(self, word: str, layer: int, kind: str) -> list[dict[str, Any]]:
        tokens = self.source.vocabulary(layer).tokens
        wanted = word.strip().lower()
        ids = [i for i, token in enumerate(tokens) if token.strip().lower() == wanted]
        if not ids:
            raise ValueError(f"no token of {self.model.name} reads {word!r}")
        w = self.source.neurons(layer, kind).vectors
        projection = self.source.vocabulary(layer).projection
        centred = projection - projection.mean(1, keepdim=True)
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
                "token": tokens[ids[int(column[i])]],
                "z": float(z[i, column[i]]),
            }
            for i in value.topk(min(N_HITS, len(value))).indices.tolist()
        ]


Answer = Callable[[dict[str, Any], Job], dict[str, Any]]


def neuron_id(request: dict[str, Any]) -> NeuronId:
    """The neuron that a request is about."""
    return NeuronId(int(request["layer"]), str(request["kind"]), int(request["index"]))
