"""Two solvers on the same neurons, by the clock, and how one of them moves and stops (ch. 2)."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from rotate_core.channels import Channels, NeuronsLike, VocabularyLike
from rotate_core.decomposition import ConvergenceWarning, decompose
from rotate_core.rotation import sphere as geodesic
from rotate_core.rotation.moments import centred_logits, joint_moments
from rotate_core.rotation.settings import PAPER, Settings
from rotate_core.rotation.sphere import line_search

if TYPE_CHECKING:
    import pandas as pd

MARGIN = 0.01
"""A difference of the objective that counts."""
BY_GAIN_ALONE = 1e9
"""A ``gradient_tolerance`` that every gradient passes."""


@dataclass(frozen=True)
class Profile:
    """The objective along a great circle, and the angle that the exact line search chooses."""

    curve: pd.DataFrame
    """Columns t (radians) and objective, each point from a product with U of its own."""
    t: float
    objective: float
    """At t, from a product of its own as well."""


def profile_along_gradient(
    w: Float[Tensor, " d_model"],
    vocabulary: VocabularyLike,
    *,
    settings: Settings | None = None,
    n_points: int = 91,
) -> Profile:
    """F from a neuron along its gradient, over a quarter of the great circle."""
    import pandas as pd

    settings = settings or Settings()
    unit = (w / w.norm()).unsqueeze(0)
    weights = vocabulary.token_weights.unsqueeze(0)
    state = geodesic.begin(unit, unit, vocabulary.projection, weights, settings)
    gradient = geodesic.gradient(state, settings)
    direction = gradient / gradient.norm()
    _, moments = joint_moments(state.a, direction, state.sample)
    begin, end = ((unit * vector).sum(1).double() for vector in (state.s, direction))
    chosen = line_search(moments, begin, end, settings).item()

    def value(t: float) -> float:  # the definition, not the moments
        point = math.cos(t) * state.s + math.sin(t) * direction
        _, m2, m4 = centred_logits(point, state.sample)
        return settings.objective(m4 / m2**2 - 3, (unit * point).sum(1)).item()

    angles = torch.linspace(0, math.pi / 2, n_points).tolist()
    curve = pd.DataFrame({"t": angles, "objective": [value(t) for t in angles]})
    return Profile(curve, chosen, value(chosen))


@dataclass(frozen=True)
class Run:
    """One solver on some neurons."""

    channels: Channels
    """The first channel of each."""
    curve: pd.DataFrame
    """Columns seconds and objective (mean over neurons), seconds spread evenly over the points."""
    seconds: float


def clocked(neurons: NeuronsLike, vocabulary: VocabularyLike, **options: Any) -> Run:
    """Decompose into one channel with a clock; options as of :func:`rotate_core.decompose`."""
    import pandas as pd

    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a race may have a limit
        channels = decompose(neurons, vocabulary, n_channels=1, history=True, **options)
    seconds = time.perf_counter() - start
    assert channels.history is not None
    # A neuron that has left the batch keeps its last value.
    values = pd.DataFrame(channels.history[:, 0].T.numpy()).ffill().mean(axis=1)
    clock = seconds * (values.index + 1) / len(values)
    return Run(channels, pd.DataFrame({"seconds": clock, "objective": values}), seconds)


def by_neuron(ours: Run, other: Run) -> pd.DataFrame:
    """One row per neuron: the cosine between the two channels, and our gain in F."""
    import pandas as pd

    a, b = ours.channels, other.channels
    cosine = torch.cosine_similarity(a.vectors, b.vectors, dim=-1)[:, 0]
    return pd.DataFrame({"cosine": cosine, "gain": (a.objective - b.objective)[:, 0]})


def seconds_to(run: Run, objective: float) -> float | None:
    """When the run's mean objective reached a value; None: never."""
    reached = run.curve[run.curve.objective >= objective]
    return float(reached.seconds.iloc[0]) if len(reached) else None


def times_sooner(ours: Run, other: Run) -> float | None:
    """How many times sooner our mean objective is where the other run ends.

    None where there is no such number: the other run has not ended by its own rule (it converged,
    or took the paper's 10,000 steps, for each neuron), or ours never gets there.

    Raises:
        ValueError: the two maximise different objectives.
    """
    names = ("lambda_kurtosis", "lambda_fidelity", "moments")
    a, b = ({n: getattr(x.channels.settings, n) for n in names} for x in (ours, other))
    if a != b:
        raise ValueError(f"objectives {a} and {b}: wanted the same, to say which is sooner")
    seconds = seconds_to(ours, other.channels.objective.mean().item())
    if not _ended(other).all() or seconds is None:
        return None
    return other.seconds / seconds


def race_finding(ours: Run, other: Run) -> str:
    """The race in a sentence; a ratio only where :func:`times_sooner` has one."""
    n = len(other.channels.objective)
    n_short = int((~_ended(other)).sum())
    n_lower = int((by_neuron(ours, other).gain < -MARGIN).sum())
    lower = f"ends lower by {MARGIN} or more for {n_lower / n:.0%} of {n} neurons"
    if n_short:
        steps = int(other.channels.n_iter.max())
        return (
            f"No ratio is given: the paper's solver had not converged for {n_short} of {n} neurons "
            f"after {steps:,} steps. The geodesic solver {lower}"
        )
    ratio = times_sooner(ours, other)
    if ratio is None:
        return f"The geodesic solver stays below the paper's end, and {lower}"
    return f"The geodesic solver passes the paper's end {ratio:.0f} times sooner, and {lower}"


def _ended(run: Run) -> Tensor:
    """Which neurons have ended by the solver's own rule, or taken the paper's 10,000 steps."""
    channels = run.channels
    return (channels.converged | (channels.n_iter >= PAPER.max_iter))[:, 0]


def left_to_gain(
    neurons: NeuronsLike, vocabulary: VocabularyLike, **options: Any
) -> Float[Tensor, "n_neurons n_iterations"]:
    """What each neuron's first channel has still to gain in F, after 0, 1, 2, ... iterations.

    The geodesic solver goes on until an iteration gains less than 1e-9, whatever its gradient, and
    without a kick; 0 once it has ended. Options as of :func:`rotate_core.decompose`. Float64.
    """
    endless = {
        "tolerance": 1e-9,
        "gradient_tolerance": BY_GAIN_ALONE,
        "max_iter": 400,
        "progress": False,
    }
    channels = clocked(neurons, vocabulary, **endless, **options).channels
    assert channels.history is not None
    return (channels.objective - channels.history[:, 0]).nan_to_num(0.0).clamp_min(0.0)


def stops(
    left: Float[Tensor, "n_neurons n_iterations"], tolerances: Sequence[float]
) -> pd.DataFrame:
    """Where tolerances would have stopped each neuron, and what they would have lost.

    Args:
        left: from :func:`left_to_gain`.
        tolerances: gains of F in one iteration, below which a neuron stops, whatever its gradient.

    Returns:
        One row per tolerance: mean iterations, median_loss, mean_loss, and n_on_plateau: neurons
        that stop where more than :data:`MARGIN` is left.
    """
    import pandas as pd

    gains = torch.nn.functional.pad(left[:, :-1] - left[:, 1:], (0, 1))  # none behind the last
    rows = []
    for tolerance in tolerances:
        taken = ((gains < tolerance).double().argmax(1) + 1).clamp_max(left.shape[1] - 1)
        loss = left.gather(1, taken.unsqueeze(1))[:, 0]
        rows.append({"tolerance": tolerance, **_stop(taken, loss)})
    return pd.DataFrame(rows)


def stop_of_solver(
    left: Float[Tensor, "n_neurons n_iterations"],
    neurons: NeuronsLike,
    vocabulary: VocabularyLike,
    **options: Any,
) -> dict[str, float]:
    """Where the solver really stops, gradient test and kick included: a row as of :func:`stops`.

    Losses are against the end of ``left``; below 0 where the solver ends higher. ``n_converged``
    is the number of neurons that it calls converged.

    Args:
        left: from :func:`left_to_gain`, for the same neurons.
        neurons: with their vocabulary and options, as of :func:`rotate_core.decompose`.
        vocabulary: U.
        options: as of :func:`rotate_core.decompose`.
    """
    channels = clocked(neurons, vocabulary, progress=False, **options).channels
    assert channels.history is not None
    gained = (channels.objective - channels.history[:, :, 0])[:, 0]
    row = _stop(channels.n_iter[:, 0], left[:, 0] - gained)
    return {**row, "n_converged": int(channels.converged.sum())}


def _stop(taken: Tensor, loss: Tensor) -> dict[str, float]:
    return {
        "iterations": taken.double().mean().item(),
        "median_loss": loss.median().item(),
        "mean_loss": loss.mean().item(),
        "n_on_plateau": int((loss > MARGIN).sum()),
    }
