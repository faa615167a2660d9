"""Binned tables, routing, mixes, compute-optimal, saturation, effort and the baselines."""

import itertools
import json
from math import comb

import numpy as np
import pytest

from ttc.allocate import (
    BinnedPolicy,
    Curves,
    Saturation,
    at_grants,
    compute_optimal,
    difficulty_bins,
    effort_grants,
    equal_grants,
    expected_coverage,
    fit_bins,
    fit_saturation,
    knapsack,
    mixed,
    preference,
    random_grants,
    route,
    saturation_point,
    saturation_points,
    shared_effort,
    unbiased_coverage,
)
from ttc.core.errors import ConfigError, DataError


def population(seed, n=400):
    rng = np.random.default_rng(seed)
    rates = rng.beta(0.6, 0.8, n)
    return rates, Curves.from_success(rates, 100, range(1, 17))


def test_with_a_bin_for_each_prompt_the_table_is_the_knapsack():
    rates = np.array([0.02, 0.1, 0.3, 0.5, 0.9])
    curves = Curves.from_success(rates, 1, range(81))
    policy = fit_bins(rates, curves, bins=5)
    for total in (5, 10, 20, 80):
        rung = np.searchsorted(policy.mean_tokens, total / 5, side="right") - 1
        assert policy.grants[rung].tolist() == knapsack(curves, total).grants.tolist()


def test_the_table_corrects_itself_and_beats_an_equal_split():
    rates, curves = population(0)
    policy = fit_bins(rates, curves)
    other, offered = population(1)
    assert policy.edges.size == 7
    assert (np.diff(policy.grants, axis=0) >= 0).all()
    for budget in (150, 300, 700):
        total = budget * other.size
        split = at_grants(offered, policy.apply(other, total), total)
        assert 0.97 * total < split.grants.sum() <= total
        even = at_grants(offered, equal_grants(other.size, total), total).value
        assert even < split.value <= knapsack(offered, total).bound


def test_the_table_serves_everyone_before_it_upgrades_anyone():
    rates, curves = population(2)
    policy = fit_bins(rates, curves)
    assert (policy.apply(rates[::-1], 100 * rates.size) == 100).all()
    assert (policy.apply(np.sort(rates), 110 * rates.size) >= 100).all()
    assert policy.apply(rates, 250).sum() == 200
    assert policy.apply([], 250).size == 0


def test_the_table_survives_text():
    rates, curves = population(3)
    policy = fit_bins(rates, curves)
    text = json.dumps({k: getattr(policy, k).tolist() for k in ("edges", "grants", "mean_tokens")})
    again = BinnedPolicy(**{k: np.array(v) for k, v in json.loads(text).items()})
    assert np.array_equal(again.apply(rates, 100_000), policy.apply(rates, 100_000))


def test_tied_scores_make_fewer_bins_and_ragged_curves_none():
    curves = Curves.from_success([0.5] * 10, 10, range(1, 5))
    assert fit_bins([0.3] * 10, curves).grants.shape[1] == 1
    assert fit_bins([0.3] * 5 + [0.4] * 5, curves).grants.shape[1] == 2
    with pytest.raises(DataError, match="one number of options"):
        fit_bins([0.1, 0.2], Curves.from_options([[(1, 0.5)], [(1, 0.5), (2, 0.6)]]))


def test_routing_sends_the_most_preferred_while_the_total_lasts():
    prefer = [0.55, 0.9, 0.4, 0.7]
    assert route(prefer, 10, 100, 4 * 10).choice.tolist() == [0, 0, 0, 0]
    assert route(prefer, 10, 100, 4 * 10 + 90).choice.tolist() == [0, 1, 0, 0]
    assert route(prefer, 10, 100, 4 * 10 + 200).choice.tolist() == [0, 1, 0, 1]
    everything = route(prefer, 10, 100, 10_000)
    assert everything.choice.tolist() == [1, 1, 0, 1]  # where the weak one is preferred it answers, whatever is left
    assert everything.gap == 0
    assert route(prefer, 10, 100, 25).grants.sum() <= 25
    assert route(prefer, 10, [100, 900, 100, 100], 4 * 10 + 100).choice.tolist() == [0, 0, 0, 1]


def test_preference_is_the_mean_over_pairs():
    weak, strong = [[0, 1], [0, 0]], [[1, 1, 0], [1, 1, 1]]

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    expected = [np.mean([sigmoid(s - w) for s in strong[i] for w in weak[i]]) for i in range(2)]
    assert preference(weak, strong) == pytest.approx(expected)


def best_mix(rates, costs, tokens):
    ranges = [range(tokens // c + 1) for c in costs]
    fits = [m for m in itertools.product(*ranges) if np.dot(m, costs) <= tokens]
    return max(expected_coverage(rates, m) for m in fits)


def test_mix_against_all_mixes():
    rng = np.random.default_rng(0)
    ratios = []
    for _ in range(100):
        rates = rng.beta(0.4, 1.0, (3, 12))
        costs = np.ones(3, dtype=int) if rng.random() < 0.5 else rng.integers(1, 4, 3)
        mix, best = mixed(rates, costs, 8), best_mix(rates, costs, 8)
        assert mix.tokens == np.dot(mix.counts, costs) <= 8
        assert mix.value == pytest.approx(expected_coverage(rates, mix.counts))
        pure = max(expected_coverage(rates, c) for c in np.diag(8 // costs))
        assert pure - 1e-12 <= mix.value <= best + 1e-12
        ratios.append(mix.value / best)
    assert min(ratios) > 0.95
    assert np.mean(ratios) > 0.995


def test_a_mix_joins_configurations_that_solve_different_problems():
    rates = [[0.9, 0.9, 0.0], [0.0, 0.0, 0.5], [0.6, 0.6, 0.0]]
    assert mixed(rates, [10, 10, 10], 40).counts.tolist() == [2, 2, 0]
    assert mixed(rates, [10, 10, 1], 9).counts.tolist() == [0, 0, 9]
    assert mixed(rates, [10, 10, 10], 9).counts.sum() == 0
    with pytest.raises(DataError, match="at least 1 token"):
        mixed(rates, [10, 0, 10], 40)


def test_a_mix_takes_no_more_of_each_than_there_are():
    rng = np.random.default_rng(1)
    for _ in range(60):
        rates, costs, most = rng.beta(0.4, 1.0, (3, 12)), rng.integers(1, 4, 3), rng.integers(0, 4, 3)
        mix = mixed(rates, costs, 8, most)
        assert (mix.counts <= most).all()
        assert mix.tokens == np.dot(mix.counts, costs) <= 8
        fits = [m for m in itertools.product(*(range(k + 1) for k in most)) if np.dot(m, costs) <= 8]
        assert mix.value >= 0.95 * max(expected_coverage(rates, m) for m in fits)


def test_unbiased_coverage_counts_the_ways_to_draw():
    correct, samples, counts = np.array([[3, 0, 5], [1, 2, 0]]), np.array([[10, 10, 6], [4, 4, 4]]), [5, 2]
    expected = []
    for x in range(3):
        failure = 1.0
        for i, k in enumerate(counts):
            failure *= comb(samples[i, x] - correct[i, x], k) / comb(samples[i, x], k)
        expected.append(1 - failure)
    assert unbiased_coverage(correct, samples, counts) == pytest.approx(np.mean(expected))
    assert unbiased_coverage([[3]], [[10]], [5]) == pytest.approx(0.916667, abs=5e-7)
    assert unbiased_coverage([[2]], [[16]], [4]) == pytest.approx(0.45)
    with pytest.raises(DataError, match="recorded"):
        unbiased_coverage([[3]], [[10]], [11])


def test_difficulty_bins_are_equally_populated_and_easiest_first():
    scores = np.random.default_rng(0).random(53)
    bins = difficulty_bins(scores)
    assert np.ptp(np.bincount(bins)) <= 1
    for g in range(4):
        assert scores[bins == g].min() > scores[bins == g + 1].max()


def test_compute_optimal_finds_each_bins_strategy():
    """Strategy 0 is best on easy problems, strategy 1 on hard ones, strategy 2 everywhere at the second budget."""
    rng = np.random.default_rng(1)
    bins = np.repeat([0, 1], 200)
    truth = np.array([[[0.9, 0.7], [0.5, 0.5], [0.1, 0.95]], [[0.2, 0.2], [0.6, 0.6], [0.1, 0.9]]])
    scores = (rng.random((400, 3, 2)) < truth[bins]).astype(float)
    found = compute_optimal(bins, scores, rng)
    assert found.choice.tolist() == [[0, 2], [1, 2]]
    assert found.fold_choice.tolist() == [found.choice.tolist()] * 2
    means = scores.reshape(2, 200, 3, 2).mean(axis=1)
    assert found.scores == pytest.approx([(means[0, 0, 0] + means[1, 1, 0]) / 2, means[:, 2, 1].mean()])
    assert np.bincount(found.folds).tolist() == [200, 200]
    assert all(np.bincount(found.folds[bins == g]).tolist() == [100, 100] for g in (0, 1))


def test_compute_optimal_is_scored_on_the_other_half():
    """On noise, picking the winner and scoring it on the same problems would look better than chance."""
    rng = np.random.default_rng(2)
    bins = np.arange(100) % 5
    held_out, in_sample = [], []
    for _ in range(40):
        scores = (rng.random((100, 50, 1)) < 0.5).astype(float)
        held_out.append(compute_optimal(bins, scores, rng).scores[0])
        in_sample.append(np.mean([scores[bins == g].mean(axis=0).max() for g in range(5)]))
    assert np.mean(in_sample) > 0.65
    assert np.mean(held_out) == pytest.approx(0.5, abs=0.03)


def test_compute_optimal_with_a_lonely_problem():
    scores = np.zeros((3, 2, 1))
    scores[:, 1] = 1
    found = compute_optimal([0, 0, 1], scores, np.random.default_rng(0))
    assert found.choice.tolist() == [[1], [1]]
    assert found.scores.tolist() == [1.0]


@pytest.mark.parametrize(
    ("ceiling", "rate", "least", "point"), [(1, 0.3, 0.01, 10), (0.8, 0.05, 0.001, 72), (0.9, 0.5, 0.02, 5), (0.7, 0.02, 0.001, 131)]
)  # fmt: skip
def test_saturation_point(ceiling, rate, least, point):
    assert saturation_point(ceiling, rate, least) == point
    curve = Saturation(ceiling, rate).score(np.arange(point + 3))
    gains = np.diff(curve)  # gains[N] is what unit N + 1 adds after N
    assert gains[point] <= least < gains[point - 1]


def test_saturation_point_is_never_below_one_and_never_infinite():
    assert saturation_point([0.5, 1.0, 0.0, 0.9], [0.001, 1.0, 0.5, 0.0], 0.001).tolist()[:3] == [1, 1, 1]
    assert saturation_point(0.9, 0.0, 1e-6) < 100_000
    with pytest.raises(DataError, match="above 0"):
        saturation_point(1, 0.3, 0)


@pytest.mark.parametrize("truth", [Saturation(0.8, 0.2), Saturation(0.95, 0.02), Saturation(0.7, 0.3, start=0.25)])
def test_fit_finds_the_curve_it_was_given(truth):
    samples = np.arange(1, 33)
    fit = fit_saturation(samples, truth.score(samples), start=truth.start)
    assert (fit.ceiling, fit.rate) == pytest.approx((truth.ceiling, truth.rate), abs=1e-3)
    assert fit.point(0.005) == truth.point(0.005)


def test_caps_by_difficulty():
    samples = np.arange(1, 33)
    bins = np.repeat([0, 1], 3)
    curves = np.stack([Saturation(0.95, 0.7).score(samples)] * 3 + [Saturation(0.6, 0.1).score(samples)] * 3)
    points = saturation_points(bins, samples, curves, 0.01)
    assert points.tolist() == [Saturation(0.95, 0.7).point(0.01), Saturation(0.6, 0.1).point(0.01)]
    offered = Curves.from_success([0.9, 0.05], 100, range(1, 33))
    grants = knapsack(offered.capped(points * 100), 10**6).grants
    assert grants.tolist() == (points * 100).tolist()


def test_relative_effort():
    expected = np.array([100.0, 400.0, 1000.0])
    assert effort_grants(expected, 0.5, 64, 400).tolist() == [64, 200, 400]
    assert shared_effort(expected, 750, 1, 10_000).tolist() == [50, 200, 500]
    assert shared_effort(expected, 10**9, 1, 600).tolist() == [600, 600, 600]
    assert shared_effort(expected, 250, 100, 600).tolist() == [100, 100, 0]
    with pytest.raises(ConfigError, match="low <= high"):
        shared_effort(expected, 100, 10, 5)


def test_random_grants_are_caps_drawn_uniformly():
    rng = np.random.default_rng(0)
    draws = np.array([random_grants(4, 1250, 100, rng) for _ in range(4000)])
    assert (draws.sum(axis=1) == 1250).all()
    assert (draws >= 100).all()
    assert draws.mean(axis=0) == pytest.approx([312.5] * 4, rel=0.03)
    # Eight caps beyond the first for all, each to one of four: binomial, its variance 8 * 1/4 * 3/4 caps squared.
    assert (draws // 100).var(axis=0) == pytest.approx([1.5] * 4, rel=0.15)
    few = np.array([random_grants(4, 250, 100, rng) for _ in range(400)])
    assert {tuple(sorted(row)) for row in few.tolist()} == {(0, 50, 100, 100)}
    with pytest.raises(ConfigError, match="cap"):
        random_grants(4, 100, 0, rng)


def test_grants_beyond_the_total_are_refused():
    curves = Curves.from_table([10, 20], [[0.1, 0.2]])
    assert at_grants(curves, np.array([15]), 15).predicted_tokens.tolist() == [10]
    assert at_grants(curves, np.array([5]), 15).choice.tolist() == [-1]
    with pytest.raises(ConfigError, match="sum to 16"):
        at_grants(curves, np.array([16]), 15)
