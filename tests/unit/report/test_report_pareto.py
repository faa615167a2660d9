"""Frontiers by brute force; interpolation against numpy."""

import numpy as np
import pytest

from ttc.report.pareto import frontier, interpolate_log, log_weights


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
