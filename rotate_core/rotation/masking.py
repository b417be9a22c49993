"""What is found of each neuron, and what of its vocabulary and its vector is left to search."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .moments import Sample, centred_logits, joint_moments
from .settings import Settings
from .tails import outward, polarity_of, z_scores

N_TOP = 50
"""Top tokens kept with each channel."""


@dataclass
class Work:
    """What is to be found, and what has been: m and what is left of w, of neurons in between."""

    w: Tensor
    projection: Tensor
    token_weights: Tensor
    settings: Settings
    seed: int
    indices: Sequence[int]
    n_channels: int
    given: Mapping[str, Tensor]
    on_channel: Callable[[int], object]
    m: dict[int, Tensor] = field(default_factory=dict)
    target: dict[int, Tensor] = field(default_factory=dict)
    n_found: Counter[int] = field(default_factory=Counter)
    arrays: dict[str, Tensor] = field(default_factory=dict)
    curves: dict[tuple[int, int], list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.unweighted = Sample.uniform(self.projection)
        longest = self.projection.norm(dim=0).max()
        self.rounding = torch.finfo(self.w.dtype).eps * longest.double()  # of a unit vector
        m = self.token_weights.unsqueeze(0)
        self.unmasked = Sample.of(self.projection, m, self.settings.moments)

    def take_in(self, neurons: list[int]) -> list[int]:
        """Begin with neurons: their given channels. Returns those that have more to find."""
        w = self.w[self.rows(neurons)]
        _, m2, _ = centred_logits(w, self.unmasked)
        rounding = self.rounding * w.norm(dim=1)
        why = "their logits do not vary over the tokens that count, so they have no kurtosis; "
        why += "wanted a projection with distinct columns"
        self.refuse(neurons, m2 <= (8 * rounding) ** 2, why)
        for neuron in neurons:
            self.m[neuron], self.target[neuron] = self.token_weights, self.w[neuron]
        known = self.given.items()
        for channel in range(self.given["vectors"].shape[1] if known else 0):
            self.record(neurons, [{name: a[n, channel] for name, a in known} for n in neurons])
        return [neuron for neuron in neurons if self.n_found[neuron] < self.n_channels]

    def record(self, neurons: list[int], ends: list[dict[str, Tensor]]) -> list[int]:
        """Store one channel of each neuron, mask its tail. Returns those that have more to find."""
        if not neurons:
            return []
        solved = {name: torch.stack([end[name] for end in ends]) for name in ends[0]}
        settings, w = self.settings, self.w[self.rows(neurons)]
        vectors, m = solved["vectors"].to(w), torch.stack([self.m[neuron] for neuron in neurons])
        allowed = self.token_weights > 0
        arrays, in_tail = _read_out(vectors, self.unweighted, allowed, settings)
        arrays["n_masked"] = (in_tail & (m > settings.masked_weight)).sum(1)
        arrays["cosine"] = torch.cosine_similarity(vectors, w)
        channel = torch.tensor([self.n_found[neuron] for neuron in neurons])
        for name, values in (arrays | solved).items():
            if name not in self.arrays:
                shape = (len(self.w), self.n_channels, *values.shape[1:])
                self.arrays[name] = torch.empty(shape, dtype=values.dtype)
            self.arrays[name][torch.tensor(neurons), channel] = values.cpu()
        target = torch.stack([self.target[neuron] for neuron in neurons])
        if settings.deflation == "mask":
            masked = torch.full_like(m, settings.masked_weight)
            m = torch.where(in_tail, masked if settings.raise_masked else m.minimum(masked), m)
        elif settings.deflation == "subtract-grid":
            target = subtract_by_grid(target, vectors, self.projection)
        else:
            unit = vectors / vectors.norm(dim=1, keepdim=True)
            target = target - unit * (unit * target).sum(1, keepdim=True)
        self.n_found.update(neurons)
        self.on_channel(len(neurons))
        more = [neuron for neuron in neurons if self.n_found[neuron] < self.n_channels]
        left = (m > settings.masked_weight).any(1)
        for i, neuron in enumerate(neurons):
            self.m[neuron], self.target[neuron] = m[i].clone(), target[i]
            if neuron not in more:
                del self.m[neuron], self.target[neuron]
            elif not left[i]:
                why = f"all tokens are masked before channel {self.n_found[neuron]}; wanted fewer "
                why += f"channels or a threshold above {settings.threshold}"
                self.refuse(neurons, ~left, why)
        return more

    def rows(self, neurons: Sequence[int]) -> Tensor:
        """Their numbers, where the weights are."""
        return torch.tensor(neurons).to(self.w.device)

    def refuse(self, neurons: Sequence[int], bad: Tensor, why: str) -> None:
        """Raise an error that names at most five of the bad neurons, if there are any."""
        if bad.any():
            numbers = [self.indices[neurons[i]] for i in bad.nonzero().flatten()[:5].tolist()]
            raise ValueError(f"neurons {numbers}: {why}")

    def problem(self, neurons: Sequence[int]) -> tuple[Tensor, Tensor, Tensor, Settings]:
        """What a solver gets: target, U, token weights, settings."""
        target, m = (torch.stack([x[i] for i in neurons]) for x in (self.target, self.m))
        return target, self.projection, m, self.settings

    def normal(self, neurons: Sequence[int], *shape: int, key: tuple[int, ...]) -> Tensor:
        """Standard normal draws, a generator per neuron: the batch does not matter."""
        draws = []
        for neuron in neurons:
            mixed = 0
            for part in (self.seed, self.n_found[neuron], *key, self.indices[neuron]):
                mixed = ((mixed ^ part) * 0xBF58476D1CE4E5B9 + 0x9E3779B97F4A7C15) % 2**63
            draws.append(torch.randn(shape, generator=torch.Generator().manual_seed(mixed)))
        return torch.stack(draws).to(self.projection)  # mixed by the constants of splitmix64


def _read_out(
    vectors: Tensor, unweighted: Sample, allowed: Tensor, settings: Settings
) -> tuple[dict[str, Tensor], Tensor]:
    """Statistics and top tokens of channels, and which tokens are in their tail."""
    z, m2, m4 = centred_logits(vectors, unweighted)
    z /= m2.sqrt().to(z.dtype).unsqueeze(1)
    skewness = (z * z * z).mean(1, dtype=torch.float64)
    polarity = polarity_of(skewness, settings.skewness_threshold)
    reach = outward(z, polarity)
    in_tail = reach > settings.threshold
    top_ids = reach.masked_fill_(~allowed, -math.inf).topk(min(N_TOP, z.shape[1]), dim=1).indices
    arrays = {"kurtosis": m4 / m2**2 - 3, "skewness": skewness, "polarity": polarity}
    return arrays | {"top_ids": top_ids, "top_z": z.gather(1, top_ids)}, in_tail


def subtract_by_grid(target: Tensor, vectors: Tensor, projection: Tensor) -> Tensor:
    """Take each channel out of what is left of its neuron (target) as the authors' ablation does.

    With logits x of the target and y of the channel, alpha of a grid in [0, 1] minimises
    ``k(x - alpha y) + 5 mean |x - alpha y|``, the mean over tokens with a z-score of 7 or more in y
    (on its heavier side where its skewness is beyond 0.05). Where that does not lower the kurtosis
    of x, alpha is 0. Moments are unweighted, and polynomials in alpha.

    Source: the public code of arXiv:2604.06005 (its subtraction ablation).
    """
    x, y = (v @ projection for v in (target, vectors))
    _, moments = joint_moments(x - x.mean(1, keepdim=True), vectors, Sample.uniform(projection))
    alpha = torch.linspace(0, 1, 1000, dtype=torch.float64, device=x.device).unsqueeze(0)
    e20, e11, e02, e40, e31, e22, e13, e04 = moments.unsqueeze(2).unbind(1)
    m2 = e20 - 2 * alpha * e11 + alpha**2 * e02
    m4 = e40 - 4 * alpha * e31 + 6 * alpha**2 * e22 - 4 * alpha**3 * e13 + alpha**4 * e04
    kurtosis = m4 / m2**2 - 3
    kurtosis[m2 < 1e-5 * e20] = math.inf  # by rounding alone is anything left

    z = z_scores(vectors, projection)
    extreme = outward(z, polarity_of((z * z * z).mean(1), 0.05)) >= 7.0
    loss = kurtosis.clone()
    for i in extreme.any(1).nonzero().flatten().tolist():
        left = x[i, extreme[i]].unsqueeze(1) - alpha * y[i, extreme[i]].unsqueeze(1)
        loss[i] += 5.0 * left.abs().mean(0)
    best = loss.argmin(1, keepdim=True)
    lower = kurtosis.gather(1, best) < kurtosis[:, :1]
    return target - (alpha[0, best] * lower).to(target.dtype) * vectors
