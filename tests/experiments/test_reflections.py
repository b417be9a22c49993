"""One reflection and more, beside our solver: whose figures are whose."""

from __future__ import annotations

import torch

from rotate_core import PAPER, Vocabulary
from rotate_core.experiments import reflections
from rotate_core.experiments.solver import timed


def test_solvers_on_the_same_neurons_are_told_apart():
    generator = torch.Generator().manual_seed(0)
    projection = torch.randn(12, 300, generator=generator)
    projection[0, :15] += 8
    vocabulary, w = Vocabulary(projection, torch.ones(300)), torch.randn(3, 12, generator=generator)
    short = {"settings": PAPER, "max_iter": 5, "progress": False}
    runs = {"geodesic": timed(w, vocabulary, moments="scaled", progress=False)}
    for n in (1, 2):
        runs[f"AdamW, {n}"] = timed(w, vocabulary, n_reflections=n, **short)
    solved = reflections.by_neuron(runs)
    assert list(solved.reflections.unique()) == [0, 1, 2]
    assert solved.groupby("solver").size().eq(3).all()
    assert not solved[solved.reflections > 0].converged.any(), "five steps are not enough"
    table = reflections.by_solver(solved)
    assert table.loc["geodesic", "objective"].value > table.loc["AdamW, 1", "objective"].value
    assert table.converged.tolist()[1:] == ["0%", "0%"]
