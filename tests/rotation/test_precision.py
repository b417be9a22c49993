"""Rounded products on the way, fused passes: the channels are those of neither."""

from __future__ import annotations

import shutil

import pytest
import torch

from rotate_core.rotation import deflate as deflation
from rotate_core.rotation import moments, sphere
from rotate_core.rotation.deflate import FIRM, deflate
from rotate_core.rotation.settings import Settings
from rotate_core.rotation.threads import team

ROUNDED = Settings(precision="bfloat16")


def planted(dtype=torch.float32, n_neurons=12):
    """Blocks of tokens along orthogonal directions, and neurons that mix three of them each."""
    generator = torch.Generator().manual_seed(0)
    projection = torch.randn(32, 2000, generator=generator)
    directions = torch.linalg.qr(torch.randn(32, 8, generator=generator)).Q
    for i, direction in enumerate(directions.T):
        projection[:, 40 * i : 40 * (i + 1)] += 6 * direction.unsqueeze(1)
    mixture = torch.zeros(n_neurons, 8)
    for row in mixture:
        row[torch.randperm(8, generator=generator)[:3]] = torch.tensor([0.9, -0.6, 0.4])
    w = mixture @ directions.T + 0.05 * torch.randn(n_neurons, 32, generator=generator)
    return w.to(dtype), projection.to(dtype)


def equal(one, other):
    return torch.cosine_similarity(one["vectors"], other["vectors"], dim=-1) >= 0.9999


@pytest.mark.parametrize("moments", ["weighted", "scaled"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_planted_channels_are_those_of_full_precision(moments, dtype):
    w, projection = planted(dtype)
    options = {"n_channels": 1, "settings": Settings(moments=moments)}
    full = deflate(w, projection, **options)
    options["settings"] = Settings(moments=moments, precision="bfloat16")
    rounded = deflate(w, projection, **options)
    assert rounded["vectors"].dtype == dtype
    assert rounded["converged"].all()
    assert equal(rounded, full).all()
    torch.testing.assert_close(rounded["objective"], full["objective"], rtol=1e-4, atol=0)


def test_products_are_rounded_between_the_first_and_the_last_iterations(monkeypatch):
    w, projection = planted(n_neurons=1)
    seen = []

    def advance(state, *arguments):
        seen.append((state.projection.dtype, int(state.taken.max())))
        original(state, *arguments)

    original = sphere.advance
    monkeypatch.setattr(sphere, "advance", advance)
    settings = Settings(precision="bfloat16", start="weight", tolerance=1e-7)
    found = deflate(w, projection, n_channels=1, settings=settings)
    dtypes = [dtype for dtype, _ in seen]
    assert dtypes[:FIRM] == [projection.dtype] * FIRM
    assert dtypes[FIRM] == torch.bfloat16
    assert dtypes[-1] == projection.dtype
    assert [taken for _, taken in seen] == list(range(found["n_iter"].item()))


@pytest.mark.parametrize("max_iter", [FIRM, FIRM + 1, 30])
def test_what_is_reported_is_in_full_precision(max_iter):
    w, projection = planted(torch.float64)
    settings = Settings(precision="bfloat16", max_iter=max_iter)
    found = deflate(w, projection, n_channels=1, settings=settings)
    w, s = (torch.nn.functional.normalize(x) for x in (w, found["vectors"][:, 0]))
    kurtosis = moments.excess_kurtosis(s @ projection)
    value = settings.objective(kurtosis, (w * s).sum(1))
    torch.testing.assert_close(found["objective"][:, 0], value)
    last = [path[~path.isnan()][-1] for path in found["history"][:, 0]]
    torch.testing.assert_close(torch.stack(last), value)


@pytest.mark.real_model
def test_channels_of_a_model_are_those_of_full_precision():
    from rotate_core import decompose, load_model

    model = load_model("smollm2-135m")
    neurons, vocabulary = model.neurons(12, "out", range(200, 208)), model.vocabulary(12)
    options = {"n_channels": 1, "progress": False}
    full = decompose(neurons, vocabulary, **options)
    rounded = decompose(neurons, vocabulary, precision="bfloat16", **options)
    cosine = torch.cosine_similarity(rounded.vectors, full.vectors, dim=-1)
    assert (cosine >= 0.9999).all()
    torch.testing.assert_close(rounded.objective, full.objective, rtol=1e-4, atol=0)


def test_compile_reaches_the_passes(monkeypatch):
    w, projection = planted(n_neurons=2)
    asked = []

    def noted(device, *, compile):
        asked.append(compile)
        return team(device)

    monkeypatch.setattr(deflation, "team", noted)
    for compile in (False, True):
        deflate(w, projection, n_channels=1, compile=compile)
    assert asked == [False, True]


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on a CPU")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, when it is imported
@pytest.mark.filterwarnings("ignore:.*distutils")  # of setuptools, by its compiler
def test_fused_passes_are_the_passes():
    generator = torch.Generator().manual_seed(0)
    a, b, p = (torch.randn(4, 300, generator=generator) for _ in range(3))
    ratio, cos_t = torch.rand(4, 1, generator=generator), torch.rand(4, 1, generator=generator)
    plain = moments._two_sums(a, p), moments._cubic(a, ratio, p), moments._eight_sums(a, b, p)
    turned, again = a.clone(), a.clone()
    sphere._turn(turned, b, cos_t, ratio)
    with team(torch.device("cpu"), compile=True):
        fused = moments._two_sums(a, p), moments._cubic(a, ratio, p), moments._eight_sums(a, b, p)
        sphere._turn(again, b, cos_t, ratio)
    torch.testing.assert_close(fused, plain, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(again, turned)
