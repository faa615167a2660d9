"""Stopping rules: published values, the incomplete beta function, Monte Carlo, and drawing one by one."""

import dataclasses
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import betainc
from scripted import Scripted, answered, shuffled

from ttc_strategies.adaptive import (
    AdaptiveConsistency,
    EarlyStoppingConsistency,
    beta_stability,
    dirichlet_stability,
)
from ttc_strategies.voting import SelfConsistency


def stream(answers, length=10):
    return Scripted([(answer, length) for answer in answers])


def by_incomplete_beta(a, b):
    return 1 - betainc(a + 1, b + 1, 0.5)


def counts_of(answers):
    seen = [a for a in answers if a is not None]
    return sorted((seen.count(a) for a in set(seen)), reverse=True)


def beta_stop(answers, threshold, most):
    """Return how many samples the rule reads one by one, and whether it fired."""
    for read in range(1, min(most, len(answers)) + 1):
        counts = [*counts_of(answers[:read]), 0, 0]
        if counts[0] and by_incomplete_beta(counts[0], counts[1]) >= threshold:
            return read, True
    return min(most, len(answers)), False


def expected_samples(p, most, threshold=0.95):
    """Walk the counts of a two-answer world forward until the rule fires or the cap is met."""
    alive, expected = {(0, 0): 1.0}, 0.0
    for drawn in range(1, most + 1):
        after = {}
        for (a, b), chance in alive.items():
            for state, weight in (((a + 1, b), p), ((a, b + 1), 1 - p)):
                if weight and by_incomplete_beta(max(state), min(state)) >= threshold:
                    expected += chance * weight * drawn
                else:
                    after[state] = after.get(state, 0.0) + chance * weight
        alive = after
    return expected + most * sum(alive.values())


@given(st.integers(0, 60), st.integers(0, 60))
def test_beta_stability_is_the_incomplete_beta_function(a, b):
    assert math.isclose(beta_stability(a, b), by_incomplete_beta(a, b), abs_tol=1e-12)


def test_the_beta_rule_stops_at_the_published_counts():
    """Fewest votes of the leader for 0 to 6 of the second, threshold 0.95."""
    fewest = [next(a for a in range(99) if beta_stability(a, b) >= 0.95) for b in range(7)]
    assert fewest == [4, 6, 8, 9, 11, 12, 14]
    assert [beta_stability(a, 0) for a in (3, 4)] == [0.9375, 0.96875]


@pytest.mark.parametrize(
    ("p", "published"), [(0.95, 4.70), (0.9, 5.62), (0.8, 8.72), (0.7, 15.1), (0.6, 24.2), (0.5, 28.7)]
)
def test_the_walk_that_judges_the_rule_gives_the_published_expectations(p, published):
    assert expected_samples(p, 40) == pytest.approx(published, rel=4e-3)


@pytest.mark.parametrize("p", [0.9, 0.7])
def test_adaptive_consistency_draws_the_expected_number_of_samples(p):
    dice = random.Random(11)
    runs = [
        len(answered(AdaptiveConsistency(), stream(["ab"[dice.random() >= p] for _ in range(40)])).answer.candidates)
        for _ in range(1500)
    ]
    assert abs(np.mean(runs) - expected_samples(p, 40)) < 4 * np.std(runs) / math.sqrt(len(runs))


streams = st.lists(st.sampled_from([None, "a", "a", "a", "b", "c"]), min_size=1, max_size=40)


@settings(max_examples=150, deadline=None)
@given(streams, st.sampled_from([0.6, 0.9, 0.95, 0.99]), st.integers(1, 40))
def test_waves_draw_exactly_what_the_beta_rule_reads_one_by_one(answers, threshold, most):
    answers += ["z"] * (40 - len(answers))
    read, fired = beta_stop(answers, threshold, most)
    outcome = answered(AdaptiveConsistency(n=most, threshold=threshold), stream(answers))
    assert len(outcome.answer.candidates) == read
    assert outcome.answer.stop_reason == ("confident" if fired else "finished")
    assert outcome.spent == 10 * read


@settings(max_examples=60, deadline=None)
@given(streams, st.sampled_from(["beta", "dirichlet"]), st.integers(0, 400), st.integers(0, 9))
def test_waves_decide_as_drawing_one_by_one_does_under_any_grant_and_timing(answers, rule, grant, seed):
    lengths = [5 + 7 * i % 11 for i in range(len(answers))]
    outcomes = []
    for chunk, delay in ((1, None), (None, None), (None, shuffled(seed))):
        engine = Scripted(list(zip(answers, lengths, strict=True)), delay=delay)
        solver = AdaptiveConsistency(n=20, rule=rule, threshold=0.9, chunk=chunk)
        outcome = answered(solver, engine, grant, cap=16, floor=4)
        outcomes.append((outcome.answer, outcome.spent, outcome.status))
    assert outcomes[0] == outcomes[1] == outcomes[2]


def test_waves_need_fewer_rounds():
    one_by_one = answered(AdaptiveConsistency(chunk=1), stream(["a"] * 40)).meter
    waves = answered(AdaptiveConsistency(), stream(["a"] * 40)).meter
    assert (one_by_one.usage, one_by_one.sequential_tokens) == (waves.usage, 40)
    assert waves.sequential_tokens == 10


@given(streams, st.integers(1, 7))
def test_samples_in_flight_when_the_rule_fires_are_charged_and_have_no_vote(answers, chunk):
    answers += ["z"] * (40 - len(answers))
    read, fired = beta_stop(answers, 0.95, 40)
    outcome = answered(AdaptiveConsistency(chunk=chunk), stream(answers))
    drawn = len(outcome.answer.candidates)
    assert drawn == min(40, math.ceil(read / chunk) * chunk)
    if fired:
        counts = counts_of(answers[:read])
        assert answers[:read].count(outcome.answer.text) == counts[0]
    assert outcome.spent == 10 * drawn


def test_none_never_counts_for_stopping():
    outcome = answered(AdaptiveConsistency(n=12), stream([None] * 40))
    assert (len(outcome.answer.candidates), outcome.answer.choice, outcome.status) == (12, None, "unparsed")
    outcome = answered(AdaptiveConsistency(), stream([None, "a", None, "a", "a", "a", None, "b"]))
    assert (len(outcome.answer.candidates), outcome.answer.choice) == (6, 1)


def test_at_the_cap_the_majority_is_returned():
    outcome = answered(AdaptiveConsistency(n=6), stream(["a", "b", "c", "b", "a", "d"]))
    assert (outcome.answer.text, outcome.answer.stop_reason) == ("a", "finished")


@pytest.mark.parametrize("counts", [(3,), (4, 0), (5, 2), (9, 9), (40, 12), (300, 280)])
def test_dirichlet_stability_of_two_answers_is_the_beta_rules(counts):
    expected = by_incomplete_beta(counts[0], counts[1] if len(counts) > 1 else 0)
    assert dirichlet_stability(counts) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("counts", [(4, 1, 1), (3, 3, 3), (6, 4, 2, 1), (5, 1, 1, 1, 1), (12, 8, 7, 2, 2)])
def test_dirichlet_stability_is_the_chance_that_the_leader_is_largest(counts):
    n = 400_000
    drawn = np.random.default_rng(3).dirichlet(np.array(counts) + 1, n)
    share = float(np.mean(drawn.argmax(1) == 0))
    assert dirichlet_stability(counts) == pytest.approx(share, abs=4.5 * math.sqrt(share * (1 - share) / n))


def test_dirichlet_stability_of_equal_counts_is_shared_evenly():
    for k in (2, 3, 4, 5):
        assert dirichlet_stability((7,) * k) == pytest.approx(1 / k, abs=1e-9)


def test_the_dirichlet_rule_looks_at_the_five_leading_answers():
    answers = [*"aaaaaaaa", *"bcdefg"]
    threshold = dirichlet_stability((8, 1, 1, 1, 1)) - 1e-9
    assert threshold > dirichlet_stability((8, 1, 1, 1, 1, 1, 1))
    order = [*"bcdefg", *"aaaaaaaa", *"z" * 9]
    outcome = answered(AdaptiveConsistency(rule="dirichlet", threshold=threshold), stream(order))
    assert len(outcome.answer.candidates) == len(answers)


# --- early-stopping self-consistency


def expected_windows(shares, window, most):
    """Methods: E = w * sum of windows drawn; a window stops the draw with chance sum of p_i^w."""
    stop, windows = sum(p**window for p in shares), most // window
    return window * sum((1 - stop) ** i for i in range(windows))


@pytest.mark.parametrize(
    ("shares", "window", "most", "published"),
    [((0.8, 0.2), 5, 40, 14.6100), ((0.5, 0.5), 5, 40, 32.2624), ((0.9, 0.1), 8, 64, 18.3787), ((1.0,), 5, 40, 5)],
)
def test_early_stopping_draws_the_expected_number_of_samples(shares, window, most, published):
    assert expected_windows(shares, window, most) == pytest.approx(published, abs=5e-5)
    dice = random.Random(5)
    solver = EarlyStoppingConsistency(n=most, window=window)
    runs = [
        len(answered(solver, stream(dice.choices("ab"[: len(shares)], shares, k=most))).answer.candidates)
        for _ in range(600)
    ]
    assert abs(np.mean(runs) - published) <= 4 * np.std(runs) / math.sqrt(len(runs))


def by_window(answers, window, most):
    for start in range(0, most, window):
        part = answers[start : min(start + window, most)]
        if len(part) == window and part[0] is not None and part.count(part[0]) == window:
            return start + window, part[0]
    return most, None


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from([None, "a", "a", "b"]), min_size=30, max_size=30), st.integers(1, 6), st.integers(1, 30)
)
def test_early_stopping_needs_a_whole_unanimous_window(answers, window, most):
    drawn, agreed = by_window(answers, window, most)
    outcome = answered(EarlyStoppingConsistency(n=most, window=window), stream(answers))
    assert len(outcome.answer.candidates) == drawn
    if agreed is not None:
        assert (outcome.answer.text, outcome.answer.stop_reason) == (agreed, "confident")
    else:
        vote = answered(SelfConsistency(n=most), stream(answers)).answer
        assert outcome.answer == vote


def test_a_last_window_that_is_not_full_cannot_stop_early():
    answers = [*"ababa", *"babab", *"bb"]
    outcome = answered(EarlyStoppingConsistency(n=12, window=5), stream(answers))
    assert (len(outcome.answer.candidates), outcome.answer.text, outcome.answer.stop_reason) == (12, "b", "finished")


@pytest.mark.parametrize("grant", [0, 5, 10, 25, 45, 49])
def test_early_stopping_is_self_consistency_where_the_grant_ends_before_the_first_window(grant):
    answers = ["b", "a", "a", "c", "a"]
    early = answered(EarlyStoppingConsistency(window=5), stream(answers), grant, cap=10, floor=5)
    vote = answered(SelfConsistency(), stream(answers), grant, cap=10, floor=5)
    early, vote = (dataclasses.replace(o, wall_s=0.0) for o in (early, vote))
    assert early.answer == vote.answer
    assert (early.spent, early.status) == (vote.spent, vote.status)


def test_a_cut_sample_spoils_its_window():
    engine = Scripted([("a", 10), ("a", 10), ("a", 999), *[("a", 10)] * 9])
    outcome = answered(EarlyStoppingConsistency(n=12, window=3), engine)
    assert (len(outcome.answer.candidates), outcome.answer.stop_reason) == (6, "confident")
