"""The sphere: the line search against brute force, iterations on the sphere, optima that hold."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from rotate_core.rotation import sphere
from rotate_core.rotation.curvature import Curvature, factors
from rotate_core.rotation.deflate import deflate
from rotate_core.rotation.moments import (
    Sample,
    centred_logits,
    excess_kurtosis,
    joint_moments,
    moments_along,
)
from rotate_core.rotation.settings import Settings
from rotate_core.rotation.sphere import line_search

MOMENTS = ["weighted", "scaled"]


def solve(w, projection, weights, settings, *, start=None, curvature=None, **changes):
    """One climb of each neuron to its end, all in one batch, without kicks."""
    settings = replace(settings, **changes)
    state = sphere.begin(unit(w), w if start is None else start, projection, weights, settings)
    ended, history = state.take(state.climb < 0), [state.value.clone()]
    while True:
        ended.add(sphere.leave(state, settings))
        if not len(state):
            break
        sphere.advance(state, state.g, settings, curvature)
        history.append(torch.full_like(history[0], math.nan))
        history[-1][state.climb] = state.value
    order = ended.climb.argsort()
    return SimpleNamespace(
        vectors=ended.s[order] * w.norm(dim=1, keepdim=True),
        objective=ended.value[order],
        gradient_norm=ended.g.norm(dim=1).double()[order],
        n_iter=ended.taken[order],
        converged=ended.converged[order],
        history=history,
    )


def problem(moments, n_neurons=4, d_model=12, d_vocab=300, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(n_neurons, d_model, generator=generator, dtype=dtype)
    # Heavy-tailed columns, so that there is something to find.
    projection = torch.randn(d_model, d_vocab, generator=generator, dtype=dtype) ** 3
    weights = torch.ones(n_neurons, d_vocab, dtype=dtype)
    weights[:, :5] = 1e-4
    return w, projection, weights, Settings(moments=moments)


def value_of(s, w, projection, weights, settings):
    """F from its definition."""
    z = s @ projection
    if settings.moments == "scaled":
        kurtosis = excess_kurtosis(weights * z)
    else:
        kurtosis = excess_kurtosis(z, weights)
    return settings.objective(kurtosis, torch.cosine_similarity(s, w))


def unit(v):
    return v / v.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("moments", MOMENTS)
def test_moments_along_a_geodesic_are_those_of_its_points(moments):
    w, projection, weights, _ = problem(moments)
    s = unit(w)
    d = unit(sphere.tangent(torch.randn_like(w), s))
    sample = Sample.of(projection, weights, moments)
    a, _, _ = centred_logits(s, sample)
    _, joint = joint_moments(a, d, sample)
    t = torch.linspace(-math.pi, math.pi, 7, dtype=torch.float64).expand(len(w), -1)
    m2, m4 = moments_along(joint, t)
    for i in range(t.shape[1]):
        point = torch.cos(t[0, i]) * s + torch.sin(t[0, i]) * d
        _, v, fourth = centred_logits(point, sample)
        torch.testing.assert_close(m2[:, i], v)
        torch.testing.assert_close(m4[:, i], fourth)


@pytest.mark.parametrize("moments", MOMENTS)
@pytest.mark.parametrize("seed", range(5))
def test_line_search_finds_what_brute_force_finds(moments, seed):
    w, projection, weights, settings = problem(moments, seed=seed)
    s = unit(w)
    d = unit(sphere.tangent(torch.randn(w.shape, dtype=w.dtype), s))
    sample = Sample.of(projection, weights, moments)
    a, _, _ = centred_logits(s, sample)
    _, joint = joint_moments(a, d, sample)
    t = line_search(joint, (s * s).sum(1), (s * d).sum(1), settings)
    found = value_of(
        torch.cos(t).unsqueeze(1) * s + torch.sin(t).unsqueeze(1) * d,
        w,
        projection,
        weights,
        settings,
    )
    for angle in torch.linspace(0, math.pi / 2, 4001, dtype=torch.float64):
        point = torch.cos(angle) * s + torch.sin(angle) * d
        assert (value_of(point, w, projection, weights, settings) <= found + 1e-6).all()


@pytest.mark.parametrize("moments", MOMENTS)
def test_every_iteration_stays_on_the_sphere_moves_along_it_and_ascends(moments):
    w, projection, weights, settings = problem(moments)
    curvature = Curvature.of(projection, weights[0], moments=moments)
    state = sphere.begin(unit(w), w, projection, weights, settings)
    for _ in range(12):
        before = state.value
        g = sphere.gradient(state, settings)
        torch.testing.assert_close((g * state.s).sum(1), torch.zeros(len(w), dtype=w.dtype))
        sphere.advance(state, g, settings, curvature)
        torch.testing.assert_close(state.s.norm(dim=1), torch.ones(len(w), dtype=w.dtype))
        torch.testing.assert_close((state.d * state.s).sum(1), torch.zeros(len(w), dtype=w.dtype))
        assert (state.value >= before - 1e-12).all()
        # What is carried along is what a fresh start from here would compute.
        fresh = sphere.begin(unit(w), state.s, projection, weights, settings)
        torch.testing.assert_close(state.a, fresh.a)
        torch.testing.assert_close(state.value, fresh.value)


@pytest.mark.parametrize("moments", MOMENTS)
@pytest.mark.parametrize("preconditioned", [True, False])
def test_the_solution_is_a_stationary_point_of_the_definition(moments, preconditioned):
    w, projection, weights, settings = problem(moments)
    curvature = None
    if preconditioned:
        curvature = Curvature.of(projection, weights[0], moments=moments)
    solution = solve(w, projection, weights, settings, curvature=curvature, tolerance=1e-12)
    assert solution.converged.all()
    torch.testing.assert_close(solution.vectors.norm(dim=1), w.norm(dim=1))
    s = unit(solution.vectors).requires_grad_()
    value = value_of(s, w, projection, weights, settings)
    torch.testing.assert_close(solution.objective, value.detach())
    (g,) = torch.autograd.grad(value.sum(), s)
    g = sphere.tangent(g, s.detach())
    assert (g.norm(dim=1) < 1e-4).all()
    torch.testing.assert_close(solution.gradient_norm, g.norm(dim=1), atol=1e-6, rtol=1e-3)
    assert (solution.objective > solution.history[0]).all()


def test_a_neuron_does_not_feel_its_batch():
    w, projection, weights, settings = problem("weighted", n_neurons=7)
    together = solve(w, projection, weights, settings)
    for i in range(len(w)):
        alone = solve(w[i : i + 1], projection, weights[i : i + 1], settings)
        assert alone.n_iter[0] == together.n_iter[i]
        torch.testing.assert_close(alone.vectors[0], together.vectors[i], rtol=1e-8, atol=1e-8)


def test_iterations_end_at_the_limit_and_say_so():
    w, projection, weights, settings = problem("weighted")
    solution = solve(w, projection, weights, settings, max_iter=2)
    assert not solution.converged.any()
    assert solution.n_iter.tolist() == [2] * len(w)
    assert len(solution.history) == 3


def plateau(dtype=torch.float64):
    """A neuron between two blocks that are as strong as each other: it passes a plateau."""
    generator = torch.Generator().manual_seed(0)
    projection = torch.randn(16, 1000, generator=generator, dtype=torch.float64)
    projection[0, :20] += 8
    projection[1, 20:40] += 8
    w = torch.zeros(3, 16, dtype=torch.float64)
    w[:, 0] = 1
    w[:, 1] = torch.tensor([1.0, 0.5, -0.9], dtype=torch.float64)
    weights = torch.ones(3, 1000, dtype=torch.float64)
    return w.to(dtype), projection.to(dtype), weights.to(dtype), Settings()


def test_converged_means_that_the_gradient_is_small():
    problem = plateau()
    loose = solve(*problem, tolerance=1e-2, gradient_tolerance=1e9)
    assert loose.converged.all()
    assert (loose.gradient_norm >= 3e-3).any(), "by gain alone, one converges where it is steep"
    solution = solve(*problem, tolerance=1e-2)
    assert solution.converged.all()
    assert (solution.gradient_norm < 3e-3).all()
    assert (solution.objective >= loose.objective).all()


def test_the_gradient_test_goes_on_along_the_same_path():
    problem = plateau()
    loose = solve(*problem, tolerance=1e-2, gradient_tolerance=1e9)
    solution = solve(*problem, tolerance=1e-2)
    for i, n_iter in enumerate(loose.n_iter.tolist()):
        before = torch.stack([values[i] for values in loose.history[: n_iter + 1]])
        after = torch.stack([values[i] for values in solution.history[: n_iter + 1]])
        torch.testing.assert_close(after, before, rtol=1e-10, atol=1e-10)
        if loose.gradient_norm[i] < 3e-3:
            torch.testing.assert_close(solution.vectors[i], loose.vectors[i])


def stalls(n_neurons=4):
    """A problem whose gradient never gets as short as is asked for: each neuron stalls."""
    w, projection, weights, settings = problem("weighted", n_neurons, dtype=torch.float32)
    changes = {"gradient_tolerance": 1e-30, "max_iter": 500, "start": "weight"}
    return w, projection, weights, replace(settings, **changes)


def test_a_neuron_that_stalls_is_kicked_once_and_not_called_converged():
    w, projection, weights, settings = stalls()
    curvature = Curvature.of(projection, weights[0])
    plain = solve(w, projection, weights, settings, curvature=curvature)
    kicked = deflate(w, projection, weights[0], n_channels=1, settings=settings)
    assert (kicked["n_iter"][:, 0] > plain.n_iter).all()
    assert (kicked["n_iter"] < 500).all(), "a second stall is the end"
    assert not kicked["converged"].any()
    gained = kicked["objective"][:, 0] - plain.objective
    assert (gained >= -1e-5).all(), "the better of before and after"
    for path in kicked["history"][:, 0]:
        falls = (path[~path.isnan()].diff() < -1e-6).sum()
        assert falls <= 1, "once"
    torch.testing.assert_close(kicked["vectors"][:, 0].norm(dim=1), w.norm(dim=1))
    again = deflate(w, projection, weights[0], n_channels=1, settings=settings)
    assert torch.equal(again["vectors"], kicked["vectors"])


def test_a_kick_is_a_step_along_the_sphere_and_a_new_beginning():
    w, projection, weights, settings = problem("weighted")
    state = sphere.begin(unit(w), w, projection, weights, settings)
    sphere.advance(state, sphere.gradient(state, settings), settings, None)
    before = state.s
    sphere.kick(state, torch.randn_like(w), settings)
    angle = torch.acos((state.s * before).sum(1))
    torch.testing.assert_close(angle, torch.full_like(angle, sphere.KICK))
    torch.testing.assert_close(state.value, value_of(state.s, w, projection, weights, settings))
    assert not state.d.any()
    assert (state.gain == math.inf).all(), "it has not stalled: it has not begun"


def test_a_kick_leaves_an_exact_saddle():
    # Two equal blocks, and a neuron exactly between them: by symmetry no gradient leads out.
    projection = torch.zeros(8, 400, dtype=torch.float64)
    projection[:, :200] = torch.randn(8, 200, generator=torch.Generator().manual_seed(0)).double()
    projection[0, :8] += 6
    projection[:, 200:] = projection[:, :200]
    projection[[0, 1], 200:] = projection[[1, 0], :200]  # the mirror image
    w = torch.zeros(1, 8, dtype=torch.float64)
    w[0, :2] = 1
    weights = torch.ones(1, 400, dtype=torch.float64)
    settings = Settings(gradient_tolerance=1e-30, max_iter=500, start="weight", precondition=False)
    stuck = solve(w, projection, weights, settings)
    assert stuck.vectors[0, 0] == pytest.approx(stuck.vectors[0, 1].item(), abs=1e-6)
    free = deflate(w, projection, n_channels=1, settings=settings)
    assert free["objective"].item() > stuck.objective.item() + 0.01
    first, second = free["vectors"][0, 0, :2]
    assert abs(first - second) > 0.1


@pytest.mark.parametrize(("bulk", "pull"), [(1.0, 0.0), (2.5, 0.3)])
def test_the_curvature_is_solved_for_in_the_eigenvectors_of_the_covariance(bulk, pull):
    _, projection, weights, _ = problem("weighted")
    p = (weights[0] / weights[0].sum()).double()
    centred = projection - (projection * p).sum(1, keepdim=True)
    covariance, one = (centred * p) @ centred.T, torch.eye(len(projection), dtype=torch.float64)
    covariance += 1e-3 * covariance.diagonal().mean() * one
    ours = Curvature.of(projection, weights[0]).solve(one, bulk, pull)
    torch.testing.assert_close(ours @ (bulk * covariance + pull * one), one)


@pytest.mark.parametrize("taken", [0, sphere.BOLD - 1, sphere.BOLD, 30])
def test_the_first_iterations_leave_out_what_pulls_back_to_the_neuron(taken):
    w, projection, weights, settings = problem("weighted")
    curvature = Curvature.of(projection, weights[0])
    state = sphere.begin(unit(w), w + 0.3, projection, weights, settings)
    state.taken += taken
    s, g = state.s, sphere.gradient(state, settings)
    bulk, pull = factors(state.m2, state.m4, (unit(w) * s).sum(1), settings)
    wanted = curvature.solve(g) if taken < sphere.BOLD else curvature.solve(g, bulk, pull)
    sphere.advance(state, g, settings, curvature)
    went = sphere.tangent(state.s, s)
    torch.testing.assert_close(unit(went), unit(sphere.tangent(wanted, s)))


@pytest.mark.parametrize("moments", MOMENTS)
def test_near_a_channel_the_objective_curves_down_as_the_curvature_says(moments):
    """Where no tail adds to it: Gaussian columns, and kurtosis enough to be far from 0."""
    generator = torch.Generator().manual_seed(0)
    projection = torch.randn(10, 4000, generator=generator, dtype=torch.float64)
    projection[0, :40] += 9
    scales = torch.linspace(0.3, 3, 10, dtype=torch.float64).unsqueeze(1)
    projection[1:, 40:] *= scales[1:]
    w = torch.eye(10, dtype=torch.float64)[:1] + 0.1
    weights, settings = torch.ones(1, 4000, dtype=torch.float64), Settings(moments=moments)
    curvature = Curvature.of(projection, weights[0], moments=moments)
    top = solve(w, projection, weights, settings, curvature=curvature, tolerance=1e-12)
    s = unit(top.vectors)

    def value(x):
        point = unit(s + sphere.tangent(x.unsqueeze(0), s))
        return value_of(point, w, projection, weights, settings).sum()

    hessian = torch.autograd.functional.hessian(value, torch.zeros(10).double())
    z = s @ projection
    m2 = z.var(1, correction=0)
    m4 = ((z - z.mean()) ** 4).mean(1)
    bulk, pull = factors(m2, m4, torch.cosine_similarity(w, s), settings)
    tangents = torch.linalg.svd(s).Vh[1:]  # an orthonormal basis of the tangent space
    one = torch.eye(10, dtype=torch.float64)
    ours = tangents @ torch.linalg.inv(curvature.solve(one, bulk, pull)) @ tangents.T
    true = -tangents @ hessian @ tangents.T
    c = tangents @ torch.linalg.inv(curvature.solve(one)) @ tangents.T

    def condition(preconditioner):
        spread = torch.linalg.eigvals(torch.linalg.solve(preconditioner, true)).real
        return spread.max() / spread.min()

    assert condition(ours) < 2
    assert condition(ours) < condition(c) / 2
    assert condition(ours) < condition(one[1:, 1:]) / 2, "without any preconditioner"
