import math
from functools import cache

import numpy as np
import pytest
from scipy.special import betainc
from scipy.stats import entropy

from ttc.core.forecast import Sample
from ttc_predictors.pilot import FEATURES, agreement, overtaking, pilot_features, stability


def sample(answer, tokens=50, finished=True, logprob=-10.0, score=None):
    return Sample(answer, tokens, finished, logprob, score)


def features(*drawn):
    return dict(zip(FEATURES, pilot_features(drawn), strict=False))


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 0), (3, 0), (4, 2), (9, 8)])
def test_stability_is_the_incomplete_beta(first, second):
    assert stability(first, second) == pytest.approx(1 - betainc(first + 1, second + 1, 0.5))


@pytest.mark.parametrize(
    ("first", "second", "further"), [(1, 0, 1), (1, 0, 2), (1, 0, 5), (3, 2, 4), (2, 2, 1), (5, 1, 3)]
)
def test_overtaking_is_polyas_urn_played_out(first, second, further):
    @cache
    def ahead(a, b, left):
        if not left:
            return float(b > a)
        p = (b + 1) / (a + b + 2)
        return p * ahead(a, b + 1, left - 1) + (1 - p) * ahead(a + 1, b, left - 1)

    assert overtaking(first, second, further) == pytest.approx(ahead(first, second, further))


def test_agreement_is_one_less_normalised_entropy():
    counts = [4, 2, 1]
    assert agreement(counts) == pytest.approx(1 - entropy(np.array(counts) / 7) / math.log(7))
    assert agreement([5]) == 1
    assert agreement([1, 1, 1]) == pytest.approx(0)
    assert agreement([1]) == 0


def test_votes_are_read_as_self_consistency_reads_them():
    found = features(sample(None), sample("7"), sample("8"), sample("8"), sample("7"), sample("9"))
    assert found["drawn"] == 6
    assert found["unanswered_share"] == pytest.approx(1 / 6)
    assert (found["leader_votes"], found["margin"], found["distinct_answers"]) == (2, 0, 3)
    # "7" and "8" tie, and "7" was seen first: it took the lead with the fifth sample.
    assert found["since_lead"] == 1
    assert found["second_share"] == pytest.approx(2 / 6)


def test_nobody_leads_where_nobody_answered():
    found = features(sample(None, finished=False), sample(None, finished=False))
    assert (found["leader_votes"], found["distinct_answers"], found["unanswered_share"], found["cut_share"]) == (
        0,
        0,
        1,
        1,
    )
    assert math.isnan(found["leader_logprob"])


def test_the_leader_is_set_against_the_others():
    found = features(sample("1", 10, logprob=-1.0, score=0.9), sample("1", 10, logprob=-3.0, score=0.7),
                     sample("2", 20, logprob=-10.0, score=0.2))  # fmt: skip
    assert found["leader_logprob"] == pytest.approx((-0.1 - 0.3) / 2)
    assert found["leader_logprob_lead"] == pytest.approx(-0.2 + 0.5)
    assert found["worst_logprob"] == pytest.approx(-0.5)
    assert found["leader_score_share"] == pytest.approx(1.6 / 1.8)
    assert found["leader_score_lead"] == pytest.approx(0.8 - 0.2)
    assert found["log_length"] == pytest.approx((2 * math.log(10) + math.log(20)) / 3)
    assert found["leader_is_whole"] == 1


def test_what_is_not_known_is_missing():
    found = features(sample("x", logprob=None))
    assert math.isnan(found["logprob"])
    assert math.isnan(found["score"])
    assert features()["drawn"] == 0
    assert math.isnan(features()["agreement"])
