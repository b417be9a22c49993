"""Intervals cover, clusters count, and Holm agrees with its definition."""

import numpy as np
import pytest

from rotate_core.verdicts.intervals import (
    _medians,
    difference,
    difference_within,
    holm,
    interval,
    sign_flip,
    spawn,
)


def test_interval_of_a_mean_is_the_textbook_one():
    x = np.random.default_rng(0).normal(3, 2, 400)
    estimate = interval(x)
    assert estimate.value == pytest.approx(x.mean())
    assert (estimate.high - estimate.low) / 2 == pytest.approx(1.96 * x.std() / 20, rel=0.05)
    assert estimate == interval(x), "seeded"


def test_interval_resamples_clusters_not_values():
    neuron = np.random.default_rng(0).normal(0, 1, 50)
    values, clusters = np.repeat(neuron, 20), np.repeat(np.arange(50), 20)
    clustered, once, wrong = interval(values, clusters), interval(neuron), interval(values)
    assert (clustered.low, clustered.high) == pytest.approx((once.low, once.high))
    assert wrong.high - wrong.low < (once.high - once.low) / 3
    assert (clustered.n, clustered.n_clusters) == (1000, 50)


def coverage(estimate_of, n_data_sets=500):
    """Share of the intervals of made-up data around 0 that hold 0; 95% +- 1% by chance alone."""
    rng = np.random.default_rng(1)
    found = (estimate_of(rng, seed) for seed in range(n_data_sets))
    return np.mean([estimate.low <= 0 <= estimate.high for estimate in found])


@pytest.mark.parametrize("n_clusters", [8, 40])
def test_interval_covers_the_truth_as_often_as_it_says(n_clusters):
    clusters = np.repeat(np.arange(n_clusters), 5)

    def of_a_mean(rng, seed):
        effect = rng.normal(0, 1, n_clusters)[:, None] + rng.normal(0, 1, (n_clusters, 5))
        return interval(effect, clusters, seed=seed, n_resamples=500)

    assert coverage(of_a_mean) == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize("n_clusters", [8, 40])
def test_a_difference_within_strata_covers_the_truth_as_often_as_it_says(n_clusters):
    """Clusters of each of two strata are numbered by size, once upwards and once downwards: in what
    order they stand says nothing, but with shared draws the strata would cancel."""
    n = 2 * n_clusters
    strata, clusters = np.repeat([0, 1], n_clusters), np.arange(n)

    def of_strata(rng, seed):
        x, y = np.sort(rng.normal(size=(2, 2, n_clusters)))
        x[1], y[1] = x[1, ::-1].copy(), y[1, ::-1].copy()
        sides = (x.ravel(), y.ravel(), strata, strata, clusters, clusters)
        return difference_within(*sides, seed=seed, n_resamples=500)

    assert coverage(of_strata) == pytest.approx(0.95, abs=0.02)


def test_strata_of_equal_size_share_no_draws():
    x = np.random.default_rng(0).normal(size=30)
    strata, clusters = np.repeat([0, 1], 30), np.arange(60)
    mirrored = (np.concatenate([x, -x]), np.zeros(60), strata, strata, clusters, clusters)
    found = difference_within(*mirrored)
    assert found.value == pytest.approx(0)
    half = 1.96 * x.std() / 60**0.5
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.1), "not [0, 0]"


def test_no_side_shares_its_draws_with_another_sides_seed():
    x = np.random.default_rng(0).normal(size=30)
    both_sides = difference(x, x)
    assert (both_sides.high - both_sides.low) / 2 == pytest.approx(
        1.96 * x.std() * (2 / 30) ** 0.5, rel=0.1
    )
    children = [child.generate_state(2).tolist() for seed in (0, 1) for child in spawn(seed, 3)]
    assert len({tuple(child) for child in children}) == 6
    again = [child.generate_state(2).tolist() for child in spawn(0, 3)]
    assert again == children[:3], "a seed gives the same draws each time"
    nested = [child.generate_state(2).tolist() for child in spawn(spawn(0, 1)[0], 2)]
    assert not any(child in children for child in nested)


def test_medians_of_drawn_clusters_are_numpys():
    rng = np.random.default_rng(0)
    x, member = rng.normal(size=40).round(1), rng.permutation(np.arange(40) % 9)
    drawn = rng.integers(0, 9, (50, 9))
    expected = [np.median(np.concatenate([x[member == i] for i in row])) for row in drawn]
    assert _medians(x, member, drawn).tolist() == expected


def test_median_interval_and_what_is_missing():
    values = np.array([1.0, 2.0, np.nan, 3.0, 100.0])
    estimate = interval(values, statistic="median", n_resamples=500)
    assert estimate.value == 2.5
    assert estimate.n == 4
    assert np.isnan(interval([np.nan]).value)
    assert np.isnan(interval([1.0, 2.0], [0, 0]).low), "one cluster has no interval"
    shown = [str(interval(x, [0] * len(x))) for x in ([np.nan], [1.0, 2.0])]
    assert shown == ["n/a", "1.50 [n/a]"]


def test_difference_of_two_groups_has_the_textbook_interval():
    rng = np.random.default_rng(0)
    x, y = rng.normal(1, 1, 200), rng.normal(0, 1, 100)
    estimate = difference(x, y)
    half = 1.96 * (x.var() / 200 + y.var() / 100) ** 0.5
    assert estimate.value == pytest.approx(x.mean() - y.mean())
    assert (estimate.high - estimate.low) / 2 == pytest.approx(half, rel=0.05)


def test_sign_flip_is_uniform_under_the_null_and_small_under_an_effect():
    rng = np.random.default_rng(0)
    p = [sign_flip(rng.normal(0, 1, 12), n_resamples=300, seed=s) for s in range(100)]
    assert 0.4 < np.mean(p) < 0.6
    assert sign_flip(rng.normal(1, 0.5, 30)) < 0.001
    one_neuron = sign_flip(np.ones(30), np.zeros(30))
    assert one_neuron == 1, "thirty values of one neuron are one value"


def test_holm_is_bonferroni_for_the_smallest_and_monotone():
    assert holm([0.01, 0.04, 0.03]).tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]).tolist() == [1.0, 1.0]


def test_a_stratum_with_few_others_does_not_decide_a_difference():
    strata, other = np.repeat([0, 1], 100), np.repeat([0, 1], [100, 2])
    others = np.where(other == 0, 0.0, -10.0)
    within = difference_within(np.zeros(200), others, strata, other, np.arange(200), np.arange(102))
    assert within.value == pytest.approx(10 * (200 / 102) / (200 / 102 + 50))
    assert (within.n, within.n_clusters) == (200, 200)


def test_a_difference_within_strata_does_not_compare_strata():
    generator = np.random.default_rng(0)
    strata, other = np.array([0] * 90 + [1] * 10), np.array([0] * 10 + [1] * 90)
    values = 5.0 * strata + generator.standard_normal(100)
    others = 5.0 * other + generator.standard_normal(100)
    clusters = np.arange(100)
    pooled = difference(values, others, clusters, clusters)
    within = difference_within(values, others, strata, other, clusters, clusters)
    assert pooled.high < -3, "the strata's difference"
    assert within.low < 0 < within.high, "there is none within them"
    shifted = difference_within(values + 2, others, strata, other, clusters, clusters)
    assert shifted.value == pytest.approx(within.value + 2)
    alone = difference_within(values, others, np.zeros(100), np.ones(100), clusters, clusters)
    assert np.isnan(alone.value)
