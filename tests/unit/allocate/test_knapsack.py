"""Greedy, integer programming and dynamic programming against each other, brute force and published vectors."""

import numpy as np
import pytest
from scipy.optimize import linprog

from ttc.allocate import (
    Curves,
    informativeness,
    knapsack,
    knapsack_dp,
    knapsack_exact,
    shadow_price,
    success_from_nll,
)
from ttc.allocate.envelope import envelope
from ttc.allocate.greedy import critical_price
from ttc.core.errors import ConfigError

LAMBDA = [0.02, 0.1, 0.3, 0.5, 0.9]


def instance(rng, concave=False):
    """Return a small instance as lists, its curves, and a total that matters."""
    rows = []
    for _ in range(rng.integers(1, 6)):
        costs = np.cumsum(rng.integers(1, 20, rng.integers(1, 6)))
        values = np.sort(rng.random(costs.size)) if rng.random() < 0.7 else rng.random(costs.size)
        rows.append([(int(c), float(v)) for c, v in zip(costs, values, strict=True)])
    most = sum(max(c for c, _ in row) for row in rows)
    return rows, Curves.from_options(rows), int(rng.integers(0, most + 5))


def brute_force(rows, total):
    """Return the best value; abstaining is allowed only where the total is below everyone's cheapest."""
    abstain = [(0, 0.0)] if sum(min(c for c, _ in row) for row in rows) > total else []
    costs, values = np.zeros(1), np.zeros(1)
    for row in rows:  # every split there is
        costs = np.add.outer(costs, [c for c, _ in row + abstain]).ravel()
        values = np.add.outer(values, [v for _, v in row + abstain]).ravel()
    return values[costs <= total].max()


@pytest.mark.parametrize(
    ("budget", "samples", "value", "uniform"),
    [
        (5, (0, 0, 2, 2, 1), 2.16, 1.82),
        (10, (0, 2, 4, 3, 1), 2.7249, 2.4796),
        (20, (0, 8, 6, 4, 2), 3.37938, 3.11883),
        (80, (39, 23, 10, 6, 2), 4.40270, 4.08756),
    ],
)
def test_joint_allocation_of_samples(budget, samples, value, uniform):
    """Damani et al. 2024: gains lambda (1 - lambda)^(b - 1), abstaining allowed."""
    curves = Curves.from_success(LAMBDA, 1, range(81))
    split = knapsack(curves, budget)
    assert split.grants.tolist() == list(samples)
    assert split.value == pytest.approx(value, abs=5e-6)
    assert split.gap == pytest.approx(0, abs=1e-12)
    even = curves.values.reshape(5, -1)[:, budget // 5].sum()
    assert even == pytest.approx(uniform, abs=5e-6)


def test_uab():
    """A first sample for all, then argmax p (1 - p)^c; p = exp(-nll / 0.2)."""
    rates = success_from_nll(-0.2 * np.log(LAMBDA))
    assert knapsack(Curves.from_success(rates, 1, range(1, 21)), 20).grants.tolist() == [1, 7, 6, 4, 2]


@pytest.mark.parametrize(
    ("total", "most", "rollouts", "value"), [(16, 8, (2, 7, 5, 2), 0.226926), (32, 20, (12, 11, 7, 2), 0.258215)]
)
@pytest.mark.parametrize("solve", [knapsack_dp, knapsack])
def test_knapsack_rl(total, most, rollouts, value, solve):
    """Li et al. 2025: rollouts of four prompts for a policy gradient, two at least."""
    rates, counts = [0.05, 0.3, 0.6, 0.95], range(2, most + 1)
    split = solve(Curves.from_table(list(counts), informativeness(rates, counts)), total)
    assert split.grants.tolist() == list(rollouts)
    assert split.value == pytest.approx(value, abs=5e-7)


def test_greedy_exact_and_bound_on_two_thousand_instances():
    rng = np.random.default_rng(0)
    short = 0
    for _ in range(2000):
        rows, curves, total = instance(rng)
        best = brute_force(rows, total)
        greedy, table = knapsack(curves, total), knapsack_dp(curves, total)
        assert greedy.value <= best + 1e-9
        assert table.value == pytest.approx(best, abs=1e-9)
        assert best <= greedy.bound + 1e-9
        assert table.bound == pytest.approx(best, abs=1e-9)
        assert greedy.value >= greedy.bound - 1  # values lie in [0, 1]: short by less than one upgrade
        for split in (greedy, table):
            assert split.grants.sum() <= total
        short += greedy.value < best - 1e-9
    assert short > 50  # the instances are hard enough to tell the two apart


def test_integer_programming_agrees_with_brute_force():
    rng = np.random.default_rng(1)
    for _ in range(100):
        rows, curves, total = instance(rng)
        split = knapsack_exact(curves, total)
        assert split.value == pytest.approx(brute_force(rows, total), abs=1e-6)
        assert split.grants.sum() <= total
        assert split.bound >= split.value


def test_bound_is_the_optimum_of_the_linear_relaxation():
    rng = np.random.default_rng(2)
    for _ in range(100):
        rows, curves, total = instance(rng)
        if curves.cheapest().sum() > total:
            rows = [[*row, (0, 0.0)] for row in rows]
        flat = [(i, c, v) for i, row in enumerate(rows) for c, v in row]
        one_each = [[float(i == j) for i, _, _ in flat] for j in range(len(rows))]
        relaxed = linprog(
            [-v for _, _, v in flat],
            A_ub=[[c for _, c, _ in flat]], b_ub=[total], A_eq=one_each, b_eq=[1] * len(rows),
        )  # fmt: skip
        split = knapsack(curves, total)
        assert split.bound == pytest.approx(-relaxed.fun, abs=1e-8)
        # Lagrange: at the shadow price everyone's own best choice, and the total paid back, are worth the bound.
        free = [max(v - split.price * c for c, v in row) for row in rows]
        assert split.price * total + sum(free) == pytest.approx(split.bound, abs=1e-8)
        assert split.price == shadow_price(curves, total)


def plain_greedy(curves, total):
    """Walk all upgrades in order, one by one: the definition."""
    hull = envelope(curves)
    first = hull.first_upgrades
    order = np.lexsort((hull.steps, -hull.slopes))
    level, left, blocked = [0] * len(curves), total - int(curves.cheapest().sum()), set()
    for s in order.tolist():
        i = int(hull.prompts[s])
        if i in blocked or s - first[i] != level[i]:
            continue
        if hull.steps[s] <= left:
            left -= int(hull.steps[s])
            level[i] += 1
        else:
            blocked.add(i)
    return curves.costs[hull.at(np.array(level))]


@pytest.mark.parametrize("window", [1 << 16, 16])
def test_greedy_is_the_walk_over_all_upgrades(window, monkeypatch):
    """Pivots and windows are shortcuts: the grants are those of the plain walk, with ties and without."""
    monkeypatch.setattr("ttc.allocate.greedy.WINDOW", window)
    rng = np.random.default_rng(3)
    for round_ in range(60):
        n = int(rng.integers(1, 120))
        if round_ % 3:
            rates, tokens = rng.beta(0.5, 0.5, n), rng.integers(20, 300, n)
        else:  # many prompts exactly alike
            rates, tokens = rng.choice([0.1, 0.5, 0.0, 1.0], n), rng.choice([50, 100], n)
        curves = Curves.from_success(rates, tokens, range(1, 9))
        total = int(curves.cheapest().sum() + rng.integers(0, 200 * n))
        assert np.array_equal(knapsack(curves, total).grants, plain_greedy(curves, total))


def test_critical_price_is_where_upgrades_stop_fitting(monkeypatch):
    monkeypatch.setattr("ttc.allocate.greedy.WINDOW", 4)
    rng = np.random.default_rng(4)
    for _ in range(500):
        size = int(rng.integers(0, 60))
        slopes = rng.choice(rng.random(int(rng.integers(1, 60))), size)
        steps = rng.integers(1, 50, size)
        tokens = int(rng.integers(0, 2 + steps.sum()))
        price, left = critical_price(slopes, steps, tokens)
        assert left == tokens - steps[slopes > price].sum() >= 0
        assert price == 0 or (price in slopes and steps[slopes >= price].sum() > tokens)


def test_an_s_shaped_curve_is_bought_whole_or_not_at_all():
    """A chain that only answers when it fits: too little for one is too much."""
    chain = [(10, 0.0), (100, 0.01), (200, 0.02), (300, 0.8)]
    split = knapsack(Curves.from_options([chain, chain, chain]), 640)
    assert sorted(split.grants.tolist()) == [10, 300, 300]


def test_a_falling_curve_is_left_where_it_is_best():
    vote = Curves.from_table([100, 200, 300], [[0.4, 0.3, 0.2], [0.6, 0.7, 0.75]])
    split = knapsack(vote, 10_000)
    assert split.grants.tolist() == [100, 300]
    assert split.price == 0
    assert split.gap == 0


@pytest.mark.parametrize("solve", [knapsack, knapsack_dp, knapsack_exact])
def test_scarcity_makes_some_abstain_and_never_raises(solve):
    curves = Curves.from_table([100, 200], [[0.1, 0.2], [0.5, 0.6], [0.9, 0.95]])
    assert solve(curves, 0).choice.tolist() == [-1, -1, -1]
    assert solve(curves, 0).value == 0
    assert solve(curves, 99).grants.tolist() == [0, 0, 0]
    assert solve(curves, 100).grants.tolist() == [0, 0, 100]
    assert solve(curves, 299).grants.tolist() == [0, 100, 100]
    # With 300 tokens everybody has one sample, although 200 for the second would be worth as much.
    assert solve(curves, 300).grants.tolist() == [100, 100, 100]
    assert solve(Curves.from_options([]), 100).grants.tolist() == []
    with pytest.raises(ConfigError, match="whole number"):
        solve(curves, -1)
    with pytest.raises(ConfigError, match="whole number"):
        solve(curves, 1.5)


def test_a_coarse_table_keeps_the_total_and_the_bound():
    rng = np.random.default_rng(5)
    curves = Curves.from_success(rng.random(30), rng.integers(50, 300, 30), range(1, 9))
    fine = knapsack_dp(curves, 20_000)
    for quantum in (7, 64, 1000):
        coarse = knapsack_dp(curves, 20_000, quantum)
        assert coarse.grants.sum() <= 20_000
        assert coarse.value <= fine.value + 1e-9
        assert fine.value <= coarse.bound + 1e-9


def test_a_solver_out_of_time_returns_the_fast_answer():
    rng = np.random.default_rng(6)
    curves = Curves.from_success(rng.random(300), rng.integers(50, 300, 300), range(1, 17))
    split = knapsack_exact(curves, 100_000, time_limit_s=1e-6)
    assert split.value >= knapsack(curves, 100_000).value
    assert split.value <= split.bound


def test_expected_spend_is_reported_beside_the_grant():
    curves = Curves.from_table([[100, 200]], [[0.5, 0.9]], [[80.0, 150.0]])
    split = knapsack(curves, 250)
    assert (split.grants.tolist(), split.predicted_tokens.tolist()) == ([200], [150.0])


def test_price_hands_over_to_later_decisions():
    """Taking every upgrade that gains more than the price per token spends about the total, and never more."""
    rng = np.random.default_rng(7)
    curves = Curves.from_success(rng.random(500), rng.integers(50, 300, 500), range(1, 17))
    split = knapsack(curves, 300_000)
    hull = envelope(curves)
    spent = curves.cheapest().sum() + hull.steps[hull.slopes > split.price].sum()
    assert 0.99 * 300_000 < spent <= 300_000
