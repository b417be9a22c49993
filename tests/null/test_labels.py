"""Labels of directions: the definition, no dependence on length, honest p-values, a planted set."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import scipy.stats
import torch
from safetensors.torch import save_file

from rotate_core import Vocabulary, label, matched_vectors
from rotate_core.null.directions import read_directions

D_MODEL, D_VOCAB = 16, 600


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    """Gaussian columns; the last three tokens do not count."""
    weights = torch.ones(D_VOCAB)
    weights[-3:] = 0
    return Vocabulary(torch.randn(D_MODEL, D_VOCAB, generator=generator(0)), weights)


@pytest.fixture(scope="module")
def population() -> torch.Tensor:
    """Vectors of length 1 with a mean and with variances from 1 to 1/10."""
    drawn = torch.randn(80, D_MODEL, generator=generator(1)) * torch.linspace(1, 0.1, D_MODEL) + 0.1
    return drawn / drawn.norm(dim=1, keepdim=True)


# --- The reading --------------------------------------------------------------------------------


def test_labels_are_what_their_definition_says(vocabulary, population) -> None:
    found = label(population[:5], vocabulary, null=20)
    for i in range(5):
        logits = population[i].double() @ vocabulary.projection.double()
        z = (logits - logits.mean()) / logits.std(correction=0)
        assert found.kurtosis[i] == pytest.approx(float((z**4).mean() - 3), abs=1e-4)
        z[-3:] = torch.nan
        ascending = [int(token) for token in z.argsort()[:-3]]  # NaN are last
        up, down = ascending[:-11:-1], ascending[:10]
        assert [int(token) for token, _ in found.top_tokens(i, side=1)] == up
        assert [int(token) for token, _ in found.top_tokens(i, side=-1)] == down
        cores = {1: z[up].mean(), -1: -z[down].mean()}
        side = max(cores, key=cores.__getitem__)
        assert found.polarity[i] == side
        assert found.core[i] == pytest.approx(float(cores[side]), abs=1e-5)
        token, value = found.top_tokens(i)[0]
        assert value == pytest.approx(float(z[int(token)]), abs=1e-5)


@pytest.mark.parametrize("factor", [-1.0, 1e-20, 1e20])
def test_length_and_sign_change_no_p_value(vocabulary, population, factor: float) -> None:
    lengths = torch.linspace(0.5, 3, len(population)).unsqueeze(1)
    found = label(population, vocabulary, null=50)
    other = label(factor * lengths * population, vocabulary, null=50)
    torch.testing.assert_close(other.p_value, found.p_value, rtol=1e-3, atol=1e-5)
    assert torch.equal(other.polarity, found.polarity * (1 if factor > 0 else -1))


def test_other_precisions_devices_and_forms_read_the_same(vocabulary, population) -> None:
    found = label(population, vocabulary, null=20)
    for same in (population.double(), population.numpy(), population.tolist()):
        torch.testing.assert_close(label(same, vocabulary, null=20).core, found.core)
    assert label(population.bfloat16(), vocabulary, null=20).core.isfinite().all()


def test_a_seed_is_a_null_of_its_own(vocabulary, population) -> None:
    first, again, other = (label(population, vocabulary, null=20, seed=s) for s in (0, 0, 1))
    assert torch.equal(first.p_value, again.p_value)
    assert not torch.equal(first.p_value, other.p_value)
    assert torch.equal(first.core, other.core)
    drawn = matched_vectors(population, 20, seed=0)  # with the same seed, and no null of themselves
    ps = label(drawn, vocabulary, like=population, null=20, seed=0).p_value
    assert len(ps.unique()) > 1
    assert scipy.stats.kstest(ps.numpy(), "uniform").pvalue > 1e-3


# --- Against chance -----------------------------------------------------------------------------


def test_vectors_of_the_null_get_uniform_p_values(vocabulary, population) -> None:
    """Over seeds, each with a null of its own."""
    ps = [
        label(
            matched_vectors(population, 10, seed=100 + s), vocabulary, like=population, null=99,
            seed=s,
        ).p_value
        for s in range(30)
    ]  # fmt: skip
    p = torch.cat(ps).numpy()
    assert scipy.stats.kstest(p, "uniform").pvalue > 0.01
    assert np.mean(p <= 0.1) < 0.15


def test_vectors_that_mean_nothing_get_fair_p_values_from_their_own_covariance(vocabulary) -> None:
    ps = []
    for s in range(10):
        vectors = torch.randn(40, D_MODEL, generator=generator(s))
        ps.append(label(vectors, vocabulary, null=99, seed=s).p_value)
    p = torch.cat(ps).numpy()
    assert scipy.stats.kstest(p, "uniform").pvalue > 0.01


def test_planted_sets_of_tokens_are_found_and_nothing_else() -> None:
    """Tokens in clusters of 12: a direction of ten of them is a sparse set of columns of U."""
    d_model = 64
    clusters = torch.randn(50, d_model, generator=generator(3))
    noise = torch.randn(D_VOCAB, d_model, generator=generator(4))
    columns = clusters.repeat_interleave(12, 0) + 0.3 * noise
    vocabulary = Vocabulary(columns.T, torch.ones(D_VOCAB))
    vectors = torch.randn(60, d_model, generator=generator(5))
    for i in range(10):
        chosen = columns[12 * i : 12 * i + 10].mean(0)
        vectors[i] = (-1) ** i * (chosen - columns.mean(0))
    found = label(vectors, vocabulary, null=500)
    assert (found.q_value[:10] < 0.1).double().mean() >= 0.9
    assert (found.q_value[10:] < 0.1).double().mean() <= 0.1
    best = {int(token) for token, _ in found.top_tokens(3)}
    assert best <= set(range(36, 48))
    assert found.polarity[:10].tolist() == [1, -1] * 5


def test_few_directions_have_a_null_in_their_span_or_one_of_others(vocabulary, population) -> None:
    few = label(population[:4], vocabulary, null=20)
    assert few.rank == 3
    assert "random vectors in 3 of 16 dimensions" in repr(few)
    among = label(population[:4], vocabulary, like=population, null=20)
    assert among.rank == D_MODEL
    assert "dimensions" not in repr(among)
    assert torch.equal(few.core, among.core)
    assert label(population[:1], vocabulary, like=population, null=20).p_value.shape == (1,)


def test_a_table_has_a_row_for_each_direction(vocabulary, population) -> None:
    found = label(population[:6], vocabulary, null=20, seed=3)
    table = found.table(k=4)
    assert table["direction"].tolist() == list(range(6))
    assert table["n_null"].eq(20).all()
    assert table["seed"].eq(3).all()
    assert [len(tokens) for tokens in table["top_tokens"]] == [4] * 6
    assert table["top_tokens"][2] == [token for token, _ in found.top_tokens(2, k=4)]
    assert "q over 6 directions, p against 20 matched vectors" in repr(found)
    assert "<table" in found._repr_html_()


def test_ranks_stand_beside_those_of_chance(vocabulary, population) -> None:
    found = label(population[:9], vocabulary, null=20)
    ranked = found.by_rank()
    assert ranked["p_value"].tolist() == sorted(found.p_value.tolist())
    assert ranked["chance"].is_monotonic_increasing
    assert ranked["chance"][4] == pytest.approx(0.5)
    assert ranked["low"][0] == pytest.approx(1 - 0.975 ** (1 / 9))  # of the smallest of nine
    assert ranked["high"][8] == pytest.approx(0.975 ** (1 / 9))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"directions": torch.ones(3, 5)}, "directions have d_model 5, the projection"),
        ({"directions": torch.ones(1, D_MODEL)}, "one vector has no covariance"),
        ({"directions": torch.zeros(3, D_MODEL)}, "3 directions have norm 0"),
        ({"directions": torch.full((3, D_MODEL), torch.nan)}, "3 directions are not finite"),
        ({"like": torch.ones(3, 5)}, "vectors in like have d_model 5"),
        ({"null": 0}, "n=0: wanted at least 1"),
        ({"vocabulary": object()}, "no vocabulary"),
    ],
)
def test_bad_input_is_named(vocabulary, population, changes, message: str) -> None:
    given = {"directions": population, "vocabulary": vocabulary} | changes
    with pytest.raises(ValueError, match=message):
        label(given.pop("directions"), given.pop("vocabulary"), **given)


def test_too_few_tokens_for_a_core_and_ends_that_are_not_there(vocabulary, population) -> None:
    with pytest.raises(ValueError, match="8 tokens of weight above 0: wanted 10"):
        label(population, Vocabulary(vocabulary.projection[:, :8]), null=20)
    found = label(population, vocabulary, null=20)
    with pytest.raises(ValueError, match="side=0"):
        found.top_tokens(0, side=0)
    with pytest.raises(IndexError, match="direction=80"):
        found.top_tokens(80)
    assert dataclasses.is_dataclass(found)


# --- Files --------------------------------------------------------------------------------------


@pytest.fixture
def values() -> torch.Tensor:
    return torch.randn(7, D_MODEL, generator=generator(6))


def test_directions_are_read_from_every_format(tmp_path, values) -> None:
    save_file({"W_dec": values, "b_dec": torch.zeros(D_MODEL)}, tmp_path / "a.safetensors")
    save_file({"W_dec": values, "W_enc": values.T.contiguous()}, tmp_path / "b.safetensors")
    np.save(tmp_path / "a.npy", values.T.numpy())
    np.savez(tmp_path / "a.npz", W=values.numpy(), n=np.arange(3))
    np.save(tmp_path / "probe.npy", values[0].numpy())
    for name in ("a.safetensors", "a.npy", "a.npz"):
        assert torch.equal(read_directions(tmp_path / name, D_MODEL), values), name
    for tensor in ("W_dec", "W_enc"):
        read = read_directions(tmp_path / "b.safetensors", D_MODEL, tensor=tensor)
        assert torch.equal(read, values)
    assert torch.equal(read_directions(tmp_path / "probe.npy", D_MODEL), values[:1])
    save_file({"square": values @ values.T}, tmp_path / "c.safetensors")
    rows, columns = (
        read_directions(tmp_path / "c.safetensors", 7, columns=columns) for columns in (False, True)
    )
    assert torch.equal(rows, columns.T)


def test_files_that_hold_no_directions_are_named(tmp_path, values) -> None:
    save_file({"W_dec": values, "W_enc": values.clone()}, tmp_path / "two.safetensors")
    save_file({"deep": torch.ones(2, 3, D_MODEL)}, tmp_path / "deep.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "two.safetensors").read_bytes()[:-8])
    np.save(tmp_path / "objects.npy", np.array([{}, []], dtype=object), allow_pickle=True)
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 and no more")
    (tmp_path / "pickle.npy").write_bytes(b"\x80\x04N.")
    (tmp_path / "a.pt").write_bytes(b"")
    for name, options, message in (
        ("two.safetensors", {}, r"has several: W_.* \(7, 16\).*wanted the name of one"),
        ("two.safetensors", {"tensor": "W"}, "no tensor 'W': it has"),
        ("deep.safetensors", {}, r"deep \(2, 3, 16\): wanted \(n, 16\)"),
        ("deep.safetensors", {"tensor": "deep"}, r"wanted \(n, 16\)"),
        (
            "two.safetensors",
            {"tensor": "W_dec", "columns": True},
            r"shape \(7, 16\): wanted 16 rows",
        ),
        ("cut.safetensors", {}, "cut.safetensors cannot be read"),
        ("objects.npy", {}, "objects.npy cannot be read"),
        ("pickle.npy", {}, "pickle.npy cannot be read"),
        ("cut.npz", {}, "cut.npz cannot be read"),
        ("a.pt", {}, "wanted a file of .safetensors, .npy, .npz"),
    ):
        with pytest.raises(ValueError, match=message):
            read_directions(tmp_path / name, D_MODEL, **options)
    with pytest.raises(FileNotFoundError, match=r"no file .*none\.npy"):
        read_directions(tmp_path / "none.npy", D_MODEL)
