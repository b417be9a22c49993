"""The paper's solver and ours on the same neurons; how ours moves and where it stops (ch. 2)."""

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
from rotate_core.rotation import sphere
from rotate_core.rotation.moments import excess_kurtosis, joint_moments
from rotate_core.rotation.settings import PAPER, Settings

if TYPE_CHECKING:
    import pandas as pd

MARGIN = 0.01
"""A difference of the objective that counts."""
ANY_GRADIENT = 1e9
"""A ``gradient_tolerance`` that every gradient passes: the gain alone stops the solver."""


@dataclass(frozen=True)
class Profile:
    """The objective along a great circle, and the angle that the exact line search chooses."""

    curve: pd.DataFrame
    """Columns t (radians) and objective, each point from a product with U of its own."""
    t: float
    objective: float
    """At t, from a product of its own as well."""


def profile_along_gradient(
    w: Float[Tensor, " d_model"], vocabulary: VocabularyLike, *, n_points: int = 91
) -> Profile:
    """F from a neuron along its gradient, over a quarter of the great circle."""
    import pandas as pd

    settings = Settings()
    unit = (w / w.norm()).unsqueeze(0)
    weights = vocabulary.token_weights.unsqueeze(0)
    state = sphere.begin(unit, unit, vocabulary.projection, weights, settings)
    direction = torch.nn.functional.normalize(sphere.gradient(state, settings))
    _, moments = joint_moments(state.a, direction, state.sample())
    cosine_s, cosine_d = ((unit * x).sum(1).double() for x in (state.s, direction))
    chosen = sphere.line_search(moments, cosine_s, cosine_d, settings).item()

    t = torch.tensor([*torch.linspace(0, math.pi / 2, n_points).tolist(), chosen]).unsqueeze(1)
    points = torch.cos(t) * state.s + torch.sin(t) * direction
    kurtosis = excess_kurtosis((points @ vocabulary.projection).double(), weights)
    *values, at_chosen = settings.objective(kurtosis, points @ unit[0]).tolist()
    return Profile(pd.DataFrame({"t": t[:-1, 0], "objective": values}), chosen, at_chosen)


@dataclass(frozen=True)
class Timed:
    """One solver's first channel of each neuron, and its clock."""

    channels: Channels
    curve: pd.DataFrame
    """Columns seconds and objective (mean over neurons), seconds spread evenly over the points."""
    seconds: float

    @property
    def ended(self) -> bool:
        """Whether each neuron has converged, or taken the paper's 10,000 steps."""
        return bool((self.channels.converged | (self.channels.n_iter >= PAPER.max_iter)).all())


def timed(neurons: NeuronsLike, vocabulary: VocabularyLike, **options: Any) -> Timed:
    """Decompose into one channel with a clock; options as of :func:`rotate_core.decompose`."""
    import pandas as pd

    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a limit of iterations is allowed
        channels = decompose(neurons, vocabulary, n_channels=1, history=True, **options)
    seconds = time.perf_counter() - start
    assert channels.history is not None
    # A neuron that has left the batch keeps its last value.
    values = pd.DataFrame(channels.history[:, 0].T.numpy()).ffill().mean(axis=1)
    clock = seconds * (values.index + 1) / len(values)
    return Timed(channels, pd.DataFrame({"seconds": clock, "objective": values}), seconds)


def by_neuron(ours: Timed, paper: Timed) -> pd.DataFrame:
    """One row per neuron: the cosine between the two channels, and our gain in F."""
    import pandas as pd

    a, b = ours.channels, paper.channels
    cosine = torch.cosine_similarity(a.vectors, b.vectors, dim=-1)[:, 0]
    return pd.DataFrame({"cosine": cosine, "gain": (a.objective - b.objective)[:, 0]})


def seconds_until(run: Timed, objective: float) -> float | None:
    """When the run's mean objective reached a value; None: never."""
    reached = run.curve[run.curve.objective >= objective]
    return float(reached.seconds.iloc[0]) if len(reached) else None


def comparison(ours: Timed, paper: Timed) -> dict[str, Any]:
    """Two solvers of the same objective in figures.

    ``seconds_to_target``: until our mean objective is where the paper's solver ends. ``speedup``:
    how many times sooner that is; None where that solver has not ended (:attr:`Timed.ended`), or
    ours never gets there. ``n_lower`` and ``n_higher`` count neurons where ours ends more than
    :data:`MARGIN` away, ``n_same_channel`` those with a cosine above 0.99.

    Raises:
        ValueError: the two maximise different objectives.
    """
    names = ("lambda_kurtosis", "lambda_fidelity", "moments")
    a, b = ({n: getattr(run.channels.settings, n) for n in names} for run in (ours, paper))
    if a != b:
        raise ValueError(f"objectives {a} and {b}: wanted the same, to say which is sooner")
    table, target = by_neuron(ours, paper), paper.channels.objective.mean().item()
    seconds = seconds_until(ours, target)
    return {
        "paper_seconds": paper.seconds,
        "our_seconds": ours.seconds,
        "paper_objective": target,
        "our_objective": ours.channels.objective.mean().item(),
        "seconds_to_target": seconds,
        "speedup": None if seconds is None or not paper.ended else paper.seconds / seconds,
        "n_lower": int((table.gain < -MARGIN).sum()),
        "n_higher": int((table.gain > MARGIN).sum()),
        "n_same_channel": int((table.cosine > 0.99).sum()),
        "n_paper_converged": int(paper.channels.converged.sum()),
    }


def speedup_finding(ours: Timed, paper: Timed) -> str:
    """The comparison in a sentence; a ratio only where :func:`comparison` has one."""
    figures, n, n_iter = comparison(ours, paper), paper.channels.n_neurons, paper.channels.n_iter
    lower = f"ends lower by {MARGIN} or more for {figures['n_lower'] / n:.0%} of {n} neurons"
    if not paper.ended:
        n_short = int((~paper.channels.converged & (n_iter < PAPER.max_iter)).sum())
        return (
            f"No ratio is given: the paper's solver had not converged for {n_short} of {n} neurons "
            f"after {int(n_iter.max()):,} steps. The geodesic solver {lower}"
        )
    if figures["speedup"] is None:
        return f"The geodesic solver stays below the paper's end, and {lower}"
    ratio = f"{figures['speedup']:.0f} times sooner"
    return f"The geodesic solver passes the paper's end {ratio}, and {lower}"


def optimality_gap(
    neurons: NeuronsLike, vocabulary: VocabularyLike, **options: Any
) -> Float[Tensor, "n_neurons n_iterations"]:
    """The F that each neuron's first channel has still to gain, after 0, 1, 2, ... iterations.

    The geodesic solver goes on until an iteration gains less than 1e-9, whatever its gradient, and
    without a kick; 0 once it has ended. Options as of :func:`rotate_core.decompose`. Float64.
    """
    endless = {"tolerance": 1e-9, "gradient_tolerance": ANY_GRADIENT, "max_iter": 400}
    channels = timed(neurons, vocabulary, progress=False, **endless, **options).channels
    assert channels.history is not None
    return (channels.objective - channels.history[:, 0]).nan_to_num(0.0).clamp_min(0.0)


def stops(
    gap: Float[Tensor, "n_neurons n_iterations"],
    tolerances: Sequence[float],
    solved: Channels | None = None,
) -> pd.DataFrame:
    """Where rules stop the solver, and what they lose.

    Args:
        gap: from :func:`optimality_gap`.
        tolerances: gains of F in one iteration, below which a neuron stops, whatever its gradient.
        solved: the same neurons by the solver's own rule, gradient test and kick included, with
            their history. It may end higher than ``gap`` does: a loss below 0.

    Returns:
        By rule ("1e-05", ..., "solver"), over neurons: mean iterations, median_loss, mean_loss, and
        n_on_plateau, how many stop where more than :data:`MARGIN` is left.
    """
    import pandas as pd

    gains = torch.nn.functional.pad(gap[:, :-1] - gap[:, 1:], (0, 1))  # none behind the last
    rules = {}
    for tolerance in tolerances:
        taken = ((gains < tolerance).double().argmax(1) + 1).clamp_max(gap.shape[1] - 1)
        rules[f"{tolerance:.0e}"] = taken, gap.gather(1, taken.unsqueeze(1))[:, 0]
    if solved is not None:
        assert solved.history is not None
        gained = (solved.objective - solved.history[:, :, 0])[:, 0]
        rules["solver"] = solved.n_iter[:, 0], gap[:, 0] - gained
    rows = [
        (taken.double().mean(), loss.median(), loss.mean(), (loss > MARGIN).sum())
        for taken, loss in rules.values()
    ]
    columns = ["iterations", "median_loss", "mean_loss", "n_on_plateau"]
    return pd.DataFrame(torch.tensor(rows).double(), list(rules), columns)
