"""Solve, mask the channel's tokens, repeat: all channels of some neurons (paper, section 3.3)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from . import reflection, sphere
from .curvature import Curvature
from .masking import Work
from .moments import Sample, centred_logits
from .settings import Settings
from .threads import team

RACE = 8
"""Iterations after which the best ``restarts`` of a neuron's climbs go on."""
FIRM = 5
"""Iterations before products may be rounded: they decide which hill is climbed."""
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
    curvature: Curvature | None = None,
    given: Mapping[str, Tensor] | None = None,
    on_channel: Callable[[int], object] = lambda n_neurons: None,
    compile: bool = False,
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
        curvature: of projection and token weights, where it is at hand.
        given: arrays (n_neurons, n_given, ...) of known channels: masked, not solved for.
        on_channel: called with the number of channels that were found, for progress.
        compile: fuse elementwise passes by ``torch.compile``; it takes a minute, once a process.

    Returns:
        Arrays (n_neurons, n_channels, ...) by name, :data:`SOLVED`, :data:`READ_OUT` and "history"
        (n_neurons, n_channels, n_points), F after each iteration, then NaN; on the CPU.

    Raises:
        ValueError: logits without variance, or all tokens of a neuron masked.
    """
    settings = settings or Settings()
    m = torch.ones_like(projection[0]) if token_weights is None else token_weights
    if settings.solver == "geodesic" and settings.precondition and curvature is None:
        curvature = Curvature.of(projection, m, moments=settings.moments)
    indices = range(len(w)) if indices is None else indices
    work = Work(w, projection, m, settings, seed, indices, n_channels, given or {}, on_channel)
    with team(projection.device, compile=compile):
        if settings.solver == "geodesic":
            _climb(work, min(batch, len(w)), curvature)
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
            ends, height = [], torch.stack([solution["objective"] for solution in solutions])
            for row, best in enumerate(height.argmax(0).tolist()):
                ends.append({name: solutions[best][name][row] for name in SOLVED})
                points = [point[row].item() for point in solutions[best]["history"]]
                work.curves[active[row], work.n_found[active[row]]] = points
            active = work.record(active, ends)


def _climb(work: Work, batch: int, curvature: Curvature | None) -> None:
    """Ours: neurons come into the batch by the quarter, and leave it one by one."""
    climbs = Climbs(work, curvature)
    new, ready = deque(range(len(work.w))), deque[int]()
    while True:
        room = batch - len(climbs.of)
        if 4 * room >= batch:
            while new and len(ready) < room:
                n_new = min(len(new), room - len(ready))
                ready.extend(work.take_in([new.popleft() for _ in range(n_new)]))
            if ready:
                climbs.begin([ready.popleft() for _ in range(min(len(ready), room))])
        if not climbs.of:
            return
        ready.extend(work.record(*climbs.step()))


@dataclass(eq=False)
class Climb:
    """A way up from one start."""

    neuron: int
    start: int  # which of the neuron's
    curve: list[float]  # F at first and after each iteration
    stalled: dict[str, Tensor] = field(default_factory=dict)  # SOLVED, where it was kicked
    end: dict[str, Tensor] = field(default_factory=dict)  # SOLVED


class Climbs:
    """The climbs that are on their way, each towards the next channel of its neuron."""

    def __init__(self, work: Work, curvature: Curvature | None) -> None:
        self.work, self.curvature = work, curvature
        self.of: dict[int, list[Climb]] = {}  # neuron -> its climbs that are not beaten
        self.numbered: dict[int, Climb] = {}  # by the number that a state has for it
        self.n_begun = 0
        nobody, m = work.w[:0], work.token_weights.expand(0, -1)
        self.states = [sphere.begin(nobody, nobody, work.projection, m, work.settings)]
        if work.settings.precision == "bfloat16":  # and those that are between start and end
            rounded = work.projection.to(torch.bfloat16)
            self.states.append(replace(self.states[0], projection=rounded))

    def begin(self, neurons: list[int]) -> None:
        """Let the climbs of some neurons begin; ``Settings.start`` tells where."""
        target, projection, m, settings = self.work.problem(neurons)
        unit = target / target.norm(dim=1, keepdim=True)
        for start in range(settings.restarts):
            if settings.start == "tails" and start == 0:
                state, before = sphere.begin_at_tails(unit, projection, m, settings, self.curvature)
                curves = torch.stack([before, state.value], 1)
            else:
                point = self._start(neurons, unit, m, start - (settings.start == "tails"))
                state = sphere.begin(unit, point, projection, m, settings)
                curves = state.value.unsqueeze(1)
            state.climb += self.n_begun
            for row, curve in enumerate(curves.tolist()):
                climb = Climb(neurons[row % len(neurons)], start, curve)
                self.numbered[self.n_begun + row] = climb
                self.of.setdefault(climb.neuron, []).append(climb)
            self.n_begun += len(state)
            state.add(self.states[0])
            self.states[0] = state

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

    def step(self) -> tuple[list[int], list[dict[str, Tensor]]]:
        """One iteration. Returns the neurons that are at their channel, and :data:`SOLVED`."""
        self._race()
        kicked = self._leave()
        for state in self.states:
            if len(state):
                sphere.advance(state, state.g, self.work.settings, self.curvature)
                for climb, value in zip(self._climbs(state), state.value.tolist(), strict=True):
                    climb.curve.append(value)
        self.states[0].add(kicked)
        found = [n for n, climbs in self.of.items() if all(climb.end for climb in climbs)]
        ends = []
        for neuron in found:
            best = max(self.of.pop(neuron), key=lambda climb: climb.end["objective"].item())
            self.work.curves[neuron, self.work.n_found[neuron]] = best.curve
            vector = best.end["vectors"] * self.work.target[neuron].norm()
            ends.append(best.end | {"vectors": vector})
        return found, ends

    def _climbs(self, state: sphere.State) -> list[Climb]:
        return [self.numbered[number] for number in state.climb.tolist()]

    def _take(self, state: sphere.State, chosen: list[bool]) -> sphere.State:
        return state.take(torch.tensor(chosen, dtype=torch.bool).to(state.climb.device))

    def _race(self) -> None:
        """After :data:`RACE` iterations all but a neuron's highest ``restarts`` climbs end."""
        n_left, beaten = self.work.settings.restarts, list[Climb]()
        for climbs in self.of.values():
            climbs.sort(key=lambda climb: -climb.curve[-1])
            if len(climbs[-1].curve) > RACE:
                beaten += climbs[n_left:]
                del climbs[n_left:]
        for state in self.states if beaten else ():
            gone = self._take(state, [climb in beaten for climb in self._climbs(state)])
            for number in gone.climb.tolist():
                del self.numbered[number]

    def _leave(self) -> sphere.State:
        """Let those go that are at their end. Returns those that have stalled, kicked."""
        work, settings, fine = self.work, self.work.settings, self.states[0]
        for rough in self.states[1:]:
            rough.add(fine.take(fine.taken == FIRM))
            back = sphere.leave(rough, replace(settings, gradient_tolerance=1e9))  # by gain alone
            back.projection = fine.projection
            sphere.begin_anew(back, settings)
            for climb, value in zip(self._climbs(back), back.value.tolist(), strict=True):
                climb.curve[-1] = value
            fine.add(back)
        ended = sphere.leave(fine, settings)
        solved = {
            "vectors": ended.s, "objective": ended.value, "n_iter": ended.taken,
            "gradient_norm": ended.g.norm(dim=1).double(), "converged": ended.converged,
        }  # fmt: skip
        stalled = (~ended.converged & (ended.taken < settings.max_iter)).tolist()
        for row, number in enumerate(ended.climb.tolist()):
            climb = self.numbered[number]
            end = {name: values[row] for name, values in solved.items()}
            stalled[row] &= not climb.stalled  # a second stall is the end
            if stalled[row]:
                climb.stalled = end
                continue
            del self.numbered[number]
            climb.end = end
            if climb.stalled and end["objective"] < climb.stalled["objective"] - settings.tolerance:
                climb.end = climb.stalled | {"n_iter": end["n_iter"]}
        kicked = self._take(ended, stalled)
        if len(kicked):
            shape, of = work.w.shape[1:], self._climbs(kicked)
            draws = [work.normal([climb.neuron], *shape, key=(climb.start, 1)) for climb in of]
            sphere.kick(kicked, torch.cat(draws), settings)
        return kicked
