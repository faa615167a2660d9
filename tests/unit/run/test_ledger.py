"""Reserve, wait, clamp, settle: against the rule written out one call at a time."""

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from ttc.run.ledger import Ledger


def test_a_reservation_is_the_cap_then_what_remains_then_nothing():
    async def run():
        ledger = Ledger(130)
        given = []
        while (held := await ledger.reserve(50, 16)) is not None:
            given.append(held)
            ledger.settle(held, held)
        return given, ledger.spent

    assert asyncio.run(run()) == ([50, 50, 30], 130)


def test_less_than_the_floor_is_not_worth_a_call_and_exactly_the_floor_is():
    for limit, expected in ((15, None), (16, 16), (49, 49), (50, 50), (51, 50), (0, None)):
        assert asyncio.run(Ledger(limit).reserve(50, 16)) == expected


def test_a_cap_below_the_floor_is_a_call_like_any_other():
    assert asyncio.run(Ledger(8).reserve(8, 16)) == 8


def test_a_call_waits_for_those_in_flight_rather_than_taking_less():
    async def run():
        ledger = Ledger(100)
        first = await ledger.reserve(60, 1)
        second = asyncio.create_task(ledger.reserve(60, 1))
        await asyncio.sleep(0)
        assert not second.done()
        ledger.settle(first, 10)
        return await second

    assert asyncio.run(run()) == 60


def test_when_the_last_call_in_flight_spent_all_the_rest_is_given():
    async def run():
        ledger = Ledger(100)
        first = await ledger.reserve(60, 1)
        second = asyncio.create_task(ledger.reserve(60, 1))
        await asyncio.sleep(0)
        ledger.settle(first, 60)
        return await second

    assert asyncio.run(run()) == 40


def test_a_grant_larger_than_the_total_is_held_to_the_total():
    async def run():
        total = Ledger(70)
        one, two = Ledger(100, total), Ledger(100, total)
        first = await one.reserve(50, 1)
        assert (total.remaining, one.remaining, two.remaining) == (20, 20, 20)
        second = asyncio.create_task(two.reserve(50, 1))
        await asyncio.sleep(0)
        assert not second.done(), "another problem's call may still give tokens back"
        one.settle(first, 30)
        assert await second == 40
        two.settle(40, 40)
        assert await one.reserve(50, 1) is None
        return total

    total = asyncio.run(run())
    assert (total.spent, total.reserved, total.remaining) == (70, 0, 0)


def test_a_problem_whose_own_grant_is_nearly_spent_does_not_wait_for_others():
    async def run():
        total = Ledger(520)
        busy, small = Ledger(500, total), Ledger(20, total)
        await busy.reserve(500, 1)
        return await asyncio.wait_for(small.reserve(50, 10), 1)

    assert asyncio.run(run()) == 20


def test_what_an_engine_moves_beyond_its_reservation_is_shown_and_not_booked():
    ledger = Ledger(100)
    asyncio.run(ledger.reserve(30, 1))
    ledger.settle(30, 45)
    assert (ledger.spent, ledger.reserved, ledger.overdrawn) == (30, 0, 15)
    asyncio.run(ledger.reserve(30, 1))
    ledger.settle(30, -20)
    assert (ledger.spent, ledger.reserved, ledger.overdrawn) == (30, 0, 15)


def test_a_waiter_that_is_cancelled_leaves_nothing_behind():
    async def run():
        ledger = Ledger(100)
        first = await ledger.reserve(100, 1)
        waiters = [asyncio.create_task(ledger.reserve(100, 1)) for _ in range(3)]
        await asyncio.sleep(0)
        waiters[0].cancel()
        await asyncio.sleep(0)
        ledger.settle(first, 0)
        assert await asyncio.wait_for(waiters[1], 1) == 100
        waiters[2].cancel()
        ledger.settle(100, 0)
        await asyncio.sleep(0)
        return ledger

    ledger = asyncio.run(run())
    assert (ledger.spent, ledger.reserved) == (0, 0)


def one_by_one(limit, cap, floor, costs):
    """Return what each call is given when each starts only after the one before it has ended."""
    given, spent = [], 0
    for cost in costs:
        free = limit - spent
        if free < cap and free < max(1, floor):
            break
        given.append(min(cap, free))
        spent += min(cost, given[-1])
    return given


@settings(max_examples=300, deadline=None)
@given(
    limit=st.integers(0, 400),
    cap=st.integers(1, 120),
    floor=st.integers(1, 60),
    costs=st.lists(st.integers(0, 150), min_size=1, max_size=15),
    order=st.randoms(),
)
def test_calls_in_flight_are_given_what_they_were_given_one_by_one(limit, cap, floor, costs, order):
    async def run():
        ledger = Ledger(limit)
        given, flying = [], []

        async def start():
            for cost in costs:
                held = await ledger.reserve(cap, floor)
                if held is None:
                    return
                given.append(held)
                flying.append((held, min(cost, held)))

        starter = asyncio.create_task(start())
        while not starter.done() or flying:
            await asyncio.sleep(0)
            assert ledger.spent + ledger.reserved <= limit
            if flying and (starter.done() or order.random() < 0.5):
                ledger.settle(*flying.pop(order.randrange(len(flying))))
        return given

    assert asyncio.run(run()) == one_by_one(limit, cap, floor, costs)
