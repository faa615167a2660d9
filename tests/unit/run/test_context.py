"""Every token a strategy moves passes here: what is charged, refused, clamped, and told."""

import asyncio
import dataclasses
import math
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import Scripted, context, forever, question, refused, shuffled, world

from ttc.core.errors import ConfigError, EngineError
from ttc.core.identity import sample_seed
from ttc.core.types import Message, Problem, Prompt, Sampling, Step
from ttc.engines.fake import FakeEngine, FakeReward
from ttc.run.context import MeteredContext, Prices
from ttc.run.ledger import Ledger


def sample(ctx, n=None, **sampling):
    return ctx.sample(ctx.problem.prompt, n, Sampling(**{"max_tokens": ctx.sampling.max_tokens, **sampling}))


@pytest.mark.parametrize("delay", [None, shuffled(1)])
def test_the_last_call_is_clamped_to_what_remains(delay):
    engine = Scripted([("a", 40)], delay=delay)
    ctx = context(engine, 150, cap=60, floor=16)
    drawn = asyncio.run(sample(ctx))
    assert [r.max_tokens for r in engine.requests] == [60, 60, 60, 30]
    assert [c.finish for c in drawn] == ["stop", "stop", "stop", "length"]
    assert drawn[-1].answer is None
    assert (ctx.ended, ctx.remaining, ctx.ledger.spent, ctx.meter.usage.completion) == ("budget", 0, 150, 150)


def test_what_remains_below_the_smallest_call_stays_unspent():
    ctx = context(Scripted([("a", 40)]), 150, cap=60, floor=31)
    assert len(asyncio.run(sample(ctx))) == 3
    assert (ctx.ended, ctx.remaining) == ("budget", 30)


def test_asking_for_what_the_grant_pays_ends_without_a_reason():
    ctx = context(Scripted([("a", 40)]), 150, cap=60)
    assert len(asyncio.run(sample(ctx, 2))) == 2
    assert ctx.ended is None


@settings(max_examples=60, deadline=None)
@given(
    costs=st.lists(st.integers(1, 80), min_size=1, max_size=12),
    grant=st.integers(0, 400),
    seed=st.integers(0, 99),
)
def test_waiting_for_earlier_calls_gives_the_samples_of_drawing_one_by_one(costs, grant, seed):
    script = [("a", cost) for cost in costs]
    together = context(Scripted(script, delay=shuffled(seed)), grant, cap=60, floor=8)
    alone = context(Scripted(script), grant, cap=60, floor=8)
    assert asyncio.run(sample(together, len(costs))) == asyncio.run(sample(alone, len(costs)))
    assert together.meter == alone.meter


def test_calls_overlap_as_far_as_their_caps_fit():
    engine = Scripted([("a", 10)], delay=shuffled(3))
    asyncio.run(sample(context(engine, 250, cap=60), 4))
    assert engine.most_running == 4
    engine = Scripted([("a", 60)], delay=shuffled(3))
    asyncio.run(sample(context(engine, 130, cap=60), 4))
    assert engine.most_running == 2


def test_the_cap_is_held_to_the_context_window():
    engine = Scripted([("a", 500)], context_tokens=90, prompt_tokens=30)
    asyncio.run(sample(context(engine, 1000, cap=100), 1))
    assert engine.requests[0].max_tokens == 60


def test_a_prompt_that_fills_the_context_window_fails_this_problem_only():
    engine = Scripted([("a", 5)], context_tokens=30, prompt_tokens=30)
    ctx = context(engine, 1000)
    with pytest.raises(EngineError, match="p1: the prompt has 30 tokens, the model's context is 30") as caught:
        asyncio.run(sample(ctx, 1))
    assert not caught.value.fatal
    assert ctx.ledger.spent == ctx.ledger.reserved == 0


@pytest.mark.parametrize("delay", [None, shuffled(5)])
@pytest.mark.parametrize(("reported", "charged"), [(None, 100), (7, 7), (0, 0)])
def test_a_failed_call_is_charged_what_it_reported_else_its_whole_reservation(delay, reported, charged):
    engine = Scripted([("a", 20), refused(reported)], delay=delay)
    total = Ledger(1000)
    ctx = context(engine, 1000, total=total)
    with pytest.raises(EngineError, match="refused"):
        asyncio.run(sample(ctx, 2))
    assert ctx.ledger.spent == total.spent == 20 + charged == ctx.meter.usage.completion
    assert ctx.ledger.reserved == total.reserved == 0


def test_an_unexpected_failure_is_charged_whole_and_nothing_is_started_after_it():
    engine = Scripted([("a", 20), ValueError("broken"), ("a", 20)], delay=shuffled(2))
    ctx = context(engine, 250, cap=100)
    with pytest.raises(ValueError, match="broken"):
        asyncio.run(sample(ctx))
    assert ctx.ledger.reserved == 0
    assert ctx.ledger.spent <= 250
    assert len(engine.requests) <= 4


def test_the_failure_of_the_lowest_index_is_raised_whatever_ended_first():
    for seed in range(8):
        engine = Scripted([("a", 9), EngineError("one"), ("a", 9), EngineError("three")], delay=shuffled(seed))
        with pytest.raises(EngineError, match="one"):
            asyncio.run(sample(context(engine, 1000), 4))


@pytest.mark.parametrize("delay", [None, shuffled(4)])
@pytest.mark.parametrize("n", [None, 5])
def test_a_used_up_pool_ends_the_draw_and_costs_nothing_more(delay, n):
    engine = Scripted([("a", 20), ("b", 30)], delay=delay, endless=False)
    ctx = context(engine, 10_000)
    drawn = asyncio.run(asyncio.wait_for(sample(ctx, n), 10))
    assert [c.answer for c in drawn] == ["a", "b"]
    assert (ctx.ended, ctx.ledger.spent, ctx.ledger.reserved) == ("exhausted", 50, 0)


def test_prices_are_charged_rounded_up_and_their_worst_case_is_reserved():
    engine = Scripted([("a", 40)], prompt_tokens=33, cached=13)
    prices = Prices(prompt=0.3, cached=0.1)
    ctx = context(engine, 200, cap=60, floor=16, prices=prices)
    drawn = asyncio.run(sample(ctx))
    each = 40 + math.ceil(0.3 * 20 + 0.1 * 13)
    assert each == 48
    # 33 prompt tokens at the dearer rate are 9.9: 10 tokens beside the cap of 60, or beside the floor of 16.
    assert [r.max_tokens for r in engine.requests] == [60, 60, 60, 46]
    assert ctx.ledger.spent == 4 * each
    assert len(drawn) == 4
    assert ctx.remaining == 8


def test_the_smallest_call_must_be_paid_beside_its_prompt():
    """A prompt of 33 tokens costs 10, the smallest call 16: 26 tokens pay for a call, 25 do not."""
    for grant, drawn in ((26, 1), (25, 0)):
        engine = Scripted([("a", 40)], prompt_tokens=33)
        ctx = context(engine, grant, cap=60, floor=16, prices=Prices(prompt=0.3))
        assert len(asyncio.run(sample(ctx))) == drawn
        assert [r.max_tokens for r in engine.requests] == [16] * drawn


def test_prices_need_prompt_lengths():
    engine = Scripted([("a", 4)], prompt_tokens=0)
    with pytest.raises(ConfigError, match="prompt lengths"):
        asyncio.run(sample(context(engine, 100, prices=Prices(prompt=0.1)), 1))


@given(st.integers(0, 500), st.integers(0, 500), st.integers(0, 99), st.sampled_from([0.0, 0.1, 0.25, 0.3, 1.0, 2.5]))
def test_a_charge_never_exceeds_its_worst_case(prompt, cached, completion, rate):
    from ttc.core.types import Usage

    prices = Prices(prompt=rate, cached=rate / 2)
    charge = prices.charge(Usage(prompt, cached, completion))
    assert completion <= charge <= completion + prices.worst_case(prompt + cached)


def test_branches_draw_their_own_samples_from_the_same_grant():
    engine = Scripted([("a", 10)])
    ctx = context(engine, 1000, seed=5)

    async def run():
        for branch in (ctx, ctx.branch("x"), ctx.branch("y"), ctx.branch("z").branch("x")):
            await sample(branch, 2)

    asyncio.run(run())
    paths = ["", "/x", "/y", "/z/x"]
    assert [r.seed for r in engine.requests] == [sample_seed(5, "p1", path, i) for path in paths for i in (0, 1)]
    assert len({r.seed for r in engine.requests}) == 8
    assert ctx.ledger.spent == 80


def test_a_context_goes_on_counting_where_its_last_draw_ended():
    engine = Scripted([("a", 10)])
    ctx = context(engine, 1000)

    async def run():
        await sample(ctx, 2)
        await sample(ctx, 3)

    asyncio.run(run())
    assert [r.index for r in engine.requests] == [0, 1, 2, 3, 4]


def test_a_branch_opened_twice_is_refused():
    ctx = context(Scripted([("a", 1)]), 10)
    ctx.branch("x").branch("x")
    with pytest.raises(ConfigError, match="'x' was opened twice"):
        ctx.branch("x")


def test_sequential_tokens_add_over_waves_and_take_the_longest_of_parallel_calls():
    ctx = context(Scripted([("a", 10), ("a", 30), ("a", 20), ("a", 5), ("a", 7)]), 1000)

    async def run():
        await sample(ctx, 3)
        assert ctx.meter.sequential_tokens == 30
        await sample(ctx, 2)

    asyncio.run(run())
    assert ctx.meter.sequential_tokens == 30 + 7


def test_sequential_tokens_follow_the_longest_chain_through_branches():
    """Two branches side by side count once, what follows them waits for the longer."""
    ctx = context(Scripted([("a", 10), ("a", 20), ("a", 40)], delay=shuffled(1)), 10_000)

    async def chain(branch, waves):
        for _ in range(waves):
            await sample(branch, 1)

    async def run():
        await sample(ctx, 1)  # 10
        left, right = ctx.branch("left"), ctx.branch("right")
        await asyncio.gather(chain(left, 1), chain(right, 2))  # 10 beside 10 + 20
        assert ctx.meter.sequential_tokens == 10 + 30
        await sample(ctx, 1)  # the second of its own: 20
        assert ctx.meter.sequential_tokens == 10 + 30 + 20
        await sample(ctx.branch("late"), 1)  # 10 after everything
        await sample(ctx.branch("later"), 1)  # opened when the branch before it was over: 10 more

    asyncio.run(run())
    assert ctx.meter.sequential_tokens == 10 + 30 + 20 + 10 + 10


class Chain:
    """A context as it is defined: what a call depends on is found by looking through all branches."""

    def __init__(self, depth=0):
        self.depth, self.branches, self.calls = depth, [], 0

    def joined(self):
        return max([self.depth, *(branch.joined() for branch in self.branches)])

    def call(self, lengths):
        self.depth = max(self.depth, self.joined() + lengths[min(self.calls, len(lengths) - 1)])
        self.calls += 1

    def branch(self):
        self.branches.append(Chain(self.joined()))
        return self.branches[-1]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=6),
    st.lists(st.tuples(st.booleans(), st.integers(0, 99)), max_size=40),
)
def test_sequential_tokens_are_those_of_the_definition(lengths, moves):
    ctx = context(Scripted([("a", length) for length in lengths]), 10**6)
    pairs = [(ctx, Chain())]

    async def run():
        for opens, place in moves:
            real, defined = pairs[place % len(pairs)]
            if opens:
                pairs.append((real.branch(str(len(pairs))), defined.branch()))
            else:
                await sample(real, 1)
                defined.call(lengths)
            deepest = max(chain.depth for _, chain in pairs)
            assert ctx.meter.sequential_tokens == (deepest if any(chain.calls for _, chain in pairs) else 0)

    asyncio.run(run())


def test_a_call_costs_no_more_with_many_branches_open():
    """Counted in function calls: time would say little on a busy machine."""

    def calls(branches):
        ctx, count = context(Scripted([("a", 5)]), 10**6), 0

        def counted(_frame, event, _argument):
            nonlocal count
            count += event == "call"

        async def run():
            for i in range(branches):
                await sample(ctx.branch(str(i)), 1)

        sys.setprofile(counted)
        try:
            asyncio.run(run())
        finally:
            sys.setprofile(None)
        return count

    few, many = calls(100), calls(400)
    assert many < 4.5 * few


def test_probe_tokens_are_counted_within_completion_tokens():
    ctx = context(Scripted([("a", 10), ("a", 30), ("a", 7)]), 1000)

    async def run():
        await sample(ctx, 1)
        await sample(ctx, 2, kind="probe")

    asyncio.run(run())
    assert (ctx.meter.probe_tokens, ctx.meter.usage.completion, ctx.meter.calls) == (37, 47, 3)


@pytest.mark.parametrize("n", [2, None])
def test_cancelling_a_draw_cancels_its_calls_and_settles_their_reservations(n):
    """With a fixed n all calls fly; with None the grant is full and the next call waits for room."""
    engine = Scripted([("a", 1)], delay=forever)
    total = Ledger(1000)
    ctx = context(engine, 250, cap=100, total=total)

    async def run():
        task = asyncio.create_task(sample(ctx, n))
        await asyncio.sleep(0.01)
        assert total.reserved == 200
        task.cancel()
        await asyncio.wait([task], timeout=5)
        return task.cancelled()

    assert asyncio.run(run())
    assert engine.running == 0
    assert (total.reserved, ctx.ledger.reserved) == (0, 0)
    assert total.spent == ctx.ledger.spent == 200


def test_a_draw_cancelled_at_any_moment_leaves_no_reservation():
    for turns in range(12):
        engine = Scripted([("a", 30)], delay=shuffled(turns, 4))
        total = Ledger(1000)
        ctx = context(engine, 250, cap=100, total=total)

        async def run(ctx=ctx, turns=turns):
            task = asyncio.create_task(sample(ctx))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        asyncio.run(run())
        assert (total.reserved, engine.running) == (0, 0)
        assert total.spent == ctx.ledger.spent <= 250


def test_an_engine_that_cannot_extend_refuses_a_generated_prefix():
    engine = Scripted([("a", 1)])
    engine.capabilities = frozenset()
    ctx = context(engine, 100)
    with pytest.raises(ConfigError, match="cannot extend a prefix"):
        asyncio.run(ctx.sample(ctx.problem.prompt.extend((1, 2)), 1, ctx.sampling))


def test_scores_need_a_reward_model():
    ctx = context(Scripted([("a", 1)]), 100)
    with pytest.raises(ConfigError, match="no reward model"):
        asyncio.run(ctx.score([(Step((1,), "x"),)]))


def scoring(grant, price):
    engine = FakeEngine()
    problem = Problem("p", "1 + 1", engine.render([Message("user", "1 + 1")]))
    w = world(engine, reward=FakeReward(), prices=Prices(reward=price))
    return MeteredContext(w, problem, Ledger(grant))


def test_reward_tokens_are_recorded_and_charged_only_at_their_price():
    response = (Step((), "Step 1: right\n"), Step((), "Step 2: wrong\n"))
    tokens = len("1 + 1") + 28
    for price, charged in ((0.0, 0), (0.5, math.ceil(tokens / 2))):
        ctx = scoring(100, price)
        scores = asyncio.run(ctx.score([response]))
        assert [len(s) for s in scores] == [2]
        assert (ctx.meter.usage.reward, ctx.meter.usage.completion) == (tokens, 0)
        assert (ctx.ledger.spent, ctx.ledger.reserved) == (charged, 0)


@pytest.mark.parametrize(("price", "times"), [(0.0, 0), (0.5, 1)])
def test_reward_tokens_are_counted_beforehand_only_at_a_price(price, times):
    class Counting(FakeReward):
        counted = 0

        def count_tokens(self, problem, responses):
            self.counted += 1
            return super().count_tokens(problem, responses)

    ctx, reward = scoring(100, price), Counting()
    ctx.world = dataclasses.replace(ctx.world, reward=reward)
    assert len(asyncio.run(ctx.score([(Step((), "Step 1: right\n"),)]))) == 1
    assert reward.counted == times + 1  # the fake counts once more as it scores


def test_scoring_beyond_the_grant_returns_nothing_and_charges_nothing():
    ctx = scoring(10, 1.0)
    assert asyncio.run(ctx.score([(Step((), "Step 1: right\n"),)])) == []
    assert (ctx.ended, ctx.ledger.spent) == ("budget", 0)
    assert asyncio.run(ctx.score([])) == []


def test_a_chat_only_prompt_has_no_context_clamp():
    engine = Scripted([("a", 1)], prompt_tokens=0, context_tokens=50)
    asyncio.run(sample(context(engine, 500, cap=100), 1))
    assert engine.requests[0].max_tokens == 100
    assert engine.requests[0].prompt == Prompt(question(engine).prompt.messages)
