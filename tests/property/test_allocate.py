"""No allocator grants more than the total, whatever the curves: and everyone is served where everyone can be."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ttc.allocate import (
    Curves,
    DualDescent,
    calibrated,
    equal_grants,
    fit_bins,
    knapsack,
    knapsack_dp,
    knapsack_exact,
    random_grants,
    route,
    shared_effort,
    streaming,
)

options = st.lists(st.tuples(st.integers(0, 50), st.floats(-1, 1)), min_size=1, max_size=5)
prompts = st.lists(options, max_size=8)
totals = st.integers(0, 400)


def holds(split, curves, total):
    """Check what is true of every allocation that chooses options."""
    assert split.grants.dtype == np.int64
    assert split.grants.min(initial=0) >= 0
    assert split.grants.sum() <= total
    assert (split.predicted_tokens <= split.grants).all()
    chosen = split.choice >= 0
    flat = (curves.offsets[:-1] + split.choice)[chosen]
    assert np.array_equal(split.grants[chosen], curves.costs[flat])
    assert np.array_equal(split.predicted_values[chosen], curves.values[flat])
    assert not split.grants[~chosen].any()
    if curves.cheapest().sum() <= total:
        assert chosen.all()


@settings(max_examples=300, deadline=None)
@given(rows=prompts, total=totals, quantum=st.integers(1, 20), rate=st.floats(0.001, 2), data=st.data())
def test_total_is_a_hard_limit(rows, total, quantum, rate, data):
    curves = Curves.from_options(rows)
    order = np.array(data.draw(st.permutations(range(len(rows)))), dtype=np.int64)
    splits = [
        knapsack(curves, total),
        knapsack_dp(curves, total, quantum),
        streaming(curves, total, calibrated(curves, total), order),
        streaming(curves, total, DualDescent(0.01, rate), order),
    ]
    for split in splits:
        holds(split, curves, total)
        assert split.value <= splits[0].bound + 1e-9
    assert splits[0].price >= 0


@settings(max_examples=40, deadline=None)
@given(rows=prompts, total=totals)
def test_integer_programming_keeps_the_total(rows, total):
    curves = Curves.from_options(rows)
    split = knapsack_exact(curves, total)
    holds(split, curves, total)
    assert split.value >= knapsack_dp(curves, total, 1).value - 1e-6


@settings(max_examples=100, deadline=None)
@given(rows=prompts, first=totals, share=st.floats(0, 1))
def test_waves_stay_within_the_total(rows, first, share):
    """Spend a part of each grant, solve again with what is left, and so on: the sum of spendings holds."""
    curves = Curves.from_options(rows)
    choice, spent, left = np.full(len(curves), -1), 0, first
    for _ in range(3):
        split = knapsack(curves.after(choice), left)
        assert split.grants.sum() <= left
        now, before = (curves.costs[curves.offsets[:-1] + np.maximum(c, 0)] for c in (split.choice, choice))
        assert np.array_equal(split.grants, np.where(split.choice >= 0, now, 0) - np.where(choice >= 0, before, 0))
        choice = split.choice
        used = int((split.grants * share).astype(np.int64).sum())
        spent, left = spent + used, left - used
    assert spent + left == first


@settings(max_examples=100, deadline=None)
@given(
    rates=st.lists(st.floats(0, 1), min_size=1, max_size=12), total=st.integers(0, 3000), tokens=st.integers(1, 90),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_policies_that_see_no_curve_keep_the_total(rates, total, tokens, seed):
    n, rng = len(rates), np.random.default_rng(seed)
    policy = fit_bins(rates, Curves.from_success(rates, tokens, range(1, 9)), bins=4)
    grants = {
        "binned": policy.apply(rng.permutation(rates), total),
        "equal": equal_grants(n, total),
        "random": random_grants(n, total, tokens, rng),
        "effort": shared_effort(np.array(rates) * 100 + 1, total, tokens, 5 * tokens),
        "route": route(rates, tokens, 3 * tokens, total).grants,
    }
    for name, given_out in grants.items():
        assert given_out.min() >= 0, name
        assert given_out.sum() <= total, name
        if total >= n * tokens:
            assert given_out.min() >= tokens or name == "equal", name
    assert grants["random"].sum() == total
