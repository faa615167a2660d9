"""Frontiers by brute force; interpolation, areas and matches against numpy and closed forms."""

import itertools
import math

import numpy as np
import pytest

from ttc.metrics.frontier import (
    Curve,
    area_under_curve,
    compute_to_match,
    difference_at_cost,
    frontier,
    hypervolume,
    interpolate_log,
    log_weights,
    share_of_gap,
)
from ttc.metrics.statistics import paired_difference


def dominated(i, costs, values):
    return any(
        costs[j] <= costs[i] and values[j] >= values[i] and (costs[j], values[j]) != (costs[i], values[i])
        for j in range(len(costs))
    )


def test_frontier_by_brute_force():
    generator = np.random.default_rng(0)
    for _ in range(300):
        n = int(generator.integers(0, 9))
        # Few levels, so that ties in cost, in value and in both come up often.
        costs, values = generator.integers(1, 5, n).tolist(), generator.integers(0, 4, n).tolist()
        found = frontier(costs, values)
        expected = {(costs[i], values[i]) for i in range(n) if not dominated(i, costs, values)}
        assert [(costs[i], values[i]) for i in found] == sorted(expected)


def test_first_of_equal_points_counts():
    assert frontier([2, 1, 1], [5, 3, 3]) == [1, 0]


def test_interpolation_is_linear_in_log_cost():
    costs, values = [100.0, 400.0, 1600.0], [0.2, 0.5, 0.4]
    assert interpolate_log(costs, values, 200) == pytest.approx(0.35)
    for cost in np.geomspace(100, 1600, 17):
        expected = np.interp(np.log(cost), np.log(costs), values)
        assert interpolate_log(costs, values, float(cost)) == pytest.approx(expected)
    assert interpolate_log(costs[::-1], values[::-1], 200) == pytest.approx(0.35)


@pytest.mark.parametrize("cost", [99.9, 1600.1, 0.0, -5.0])
def test_nothing_is_extrapolated(cost):
    assert interpolate_log([100.0, 1600.0], [0.0, 1.0], cost) is None


def test_single_point_equal_costs_and_no_points():
    assert interpolate_log([], [], 10) is None
    assert interpolate_log([10.0], [0.7], 10) == 0.7
    assert interpolate_log([10.0, 10.0], [0.6, 0.8], 10) == pytest.approx(0.7)
    assert interpolate_log([0.0, 10.0], [0.1, 0.7], 5) is None


def test_weights_sum_to_one():
    weights = log_weights([10.0, 10.0, 1000.0], 100)
    assert dict(weights) == pytest.approx({0: 0.25, 1: 0.25, 2: 0.5})


def test_hypervolume_by_counting_cells():
    generator = np.random.default_rng(1)
    for _ in range(100):
        n = int(generator.integers(0, 7))
        costs, values = generator.integers(0, 12, n).tolist(), generator.integers(0, 10, n).tolist()
        cells = sum(
            any(c <= x and v >= y + 1 for c, v in zip(costs, values, strict=True))
            for x, y in itertools.product(range(10), range(2, 10))
        )
        assert hypervolume(costs, values, (10, 2)) == cells


def test_area_is_the_mean_height_in_log_cost():
    costs, values = [100.0, 400.0, 1600.0], [0.2, 0.5, 0.4]
    assert area_under_curve(costs, values, 100, 1600) == pytest.approx((0.35 + 0.45) / 2)
    fine = np.linspace(math.log(150), math.log(900), 100_001)
    expected = np.interp(fine, np.log(costs), values).mean()
    assert area_under_curve(costs, values, 150, 900) == pytest.approx(expected, abs=1e-5)
    assert area_under_curve(costs, values, 99, 900) is None
    assert area_under_curve(costs, values, 150, 1700) is None
    with pytest.raises(ValueError, match="above 0"):
        area_under_curve(costs, values, 0, 900)


def curve(costs, heights, problems=400, seed=0):
    """A curve whose means are exactly the given ones: the same problems get solved first everywhere."""
    solved = np.arange(problems)[None, :] < np.round(np.asarray(heights) * problems)[:, None]
    mixed = solved[:, np.random.default_rng(seed).permutation(problems)]
    return Curve(np.repeat(np.asarray(costs, dtype=float)[:, None], problems, axis=1), mixed.astype(float))


def test_match_on_a_known_curve():
    mine, other = curve([100, 400, 1600], [0.2, 0.5, 0.6]), curve([800], [0.35])
    found = compute_to_match(mine, other.costs[0], other.scores[0])
    assert found.status == "reached"
    assert found.cost == pytest.approx(200)
    assert found.ratio.estimate == pytest.approx(0.25)
    assert 0 < found.ratio.low < 0.25 < found.ratio.high < 0.5
    shuffled = Curve(mine.costs[[2, 0, 1]], mine.scores[[2, 0, 1]])
    assert compute_to_match(shuffled, other.costs[0], other.scores[0]) == found


def test_match_at_a_setting_and_first_crossing_of_a_falling_curve():
    mine = curve([100, 400, 1600], [0.2, 0.5, 0.3])
    at = compute_to_match(mine, mine.costs[1], mine.scores[1])
    assert at.cost == pytest.approx(400)
    assert at.ratio.estimate == pytest.approx(1)
    assert compute_to_match(mine, mine.costs[2], mine.scores[2]).cost == pytest.approx(100 * 4 ** (1 / 3))


def test_nothing_is_claimed_beyond_the_range():
    mine = curve([100, 400], [0.3, 0.5])
    above = compute_to_match(mine, np.full(400, 1000.0), curve([1], [0.8]).scores[0])
    assert (above.status, above.cost, above.ratio) == ("not reached", None, None)
    below = compute_to_match(mine, np.full(400, 1000.0), curve([1], [0.1]).scores[0])
    assert (below.status, below.cost) == ("at most", 100)
    assert (below.ratio.low, below.ratio.estimate) == (0.0, pytest.approx(0.1))
    # Just below the top: some resamples never get there.
    near = compute_to_match(mine, np.full(400, 1000.0), curve([1], [0.49], seed=5).scores[0])
    assert near.status == "reached"
    assert near.ratio.high == math.inf


def test_match_interval_covers():
    generator = np.random.default_rng(2)
    hits, runs = 0, 200
    for run in range(runs):
        ease = generator.random(150)
        chances = np.clip(ease + np.array([-0.2, 0.0, 0.2])[:, None], 0, 1)
        scores = (generator.random((3, 150)) < chances).astype(float)
        costs = np.array([100.0, 400.0, 1600.0])[:, None] * generator.uniform(0.5, 1.5, 150)
        truth = np.clip(np.linspace(0, 1, 200_001)[None] + np.array([-0.2, 0, 0.2])[:, None], 0, 1).mean(axis=1)
        target = (truth[0] + truth[1]) / 2  # so the curve has it at cost 200
        rival = (generator.random(150) < np.clip(ease + (target - 0.5), 0, 1)).astype(float)
        real_target = np.clip(np.linspace(0, 1, 200_001) + (target - 0.5), 0, 1).mean()
        real = 100 * 4 ** ((real_target - truth[0]) / (truth[1] - truth[0]))
        found = compute_to_match(Curve(costs, scores), generator.uniform(700, 900, 150), rival, resamples=500, seed=run)
        ratio = found.ratio
        hits += ratio is not None and ratio.low <= real / 800 <= ratio.high
    assert 0.90 <= hits / runs <= 0.99


def test_share_of_gap_on_known_curves():
    baseline, oracle = curve([100, 400], [0.2, 0.4]), curve([100, 400], [0.6, 0.8])
    own = curve([200], [0.4])
    found = share_of_gap(own, baseline, oracle)
    assert found.estimate == pytest.approx((0.4 - 0.3) / (0.7 - 0.3))
    assert found.low < found.estimate < found.high
    assert share_of_gap(curve([200], [0.7]), baseline, oracle).estimate == pytest.approx(1)
    assert share_of_gap(curve([200], [0.2]), baseline, oracle).estimate == pytest.approx(-0.25)


def test_share_of_gap_needs_a_gap_and_a_common_range():
    baseline, oracle = curve([100, 400], [0.2, 0.4]), curve([100, 400], [0.6, 0.8])
    assert share_of_gap(curve([500], [0.4]), baseline, oracle) is None
    assert share_of_gap(curve([200], [0.4]), oracle, baseline) is None
    uncertain = share_of_gap(curve([200], [0.4], seed=1), baseline, curve([100, 400], [0.21, 0.41], seed=2))
    assert math.inf in (uncertain.high, -uncertain.low)
    with pytest.raises(ValueError, match="one setting"):
        share_of_gap(baseline, baseline, oracle)


def test_difference_at_cost_is_paired_with_the_mixture():
    line, other = curve([100, 400], [0.2, 0.4]), curve([200], [0.5], seed=3)
    found = difference_at_cost(line, other.costs[0], other.scores[0])
    assert found == paired_difference(other.scores[0], line.scores.mean(axis=0))
    assert found.mean == pytest.approx(0.2)
    assert difference_at_cost(line, 3 * other.costs[0], other.scores[0]) is None


def test_shapes_that_do_not_fit_are_refused():
    line = curve([100, 400], [0.2, 0.4])
    with pytest.raises(ValueError, match="400 problems"):
        compute_to_match(line, [1.0], [0.5])
    with pytest.raises(ValueError, match="above 0"):
        compute_to_match(line, np.zeros(400), line.scores[0])
    with pytest.raises(ValueError, match="settings x problems"):
        Curve(np.zeros((2, 3)), np.zeros((3, 2)))
