"""Every registered strategy keeps the rules of all, and the checks notice one that does not."""

from dataclasses import dataclass, replace

import pytest

from ttc.core import registry
from ttc.core.parameters import build
from ttc.core.types import Answer
from ttc.testing.strategies import CHECKS, NonconformingError


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
@pytest.mark.parametrize("name", registry.names("strategies"))
def test_registered_strategies_conform(name, check):
    check(build("strategies", name, {}))


def breaks(strategy):
    """Return the names of the checks that a strategy fails."""
    broken = set()
    for name, check in CHECKS.items():
        try:
            check(strategy)
        except NonconformingError:
            broken.add(name)
    return broken


@dataclass(frozen=True)
class Plain:
    async def solve(self, problem, ctx):
        drawn = await ctx.sample(problem.prompt, 2, ctx.sampling)
        choice = next((i for i, c in enumerate(drawn) if c.answer is not None), None)
        return Answer(tuple(drawn), choice, ctx.ended or "finished")


def test_a_plain_strategy_breaks_nothing():
    assert breaks(Plain()) == set()


class Counting(Plain):
    calls = 0

    async def solve(self, problem, ctx):
        Counting.calls += 1
        await ctx.branch(str(Counting.calls)).sample(problem.prompt, 1, ctx.sampling)
        return await Plain.solve(self, problem, ctx.branch(str(-Counting.calls)))


def test_state_between_problems_is_noticed():
    assert "answers_alone_as_among_others" in breaks(Counting())


class Continuing(Plain):
    async def solve(self, problem, ctx):
        drawn = await ctx.sample(problem.prompt, 1, ctx.sampling)
        if drawn:
            await ctx.branch("more").sample(problem.prompt.extend(drawn[0].tokens), 1, ctx.sampling)
        return Answer(tuple(drawn), None, ctx.ended or "finished")


def test_a_call_after_the_end_is_noticed():
    assert "leaves_ended_responses_alone" in breaks(Continuing())


class TakingCuts(Plain):
    async def solve(self, problem, ctx):
        drawn = await ctx.sample(problem.prompt, 1, replace(ctx.sampling, max_tokens=9))
        return Answer(tuple(drawn), 0 if drawn else None, ctx.ended or "finished")


def test_a_cut_response_that_wins_is_noticed():
    assert {"never_overspends", "survives_tiny_grants", "survives_wrong_branches"} <= breaks(TakingCuts())


class Fragile(Plain):
    async def solve(self, problem, ctx):
        drawn = await ctx.sample(problem.prompt, 1, ctx.sampling)
        return Answer(tuple(drawn), 0 if drawn[0].answer else None)


def test_a_strategy_that_needs_a_sample_is_noticed():
    assert "survives_tiny_grants" in breaks(Fragile())
