"""Votes against a definition written out, on every small pool."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttc.core.vote import best, majority, tally

POOLS = [list(pool) for size in range(6) for pool in itertools.product([None, "a", "b", "c"], repeat=size)]


def by_definition(answers, weights):
    """Go through indices in order; take the first whose answer nobody else's summed weight exceeds."""
    voting = [i for i, a in enumerate(answers) if a is not None]
    mass = {i: sum(weights[j] for j in voting if answers[j] == answers[i]) for i in voting}
    return next((i for i in voting if all(mass[i] >= mass[j] for j in voting)), None)


def test_majority_is_the_lowest_index_of_a_largest_group():
    for pool in POOLS:
        assert majority(pool) == by_definition(pool, [1] * len(pool)), pool


def test_weighted_majority_sums_weights_of_equal_answers():
    eighths = [3, 8, 5, 1, 2]
    for pool in POOLS:
        weights = [w / 8 for w in eighths[: len(pool)]]
        assert majority(pool, weights) == by_definition(pool, weights), pool


@given(st.lists(st.sampled_from([None, "a", "b", "c", "d"]), max_size=30))
def test_majority_does_not_see_samples_without_an_answer(pool):
    kept = [a for a in pool if a is not None]
    with_none, without = majority(pool), majority(kept)
    assert (with_none is None) == (without is None)
    assert with_none is None or pool[with_none] == kept[without]


def test_weights_of_zero_still_vote_in_index_order():
    assert majority(["b", "a", "a"], [0.0, 0.0, 0.0]) == 0
    assert majority([None, "b"], [1.0, 0.0]) == 1


def test_tally_keeps_the_order_of_first_appearance_and_leaves_none_out():
    assert list(tally(["b", None, "a", "b"]).items()) == [("b", 2.0), ("a", 1.0)]


@given(st.lists(st.tuples(st.sampled_from([None, 0.0, 0.5, 1.0, -3.0]), st.sampled_from([None, "a", "b"]))))
def test_best_is_the_lowest_index_of_a_largest_value_that_has_an_answer(pool):
    competing = [(-v, i) for i, (v, a) in enumerate(pool) if v is not None and a is not None]
    values, answers = [v for v, _ in pool], [a for _, a in pool]
    assert best(values, answers) == (min(competing)[1] if competing else None)


def test_best_refuses_pools_of_different_length():
    with pytest.raises(ValueError, match=r"shorter|longer"):
        best([1.0], ["a", "b"])
