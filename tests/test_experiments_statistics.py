"""Intervals cover, clusters count, and Holm agrees with its definition."""

import numpy as np
import pytest

from rotate_core.experiments.statistics import (
    difference,
    difference_within,
    holm,
    interval,
    sign_flip,
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


def test_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(1)
    inside = 0
    for seed in range(200):
        effect = rng.normal(0, 1, 40)[:, None] + rng.normal(0, 1, (40, 5))
        estimate = interval(effect, np.repeat(np.arange(40), 5), seed=seed, n_resamples=500)
        inside += estimate.low <= 0 <= estimate.high
    assert 0.89 <= inside / 200 <= 0.98


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
