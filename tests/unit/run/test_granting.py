"""Grants in rounds: barriers, totals, and decisions that depend on what was drawn and never on timing."""

import asyncio
import dataclasses
import random

import pytest

from ttc.allocate.allocators import Knapsack, Sequential, Streaming
from ttc.core.errors import TtcError
from ttc.core.types import Completion, Message, Problem, Sampling, Usage
from ttc.engines.fake import FakeEngine, FakeOptions
from ttc.run.context import World
from ttc.run.granting import Fixed, Rounds, Turn
from ttc.run.ledger import Ledger
from ttc.run.solve import Attempt, solve
from ttc.run.waves import Arrivals, Informed, Waves
from ttc.testing.foreseen import Foreseen
from ttc_strategies.adaptive import AdaptiveConsistency
from ttc_strategies.coverage import Coverage
from ttc_strategies.voting import SelfConsistency


class Judge:
    async def read(self, problem_id, completions):
        return [dataclasses.replace(c, answer=c.text[-4:] if c.finish == "stop" else None) for c in completions]

    async def verdicts(self, problem_id, draw, candidates):
        return [c.answer is not None for c in candidates]


class Lengths(FakeEngine):
    """Answers with as many tokens as the table says for a problem's samples; optionally late, in any order."""

    def __init__(self, lengths, slow=None):
        super().__init__(FakeOptions())
        self.lengths, self.slow, self.requests = lengths, slow, []
        self.immediate = slow is None

    async def generate(self, requests):
        (request,) = requests
        self.requests.append((request.problem_id, request.index, request.max_tokens))
        if self.slow is not None:
            await asyncio.sleep(self.slow.random() * 0.003)
        series = self.lengths[request.problem_id]
        need = series[request.index % len(series)]
        used = min(need, request.max_tokens)
        finish = "stop" if used == need else "length"
        return [Completion(request.index, "x" * used, tuple(range(used)), finish, Usage(completion=used))]


def play(engine, policy_of, total, ids, strategy=None, cap=50, floor=4):
    """Run all problems under rounds. Returns the outcomes by problem, the granter and the ledger."""
    problems = [Problem(i, i, engine.render([Message("user", i)])) for i in ids]
    ledger = Ledger(total)
    granter = Rounds(ledger, problems, policy_of(), floor)
    judge = Judge()
    world = World(engine, judge, Sampling(max_tokens=cap), 0, floor)
    solver = strategy or SelfConsistency()

    async def everyone():
        attempts = [Attempt(solver, p, (granter,), world, judge, 30.0) for p in problems]
        return [rows[0] for rows in await asyncio.gather(*(solve(a) for a in attempts))]

    outcomes = dict(zip(ids, asyncio.run(everyone()), strict=True))
    assert all(o.error is None for o in outcomes.values()), [o.error for o in outcomes.values()]
    assert ledger.reserved == 0
    assert ledger.spent == sum(o.spent for o in outcomes.values()) <= total
    return outcomes, granter, ledger


def informed(allocator, predictor, cap=50, most=16, training=None):
    return Informed(allocator, predictor, "m", "self-consistency", cap, 0, most, {}, training)


def drawn(outcomes):
    return {name: len(o.meter.drawn) for name, o in outcomes.items()}


class Scripted:
    """Plays a list of turns, then ends."""

    def __init__(self, turns):
        self.turns, self.seen = list(turns), []

    def turn(self, waiting, free_tokens):
        self.seen.append(({p.problem.id: len(p.drawn) for p in waiting}, free_tokens))
        return self.turns.pop(0) if self.turns else Turn()


def test_whole_calls_cost_what_they_use_and_the_rest_goes_back_to_the_total():
    engine = Lengths({"a": [10, 20, 30], "b": [5, 5, 5]})
    script = Scripted([Turn(calls={"a": 2, "b": 1}), Turn(calls={"a": 1})])
    outcomes, granter, ledger = play(engine, lambda: script, 1000, ["a", "b"])
    assert drawn(outcomes) == {"a": 3, "b": 1}
    assert script.seen == [({"a": 0, "b": 0}, 1000), ({"a": 2, "b": 1}, 965), ({"a": 3, "b": 1}, 935)]
    assert ledger.spent == 65
    assert {n: granter.granted(outcomes_problem(n)) for n in "ab"} == {"a": 60, "b": 5}


def outcomes_problem(name):
    return Problem(name, name, FakeEngine(FakeOptions()).render([Message("user", name)]))


def test_final_grants_are_hard_and_cut_the_last_call():
    engine = Lengths({"a": [30], "b": [30]})
    script = Scripted([Turn(calls={"a": 1, "b": 1}), Turn(grants={"a": 75, "b": 30})])
    outcomes, granter, _ = play(engine, lambda: script, 200, ["a", "b"])
    assert [c.usage.completion for c in outcomes["a"].meter.drawn] == [30, 30, 15]
    assert [c.usage.completion for c in outcomes["b"].meter.drawn] == [30]
    assert outcomes["a"].answer.stop_reason == "budget"
    assert granter.granted(outcomes_problem("a")) == 75


def test_a_refused_problem_ends_while_the_others_go_on():
    engine = Lengths({"a": [10], "b": [10]})
    script = Scripted([Turn(calls={"a": 1, "b": 1}), Turn(refused=frozenset("a")), Turn(calls={"b": 2})])
    outcomes, _, _ = play(engine, lambda: script, 1000, ["a", "b"])
    assert drawn(outcomes) == {"a": 1, "b": 3}


def test_when_the_total_is_short_the_earlier_problem_is_served_and_the_last_call_is_cut():
    engine = Lengths({"a": [40], "b": [40], "c": [40]})
    script = Scripted([Turn(calls={"a": 1, "b": 1, "c": 1}), Turn(calls={"a": 1, "b": 1, "c": 1})])
    outcomes, _, ledger = play(engine, lambda: script, 100, ["a", "b", "c"])
    used = {n: [c.usage.completion for c in o.meter.drawn] for n, o in outcomes.items()}
    assert used == {"a": [40], "b": [40], "c": [20]}
    assert outcomes["c"].status == "budget"
    assert ledger.spent == 100


def test_a_policy_that_grants_what_nobody_can_use_does_not_hang():
    class Generous:
        def turn(self, waiting, free_tokens):
            return Turn(calls={p.problem.id: 1 for p in waiting})

    engine = Lengths({"a": [7]})
    outcomes, _, ledger = play(engine, Generous, 40, ["a"], floor=10)
    assert 30 < ledger.spent <= 40
    assert outcomes["a"].answer.stop_reason == "budget"


@pytest.mark.parametrize(
    "allocator", [Sequential(), Sequential(pilot=0, share=1.0), Sequential(pilot=2), Knapsack(pilot=2)]
)
def test_timing_changes_nothing(allocator):
    rates = {f"p{i}": 0.05 + 0.09 * i for i in range(10)}
    lengths = {name: [random.Random(name).randint(5, 60) for _ in range(16)] for name in rates}

    def once(slow):
        engine = Lengths(lengths, slow)
        policy = lambda: Waves(informed(allocator, Foreseen(rates)))  # noqa: E731
        outcomes, granter, ledger = play(engine, policy, 1400, list(rates))
        return (
            drawn(outcomes),
            ledger.spent,
            sorted(engine.requests),
            [granter.granted(outcomes_problem(n)) for n in rates],
        )

    first = once(None)
    assert all(once(random.Random(i)) == first for i in range(3))
    assert first[1] > 1300


def test_waves_draw_a_pilot_look_at_it_and_spend_where_a_call_gains_most():
    rates = {"easy": 0.99, "medium": 0.3, "hopeless": 0.0}
    engine = Lengths({name: [40] for name in rates})
    predictor = Foreseen(rates)
    outcomes, _, ledger = play(engine, lambda: Waves(informed(Sequential(), predictor)), 40 * 9, list(rates))
    assert drawn(outcomes) == {"easy": 1, "medium": 7, "hopeless": 1}
    assert predictor.asked[0] == {"easy": 1, "medium": 1, "hopeless": 1}
    assert ledger.spent == 40 * 9
    pilots = [index for name, index, _ in engine.requests[:3]]
    assert pilots == [0, 0, 0]


def test_a_confident_finisher_hands_its_tokens_on():
    """Adaptive consistency stops at four equal answers; what it leaves is spent on the others."""
    rates = {"same": 0.5, "differs": 0.5}
    engine = Lengths({"same": [40] * 16, "differs": [39, 38, 37, 36, 35, 34, 33, 32] * 2})

    class Own(Judge):
        async def read(self, problem_id, completions):
            return [
                dataclasses.replace(c, answer=str(len(c.tokens)) if c.finish == "stop" else None) for c in completions
            ]

    problems = [Problem(i, i, engine.render([Message("user", i)])) for i in rates]
    predictor = Foreseen(rates)
    ledger = Ledger(40 * 16)
    granter = Rounds(ledger, problems, Waves(informed(Sequential(), predictor)), 4)
    world = World(engine, Own(), Sampling(max_tokens=50), 0, 4)

    async def everyone():
        attempts = [Attempt(AdaptiveConsistency(), p, (granter,), world, Own(), 30.0) for p in problems]
        return await asyncio.gather(*(solve(a) for a in attempts))

    same, differs = (rows[0] for rows in asyncio.run(everyone()))
    assert (same.answer.stop_reason, len(same.meter.drawn)) == ("confident", 4)
    assert len(differs.meter.drawn) > 8  # more than an even share
    assert ledger.spent <= ledger.limit


def test_a_stream_runs_window_by_window_in_the_seeds_order_and_hands_on_what_was_left():
    rates = {f"p{i}": 0.3 for i in range(12)}
    engine = Lengths({name: [10] for name in rates})  # a quarter of what is expected
    allocator = Streaming(window=3)
    predictor = Foreseen(rates)
    training = predictor.training("m", "self-consistency", "calls")
    policy = lambda: Arrivals(informed(allocator, predictor, training=training))  # noqa: E731
    outcomes, _, ledger = play(engine, policy, 12 * 80, list(rates))
    order = list(dict.fromkeys(name for name, _, _ in engine.requests))
    assert sorted(order) == sorted(rates)
    assert order != list(rates)
    counts = drawn(outcomes)
    assert min(counts.values()) >= 1
    # Nobody's call costs what was feared, so later windows are granted more than the first.
    assert sum(counts[n] for n in order[-3:]) > sum(counts[n] for n in order[:3])
    assert ledger.spent <= ledger.limit


@pytest.mark.parametrize("rule", ["dual", "time-fair"])
def test_a_stream_never_exceeds_its_total_even_where_every_call_costs_more_than_expected(rule):
    rates = {f"p{i}": 0.05 * (i % 19) for i in range(40)}
    engine = Lengths({name: [50] for name in rates})
    predictor = Foreseen(rates, sample_tokens=20)
    training = predictor.training("m", "self-consistency", "calls")
    policy = lambda: Arrivals(informed(Streaming(rule=rule), predictor, training=training))  # noqa: E731
    play(engine, policy, 40 * 60, list(rates), Coverage())


def test_two_branches_that_ask_at_once_are_an_error_and_not_a_hang():
    first, second = outcomes_problem("a"), outcomes_problem("b")
    granter = Rounds(Ledger(1000), [first, second], Scripted([Turn(calls={"a": 1, "b": 1})]), 4)

    async def ask():
        await asyncio.gather(granter.admit(first, 50), granter.admit(second, 50))
        waiting = asyncio.create_task(granter.more(first, ()))  # the other problem still runs: no turn yet
        await asyncio.sleep(0)
        with pytest.raises(TtcError, match="two branches"):
            await granter.more(first, ())
        waiting.cancel()

    asyncio.run(ask())


def test_a_policy_that_fails_fails_every_problem_that_waits():
    class Broken:
        def turn(self, waiting, free_tokens):
            raise ValueError("no idea")

    engine = Lengths({"a": [10], "b": [10]})
    problems = [outcomes_problem(name) for name in "ab"]
    granter = Rounds(Ledger(1000), problems, Broken(), 4)
    world = World(engine, Judge(), Sampling(max_tokens=50), 0, 4)

    async def everyone():
        attempts = [Attempt(SelfConsistency(), p, (granter,), world, Judge(), 30.0) for p in problems]
        return [rows[0] for rows in await asyncio.gather(*(solve(a) for a in attempts))]

    assert [o.status for o in asyncio.run(everyone())] == ["error", "error"]


def test_fixed_grants_never_grow():
    problem = outcomes_problem("a")
    granter = Fixed(Ledger(100), {"a": 60})

    async def ask():
        return (await granter.admit(problem, 50)).limit, await granter.more(problem, ())

    assert asyncio.run(ask()) == (60, False)
