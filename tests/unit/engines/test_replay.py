"""Replaying a bank: the dealing itself, and its means over draws against closed forms and every subset."""

import asyncio
import itertools
import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from ttc.core.errors import ConfigError
from ttc.core.specs import parse_config
from ttc.core.types import Prompt, Sampling
from ttc.engines.replay import ReplayEngine
from ttc.run.bench import BankJudge, make_benches
from ttc.run.context import Prices, World
from ttc.run.granting import Fixed
from ttc.run.ledger import Ledger
from ttc.run.plan import make_cells
from ttc.run.solve import Attempt, Problem, record, solve
from ttc.store.bank import Bank, Row, write_bank
from ttc_strategies.adaptive import AdaptiveConsistency, EarlyStoppingConsistency
from ttc_strategies.best_of_n import BestOfN
from ttc_strategies.coverage import Coverage
from ttc_strategies.voting import SelfConsistency

DRAWS = 2500


def row(sample, answer="a", *, correct=False, tokens=10, finish="stop", problem="p", config="m", **other):
    return Row(problem, "How many?", config, sample, answer, correct, tokens, 7, finish, **other)


def bank_of(rows):
    pools = {}
    for r in rows:
        pools.setdefault(r.config, {}).setdefault(r.problem_id, []).append(r)
    return Bank("made-up", "f", {c: {p: tuple(s) for p, s in pool.items()} for c, pool in pools.items()})


def pool(counts, right="right", none=0):
    """Return rows with so many of each answer; `right` is the right one."""
    answers = [answer for answer, count in counts.items() for _ in range(count)] + [None] * none
    return [row(i, answer, correct=answer == right) for i, answer in enumerate(answers)]


def replay(rows, strategy, grant=10**9, *, draws=1, cap=10**6, seed=0, floor=1, prices=None):
    engine = ReplayEngine(bank_of(rows), "m", seed)
    judge = BankJudge(engine)
    world = World(
        engine, judge, Sampling(max_tokens=cap), seed, floor, None, prices if prices is not None else Prices()
    )
    problem = Problem("p", "How many?", Prompt((), (0,) * 7))
    a = Attempt(strategy, problem, [Fixed(Ledger(10**12), {"p": grant}) for _ in range(draws)], world, judge, 60.0)
    return a, asyncio.run(solve(a))


def mean_score(rows, strategy, **options):
    return float(np.mean([o.score for o in replay(rows, strategy, draws=DRAWS, **options)[1]]))


def close(mean, exact, spread=None):
    spread = math.sqrt(exact * (1 - exact)) if spread is None else spread
    return abs(mean - exact) <= 4 * spread / math.sqrt(DRAWS) + 1e-12


# --- dealing


def indices(outcome):
    return [c.usage.completion for c in outcome.answer.candidates]


NUMBERED = [row(i, "ab"[i % 2], tokens=100 + i, logprob=-1.0, score=0.5) for i in range(12)]


def test_every_draw_deals_the_whole_pool_without_replacement():
    for outcome in replay(NUMBERED, Coverage(), draws=50)[1]:
        assert sorted(indices(outcome)) == list(range(100, 112))
        assert outcome.answer.stop_reason == "exhausted"


def test_all_strategies_and_budgets_see_the_same_order():
    whole = [indices(o) for o in replay(NUMBERED, Coverage(), draws=20)[1]]
    assert len({tuple(order) for order in whole}) == 20
    for strategy in (SelfConsistency(5), BestOfN(select="logprob"), AdaptiveConsistency(), EarlyStoppingConsistency()):
        for grant in (130, 400, 900, 10**6):
            for order, outcome in zip(whole, replay(NUMBERED, strategy, grant, draws=20, cap=111)[1], strict=True):
                seen = indices(outcome)
                kept = [c.finish == "stop" for c in outcome.answer.candidates]
                assert all(got == told for got, told, ok in zip(seen, order, kept, strict=False) if ok)


def test_the_order_depends_on_seed_problem_and_configuration():
    rows = [row(i, tokens=i, problem=p, config=c) for p in ("p", "q") for c in ("m", "n") for i in range(30)]
    bank = bank_of(rows)

    def order(config, problem, seed, draw):
        engine = ReplayEngine(bank, config, seed)
        return tuple(engine.row(problem, draw, i).completion_tokens for i in range(30))

    keys = list(itertools.product("mn", "pq", (0, 1), (0, 1)))
    assert len({order(*key) for key in keys}) == len(keys)
    assert [order(*key) for key in keys] == [order(*key) for key in reversed(keys)][::-1]


def test_first_places_are_dealt_evenly():
    firsts = Counter(indices(o)[0] for o in replay(NUMBERED, Coverage(1), draws=DRAWS)[1])
    expected = DRAWS / 12
    statistic = sum((firsts[100 + i] - expected) ** 2 / expected for i in range(12))
    assert statistic < 37  # chi-square with 11 degrees of freedom, chance 1e-4


def test_a_longer_sample_is_cut_at_the_cap_charged_the_cap_and_has_no_answer():
    rows = [row(0, "right", correct=True, tokens=50, logprob=-3.0, score=0.9)]
    _, (outcome,) = replay(rows, Coverage(1), cap=49)
    (candidate,) = outcome.answer.candidates
    assert (candidate.finish, candidate.answer, candidate.usage.completion) == ("length", None, 49)
    assert (candidate.logprob, candidate.score) == (None, None)
    assert (outcome.spent, outcome.score, outcome.status) == (49, 0.0, "unparsed")
    _, (outcome,) = replay(rows, Coverage(1), cap=50)
    assert (outcome.spent, outcome.score) == (50, 1.0)


def test_a_sample_recorded_as_cut_never_counts_as_right():
    rows = [row(0, "right", correct=True, finish="length")]
    for strategy in (Coverage(1), SelfConsistency(1)):
        _, (outcome,) = replay(rows, strategy)
        assert (outcome.score, outcome.answer.candidates[0].answer) == (0.0, None)


def test_a_pool_smaller_than_n_ends_exhausted():
    _, (outcome,) = replay(pool({"right": 3}), SelfConsistency(10))
    assert (len(outcome.answer.candidates), outcome.answer.stop_reason, outcome.status) == (3, "exhausted", "ok")


def test_a_problem_whose_grant_ends_first_says_budget():
    _, (outcome,) = replay(pool({"right": 5}), SelfConsistency(), 25, cap=10, floor=6)
    assert (outcome.spent, outcome.answer.stop_reason) == (20, "budget")


def test_prompt_tokens_are_counted_and_priced():
    a, outcomes = replay(pool({"right": 9}), SelfConsistency(), 100, cap=10, prices=Prices(prompt=0.5))
    assert outcomes[0].meter.usage.prompt == 7 * 7
    assert outcomes[0].spent == 7 * (10 + 4)
    assert record(a, outcomes, store_text=True)["prompt_tokens"] == 49


def test_a_bank_offers_scores_where_every_finished_sample_has_one():
    scored = [row(0, score=0.5), row(1, None, finish="length")]
    assert ReplayEngine(bank_of(scored), "m", 0).capabilities == {"score"}
    assert ReplayEngine(bank_of([*scored, row(2)]), "m", 0).capabilities == frozenset()
    assert ReplayEngine(bank_of([row(0, finish="length")]), "m", 0).capabilities == frozenset()


def test_a_bank_answers_no_new_prompt():
    with pytest.raises(ConfigError, match="cannot answer new prompts"):
        ReplayEngine(bank_of(NUMBERED), "m", 0).render([])


def test_a_bank_sweep_asks_every_configuration_with_its_own_longest_sample_and_prompts(tmp_path):
    rows = [
        row(i, tokens=t, config=c, problem=p) for c, t in (("m", 30), ("n", 900)) for p in ("p", "q") for i in (0, 1)
    ]
    write_bank(rows, tmp_path / "bank", "sums")
    benches, floor = make_benches(parse_config({"bank": tmp_path / "bank", "draws": 5}, "c"), None)
    assert [(b.subject.model, b.subject.sampling.max_tokens) for b in benches] == [("m", 30), ("n", 900)]
    assert floor == 64
    problems = benches[0].problems()
    assert [(p.id, p.question, len(p.prompt.tokens)) for p in problems] == [
        ("p", "How many?", 7),
        ("q", "How many?", 7),
    ]
    asked = parse_config({"strategies": "greedy", "budgets": 10}, "c")
    with pytest.raises(ConfigError, match="cannot run on m"):
        make_cells(asked, [b.subject for b in benches], floor)


@pytest.mark.parametrize("asked", [{"prm": "fake"}, {"sampling": {"temperature": 1.5}}, {"sampling": {"stop": ["x"]}}])
def test_what_recorded_samples_cannot_follow_is_refused(tmp_path, asked):
    write_bank([row(0)], tmp_path / "bank", "t")
    with pytest.raises(ConfigError, match="samples are recorded") as caught:
        make_benches(parse_config({"bank": tmp_path / "bank", **asked}, "c"), None)
    assert "--task and --model" in caught.value.hint


def test_the_smallest_call_is_a_quarter_of_a_mean_sample_at_most_64(tmp_path):
    for tokens, floor in ((1, 1), (40, 10), (256, 64), (2000, 64)):
        write_bank([row(0, tokens=tokens)], tmp_path / str(tokens), "t")
        assert make_benches(parse_config({"bank": tmp_path / str(tokens)}, "c"), None)[1] == floor


# --- means over draws


def pass_at(n, c, k):
    return 1 - Fraction(math.comb(n - c, k), math.comb(n, k))


@pytest.mark.parametrize(
    ("n", "c", "k", "value"), [(10, 3, 5, 0.916667), (16, 2, 4, 0.45), (6, 0, 3, 0), (6, 4, 3, 1), (12, 5, 2, None)]
)
def test_mean_coverage_is_pass_at_k(n, c, k, value):
    exact = pass_at(n, c, k)
    assert value is None or float(exact) == pytest.approx(value, abs=1e-6)
    assert close(mean_score(pool({"right": c, "wrong": n - c}), Coverage(k)), float(exact))


def majority_at(rows, k):
    """Go through every subset; a tie is shared evenly."""
    total = Fraction(0)
    subsets = list(itertools.combinations([r.answer for r in rows], k))
    for subset in subsets:
        votes = Counter(a for a in subset if a is not None)
        top = max(votes.values(), default=0)
        if top and votes["right"] == top:
            total += Fraction(1, sum(count == top for count in votes.values()))
    return total / len(subsets)


@pytest.mark.parametrize(
    ("right", "others", "none", "k", "value"),
    [
        (3, [2, 2, 1], 0, 4, 0.5), (5, [3, 2], 0, 5, 0.678571), (2, [5, 1], 0, 3, 0.166667),
        (6, [2], 0, 4, 0.892857), (2, [2, 1], 3, 4, 0.421429),
    ],
)  # fmt: skip
def test_mean_self_consistency_is_majority_at_k(right, others, none, k, value):
    rows = pool({"right": right, **{f"wrong{i}": count for i, count in enumerate(others)}}, none=none)
    exact = majority_at(rows, k)
    assert float(exact) == pytest.approx(value, abs=1e-6)
    assert close(mean_score(rows, SelfConsistency(k)), float(exact))


def best_at(scores, right, k):
    """Go through every subset; samples of equal score are equally likely to come first."""
    total = Fraction(0)
    subsets = list(itertools.combinations(range(len(scores)), k))
    for subset in subsets:
        top = [i for i in subset if scores[i] == max(scores[j] for j in subset)]
        total += Fraction(sum(right[i] for i in top), len(top))
    return total / len(subsets)


@pytest.mark.parametrize(
    ("scores", "right", "k", "value"),
    [
        ((0.9, 0.8, 0.7, 0.6), (0, 1, 1, 0), 2, 0.5), ((0.9, 0.8, 0.7, 0.6), (0, 1, 1, 0), 3, 0.25),
        ((0.5, 0.5, 0.9, 0.5, 0.1, 0.9), (1, 0, 0, 1, 1, 1), 3, None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("select", ["reward", "logprob"])
def test_mean_best_of_n_is_the_closed_form(select, scores, right, k, value):
    exact = best_at(scores, right, k)
    assert value is None or float(exact) == value
    n = len(scores)
    if value is not None:  # methods: BoN@k = sum of y_(i) C(n-i, k-1) / C(n, k) in order of score
        ranked = sum(Fraction(right[i - 1] * math.comb(n - i, k - 1), math.comb(n, k)) for i in range(1, n - k + 2))
        assert ranked == exact
    # The longer a sample the lower its sum: only log-probability per token ranks them as `scores` does.
    rows = [
        row(i, str(i), correct=bool(y), tokens=10 * (i + 1), score=s if select == "reward" else None, logprob=(s - 1) * 10 * (i + 1))
        for i, (s, y) in enumerate(zip(scores, right, strict=True))
    ]  # fmt: skip
    assert close(mean_score(rows, BestOfN(k, select)), float(exact))


def test_mean_tokens_at_k_are_k_mean_lengths():
    _, outcomes = replay(NUMBERED, Coverage(4), draws=DRAWS)
    lengths = np.array([r.completion_tokens for r in NUMBERED])
    mean = np.mean([o.meter.usage.completion for o in outcomes])
    assert close(mean, 4 * lengths.mean(), spread=2 * lengths.std())


def test_early_stopping_draws_the_expected_samples_from_a_large_pool():
    _, outcomes = replay(pool({"right": 1600, "wrong": 400}), EarlyStoppingConsistency(), draws=600)
    drawn = [len(o.answer.candidates) for o in outcomes]
    assert abs(np.mean(drawn) - 14.61) < 4 * np.std(drawn) / math.sqrt(600)


def test_adaptive_consistency_draws_the_expected_samples_from_a_large_pool():
    _, outcomes = replay(pool({"right": 1600, "wrong": 400}), AdaptiveConsistency(), draws=600)
    drawn = [len(o.answer.candidates) for o in outcomes]
    assert abs(np.mean(drawn) - 8.72) < 4 * np.std(drawn) / math.sqrt(600)
