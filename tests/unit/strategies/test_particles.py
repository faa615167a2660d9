"""Particle filtering: weights, resampling by its definition, and the search around it."""

import math
from collections import Counter

import numpy as np
import pytest
from forest import Forest, Reward, letters, searched, unit
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from ttc_strategies.particles import ParticleFiltering, effective_size, odds, resample

SCORES = st.lists(st.floats(0, 1), min_size=1, max_size=30)


@given(SCORES)
@settings(deadline=None)
def test_weights_are_the_softmax_of_clipped_log_odds(scores):
    clipped = np.clip(scores, 1e-7, 1 - 1e-7)
    logits = np.log(clipped / (1 - clipped))
    expected = np.exp(logits - logits.max())
    assert odds(scores) == pytest.approx((expected / expected.sum()).tolist(), rel=1e-6, abs=1e-12)


def test_effective_size_counts_equal_weights_and_ignores_empty_ones():
    assert effective_size([0.25] * 4) == pytest.approx(4)
    assert effective_size([1.0, 0.0, 0.0]) == pytest.approx(1)
    assert effective_size([0.5, 0.5, 0.0]) == pytest.approx(2)


@given(SCORES, st.integers(1, 60), st.integers(0, 2**32))
@settings(deadline=None)
def test_systematic_counts_are_within_one_of_their_share(scores, n, seed):
    weights = odds(scores)
    counts = resample(weights, n, "systematic", np.random.default_rng(seed))
    assert sum(counts) == n
    assert all(math.floor(n * w - 1e-6) <= c <= math.ceil(n * w + 1e-6) for w, c in zip(weights, counts, strict=True))


def test_multinomial_counts_are_binomial():
    weights, n, runs = [0.5, 0.3, 0.2], 8, 4000
    rng = np.random.default_rng(5)
    seen = Counter(resample(weights, n, "multinomial", rng)[1] for _ in range(runs))
    for count in range(n + 1):
        p = binom.pmf(count, n, 0.3)
        assert abs(seen[count] / runs - p) < 4.5 * math.sqrt(p * (1 - p) / runs) + 1e-9


def test_extended_are_the_resampled_and_copies_are_one_result():
    """One of four particles has nearly all the odds: from then on all are its copies."""

    def grow(prefix, index):
        if not prefix:
            return "abcd"[index] + ";"
        return f"{index};" if prefix.count(";") < 2 else "#right"

    engine = Forest(grow)
    outcome = searched(ParticleFiltering(4), engine, Reward(lambda t: 1.0 if t.startswith("c") else 0.0))
    second = [engine.decode(r.prompt.generated) for r in engine.requests if len(r.prompt.generated) == 2]
    assert second == ["c;"] * 4
    assert outcome.answer.text == "right"
    assert 0 < len(outcome.answer.candidates) <= 4
    assert [n.fate for n in outcome.answer.trace.nodes[:4]] == ["pruned", "pruned", "kept", "pruned"]


def test_a_finished_particle_may_take_all_places_and_is_one_candidate():
    def grow(prefix, index):
        return "x#sure" if not prefix and index == 0 else "a;"

    engine = Forest(grow)
    outcome = searched(ParticleFiltering(6), engine, Reward(lambda t: 1.0 if "sure" in t else 0.0))
    assert len(engine.requests) == 6
    assert [c.text for c in outcome.answer.candidates] == ["x#sure"]


def test_only_survivors_compete():
    """The best finished chain was resampled away before the others' scores fell."""

    def grow(prefix, index):
        return ("l;" if index else "e#early") if not prefix else "z#late"

    def value(text):
        return {"l;": 1.0, "e#early": 0.4}.get(text, 0.3)

    outcome = searched(ParticleFiltering(4), Forest(grow), Reward(value))
    assert outcome.answer.text == "late"
    assert {c.answer for c in outcome.answer.candidates} == {"late"}


def test_where_no_survivor_finishes_an_earlier_end_is_the_answer():
    def grow(prefix, index):
        return ("l;" if index else "e#early") if not prefix else "x;"

    def value(text):
        return 0.4 if text == "e#early" else 1.0

    outcome = searched(ParticleFiltering(4), Forest(grow), Reward(value), max_tokens=20)
    assert outcome.answer.text == "early"


def test_even_weights_are_not_resampled_where_that_is_asked_for():
    engine = Forest(lambda p, i: ("abcdefgh"[i % 8] if not p else "z") + (";" if p.count(";") < 3 else "#z"))
    searched(ParticleFiltering(8, resampling="systematic"), engine, Reward(lambda t: 0.6))
    second = Counter(engine.decode(r.prompt.generated) for r in engine.requests if len(r.prompt.generated) == 2)
    assert second == {f"{letter};": 1 for letter in "abcdefgh"}


def test_resampling_changes_with_what_was_drawn_and_with_nothing_else():
    def third(seed):
        grow = letters(6, width=8)
        engine = Forest(lambda p, i: grow(p + str(seed), i))
        searched(ParticleFiltering(8), engine, Reward(lambda t: 0.3 + 0.4 * unit(t)))
        return [r.prompt.generated for r in engine.requests]

    assert third(1) == third(1)
    assert len({tuple(third(seed)) for seed in range(4)}) == 4


def test_the_best_score_wins_and_a_vote_is_an_option():
    def grow(prefix, index):
        return "#one" if index % 4 else "#two"

    def value(text):
        return {"#one": 0.6, "#two": 0.7}[text]

    runs = [searched(ParticleFiltering(16, **o), Forest(grow), Reward(value)) for o in ({}, {"select": "weighted"})]
    assert [r.answer.text for r in runs] == ["two", "one"]
