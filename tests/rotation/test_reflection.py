"""The paper's solver: reflections, and each step against autograd and torch's own AdamW."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from rotate_core.rotation import reflection
from rotate_core.rotation.moments import excess_kurtosis, slog
from rotate_core.rotation.settings import Settings

D_MODEL, D_VOCAB = 8, 120


def solve(w, projection, weights, settings, *, start, **changes):
    """The solver with some settings changed."""
    settings = replace(settings, **changes)
    return SimpleNamespace(**reflection.solve(w, projection, weights, settings, start=start))


def problem(n_neurons=3, n_reflections=1, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    w, projection = draw(n_neurons, D_MODEL), draw(D_MODEL, D_VOCAB) ** 3
    weights = torch.rand(n_neurons, D_VOCAB, generator=generator, dtype=torch.float64)
    return w, projection, weights, draw(n_neurons, n_reflections, D_MODEL)


def explicit(u, w):
    """H(u) as a matrix."""
    return w - 2 * u * (u @ w) / (u @ u)


def paper_loss(u, w, projection, weights, moments):
    """The paper's loss of one neuron, word for word; u is (n_reflections, d_model)."""
    v = w
    for one in u:
        v = explicit(one, v)
    z = projection.T @ v
    if moments == "scaled":
        kurtosis = excess_kurtosis(weights * z)
    else:
        kurtosis = excess_kurtosis(z, weights)
    return -0.3 * slog(kurtosis) + 1.0 * (1 - torch.cosine_similarity(w, v, dim=0))


def test_a_reflection_keeps_the_norm_and_undoes_itself():
    w, _, _, u = problem()
    reflected = reflection.reflect(u[:, 0], w)
    torch.testing.assert_close(reflected.norm(dim=1), w.norm(dim=1))
    torch.testing.assert_close(reflection.reflect(u[:, 0], reflected), w)


def test_reflect_gradient_passes_gradcheck():
    w, _, _, u = problem()
    u = u[:, 0].requires_grad_()
    target = torch.randn_like(w)
    (reflection.reflect(u, w) * target).sum().backward()
    torch.testing.assert_close(reflection.reflect_gradient(u.detach(), w, target), u.grad)


@pytest.mark.parametrize("moments", ["scaled", "weighted"])
@pytest.mark.parametrize("n_reflections", [1, 2])
def test_steps_are_those_of_autograd_and_torchs_adamw(moments, n_reflections):
    w, projection, weights, start = problem(n_reflections=n_reflections)
    n_steps = 201
    solution = solve(
        w, projection, weights, Settings(moments=moments), start=start, max_iter=n_steps
    )
    for i in range(len(w)):
        u = start[i].clone().requires_grad_()
        adamw = torch.optim.AdamW([u], lr=8e-4, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
        best, best_score, values = None, -1.0, []
        for step in range(n_steps):
            if step % 100 == 0:
                v = w[i]
                for one in u.detach():
                    v = explicit(one, v)
                score = excess_kurtosis(projection.T @ v).abs()
                if score > best_score:
                    best, best_score = v, score
            adamw.param_groups[0]["lr"] = 8e-4 * min(1.0, step / 100)
            adamw.zero_grad()
            loss = paper_loss(u, w[i], projection, weights[i], moments)
            if step % 100 == 0:
                values.append(1.0 - loss.item())
            loss.backward()
            adamw.step()
        torch.testing.assert_close(solution.vectors[i], best, rtol=1e-7, atol=1e-7)
        assert [h[i].item() for h in solution.history] == pytest.approx(values, rel=1e-7)
        assert solution.n_iter[i] == n_steps
        assert not solution.converged[i]


def test_a_neuron_stops_when_its_loss_stands_still_and_does_not_feel_its_batch(monkeypatch):
    monkeypatch.setattr(reflection, "STOP_FROM", 200)
    monkeypatch.setattr(reflection, "STOP_DEVIATION", 2e-3)
    w, projection, weights, start = problem(n_neurons=4)
    together = solve(w, projection, weights, Settings(), start=start, max_iter=3000)
    assert together.converged.all()
    assert len(set(together.n_iter.tolist())) > 1
    assert together.n_iter.min() >= 200
    for i in range(len(w)):
        one = slice(i, i + 1)
        alone = solve(w[one], projection, weights[one], Settings(), start=start[one], max_iter=3000)
        assert alone.n_iter[0] == together.n_iter[i]
        torch.testing.assert_close(alone.vectors[0], together.vectors[i], rtol=1e-6, atol=1e-6)


def the_authors_batch(w, projection, weights, start, *, max_iter, stop_from, deviation, eps):
    """Their loop: one mean loss, stopped when every neuron has converged once, by torch's AdamW."""
    u = start.clone().requires_grad_()
    adamw = torch.optim.AdamW([u], lr=2e-3, betas=(0.9, 0.999), eps=eps, weight_decay=0.01)
    best, best_score = w.clone(), torch.full((len(w),), -1.0)
    losses, converged = [], torch.zeros(len(w), dtype=torch.bool)
    for step in range(max_iter):
        adamw.param_groups[0]["lr"] = 2e-3 * min(1.0, step / 100)
        adamw.zero_grad()
        each = torch.stack(
            [
                paper_loss(*row, projection, m, "scaled")
                for *row, m in zip(u, w, weights, strict=True)
            ]
        )
        each.mean().backward()
        candidates = torch.stack(
            [explicit(one[0], row) for one, row in zip(u.detach(), w, strict=True)]
        )
        adamw.step()
        losses.append(each.detach())
        if step + 1 >= stop_from:
            window = torch.stack(losses[-100:])
            converged |= window.std(0, correction=0) < deviation
            if converged.all():
                return best, step + 1, converged
        if step % 100 == 0:
            score = excess_kurtosis(candidates @ projection).abs()
            better = score > best_score
            best[better], best_score[better] = candidates[better], score[better].float()
    return best, max_iter, converged


def test_joint_is_the_authors_loop(monkeypatch):
    """With the learning rate of some layers, and an epsilon that is felt as at 1,000 neurons."""
    monkeypatch.setattr(reflection, "STOP_FROM", 200)
    monkeypatch.setattr(reflection, "STOP_DEVIATION", 2e-3)
    monkeypatch.setattr(reflection, "EPSILON", 1e-4)
    w, projection, weights, start = problem(n_neurons=4, seed=2)
    options = {"start": start, "max_iter": 1500, "learning_rate": 2e-3}
    settings = Settings(moments="scaled")
    ours = solve(w, projection, weights, settings, joint=True, **options)
    best, n_steps, converged = the_authors_batch(
        w, projection, weights, start, max_iter=1500, stop_from=200, deviation=2e-3, eps=1e-4
    )
    assert ours.n_iter.tolist() == [n_steps] * 4
    assert n_steps < 1500
    assert ours.converged.tolist() == converged.tolist()
    torch.testing.assert_close(ours.vectors, best, rtol=1e-6, atol=1e-6)
    alone = solve(w, projection, weights, settings, **options)
    assert alone.n_iter.min() < n_steps, "otherwise joint stops say nothing"
    assert not torch.allclose(alone.vectors, ours.vectors, atol=1e-4)


def test_the_last_candidate_is_before_the_last_step():
    """10,000 steps: 0, 100, ..., 9,900; and the candidate at 100 is not that of 101 steps."""
    w, projection, weights, start = problem()
    options = {"start": start}
    short, longer = (
        solve(w, projection, weights, Settings(), max_iter=n, **options).vectors for n in (100, 101)
    )
    torch.testing.assert_close(short, reflection.reflect(start[:, 0], w))
    assert not torch.equal(short, longer)


def test_the_objective_is_lambda_f_minus_an_independent_float64_loss():
    w, projection, weights, start = problem()
    solution = solve(
        w.float(),
        projection.float(),
        weights.float(),
        Settings(moments="scaled"),
        start=start.float(),
        max_iter=300,
    )
    for i, v in enumerate(solution.vectors.double()):
        z = weights[i] * (projection.T @ v)
        loss = -0.3 * slog(excess_kurtosis(z)) + 1 - torch.cosine_similarity(w[i], v, dim=0)
        assert 1 - loss.item() == pytest.approx(solution.objective[i].item(), abs=1e-5)
