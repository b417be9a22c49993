"""Solve, mask the channel's tokens, repeat: all channels of some neurons (paper, section 3.3)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from . import reflection, sphere
from .masking import Work
from .moments import Sample, centred_logits
from .settings import Settings
from .threads import team

RACE = 9
"""Iterations after which the best ``restarts`` of a neuron's climbs go on."""
SOLVED = ("vectors", "objective", "gradient_norm", "n_iter", "converged")
READ_OUT = ("kurtosis", "skewness", "polarity", "top_ids", "top_z", "n_masked", "cosine")
"""Arrays of a channel that come from the solver; that follow from its vector and what is masked."""


def deflate(
    w: Float[Tensor, "n_neurons d_model"],
    projection: Float[Tensor, "d_model d_vocab"],
    token_weights: Float[Tensor, " d_vocab"] | None = None,
    *,
    n_channels: int = 5,
    settings: Settings | None = None,
    seed: int = 0,
    indices: Sequence[int] | None = None,
    batch: int = 64,
    precondition: Float[Tensor, "d_model d_model"] | None = None,
    given: Mapping[str, Tensor] | None = None,
    on_channel: Callable[[int], object] = lambda n_neurons: None,
) -> dict[str, Tensor]:
    """Channels of each neuron, one after the other.

    Neurons go their own ways: one that has found a channel begins the next, and one that has all
    makes room for another, while the others of its batch are on their way. Only the paper's solver
    takes a whole batch from channel to channel.

    Args:
        w: weight vectors; they and all below on one device and in one dtype.
        projection: U.
        token_weights: m before any channel is found; None for ones.
        n_channels: how many, the given ones included.
        settings: None for ours.
        seed: of the random starts and kicks.
        indices: the neurons' numbers, which seed starts and name neurons in errors; None: rows.
        batch: neurons at a time.
        precondition: :func:`.sphere.preconditioner`, where it is at hand.
        given: arrays (n_neurons, n_given, ...) of known channels: masked, not solved for.
        on_channel: called with the number of channels that were found, for progress.

    Returns:
        Arrays (n_neurons, n_channels, ...) by name, :data:`SOLVED`, :data:`READ_OUT` and "history"
        (n_neurons, n_channels, n_points), F after each iteration, then NaN; on the CPU.

    Raises:
        ValueError: logits without variance, or all tokens of a neuron masked.
    """
    settings = settings or Settings()
    m = torch.ones_like(projection[0]) if token_weights is None else token_weights
    if settings.solver == "geodesic" and settings.precondition and precondition is None:
        precondition = sphere.preconditioner(projection, m, moments=settings.moments)
    indices = range(len(w)) if indices is None else indices
    work = Work(w, projection, m, settings, seed, indices, n_channels, given or {}, on_channel)
    with team(projection.device):
        if settings.solver == "geodesic":
            _climb(work, min(batch, len(w)), precondition)
        else:
            _reflect(work, batch)
    n_points = max((len(curve) for curve in work.curves.values()), default=1)
    history = torch.full((len(w), n_channels, n_points), math.nan, dtype=torch.float64)
    for (neuron, channel), curve in work.curves.items():
        history[neuron, channel, : len(curve)] = torch.tensor(curve, dtype=torch.float64)
    return work.arrays | {"history": history}


def _reflect(work: Work, batch: int) -> None:
    """The paper's solver: a batch goes from channel to channel; of several starts the best."""
    shape = (work.settings.n_reflections, work.w.shape[1])
    for neurons in torch.arange(len(work.w)).split(batch):
        active = work.take_in(neurons.tolist())
        while active:
            solutions = [
                reflection.solve(*work.problem(active), start=work.normal(active, *shape, key=(r,)))
                for r in range(work.settings.restarts)
            ]
            best = torch.stack([s.objective for s in solutions]).argmax(0).tolist()
            for i, (neuron, which) in enumerate(zip(active, best, strict=True)):
                points = [point[i].item() for point in solutions[which].history]
                work.curves[neuron, work.n_found[neuron]] = points
            chosen = [(solutions[which], i) for i, which in enumerate(best)]
            solved = {
                name: torch.stack([getattr(s, name)[i] for s, i in chosen]) for name in SOLVED
            }
            active = work.record(active, solved)


def _climb(work: Work, batch: int, precondition: Tensor | None) -> None:
    """Ours: neurons come into the batch by the quarter, and leave it one by one."""
    climbs = Climbs(work, precondition)
    new, ready = deque(range(len(work.w))), deque[int]()
    while True:
        room = batch - len(climbs.climbs)
        if 4 * room >= batch:
            while new and len(ready) < room:
                n_new = min(len(new), room - len(ready))
                ready.extend(work.take_in([new.popleft() for _ in range(n_new)]))
            if ready:
                climbs.begin([ready.popleft() for _ in range(min(len(ready), room))])
        if not climbs.climbs:
            return
        found, solved = climbs.step()
        if found:
            ready.extend(work.record(found, solved))


@dataclass
class Climbs:
    """The climbs that are on their way, each towards the next channel of its neuron."""

    work: Work
    precondition: Tensor | None
    state: sphere.State | None = None
    climbs: dict[int, list[int]] = field(default_factory=dict)  # neuron -> those not beaten
    of: list[tuple[int, int]] = field(default_factory=list)  # climb -> (neuron, start)
    curves: dict[int, list[float]] = field(default_factory=dict)  # climb -> F by iteration
    ends: dict[int, dict[str, Tensor]] = field(default_factory=dict)  # climb -> SOLVED

    def begin(self, neurons: list[int]) -> None:
        """Let the climbs of some neurons begin; ``Settings.start`` tells where."""
        target, projection, m, settings = self.work.problem(neurons)
        unit = target / target.norm(dim=1, keepdim=True)
        for start in range(settings.restarts):
            if settings.start == "tails" and start == 0:
                arguments = unit, projection, m, settings, self.precondition
                state, before = sphere.begin_at_tails(*arguments)
                curves = torch.stack([before, state.value], 1)
            else:
                point = self._start(neurons, unit, m, start - (settings.start == "tails"))
                state = sphere.begin(unit, point, projection, m, settings)
                curves = state.value.unsqueeze(1)
            state.climb += len(self.of)
            self.of += [(neuron, start) for neuron in neurons * (len(state) // len(neurons))]
            for climb, (neuron, _) in enumerate(self.of[-len(state) :], len(self.of) - len(state)):
                self.climbs.setdefault(neuron, []).append(climb)
            self.curves.update(zip(state.climb.tolist(), curves.tolist(), strict=True))
            if self.state is not None:
                state.add(self.state)
            self.state = state

    def _start(self, neurons: list[int], unit: Tensor, m: Tensor, number: int) -> Tensor:
        """A drawn reflection; or first w itself, then towards the tokens it projects onto most."""
        settings, d_model = self.work.settings, unit.shape[1]
        if settings.start == "reflection":
            return reflection.reflect(self.work.normal(neurons, d_model, key=(number,)), unit)
        if number == 0:
            return unit
        sample = Sample.of(self.work.projection, m, settings.moments)
        logits, _, _ = centred_logits(unit, sample)
        reach = (logits * sample.p).abs() if sample.scale is None else logits.abs()
        token = reach.topk(min(number, reach.shape[1]), dim=1).indices[:, -1]
        column = sample.projection[:, token].T - sample.mean_vector
        toward = sphere.tangent(logits.gather(1, token.unsqueeze(1)).sign() * column, unit)
        return unit + toward / toward.norm(dim=1, keepdim=True)

    def step(self) -> tuple[list[int], dict[str, Tensor]]:
        """One iteration. Returns the neurons that are at their channel, and :data:`SOLVED`."""
        if self.state is not None:
            self._climb_on(self.state)
        found, best = [], []
        for neuron, climbs in list(self.climbs.items()):
            if all(climb in self.ends for climb in climbs):
                ends = {climb: self.ends.pop(climb) for climb in climbs}
                highest = max(climbs, key=lambda climb: ends[climb]["objective"].item())
                self.work.curves[neuron, self.work.n_found[neuron]] = self.curves[highest]
                for climb in climbs:
                    del self.curves[climb]
                found.append(neuron)
                best.append(ends[highest])
                del self.climbs[neuron]
        if not found:
            return [], {}
        solved = {name: torch.stack([end[name] for end in best]) for name in SOLVED}
        solved["vectors"] *= self.work.problem(found)[0].norm(dim=1, keepdim=True)
        return found, solved

    def _climb_on(self, state: sphere.State) -> None:
        beaten = self._beaten()
        if beaten:
            gone = torch.tensor([climb in beaten for climb in state.climb.tolist()])
            state.drop(gone.to(state.climb.device))
        if len(state):
            ended = sphere.leave(state, self.work.settings, self._kicks)
            for row, climb in enumerate(ended["climb"].tolist()):
                self.ends[climb] = {name: ended[name][row] for name in SOLVED}
        if len(state):
            sphere.advance(state, state.g, self.work.settings, self.precondition)
            for climb, value in zip(state.climb.tolist(), state.value.tolist(), strict=True):
                self.curves[climb].append(value)

    def _beaten(self) -> set[int]:
        """Climbs that end here: after :data:`RACE` iterations all but a neuron's highest."""
        beaten: set[int] = set()
        for climbs in self.climbs.values():
            climbs.sort(key=lambda climb: -self.curves[climb][-1])
            if len(self.curves[climbs[-1]]) > RACE:
                for climb in climbs[self.work.settings.restarts :]:
                    beaten.add(climb)
                    del self.curves[climb]
                    self.ends.pop(climb, None)
                del climbs[self.work.settings.restarts :]
        return beaten

    def _kicks(self, climbs: Tensor) -> Tensor:
        """Where to: drawn by neuron, channel and start."""
        of = [self.of[climb] for climb in climbs.tolist()]
        draws = [self.work.normal([n], self.work.w.shape[1], key=(start, 1)) for n, start in of]
        return torch.cat(draws)
