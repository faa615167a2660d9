import statistics
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttc.core.aggregate import aggregate

SCORES = st.lists(st.integers(0, 64).map(lambda n: n / 64), min_size=1, max_size=8)


@given(SCORES)
def test_each_aggregation_is_its_definition(scores):
    exact = [Fraction(score) for score in scores]
    product = Fraction(1)
    for factor in exact:
        product *= factor
    lowest = aggregate(scores, "min")
    assert aggregate(scores) == aggregate(scores, "last") == scores[len(scores) - 1]
    assert lowest in scores
    assert all(lowest <= score for score in scores)
    assert aggregate(scores, "product") == pytest.approx(float(product), abs=1e-15)
    assert aggregate(scores, "mean") == pytest.approx(float(statistics.fmean(exact)), abs=1e-15)


@given(SCORES)
def test_aggregations_are_ordered(scores):
    assert 0 <= aggregate(scores, "product") <= aggregate(scores, "min")
    assert aggregate(scores, "min") <= aggregate(scores, "mean") <= max(scores)


def test_no_steps_have_no_score():
    with pytest.raises(ValueError, match="without steps"):
        aggregate([], "min")
