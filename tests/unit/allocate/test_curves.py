"""Curves: how they are made, joined, cut and continued."""

import itertools
from math import comb

import numpy as np
import pytest

from ttc.allocate import (
    Curves,
    coverage,
    informativeness,
    joined,
    knapsack,
    majority,
    origin,
    sample_costs,
    smoothed_rates,
    success_from_nll,
)
from ttc.allocate.envelope import envelope
from ttc.core.errors import DataError


def ragged(rng, prompts, most=6, cost=30):
    """Return lists of (cost, value) pairs, with equal costs, dominated options and no order."""
    return [
        [(int(rng.integers(0, cost)), round(float(rng.uniform(-0.2, 1)), 1)) for _ in range(rng.integers(1, most))]
        for _ in range(prompts)
    ]


def test_construction_keeps_what_was_given():
    rows = [[(10, 0.1), (20, 0.5)], [(7, 0.3)], [(5, 0.2), (1, 0.9), (5, 0.4)]]
    curves = Curves.from_options(rows)
    assert [[tuple(x) for x in row] for row in rows] == [
        list(zip(curves.costs[a:b].tolist(), curves.values[a:b].tolist(), strict=True))
        for a, b in itertools.pairwise(curves.offsets.tolist())
    ]
    assert curves.sizes.tolist() == [2, 1, 3]
    assert curves.cheapest().tolist() == [10, 7, 1]
    shared = Curves.from_table([10, 20], [[0.1, 0.2], [0.3, 0.4]])
    assert shared.costs.tolist() == [10, 20, 10, 20]
    assert len(Curves.from_options([])) == 0


def test_costs_are_rounded_up_but_not_for_rounding_noise():
    assert sample_costs([1, 2, 3], [0.1 * 3 * 10, 2.5], 2).tolist() == [[3, 6, 9], [3, 5, 8]]
    assert Curves.from_table([[10.2]], [[1.0]]).costs.tolist() == [11]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Curves.from_table([-1], [[0.5]]), "negative"),
        (lambda: Curves.from_table([1], [[np.nan]]), "finite"),
        (lambda: Curves.from_table([np.inf], [[1.0]]), "finite"),
        (lambda: Curves.from_table([1], [0.5]), "one row a prompt"),
        (lambda: Curves.from_options([[(1, 1.0)], []]), "at least one option"),
        (lambda: Curves(np.array([1, 2]), np.array([0.5]), np.array([0, 2])), "one length"),
        (lambda: joined([Curves.from_table([1], [[0.5]]), Curves.from_table([1], [[0.5], [0.5]])]), "same prompts"),
    ],
)
def test_what_is_no_curve_is_refused(make, message):
    with pytest.raises(DataError, match=message):
        make()


def test_arrays_cannot_be_changed_and_the_givers_can():
    given = np.array([[0.1, 0.2]])
    curves = Curves.from_table([1, 2], given)
    with pytest.raises(ValueError, match="read-only"):
        curves.values[0] = 1
    given[0, 0] = 0.3


def test_affordable_is_the_dearest_that_fits():
    rng = np.random.default_rng(1)
    for _ in range(200):
        rows = ragged(rng, 4)
        grants = rng.integers(0, 30, 4)
        for row, grant, found in zip(rows, grants, Curves.from_options(rows).affordable(grants), strict=True):
            fits = [(c, v) for c, v in row if c <= grant]
            assert (found < 0) == (not fits)
            if fits:
                assert row[found] == max(fits)


def test_what_is_on_offer_after_an_option_was_had():
    curves = Curves.from_options([[(100, 0.3), (200, 0.5), (300, 0.6)], [(100, 0.9), (200, 0.95)], [(50, 0.2)]])
    rest = curves.after([1, -1, 0])
    assert rest.costs[[1, 2, 3, 4, 5]].tolist() == [0, 100, 100, 200, 0]
    assert rest.values[[1, 2, 3, 4, 5]].tolist() == [0.5, 0.6, 0.9, 0.95, 0.2]
    for total, choice, grants in (
        (0, [1, -1, 0], [0, 0, 0]),
        (199, [1, 0, 0], [0, 100, 0]),
        (200, [2, 0, 0], [100, 100, 0]),
    ):
        split = knapsack(rest, total)
        assert (split.choice.tolist(), split.grants.tolist()) == (choice, grants)
    assert knapsack(rest, 10**6).choice.tolist() == [2, 1, 0]
    spending = Curves(curves.costs, curves.values, curves.offsets, curves.costs * 0.5)
    assert spending.after([1, -1, 0]).tokens[[1, 2, 3, 4, 5]].tolist() == [0, 50, 50, 100, 0]
    assert knapsack(spending.after([1, -1, 0]), 200).predicted_tokens.tolist() == [50, 50, 0]


def test_there_is_no_way_back_from_an_option_that_made_it_worse():
    curves = Curves.from_table([100, 200, 300], [[0.6, 0.4, 0.5]])
    assert knapsack(curves.after([1]), 0).value == 0.4
    assert knapsack(curves.after([1]), 100).choice.tolist() == [2]


def test_solving_in_two_steps_is_worth_what_solving_at_once_is():
    rng = np.random.default_rng(2)
    curves = Curves.from_success(rng.uniform(0, 1, 200), rng.integers(50, 300, 200), range(1, 17))
    first = knapsack(curves, 60_000)
    second = knapsack(curves.after(first.choice), 160_000 - int(first.grants.sum()))
    at_once = knapsack(curves, 160_000)
    assert second.value == pytest.approx(at_once.value, rel=1e-4)
    assert second.price == pytest.approx(at_once.price, rel=0.01)
    assert np.array_equal(first.grants + second.grants, curves.costs[curves.offsets[:-1] + second.choice])


def test_a_cap_ends_what_there_is_to_gain():
    curves = Curves.from_success([0.3, 0.3], 100, range(1, 9))
    capped = curves.capped([250, 0])
    assert knapsack(capped, 10_000).grants.tolist() == [200, 100]


def test_joined_options_are_told_apart():
    rng = np.random.default_rng(3)
    parts = [Curves.from_options(ragged(rng, 20)) for _ in range(3)]
    best = knapsack(joined(parts), 250)
    which, option = origin(parts, best.choice)
    for prompt in range(20):
        if best.choice[prompt] < 0:
            assert which[prompt] == option[prompt] == -1
            continue
        part = parts[which[prompt]]
        assert 0 <= option[prompt] < part.sizes[prompt]
        assert part.costs[part.offsets[prompt] + option[prompt]] == best.grants[prompt]
        assert part.values[part.offsets[prompt] + option[prompt]] == best.predicted_values[prompt]
    alone = [knapsack(part, 250).value for part in parts]
    assert best.value >= max(alone) - 0.3  # greedy: short of the best by less than one upgrade


def test_envelope_is_the_least_concave_curve_above_the_options():
    rng = np.random.default_rng(4)
    for _ in range(300):
        rows = ragged(rng, 3, most=9)
        curves = Curves.from_options(rows)
        hull = envelope(curves)
        assert (hull.steps >= 1).all()
        for i, row in enumerate(rows):
            points = hull.points[hull.offsets[i] : hull.offsets[i + 1]]
            x, y = curves.costs[points], curves.values[points]
            assert x[0] == min(c for c, _ in row)
            first = hull.first_upgrades[i]
            slopes = hull.slopes[first : first + points.size - 1]
            assert np.allclose(slopes * np.diff(x), np.diff(y))
            assert (np.diff(slopes) < 0).all()
            assert (slopes > 0).all()
            # Above all options, on that side of the cheapest where it is defined; beyond the last point it is flat.
            for cost, value in row:
                assert np.interp(cost, x, y) >= value - 1e-12


def test_envelope_does_not_depend_on_the_block_size(monkeypatch):
    rng = np.random.default_rng(5)
    curves = Curves.from_options(ragged(rng, 200))
    whole = envelope(curves)
    monkeypatch.setattr("ttc.allocate.envelope.BLOCK_OPTIONS", 3)
    parts = envelope(curves)
    for name in ("points", "offsets", "prompts", "steps", "slopes"):
        assert np.array_equal(getattr(whole, name), getattr(parts, name))


def test_closed_forms_against_counting():
    for p, b in itertools.product((0.0, 0.1, 0.5, 0.7, 1.0), (0, 1, 2, 3, 6)):
        outcomes = [(sum(o), np.prod([p if x else 1 - p for x in o])) for o in itertools.product((0, 1), repeat=b)]
        assert coverage([p], [b])[0, 0] == pytest.approx(sum(w for c, w in outcomes if c))
        vote = sum(w * (1.0 if 2 * c > b else 0.5 if 2 * c == b and b else 0.0) for c, w in outcomes)
        assert majority([p], [b])[0, 0] == pytest.approx(vote)
        if b:
            mixed = sum(w for c, w in outcomes if 0 < c < b)
            assert informativeness([p], [b])[0, 0] == pytest.approx(mixed * p * (1 - p) ** 2)
    assert comb(6, 3) * 0.5**6 / 2 + 0.34375 == pytest.approx(majority([0.5], [6])[0, 0])


def test_rates_from_a_probe_and_from_counts():
    assert success_from_nll([0.0, 0.2, 0.2 * np.log(50)]) == pytest.approx([1.0, np.exp(-1), 0.02])
    assert smoothed_rates([0, 16, 3], 16) == pytest.approx([0.5 / 17, 16.5 / 17, 3.5 / 17])
