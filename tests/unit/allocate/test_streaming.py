"""Thresholds against published vectors and their guarantees; streams against the knapsack that sees everything."""

import math

import numpy as np
import pytest

from ttc.allocate import (
    Curves,
    DualDescent,
    ExtendedConstant,
    PredictedPrice,
    Stream,
    calibrated,
    knapsack,
    shadow_price,
    streaming,
)
from ttc.allocate.allocators import Streaming
from ttc.allocate.thresholds import baseline_ratio, ect_beta
from ttc.core.errors import ConfigError
from ttc.core.forecast import Training


@pytest.mark.parametrize(("fair", "beta"), [(0.178407, 5.60517), (0.3, 5.79001), (0.5, 6.77126), (0.9, 18.1298)])
def test_ect_beta(fair, beta):
    assert ect_beta(100, fair) == pytest.approx(beta, rel=1e-5)


@pytest.mark.parametrize(("fair", "ratio"), [(0.3, 6.51538), (0.5, 8.88985), (0.9, 32.7895)])
def test_baseline_ratio(fair, ratio):
    assert baseline_ratio(100, fair) == pytest.approx(ratio, rel=1e-5)


def test_ect_at_its_least_fair_share_is_the_classical_threshold():
    fair = 1 / (1 + math.log(100))
    assert ect_beta(100, fair) == pytest.approx(1 + math.log(100))
    policy = ExtendedConstant(0.01, 1.0, fair)
    for used in np.linspace(fair + 1e-9, 1, 20):
        assert policy.price(used) == pytest.approx((100 * math.e) ** used * 0.01 / math.e)
    assert policy.price(0) == policy.price(fair - 1e-9) == 0.01
    assert policy.price(1) == 1.0


def test_predicted_price_is_steep_then_flat_then_steep():
    policy = PredictedPrice(0.01, 1.0, critical=0.2, trust=0.5)
    used = np.linspace(0, 1, 1001)
    prices = np.array([policy.price(u) for u in used])
    assert (np.diff(prices) >= 0).all()
    assert prices[0] == pytest.approx(0.01 / math.e)
    assert prices[-1] == pytest.approx(1.0)
    assert (prices == 0.2).mean() == pytest.approx(0.5, abs=0.002)
    assert {PredictedPrice(0.01, 1.0, 0.2, trust=1.0).price(u) for u in used} == {0.2}
    classical = PredictedPrice(0.01, 1.0, critical=0.2, trust=0.0)
    assert classical.price(0.6) == pytest.approx((100 * math.e) ** 0.6 * 0.01 / math.e)


def worst_case(policy, low, high, capacity=4000):
    """Offer ever better items, each time enough to fill all, until it stops: the largest optimum / achieved."""
    worst, stream, value = 0.0, Stream(policy, capacity, 1), 0.0
    for density in np.geomspace(low, high, 400):
        while True:
            bought, stream = stream.offer([density], [1])
            if not bought:
                break
            value += density
        worst = max(worst, capacity * density / value if value else math.inf)
    return worst


@pytest.mark.parametrize("fair", [0.3, 0.5])
def test_ect_keeps_its_competitive_ratio(fair):
    assert worst_case(ExtendedConstant(0.01, 1.0, fair), 0.01, 1.0) <= ect_beta(100, fair) * 1.02


@pytest.mark.parametrize("critical", [0.01, 0.1, 1.0])
def test_predicted_price_is_robust_to_any_prediction(critical):
    robust = (1 + math.log(100)) / (1 - 0.5)
    assert worst_case(PredictedPrice(0.01, 1.0, critical), 0.01, 1.0) <= robust * 1.02


def traffic(seed, n=2000):
    rng = np.random.default_rng(seed)
    return Curves.from_success(rng.beta(0.6, 0.8, n), rng.uniform(80, 250, n), range(1, 17))


@pytest.mark.parametrize("budget", [300, 600, 1200])
def test_streams_come_close_to_the_split_that_sees_everything(budget):
    yesterday, today = traffic(0), traffic(1)
    total = budget * len(today)
    best = knapsack(today, total).value
    first = knapsack(today, int(today.cheapest().sum())).value
    learned = streaming(today, total, calibrated(yesterday, total, trust=0.9))
    descent = streaming(today, total, DualDescent(2 * shadow_price(yesterday, total)))
    for split, share in ((learned, 0.9), (descent, 0.97)):
        assert split.grants.sum() <= total
        assert (split.grants >= today.cheapest()).all()
        assert split.value - first >= share * (best - first)


def test_order_decides_who_comes_first():
    curves = Curves.from_table([100, 200], [[0.1, 0.9], [0.1, 0.9]])
    first = PredictedPrice(0.008, 0.008, 0.008, trust=1.0)
    assert streaming(curves, 300, first).grants.tolist() == [200, 100]
    assert streaming(curves, 300, first, np.array([1, 0])).grants.tolist() == [100, 200]


def test_tokens_that_come_back_are_spent_on_later_prompts():
    stream = Stream(PredictedPrice(0.001, 0.001, 0.001, trust=1.0), capacity=100, horizon=3)
    bought, stream = stream.offer([0.002], [100])
    assert (bought, stream.spent) == (1, 100)
    assert stream.offer([0.002], [60])[0] == 0
    bought, stream = stream.settle(60).offer([0.002], [60])
    assert (bought, stream.spent, stream.arrived) == (1, 100, 2)


def test_dual_descent_raises_the_price_after_a_large_arrival():
    policy = DualDescent(0.5, rate=0.1)
    assert policy.after(200, 100).price(0) == pytest.approx(0.5 * math.exp(0.1))
    assert policy.after(0, 100).price(0) == pytest.approx(0.5 * math.exp(-0.1))


def test_nothing_to_sell_and_nothing_to_pay_with():
    alone = Curves.from_table([50], [[0.3], [0.6]])
    assert streaming(alone, 1000, calibrated(alone, 1000)).grants.tolist() == [50, 50]
    assert streaming(traffic(1, 5), 0, DualDescent(1e-3)).grants.sum() == 0
    assert streaming(Curves.from_options([]), 10, DualDescent(1e-3)).grants.size == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: ect_beta(100, 0.1),
        lambda: ect_beta(100, 1.0),
        lambda: PredictedPrice(0.2, 0.1, 0.1),
        lambda: PredictedPrice(0.1, 0.2, 0.1, trust=1.5),
        lambda: DualDescent(0.0),
    ],
)
def test_settings_outside_their_range_are_refused(make):
    with pytest.raises(ConfigError):
        make()


def test_a_total_that_buys_all_of_the_other_problems_begins_at_the_least_of_it():
    """A price of nothing could not rise: the first to come would take what the last need."""
    known = Curves.from_table(np.array([[10, 20, 40], [10, 20, 40]]), np.array([[0.2, 0.5, 0.52], [0.1, 0.2, 0.3]]))
    training = Training(np.array([0.2, 0.1]), known)
    plenty = Streaming().threshold(training, pace=400.0)
    assert plenty.price(0.0) == pytest.approx(0.001)  # 0.02 for the last 20 tokens
    scarce = Streaming().threshold(training, pace=15.0)
    assert scarce.price(0.0) == pytest.approx(shadow_price(known, 30))
    # Others gain hardly anything after their second call: it is not bought, so that the last one can have its own.
    long = Curves.from_table(np.full((4, 3), [10, 20, 200]), np.tile([0.1, 0.4, 0.41], (4, 1)))
    assert streaming(long, 260, plenty, np.arange(4)).choice.tolist() == [1, 1, 1, 1]
