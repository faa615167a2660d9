"""REBASE and ETS: published allocations, the search around them, and what each step deals out."""

import math
from fractions import Fraction
from itertools import pairwise

import pytest
from forest import Forest, Reward, letters, searched, texts, unit
from hypothesis import given, settings
from hypothesis import strategies as st

from ttc.core.tree import kv_token_steps
from ttc_strategies.rebase import ETS, Rebase, _published_coverage, balance

REWARDS = st.lists(st.floats(0, 1), min_size=1, max_size=40)


@pytest.mark.parametrize(
    ("rewards", "width", "shares"),
    [
        ((0.9, 0.7, 0.5, 0.2), 16, [11, 4, 1, 0]),
        ((0.9, 0.85, 0.8, 0.3, 0.1), 8, [4, 3, 1, 0, 0]),
        ((0.2, 0.5, 0.9, 0.7), 16, [0, 1, 11, 4]),
        ((0.5, 0.5, 0.5, 0.5), 8, [2, 2, 2, 2]),
        ((0.5, 0.5, 0.5), 2, [1, 1, 0]),
        ((0.4,), 7, [7]),
        ((), 7, []),
    ],
)
def test_the_ordered_ceil_rule_deals_published_shares(rewards, width, shares):
    assert balance(rewards, width, 0.2) == shares


@given(REWARDS, st.integers(0, 300), st.sampled_from([0.05, 0.2, 1.0]))
@settings(deadline=None)
def test_all_width_is_dealt_and_more_to_the_better(rewards, width, temperature):
    """Rounding to the nearest, as in the paper's formula, loses or adds width."""
    shares = balance(rewards, width, temperature)
    assert sum(shares) == width
    assert min(shares) >= 0
    ranked = [s for _, s in sorted(zip(rewards, shares, strict=True), key=lambda p: -p[0])]
    if len(set(rewards)) == len(rewards):
        # A later node's share of what is left may be rounded up past an earlier one's by one.
        assert all(a >= b - 1 for a, b in pairwise(ranked))


@given(st.lists(st.integers(0, 20), min_size=1, max_size=12), st.integers(1, 64))
@settings(deadline=None)
def test_shares_are_those_of_exact_arithmetic(twentieths, width):
    """The rule in fractions: masses 2**k stand for exp(R / T), T chosen so that R differences are powers of two."""
    temperature = 0.05 / math.log(2)
    masses = [Fraction(2) ** k for k in twentieths]
    order = sorted(range(len(masses)), key=lambda j: (-masses[j], j))
    left, rest, expected = width, sum(masses), [0] * len(masses)
    for j in order:
        expected[j] = min(left, math.ceil(left * masses[j] / rest))
        left, rest = left - expected[j], rest - masses[j]
    assert balance([k / 20 for k in twentieths], width, temperature) == expected


def over(text):
    return not text.endswith(";")


def reference_rebase(grow, value, width, temperature):
    done, nodes, drawn = [], [grow("", i) for i in range(width)], width
    while True:
        done += [t for t in nodes if over(t)]
        live = [t for t in nodes if not over(t)]
        width -= len(nodes) - len(live)
        if not live or width <= 0:
            return sorted(done), drawn
        shares = balance([value(t) for t in live], width, temperature)
        nodes = [t + grow(t, i) for t, n in zip(live, shares, strict=True) for i in range(n)]
        drawn += len(nodes)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("width", [2, 5, 16])
def test_width_shrinks_by_what_has_ended(seed, width):
    grow = letters(6, jitter=4)

    def value(text):
        return unit("value", seed, text)

    expected, calls = reference_rebase(grow, value, width, 0.2)
    outcome = searched(Rebase(width), Forest(grow), Reward(value))
    assert texts(outcome) == expected
    assert len(expected) == width
    assert outcome.meter.calls == calls


def test_equal_texts_are_votes_of_their_own():
    """REBASE counts every sampled response, also where two say the same."""

    def grow(prefix, index):
        return "x#common" if index < 3 else "y#rare"

    outcome = searched(Rebase(4), Forest(grow), Reward(lambda t: 0.9 if "rare" in t else 0.5))
    assert outcome.answer.text == "common"


def test_a_cut_branch_takes_its_width_along():
    def grow(prefix, index):
        if not prefix and index == 0:
            return "x" * 40
        return "a;" if prefix.count(";") < 2 else "#right"

    outcome = searched(Rebase(4), Forest(grow), Reward(lambda t: 0.5), max_tokens=20)
    assert [c.answer for c in outcome.answer.candidates] == ["right"] * 3


def test_without_cost_and_coverage_ets_is_rebase():
    grow = letters(5, jitter=3)
    for seed in range(5):
        runs = [
            searched(s, Forest(grow), Reward(lambda t, s=seed: unit(s, t)))
            for s in (Rebase(12), ETS(12, lambda_b=0.0, lambda_d=0.0))
        ]
        assert runs[0].answer == runs[1].answer


def test_pruned_leaves_get_nothing_and_the_rest_the_full_width():
    def grow(prefix, index):
        return "abcd"[index % 4] + (";" if prefix.count(";") < 2 else "#z")

    def value(text):
        return {"a;": 0.9, "b;": 0.88, "c;": 0.2, "d;": 0.1}.get(text, 0.5)

    def second_round(strategy):
        engine = Forest(grow)
        searched(strategy, engine, Reward(value))
        prefixes = [engine.decode(r.prompt.generated) for r in engine.requests if len(r.prompt.generated) == 2]
        return {p: prefixes.count(p) for p in prefixes}

    # O = (.5, .5, 0, 0) of width 4; a node costs 1 / (1 branch + 4 leaves) = .2.
    assert balance([0.9, 0.88, 0.2, 0.1], 4, 0.2) == [3, 1, 0, 0]
    assert second_round(Rebase(4)) == {"a;": 3, "b;": 1}
    assert second_round(ETS(4, lambda_d=0.0)) == {"a;": 3, "b;": 1}  # .75 and .25 both exceed .2
    assert second_round(ETS(4, lambda_b=1.5, lambda_d=0.0)) == {"a;": 4}  # .25 does not exceed .3
    assert second_round(ETS(4, lambda_b=1.5, lambda_d=2.0)) != {"a;": 4}  # but its own cluster is worth .5


def test_ets_holds_fewer_tokens_than_rebase_at_the_same_width():
    def grow(prefix, index):
        letter = "ab"[int(unit("say", prefix, index) * 2)]
        return f"step {letter * 6};" if prefix.count(";") < 5 else f"#{letter}"

    held = {}
    for strategy in (Rebase(16), ETS(16)):
        outcomes = [
            searched(strategy, Forest(grow), Reward(lambda t, s=seed: unit(s, t)), max_tokens=200) for seed in range(10)
        ]
        held[type(strategy).__name__] = sum(kv_token_steps(o.answer.trace) for o in outcomes)
    assert held["ETS"] < 0.85 * held["Rebase"]


def test_selection_weighs_the_last_score():
    def grow(prefix, index):
        return "ab"[index % 2] + ";" if not prefix else ("#one" if prefix[0] == "a" else "#two")

    def value(text):
        return 0.6 if text.startswith("a") else 0.5

    outcome = searched(Rebase(4), Forest(grow), Reward(value))
    total = {}
    for c in outcome.answer.candidates:
        total[c.answer] = total.get(c.answer, 0.0) + c.score
    assert {c.score for c in outcome.answer.candidates} == {0.5, 0.6}
    assert outcome.answer.text == max(total, key=total.get)


@pytest.mark.parametrize(("width", "lambda_d"), [(2, 1.5), (16, 1.5), (40, 1.4), (64, 1.4), (256, 1.45), (1000, 1.45)])
def test_the_coverage_weight_is_that_of_the_nearest_published_width(width, lambda_d):
    assert _published_coverage(width) == lambda_d


def test_a_node_may_cost_its_tokens():
    """Equal rewards: uniform costs keep both leaves; by tokens the long one costs 20 / 22 and goes."""

    def grow(prefix, index):
        return ("long " * 4 if index else "s") + (";" if not prefix else "#z")

    def extended(**options):
        engine = Forest(grow)
        searched(ETS(2, lambda_d=0.0, **options), engine, Reward(lambda t: 0.5))
        return {engine.decode(r.prompt.generated) for r in engine.requests if r.prompt.generated}

    assert extended() == {"s;", "long " * 4 + ";"}
    assert extended(node_cost="tokens") == {"s;"}
