"""Models of unequal price in one cell: the total is a hard limit in budget tokens, at any timing, with failing calls."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st
from test_budget import Judge, problem

from ttc.core.parameters import build
from ttc.core.types import Sampling
from ttc.engines.fake import FakeEngine, FakeOptions
from ttc.engines.joint import Member, MixedEngine, RoutedEngine
from ttc.run.context import Prices, World
from ttc.run.granting import Fixed, Rounds
from ttc.run.joining import Once
from ttc.run.ledger import Ledger
from ttc.run.solve import Attempt, solve


@dataclass
class Book:
    """What all members together were asked for and gave, in budget tokens."""

    spent: float = 0.0
    held: float = 0.0
    peak: float = 0.0
    charged: int = 0


class Weighed(FakeEngine):
    """Writes down each call at its weight, independently of the ledger."""

    def __init__(self, options, book, weight, prices):
        super().__init__(options)
        self.book, self.weight, self.prices = book, weight, prices

    async def generate(self, requests):
        (request,) = requests
        book = self.book
        read = self.prices.prompt * len(request.prompt.tokens)
        most = self.weight * (request.max_tokens + read)
        book.held += most
        book.peak = max(book.peak, book.spent + book.held)
        spent = most
        try:
            (done,) = await super().generate(requests)
            spent = self.weight * (done.usage.completion + math.ceil(read - 1e-9))
            return [done]
        finally:
            book.held -= most
            book.spent += spent
            book.charged += math.ceil(spent - 1e-9)


@settings(max_examples=120, deadline=None)
@given(
    weights=st.lists(st.floats(0.05, 9.0), min_size=2, max_size=3),
    counts=st.lists(st.integers(0, 3), min_size=3, max_size=3).filter(lambda c: c[0] + c[1] > 0),
    routed=st.booleans(),
    in_calls=st.booleans(),
    solver=st.sampled_from(["self-consistency", "coverage", "adaptive-consistency"]),
    problems=st.integers(1, 6),
    grant=st.integers(0, 900),
    share=st.floats(0.2, 1.2),
    cap=st.integers(1, 150),
    floor=st.integers(1, 40),
    fail=st.sampled_from([0.0, 0.2]),
    delay_s=st.sampled_from([0.0, 0.0003]),
    price=st.sampled_from([Prices(), Prices(prompt=0.3)]),
    seed=st.integers(0, 2**32),
)
def test_a_total_is_a_hard_limit_whatever_tokens_weigh(
    weights, counts, routed, in_calls, solver, problems, grant, share, cap, floor, fail, delay_s, price, seed
):
    book = Book()
    members = [
        Member(Weighed(FakeOptions(fail=fail, delay_s=delay_s, label=f"m{i}"), book, weight, price), weight=weight)
        for i, weight in enumerate(weights)
    ]
    asked = [problem(members[0].engine, i) for i in range(problems)]
    if routed:
        engine = RoutedEngine(members, {p.id: i % len(members) for i, p in enumerate(asked)})
    else:
        engine = MixedEngine(members, counts[: len(members)])
    total = Ledger(int(problems * grant * share))
    if routed and in_calls:
        granter = Rounds(total, asked, Once(dict.fromkeys((p.id for p in asked), 2), {p.id: {} for p in asked}), floor)
    else:
        granter = Fixed(total, {p.id: grant for p in asked})
    world = World(engine, Judge(), Sampling(max_tokens=cap), seed, floor, prices=price)

    async def run():
        attempts = [Attempt(build("strategies", solver, {}), p, (granter,), world, Judge(), 30.0) for p in asked]
        return await asyncio.wait_for(asyncio.gather(*(solve(a) for a in attempts)), 60)

    outcomes = [rows[0] for rows in asyncio.run(run())]
    assert sum(o.spent for o in outcomes) == total.spent <= total.limit
    assert (total.reserved, total.overdrawn) == (0, 0)
    assert book.peak <= total.limit + 1e-6
    assert book.spent <= total.spent + 1e-6
    if not fail:
        assert book.charged == total.spent
