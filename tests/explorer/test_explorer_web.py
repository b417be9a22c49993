"""The browser's solver against Python's: this module writes the vectors that node's tests read.

python tests/explorer/test_explorer_web.py      writes them anew
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from rotate_core import Settings, Vocabulary, decompose
from rotate_core.explorer import pack
from rotate_core.null.evidence import statistics
from rotate_core.rotation import sphere as geodesic
from rotate_core.rotation.deflate import RACE
from rotate_core.rotation.moments import Sample, centred_logits, slog_kurtosis_gradient

JS = Path(__file__).parents[2] / "web"
TOY = JS / "test" / "toy.json"
TOY_PACK = JS / "test" / "toy.bin"
D_MODEL, D_VOCAB, N_CHANNELS = 24, 800, 3  # 24 is no multiple of 16: rows are padded


def toy_vocabulary() -> Vocabulary:
    """Gaussian columns with two shifted blocks of tokens, already rounded to int8."""
    generator = torch.Generator().manual_seed(0)
    columns = torch.randn(D_VOCAB, D_MODEL, generator=generator)
    columns[:30, 0] += 6
    columns[30:55, 1] += 6
    rows, scale = pack.quantise(columns.T)
    tokens = [f" token{i}" for i in range(D_VOCAB - 3)] + ["\n", "é", "<b>"]
    return Vocabulary((rows.float() * scale.unsqueeze(1)).T.contiguous(), tokens=tokens)


def toy_neurons() -> torch.Tensor:
    """Three that lie near both blocks, and two of many hills, whose climbs race."""
    near = 0.02 * torch.randn(3, D_MODEL, generator=torch.Generator().manual_seed(1))
    near[:, :2] += torch.tensor([[1.0, 0.8], [-0.7, 1.0], [0.5, -0.9]])
    drawn = torch.randn(400, D_MODEL, generator=torch.Generator().manual_seed(1))
    return torch.cat([near, drawn[[184, 343]]])


def toy_vectors() -> dict[str, object]:
    """What Python's solver finds on the toy, and the steps on the way."""
    vocabulary, w = toy_vocabulary(), toy_neurons()
    generator = torch.Generator().manual_seed(2)
    direction = torch.nn.functional.normalize(torch.randn(w.shape, generator=generator), dim=1)
    s = torch.nn.functional.normalize(w, dim=1)
    weights = vocabulary.token_weights.expand(len(w), -1)
    sample = Sample.of(vocabulary.projection, weights, "weighted")
    a, m2, m4 = centred_logits(s, sample)
    _, moments = geodesic.joint_moments(a, direction, sample)
    cosines = (torch.ones_like(m2), (s * direction).sum(1).double())
    channels = decompose(w, vocabulary, n_channels=N_CHANNELS, history=True, progress=False)
    return {
        "w": w.tolist(),
        "direction": direction.tolist(),
        "gradient": slog_kurtosis_gradient(a, m2, m4, sample).tolist(),
        "moments": moments.tolist(),
        "angle": geodesic.line_search(moments, *cosines, Settings()).tolist(),
        "first_steps": channels.history[:, 0, 1:5].tolist(),  # F after each
        "vectors": channels.vectors.tolist(),
        "objective": channels.objective.tolist(),
        "kurtosis": channels.kurtosis.tolist(),
        "cosine": channels.cosine.tolist(),
        "tail": channels.polarity.tolist(),
        "n_masked": channels.n_masked.tolist(),
        "core": statistics(channels, ("core",))["core"].tolist(),
        "top_ids": channels.top_ids[:, :, :20].tolist(),
    }


def test_the_vectors_that_the_browser_is_tested_on_are_those_of_todays_solver() -> None:
    stored = json.loads(TOY.read_text())
    for name, value in toy_vectors().items():
        np.testing.assert_allclose(stored[name], value, rtol=2e-3, atol=2e-4, err_msg=name)


def test_where_a_climb_begins_shows_in_the_vectors_that_the_browser_is_tested_on() -> None:
    tails, weight = (
        decompose(toy_neurons(), toy_vocabulary(), n_channels=1, start=start, progress=False)
        for start in ("tails", "weight")
    )
    cosine = torch.cosine_similarity(tails.vectors, weight.vectors, dim=-1)
    assert cosine[-2:].max() < 0.9
    assert tails.n_iter[-2:].min() > RACE


def test_the_pack_that_the_browser_is_tested_on_is_todays() -> None:
    stored, today = TOY_PACK.read_bytes(), pack.pack(toy_vocabulary())
    numbers = slice(32 + 8 * D_VOCAB, 32 + 8 * D_VOCAB + 4 * (D_MODEL + D_MODEL**2))
    assert len(stored) == len(today)
    assert stored[: numbers.start] == today[: numbers.start]
    assert stored[numbers.stop :] == today[numbers.stop :]

    def covariance(file: bytes) -> np.ndarray:  # an eigenvector has no sign
        floats = np.frombuffer(file[numbers], "<f4")
        values, vectors = floats[:D_MODEL], floats[D_MODEL:].reshape(D_MODEL, D_MODEL)
        return vectors.T * values @ vectors

    np.testing.assert_allclose(covariance(stored), covariance(today), rtol=1e-4, atol=1e-5)


def test_a_zero_column_stays_zero() -> None:
    rows, scale = pack.quantise(torch.tensor([[0.0, 1.0], [0.0, -2.0]]))
    assert rows.tolist() == [[0, 0], [64, -127]]
    assert scale.tolist() == [0, pytest.approx(2 / 127)]


@pytest.fixture
def node() -> None:
    if shutil.which("node") is None:
        pytest.skip("no node on this machine")
    if not (JS / "node_modules").is_dir():
        pytest.skip("no node_modules: run 'make js'")


def run(*command: str | Path) -> None:
    done = subprocess.run(command, cwd=JS, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


@pytest.mark.usefixtures("node")
def test_the_browsers_code_passes_its_own_tests() -> None:
    run("npm", "test")


@pytest.mark.usefixtures("node")
def test_the_files_in_git_are_what_their_sources_build(tmp_path: Path) -> None:
    run("node", "build.js", "--out", tmp_path)
    for name in ("explorer/static/explorer.js", "atlas/atlas.html"):
        path = JS.parent / "rotate_core" / name
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


if __name__ == "__main__":
    digits = json.loads(json.dumps(toy_vectors()), parse_float=lambda x: float(f"{float(x):.7g}"))
    TOY.write_text(json.dumps(digits) + "\n")
    TOY_PACK.write_bytes(pack.pack(toy_vocabulary()))
