"""Support, nulls, p-values: closed forms, calibration under the null, a planted channel found."""

from __future__ import annotations

import dataclasses
import math

import pytest
import scipy.stats
import torch

from rotate_core import Channels, Settings, Vocabulary, decompose
from rotate_core.null.calibration import (
    Calibration,
    CalibrationWarning,
    calibrate,
    p_values,
    q_values,
)
from rotate_core.null.evidence import EVIDENCE, STATISTICS, statistics, support, tail_evidence
from rotate_core.null.matched import matched_rotations, matched_vectors
from rotate_core.rotation import moments as kurtosis

D_MODEL, D_VOCAB, BLOCK = 16, 600, 15


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    """Gaussian columns; the first 15 tokens are shifted along the first axis."""
    projection = torch.randn(D_MODEL, D_VOCAB, generator=generator(0))
    projection[0, :BLOCK] += 6
    weights = torch.ones(D_VOCAB)
    weights[-3:] = 0
    return Vocabulary(projection, weights)


def run(vectors: torch.Tensor, vocabulary: Vocabulary, **options: object) -> Channels:
    return decompose(vectors, vocabulary, n_channels=2, threshold=3.0, progress=False, **options)


@pytest.fixture(scope="module")
def channels(vocabulary: Vocabulary) -> Channels:
    return run(torch.randn(5, D_MODEL, generator=generator(1)), vocabulary)


def by_hand(channels: Channels, neuron: int) -> list[dict[str, float]]:
    """The definitions, a token at a time, in float64."""
    u = channels.vocabulary.projection.double()

    def z_scores(vector: torch.Tensor) -> torch.Tensor:
        logits = vector.double() @ u
        return (logits - logits.mean()) / logits.std(correction=0)

    own = z_scores(channels.weight_vectors[neuron])
    seen: set[int] = set()
    found = []
    for channel in range(channels.n_channels):
        z = z_scores(channels.vectors[neuron, channel])
        side = int(channels.polarity[neuron, channel])
        sign = torch.sign(z) if side == 0 else torch.full_like(z, side)
        inside = (sign * z > channels.settings.threshold) & (channels.vocabulary.token_weights > 0)
        tail = inside.nonzero().flatten().tolist()
        values = [float((sign * own)[i]) for i in tail]
        new = [value for value, i in zip(values, tail, strict=True) if i not in seen]
        above = sorted((max(value, 0.0) for value in new), reverse=True) + [0.0] * 10
        found.append(
            {
                "support": sum(values) / max(len(values), 1),
                "own_support": sum(new) / max(len(new), 1),
                "core": sum(above[:10]) / 10,
                "peak": above[0],
                "share": sum(value**2 for value in above) / D_VOCAB,
            }
        )
        seen |= set(tail)
    return found


@pytest.mark.parametrize("tail", [None, 0, 1, -1])
def test_evidence_is_what_its_definition_says(channels: Channels, tail: int | None) -> None:
    if tail is not None:
        channels = dataclasses.replace(channels, polarity=torch.full_like(channels.polarity, tail))
    found = tail_evidence(channels)
    for i in range(channels.n_neurons):
        for j, expected in enumerate(by_hand(channels, i)):
            for name, value in expected.items():
                assert getattr(found, name)[i, j] == pytest.approx(value, abs=1e-5), (name, i, j)


def test_a_channel_that_repeats_another_has_no_evidence_of_its_own(channels: Channels) -> None:
    first = channels.vectors[:, :1].expand(-1, 2, -1).contiguous()
    tail = channels.polarity[:, :1].expand(-1, 2).contiguous()
    found = tail_evidence(dataclasses.replace(channels, vectors=first, polarity=tail))
    assert torch.equal(found.support[:, 0], found.support[:, 1])
    assert (found.core[:, 0] > 0).any()
    assert (found.core[:, 1] == 0).all()
    assert (found.own_support[:, 1] == 0).all()


def test_evidence_does_not_depend_on_the_blocks(
    channels: Channels, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tail_evidence(channels)
    monkeypatch.setitem(kurtosis.BLOCK_ELEMENTS, "cpu", 500)
    parts = tail_evidence(channels)
    torch.testing.assert_close(dataclasses.astuple(parts), dataclasses.astuple(whole))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_of_u_is_the_same_u_in_float32(
    vocabulary: Vocabulary, dtype: torch.dtype
) -> None:
    half = vocabulary.to(dtype=dtype)
    widened = half.to(dtype=torch.float32)
    vectors = torch.randn(5, D_MODEL, generator=generator(1))
    of_half, of_widened = (run(vectors, u) for u in (half, widened))
    assert torch.equal(of_half.vectors, of_widened.vectors)
    a, b = tail_evidence(of_half), tail_evidence(of_widened)
    for name in EVIDENCE:
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    assert torch.equal(a.tails.ids, b.tails.ids)
    assert torch.equal(of_half.kurtosis, of_widened.kurtosis)


def test_a_channel_that_is_the_neuron_has_support_beyond_the_threshold(
    vocabulary: Vocabulary,
) -> None:
    w = torch.zeros(1, D_MODEL)
    w[0, 0] = 1.0
    channels = run(w, vocabulary)
    same = dataclasses.replace(channels, vectors=w.unsqueeze(1).expand(-1, 2, -1).contiguous())
    assert (support(same) > 3).all()


def test_matched_vectors_have_the_layers_mean_and_covariance() -> None:
    layer = torch.randn(40, 6, generator=generator(2)) @ torch.randn(6, 6, generator=generator(3))
    layer += 3
    drawn = matched_vectors(layer, 20_000, seed=1)
    standard_error = layer.std(0) / 20_000**0.5
    assert ((drawn.mean(0) - layer.mean(0)).abs() < 5 * standard_error).all()
    torch.testing.assert_close(drawn.T.cov(), layer.T.cov(), rtol=0.05, atol=0.3)


def test_matched_vectors_stay_in_the_span_of_fewer_neurons_than_dimensions() -> None:
    layer = torch.randn(4, 10, generator=generator(4))
    drawn = matched_vectors(layer, 50)
    assert torch.linalg.matrix_rank(torch.cat([layer, drawn])) == 4


def test_a_matched_vector_does_not_depend_on_how_many_are_drawn() -> None:
    layer = torch.randn(12, 5, generator=generator(5))
    assert torch.equal(matched_vectors(layer, 3, seed=2), matched_vectors(layer, 9, seed=2)[:3])
    assert not torch.equal(matched_vectors(layer, 3, seed=3), matched_vectors(layer, 3, seed=2))


def test_matched_rotations_have_the_channels_cosine_and_norm(channels: Channels) -> None:
    rotations = matched_rotations(channels, 4, seed=1)
    assert rotations.shape == (4, *channels.vectors.shape)
    w = channels.weight_vectors.unsqueeze(1)
    cosine = torch.cosine_similarity(rotations, w, dim=-1)
    torch.testing.assert_close(cosine, channels.cosine.expand_as(cosine), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(rotations.norm(dim=-1), w.norm(dim=-1).expand(4, 5, 2))
    assert torch.equal(rotations[:2], matched_rotations(channels, 2, seed=1))


def test_p_values_are_ranks_at_the_same_position() -> None:
    null = torch.tensor([[0.0, 10.0], [1.0, 11.0], [2.0, 12.0]])
    observed = torch.tensor([[1.5, 1.5], [-1.0, 12.0], [9.0, 13.0]])
    expected = torch.tensor([[2, 4], [4, 2], [1, 1]]).double() / 4
    assert torch.equal(p_values(observed, null), expected)


def test_beyond_the_null_the_tail_is_extrapolated_by_hand() -> None:
    null = torch.arange(1.0, 11.0).unsqueeze(1)  # k = 2: u = 8, the two above it have 1 + 2 more
    observed = torch.tensor([[9.5], [10.0], [10.5], [17.0], [308.0]])
    expected = torch.tensor([2, 2, 3 / (1 + 2.5 / 3) ** 2, 3 / 16, 3 / 101**2], dtype=torch.float64)
    expected = expected.unsqueeze(1) / 11
    torch.testing.assert_close(p_values(observed, null), expected)
    ranks = torch.tensor([2, 2, 1, 1, 1]).double().unsqueeze(1) / 11
    assert torch.equal(p_values(observed, null, extrapolate=False), ranks)
    same = torch.full((10, 1), 3.0)  # no spread, no model
    assert torch.equal(p_values(observed, same), torch.full((5, 1), 1 / 11, dtype=torch.float64))


@pytest.mark.parametrize("family", ["exponential", "normal", "gumbel", "mean of ten largest"])
@pytest.mark.parametrize("n", [5, 20, 100])
def test_extrapolated_p_values_are_honest_where_the_tail_is_exponential_or_lighter(
    family: str, n: int
) -> None:
    """P(p <= level) over 1,000 nulls with 100 fresh vectors each, down to 1e-4."""
    draw = {
        "exponential": lambda g, shape: torch.empty(shape).exponential_(generator=g),
        "normal": lambda g, shape: torch.randn(shape, generator=g),
        "gumbel": lambda g, shape: -torch.empty(shape).exponential_(generator=g).log(),
        "mean of ten largest": lambda g, shape: (
            torch.randn(*shape, 30, generator=g).topk(10).values.mean(-1)
        ),
    }[family]
    levels = torch.tensor([0.05, 0.01, 1e-3, 1e-4], dtype=torch.float64)
    n_nulls = 1000
    drawn = draw(generator(10), (n + 100, n_nulls)).double()  # one column per null
    p = p_values(drawn[n:], drawn[:n])
    shares = (p.unsqueeze(-1) <= levels).double().mean((0, 1))
    # The error of a share over 1,000 nulls, each of which 100 vectors have in common.
    error = (levels / n_nulls).sqrt()
    assert (shares <= 1.1 * levels + 3 * error).all(), shares
    if family == "exponential" and n == 100:  # exact, so it is not careful either
        assert (shares[1:] >= 0.75 * levels[1:] - error[1:]).all(), shares


def test_one_neuron_alone_can_have_a_small_p_value(vocabulary: Vocabulary) -> None:
    layer = torch.randn(60, D_MODEL, generator=generator(7))
    null = run(matched_vectors(layer, 100, seed=0), vocabulary)
    planted = matched_vectors(layer, 1, seed=1)
    planted[:, 0] += 8 * planted.norm()
    result = calibrate(run(planted, vocabulary), null)
    assert result.p_value is not None
    assert 0 < result.p_value[0, 0] < 0.5 / 101


def test_what_q_values_are_over_is_said() -> None:
    assert [Calibration(*x).fewest() for x in ((25, 100), (100, 100), (1536, 100))] == [3, 10, 153]
    text = str(Calibration(25, 100))
    assert text.startswith("q over 25 neurons, p against 100 matched vectors: p below 0.0099 is")
    assert "3 beyond all" in text
    assert "no p below 0.25" in str(Calibration(1, 3))
    assert "q over 24 other neurons with this one added," in str(Calibration(25, 100, added=True))
    alone = str(Calibration(0, 100))
    assert alone == "p against 100 matched vectors; no q-value: nothing to adjust over"


def test_a_null_that_can_certify_nothing_is_warned_of(channels: Channels) -> None:
    few = run(torch.randn(4, D_MODEL, generator=generator(8)), channels.vocabulary)  # type: ignore[arg-type]
    with pytest.warns(CalibrationWarning, match="4 matched vectors can certify no channel"):
        calibrate(channels, few)


def test_q_values_by_hand_a_position_at_a_time() -> None:
    p = torch.tensor([[0.01, 0.02], [0.03, 0.5]])
    torch.testing.assert_close(
        q_values(p), torch.tensor([[0.02, 0.04], [0.03, 0.5]], dtype=torch.float64)
    )


@pytest.mark.parametrize("statistic", STATISTICS)
def test_null_vectors_treated_as_neurons_get_uniform_p_values(
    vocabulary: Vocabulary, statistic: str
) -> None:
    layer = torch.randn(60, D_MODEL, generator=generator(6))
    drawn = run(matched_vectors(layer, 300, seed=0), vocabulary)
    values = statistics(drawn, [statistic])[statistic]
    p = p_values(values[:100], values[100:])
    for position in range(2):  # the 100 share one null: allow for that with a strict level
        assert scipy.stats.kstest(p[:, position].numpy(), "uniform").pvalue > 1e-3
    assert (q_values(p) < 0.1).float().mean() < 0.03


def test_a_planted_channel_is_found_and_null_vectors_are_not(vocabulary: Vocabulary) -> None:
    layer = torch.randn(60, D_MODEL, generator=generator(7))
    null = run(matched_vectors(layer, 99, seed=0), vocabulary)
    vectors = matched_vectors(layer, 20, seed=1)
    planted = torch.zeros(D_MODEL)
    planted[0] = 1.0
    vectors[:10] += 2.5 * vectors[:10].norm(dim=1, keepdim=True) * planted
    result = calibrate(run(vectors, vocabulary), null)
    assert result.q_value is not None
    assert (result.q_value[:10, 0] < 0.1).float().mean() > 0.8
    assert (result.q_value[10:] < 0.1).float().mean() < 0.1
    top = {int(token) for token, _ in result.top_tokens(0, 0, k=BLOCK)}
    assert len(top & set(range(BLOCK))) > 0.8 * BLOCK


def test_calibrated_channels_show_their_q_value(channels: Channels) -> None:
    result = calibrate(channels, channels)
    assert {"support", "p_value", "q_value"} <= set(result.table().columns)
    assert "q_value" in repr(result)
    assert "q over 5 neurons, p against 5 matched vectors" in repr(result)
    assert "q over 5 neurons" in result._repr_html_()


def test_calibrate_refuses_a_null_made_another_way(channels: Channels) -> None:
    other = dataclasses.replace(channels, settings=Settings(lambda_kurtosis=0.5))
    with pytest.raises(ValueError, match=r"lambda_kurtosis=0\.5"):
        calibrate(channels, other)
    with pytest.raises(ValueError, match="statistic='sharpness': wanted one of core"):
        calibrate(channels, channels, statistic="sharpness")
    fewer = dataclasses.replace(channels, cosine=channels.cosine[:, :1])
    with pytest.raises(ValueError, match="2 channels a neuron, 1 in the null"):
        calibrate(channels, fewer, statistic="cosine")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: matched_vectors(torch.ones(1, 4), 3), "shape \\(1, 4\\)"),
        (lambda c: matched_vectors(torch.ones(5, 4), 0), "n=0"),
        (lambda c: matched_rotations(c, 0), "n=0"),
        (lambda c: p_values(torch.ones(3), torch.ones(3)), "two-dimensional"),
    ],
)
def test_bad_input_is_named(channels: Channels, call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        call(channels)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_gets_no_p_value(bad):
    numbers = torch.arange(12.0).reshape(6, 2)
    spoiled = numbers.clone()
    spoiled[2, 1] = bad
    for observed, null in ((spoiled, numbers), (numbers, spoiled)):
        with pytest.raises(ValueError, match="not finite"):
            p_values(observed, null)
