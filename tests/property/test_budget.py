"""No strategy can spend more than it was granted, whatever happens."""

from __future__ import annotations

import asyncio
import dataclasses

from hypothesis import given, settings
from hypothesis import strategies as st

from ttc.core import registry
from ttc.core.parameters import build
from ttc.core.protocols import Resolvable
from ttc.core.types import Message, Problem, Sampling
from ttc.engines.fake import FakeEngine, FakeOptions, FakeReward
from ttc.run.context import Prices, World
from ttc.run.granting import Fixed
from ttc.run.ledger import Ledger
from ttc.run.solve import Attempt, solve


class Judge:
    """Takes the boxed number for an answer and calls everything right."""

    async def read(self, problem_id, completions):
        return [
            dataclasses.replace(c, answer=c.text.rpartition("{")[2][:-1])
            if c.finish == "stop" and "boxed" in c.text
            else c
            for c in completions
        ]

    async def verdicts(self, problem_id, draw, candidates):
        return [c.answer is not None for c in candidates]


class Recorder:
    """Counts what an engine was really asked for and gave, independently of the ledger."""

    def __init__(self, engine):
        self.engine, self.generated, self.in_flight_caps, self.peak = engine, 0, 0, 0
        for name in ("label", "fingerprint", "capabilities", "immediate", "context_tokens", "parameters"):
            setattr(self, name, getattr(engine, name))
        self.render, self.decode = engine.render, engine.decode

    async def generate(self, requests):
        self.in_flight_caps += sum(r.max_tokens for r in requests)
        self.peak = max(self.peak, self.generated + self.in_flight_caps)
        try:
            done = await self.engine.generate(requests)
            self.generated += sum(c.usage.completion for c in done)
            return done
        except Exception:  # counted, and raised again
            self.generated += sum(r.max_tokens for r in requests)  # nobody knows what a failed call spent
            raise
        finally:
            self.in_flight_caps -= sum(r.max_tokens for r in requests)


def problem(engine, number: int) -> Problem:
    question = f"What is {number} + {number * 7 % 13}?"
    return Problem(f"p{number}", question, engine.render([Message("user", question)]))


def strategy(name: str):
    instance = build("strategies", name, {})
    if isinstance(instance, Resolvable):
        instance = instance.resolve(frozenset({"live", "score", "reward", "temperature", "top_logprobs"}))
    return instance


names = st.sampled_from(registry.names("strategies"))
prices = st.sampled_from([Prices(), Prices(prompt=0.3, cached=0.1, reward=0.5)])


@settings(max_examples=150, deadline=None)
@given(
    name=names,
    grants=st.lists(st.integers(0, 2000), min_size=1, max_size=8),
    share=st.floats(0.1, 1.5),
    cap=st.integers(1, 200),
    floor=st.integers(1, 64),
    fail=st.sampled_from([0.0, 0.1, 0.5]),
    delay_s=st.sampled_from([0.0, 0.0005]),
    price=prices,
    seed=st.integers(0, 2**32),
)
def test_grant_and_total_are_hard_limits(name, grants, share, cap, floor, fail, delay_s, price, seed):
    """Alone and concurrently, with failing calls in between, also where the grants add up to more than the total."""
    engine = Recorder(FakeEngine(FakeOptions(fail=fail, delay_s=delay_s)))
    total = Ledger(max(1, int(sum(grants) * share)))
    world = World(engine, Judge(), Sampling(max_tokens=cap), seed, floor, FakeReward(), price)
    solver = strategy(name)

    async def run():
        attempts = [
            Attempt(solver, p, (Fixed(total, {p.id: grant}),), world, Judge(), 30.0)
            for i, grant in enumerate(grants)
            for p in [problem(engine, i)]
        ]
        return await asyncio.gather(*(solve(a) for a in attempts))

    outcomes = [rows[0] for rows in asyncio.run(run())]
    for grant, outcome in zip(grants, outcomes, strict=True):
        assert outcome.spent <= grant
        assert outcome.meter.usage.completion <= grant
    assert sum(o.spent for o in outcomes) == total.spent <= total.limit
    assert total.reserved == 0
    assert engine.generated == sum(o.meter.usage.completion for o in outcomes)
    assert engine.peak <= total.limit
    if price == Prices():
        assert engine.generated == total.spent


@settings(max_examples=60, deadline=None)
@given(name=names, grant=st.integers(20, 3000), cap=st.integers(10, 200), seed=st.integers(0, 2**32))
def test_concurrency_changes_nothing(name, grant, cap, seed):
    """Which calls start depends on what earlier calls cost, never on timing."""
    results = []
    for delay_s in (0.0, 0.0003):
        engine = FakeEngine(FakeOptions(delay_s=delay_s))
        world = World(engine, Judge(), Sampling(max_tokens=cap), seed, 16, FakeReward())
        asked = problem(engine, 5)
        granter = Fixed(Ledger(10**9), {asked.id: grant})
        attempt = Attempt(strategy(name), asked, (granter,), world, Judge(), 30.0)
        outcome = asyncio.run(solve(attempt))[0]
        results.append((outcome.answer, outcome.meter.usage, outcome.spent, outcome.meter.sequential_tokens))
    assert results[0] == results[1]
