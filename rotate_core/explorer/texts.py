"""Python's answers to the explorer on a text: a channel switched off, or steered along."""

from __future__ import annotations

import itertools
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from rotate_core.experiments.output_divergence import kl_divergence
from rotate_core.explorer.describe import decode
from rotate_core.explorer.jobs import Job
from rotate_core.explorer.live import neuron_id
from rotate_core.explorer.source import NeuronId, Source
from rotate_core.text.edit import ablate, contributions
from rotate_core.text.sites import hook_at, read_site
from rotate_core.text.steering import added, steer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

N_NEXT = 10
N_CONTINUED = 12
"""Tokens that a text is continued by."""
MOST_STRENGTH = 1.0
"""Of steering, in typical lengths of the residual stream."""


class Continued(NamedTuple):
    """How a model goes on."""

    logits: Float[Tensor, " d_vocab"]
    """Of the next token."""
    text: str
    """Of the likeliest tokens, one after the other."""


class Plain(NamedTuple):
    """What steering at a layer is compared with: the model as it is, on one text."""

    layer: int
    ids: tuple[int, ...]
    length: float
    """Of the residual stream behind the layer: the median over the text's tokens."""
    continued: Continued


class Texts:
    """Answers on a text, of one model; each public method takes a request and returns JSON."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.model = source.model
        self._plain: Plain | None = None  # of the text that was steered last

    def prompt(self, request: dict[str, Any], job: Job) -> dict[str, Any]:
        """The neuron on a text, and the next token; with one channel switched off, both again.

        A channel is switched off by subtracting the part of the weight vector that is its own (see
        :func:`rotate_core.text.edit.contributions`). The request brings the channels that are
        shown, ``vectors`` in base64.
        """
        layer, kind, index = neuron = neuron_id(request)
        ids = self._ids(request)
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

    def steer(self, request: dict[str, Any], job: Job) -> dict[str, Any]:
        """The next token and a greedy continuation of a text, by itself and steered by a channel.

        The direction of a channel of an out neuron, in ``vector``, is added to what the MLP writes
        at every position. ``strength`` is its length, in typical lengths of the residual stream
        behind the layer: the median over the text's tokens, of which the first is often an outlier.
        At strength 0 nothing is added: the model is itself, to the bit.
        """
        layer, kind, _ = neuron_id(request)
        if kind != "out":
            raise ValueError(f"{kind} weights read, and write nothing to steer with: wanted out")
        strength = float(request["strength"])
        if not abs(strength) <= MOST_STRENGTH:  # nor NaN
            raise ValueError(f"strength={strength:g}: wanted {-MOST_STRENGTH} to {MOST_STRENGTH}")
        vector = self._direction(request, layer)
        plain = self._by_itself(self._ids(request), layer, job)
        steered = plain.continued
        if strength:
            job.progress(0)
            function = added(vector, strength * plain.length)
            with steer(self._transformers, layer, function, site="mlp_out"):
                steered = self._continued(torch.tensor([plain.ids]), job)
        before, after = plain.continued.logits, steered.logits
        return {
            "next": self._next(before.softmax(0), after.softmax(0), layer),
            "divergence": float(kl_divergence(before.double(), after.double())),
            "before": plain.continued.text,
            "after": steered.text,
        }

    def _by_itself(self, ids: Tensor, layer: int, job: Job) -> Plain:
        """The model as it is; of the last text it is known."""
        job.progress(0)
        known, numbers = self._plain, tuple(ids[0].tolist())
        if known is None or known[:2] != (layer, numbers):
            stream = read_site(self._transformers, ids, [layer], site="residual")[layer][0]
            length = float(stream.norm(dim=1).median())
            known = self._plain = Plain(layer, numbers, length, self._continued(ids, job))
        return known

    def _direction(self, request: dict[str, Any], layer: int) -> Float[Tensor, " d_model"]:
        """The direction that a channel of an out neuron has in the residual stream; length 1."""
        vector = decode(str(request.get("vector", "")))
        if vector.shape != (self.model.d_model,) or not vector.isfinite().all() or not vector.any():
            raise ValueError(
                f"vector of shape {tuple(vector.shape)}: wanted {self.model.d_model} finite "
                "numbers, not all 0"
            )
        written = self.model.written(layer, vector.unsqueeze(0))[0]
        return written / written.norm()

    def _continued(self, ids: Tensor, job: Job) -> Continued:
        done = itertools.count(1)

        def tell(*_: Any, **__: Any) -> bool:
            job.progress(next(done) / N_CONTINUED)
            return False

        made = self._transformers.generate(  # type: ignore[operator]
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=N_CONTINUED,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
            pad_token_id=0,  # one text alone has no padding, but generate asks
            stopping_criteria=[tell],
        )
        new = made.sequences[0, ids.shape[1] :]
        return Continued(made.logits[0][0].float(), str(self.model.tokenizer.decode(new)))

    def _ids(self, request: dict[str, Any]) -> Tensor:
        ids = self.model.tokenizer(str(request["text"]), return_tensors="pt").input_ids
        if not ids.numel():
            raise ValueError("the text has no token")
        return ids

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
        names = self.model.checkpoint.architecture
        if not self.source.fold_norm or kind == "out" or names.mlp_norm is None:
            return part
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
