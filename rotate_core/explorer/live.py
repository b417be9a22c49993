"""Python's answers to the explorer: rotate, search, run a text."""

from __future__ import annotations

import dataclasses
import itertools
import warnings
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rotate_core.decomposition import ConvergenceWarning
from rotate_core.explorer.describe import decode, describe
from rotate_core.explorer.jobs import Job
from rotate_core.explorer.source import NeuronId, Source
from rotate_core.rotation.settings import Settings
from rotate_core.text.edit import ablate, contributions
from rotate_core.text.sites import hook_at

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from rotate_core.channels import Channels

MOST_CHANNELS = 50
N_HITS = 20
N_NEXT = 10


class Live:
    """Answers for one model; each public method takes a request and returns an answer, as JSON."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.model = source.model

    # --- channels -------------------------------------------------------------------------------

    def stored(self, request: dict[str, Any], job: Job) -> dict[str, Any]:
        """A neuron's channels from the atlas; decomposed like them if not there."""
        neuron = _neuron_id(request)
        channels = self.source.stored(neuron)
        if channels is None:
            channels = self._decompose(neuron, self.source.settings, self.source.n_channels, job)
        return {"neuron": describe(channels, source=self.source.sentence(channels))}

    def decompose(self, request: dict[str, Any], job: Job) -> dict[str, Any]:
        """A neuron's channels with the settings of the sliders."""
        channels = self._decompose(_neuron_id(request), *self._settings(request), job)
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
                on_channel=lambda: job.progress(next(done) / n_channels),
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

    # --- search ---------------------------------------------------------------------------------

    def search(self, request: dict[str, Any], job: Job) -> dict[str, Any]:
        """Neurons by a token: channels of the atlas, or neurons of the layer that point to it."""
        word = str(request["token"])
        if self.source.matching_atlas is not None:
            rows = self.source.matching_atlas.search(word, limit=N_HITS).assign(token=word)
            rows = rows.rename(columns={"neuron": "index"})
            hits = rows[["layer", "kind", "index", "channel", "token", "z"]].to_dict("records")
            return {"hits": hits, "text": "Channels of the atlas with this token, strongest first."}
        layer, kind, _ = _neuron_id(request)
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

    # --- a text ---------------------------------------------------------------------------------

    def prompt(self, request: dict[str, Any], job: Job) -> dict[str, Any]:
        """The neuron on a text, and the next token; with one channel switched off, both again.

        A channel is switched off by subtracting the part of the weight vector that is its own (see
        :func:`rotate_core.text.edit.contributions`). The request brings the channels that are
        shown, ``vectors`` in base64.
        """
        layer, kind, index = neuron = _neuron_id(request)
        ids = self.model.tokenizer(str(request["text"]), return_tensors="pt").input_ids
        if not ids.numel():
            raise ValueError("the text has no token")
        job.progress(0)
        before, p = self._run(ids, neuron)
        answer: dict[str, Any] = {
            "tokens": [self.source.vocabulary(layer).tokens[i] for i in ids[0].tolist()],
            "before": before.tolist(),
            "after": None,
        }
        q = p
        if (channel := request.get("channel")) is not None:
            part = self._part(request, neuron, int(channel))
            job.progress(0.5)
            with ablate(self._transformers, [(layer, index, kind, part)]):
                after, q = self._run(ids, neuron)
            answer["after"] = after.tolist()
        return answer | {"next": self._next(p, q, layer)}

    def _part(self, request: dict[str, Any], neuron: NeuronId, channel: int) -> Tensor:
        """The part of the raw weight vector that is a channel's, of the channels that are shown.

        Their vectors come with the request: what is on the screen is switched off, and nothing is
        decomposed again. Where norms are folded in, gate and in are ``gain * raw weights``: a part
        of the folded vector is divided by the gain. Where the gain is 0 it reads nothing.
        """
        layer, kind, index = neuron
        w = self.source.neurons(layer, kind, [index]).vectors
        shown = [decode(str(text)) for text in request.get("vectors", [])]
        if not 0 <= channel < len(shown):
            raise ValueError(f"channel={channel}: the request has vectors of {len(shown)}")
        for i, vector in enumerate(shown):
            if vector.shape != w.shape[1:] or not vector.isfinite().all():
                raise ValueError(
                    f"vector {i} of shape {tuple(vector.shape)}: wanted {w.shape[1]} finite numbers"
                )
        part = contributions(w, torch.stack(shown).unsqueeze(0))[0, channel]
        if not self.source.fold_norm or kind == "out":
            return part
        names = self.model.checkpoint.architecture
        gain = self.model.checkpoint.tensor(names.mlp_norm.format(layer=layer))
        gain = gain.to(part) + names.norm_offset
        return torch.where(gain == 0, 0, part / gain)

    @cached_property
    def _transformers(self) -> PreTrainedModel:
        return self.model.transformers()

    @torch.no_grad()
    def _run(self, ids: Tensor, neuron: NeuronId) -> tuple[Tensor, Tensor]:
        """The neuron's activation at each token, and the probabilities of the next one."""
        layer, _, index = neuron
        seen: list[Tensor] = []

        def collect(hidden: Tensor) -> None:
            seen.append(hidden[0, :, index].float())

        with hook_at(self._transformers, layer, "hidden", collect):
            logits = self._transformers(ids).logits[0, -1]
        return seen[0], logits.float().softmax(0)

    def _next(self, p: Tensor, q: Tensor, layer: int) -> list[dict[str, Any]]:
        """The likeliest next tokens; before them those that change most, where any does."""
        tokens = self.source.vocabulary(layer).tokens
        p, q = p[: len(tokens)], q[: len(tokens)]
        change = (q - p).abs()
        n = min(N_NEXT // 2 if change.any() else N_NEXT, len(p))
        ids = change.topk(n).indices.tolist() if change.any() else []
        ids += p.topk(n).indices.tolist()
        return [
            {"token": tokens[i], "before": float(p[i]), "after": float(q[i])}
            for i in dict.fromkeys(ids)
        ]


Answer = Callable[[dict[str, Any], Job], dict[str, Any]]


def _neuron_id(request: dict[str, Any]) -> NeuronId:
    return NeuronId(int(request["layer"]), str(request["kind"]), int(request["index"]))
