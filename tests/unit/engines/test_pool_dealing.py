"""How a pool deals calls and minds its servers, with servers of a few lines; real connections are in test_pool.py."""

import asyncio
from collections import Counter

import pytest

from ttc.core.errors import ConfigError, EngineError
from ttc.core.types import Usage
from ttc.engines.openai_answers import NotNowError
from ttc.engines.pool import Pool, PoolOptions

QUICK = PoolOptions(health_s=0.01, health_timeout_s=0.05, misses=2, first_rest_s=0.01)
NEVER_S = 1_000_000.0


class Server:
    """Counts what it is asked; fails as told."""

    offer = (True, 512)
    version = "1"

    def __init__(self, host):
        self.host = host
        self.there, self.answers, self.hangs = True, True, False
        self.failures, self.refuses = [], None
        self.begun = self.done = self.starts = self.closed = 0

    async def start(self):
        self.starts += 1
        if self.refuses is not None:
            raise self.refuses
        if not self.there:
            raise EngineError(f"cannot reach {self.host}", retryable=True, fatal=True)

    async def healthy(self):
        if self.hangs:
            await asyncio.sleep(99)
        return self.there

    async def close(self):
        self.closed += 1
        if self.refuses is not None:
            raise self.refuses

    def now(self):
        """Text work: it fails as other work does."""
        self.begun += 1
        if self.failures:
            raise self.failures.pop(0)
        if not self.there or not self.answers:
            raise EngineError(f"cannot reach {self.host}", retryable=True, fatal=True)
        return self.host

    async def work(self, delay_s=0.0):
        self.begun += 1
        if self.failures:
            raise self.failures.pop(0)
        if self.hangs:
            await asyncio.sleep(99)
        await asyncio.sleep(delay_s)
        if not self.there or not self.answers:
            raise EngineError(f"cannot reach {self.host}", retryable=True, fatal=True)
        self.done += 1
        return self.host


def using(servers, work, options=QUICK):
    async def main():
        pool = Pool(servers, "m", options)
        await pool.start()
        try:
            return await work(pool)
        finally:
            await pool.close()

    return asyncio.run(asyncio.wait_for(main(), 300))


def servers(count=3):
    return [Server(f"http://host{i}/v1") for i in range(count)]


async def calls(pool, keys, delay_s=0.0):
    """Return who answered each call, all made at once."""
    return [who for who, _ in await asyncio.gather(*(pool.call(k, lambda s: s.work(delay_s)) for k in keys))]


async def until(true):
    while not true():
        await asyncio.sleep(0.001)


KEYS = [str(n) for n in range(300)]


def test_a_problem_stays_with_its_server_and_moves_only_with_it():
    def homes(some):
        return using(some, lambda pool: calls(pool, KEYS), PoolOptions(slack=300))

    three = servers()
    whole, again, less = homes(three), homes(three), homes(three[:2])
    assert whole == again
    gone = three[2].host
    assert [k for k, a, b in zip(KEYS, whole, less, strict=True) if a != b] == [
        k for k, a in zip(KEYS, whole, strict=True) if a == gone
    ]
    assert min(Counter(whole).values()) > 60  # of 300, by thirds


def test_a_busy_preferred_server_leaves_calls_to_the_least_loaded():
    counts = sorted(Counter(using(servers(), lambda pool: calls(pool, ["one"] * 60, 0.01))).values())
    # Every call is dealt before any ends: the home has at most 1.25 of the mean and 8 more, the others share the rest.
    assert counts[2] <= 1.25 * 20 + 8 + 1
    assert counts[1] - counts[0] <= 1
    spread = Counter(using(servers(), lambda pool: calls(pool, ["one"] * 60, 0.01), PoolOptions(affinity=False)))
    assert sorted(spread.values()) == [20, 20, 20]


@pytest.mark.parametrize("how", ["gone", "hangs"])
def test_a_server_that_dies_loses_no_call_and_comes_back(how):
    some = servers()

    async def work(pool):
        drawing = asyncio.ensure_future(calls(pool, KEYS, 0.02))
        await asyncio.sleep(0)
        await until(lambda: some[0].begun > 10)
        some[0].there, some[0].hangs = how == "hangs", how == "hangs"
        answered = await drawing
        await until(lambda: len(pool.up) == 2)
        some[0].there, some[0].hangs = True, False
        await until(lambda: len(pool.up) == 3)
        before = some[0].done
        await calls(pool, KEYS)
        return answered, some[0].done - before, pool

    answered, later, pool = using(some, work)
    assert len(answered) == len(KEYS)
    assert sum(m.statistics.requests for m in pool.members) == 2 * len(KEYS) == sum(s.done for s in some)
    assert later > 60
    assert pool.members[0].statistics.losses == 1
    assert [text.split(" is ")[1].split(";")[0] for text in pool.warnings] == ["lost", "there again"]


def test_one_lost_connection_is_no_lost_server():
    some = servers(2)

    async def work(pool):
        some[0].failures = [EngineError("closed", retryable=True, fatal=True)]
        some[1].failures = [EngineError("closed", retryable=True, fatal=True)]
        await calls(pool, KEYS[:40])
        await until(lambda: len(pool.up) == 2)
        return pool

    pool = using(some, work)
    assert [m.statistics.losses for m in pool.members] == [0, 0]
    assert [m.statistics.moved for m in pool.members] == [1, 1]
    assert pool.warnings == []


def test_a_server_that_only_says_that_it_is_well_rests_all_the_same():
    some = servers(2)

    async def work(pool):
        some[0].failures = [EngineError("closed", retryable=True, fatal=True)]
        await calls(pool, KEYS[:40])
        await until(lambda: len(pool.up) == 2)
        begun = some[0].begun
        await calls(pool, KEYS)
        return some[0].begun - begun

    assert using(some, work, PoolOptions(health_s=0.01, first_rest_s=NEVER_S, longest_rest_s=NEVER_S)) == 0


def test_text_is_asked_of_the_server_that_failed_longest_ago():
    some = servers(2)
    late = EngineError("no answer within 10 s", retryable=True)

    async def work(pool):
        some[0].failures = [late]
        assert [pool.now(Server.now) for _ in range(3)] == [some[1].host] * 3
        assert some[0].begun == 1  # the one that hangs is not asked again while another one answers
        await until(lambda: not pool.members[0].doubted.is_set())  # and it was looked at
        some[1].failures = [EngineError("a bad request")]
        with pytest.raises(EngineError, match="a bad request"):
            pool.now(Server.now)

    using(some, work, PoolOptions(health_s=NEVER_S, first_rest_s=0.0))


def test_text_that_cannot_be_had_at_once_does_not_end_the_run():
    some = servers(2)

    async def work(pool):
        for server in some:
            server.answers = False
        for _ in range(2):  # at the second time no server takes requests any more
            with pytest.raises(EngineError, match="cannot reach") as told:
                pool.now(Server.now)
            assert (told.value.retryable, told.value.fatal) == (True, False)
        assert pool.up == []
        some[1].answers = True
        assert pool.now(Server.now) == some[1].host
        for server in some:
            server.there = False
        await until(lambda: all(member.lost for member in pool.members))
        with pytest.raises(EngineError, match="none of the 2 servers") as told:
            pool.now(Server.now)
        assert (told.value.retryable, told.value.fatal) == (True, False)

    using(some, work)


def test_a_rate_limit_is_a_rest_of_that_length():
    some = servers(2)

    async def work(pool):
        for server in some:
            server.failures = [NotNowError("429", "", 0.05)]
        loop = asyncio.get_running_loop()
        started = loop.time()
        await calls(pool, ["one"])
        return loop.time() - started, pool

    took_s, pool = using(some, work)
    assert took_s >= 0.04  # both refused, and the first was waited for
    assert [m.statistics.moved for m in pool.members] == [1, 1]


def test_what_always_fails_ends_with_what_the_last_failure_moved():
    some = servers(2)

    async def work(pool):
        for server in some:
            server.failures = [NotNowError("over its limit", "later", 0.0)] * 9
            for failure in server.failures:
                failure.usage = Usage(completion=3)
        with pytest.raises(EngineError, match=r"over its limit \(tried 3 times on 2 servers\)") as told:
            await calls(pool, ["one"])
        assert (told.value.usage, told.value.fatal, told.value.retryable) == (Usage(completion=3), False, True)
        for server in some:
            server.failures = [EngineError("a bad request")]
        with pytest.raises(EngineError, match="a bad request"):
            await calls(pool, ["one"])

    using(some, work, PoolOptions(max_retries=1))
    assert sum(len(server.failures) for server in some) == 1  # the other one was not asked


def test_when_none_is_left_the_run_ends():
    some = servers(2)

    async def work(pool):
        for server in some:
            server.there = False
        with pytest.raises(EngineError, match="none of the 2 servers of 'm' can be reached") as told:
            await calls(pool, ["one"])
        assert told.value.fatal

    using(some, work, PoolOptions(health_s=0.01, patience_s=0.1))


def test_calls_wait_for_a_server_to_come_back():
    some = servers(2)

    async def work(pool):
        for server in some:
            server.there = False
        waiting = asyncio.ensure_future(calls(pool, ["one"]))
        await until(lambda: not pool.up)
        some[1].there = True
        return await waiting

    assert using(some, work) == [some[1].host]


def test_a_call_that_waits_out_a_rest_goes_to_a_server_that_comes_back():
    some = servers(2)

    async def work(pool):
        some[1].there = False
        await until(lambda: pool.members[1].lost)
        pool.members[0].rests_until = asyncio.get_running_loop().time() + NEVER_S
        waiting = asyncio.ensure_future(calls(pool, ["one"]))
        await asyncio.sleep(0)
        some[1].there = True
        return await waiting

    assert using(some, work) == [some[1].host]


def test_a_server_that_comes_back_as_another_build_is_told():
    some = servers(2)

    async def work(pool):
        some[1].there = False
        await until(lambda: pool.members[1].lost)
        some[1].there, some[1].version = True, "2"
        await until(lambda: len(pool.up) == 2)
        return pool.warnings

    said = [text for text in using(some, work) if "builds" in text]
    assert said == ["m: the servers are different builds (1, 2): equal seeds may give other answers"]


def test_a_server_that_is_late_joins_and_another_one_is_not_taken():
    some = servers(3)
    some[1].there = some[2].there = False

    async def work(pool):
        assert set(await calls(pool, KEYS[:50])) == {some[0].host}
        some[2].offer = (False, 512)
        some[1].there = some[2].there = True
        await until(lambda: len(pool.up) == 2 and any("not taken" in said for said in pool.warnings))
        return pool.up

    assert using(some, work) == some[:2]


def test_a_server_that_comes_back_broken_is_told_and_tried_again():
    some = servers(2)

    async def work(pool):
        some[1].there = False
        await calls(pool, KEYS[:40])
        await until(lambda: pool.members[1].lost)
        some[1].there, some[1].refuses = True, RuntimeError("a wrong answer")
        await until(lambda: len(pool.warnings) == 2)
        some[1].refuses = None
        await until(lambda: len(pool.up) == 2)
        return pool.warnings

    said = using(some, work)
    assert said[1] == "m: http://host1/v1 is back and not taken: a wrong answer"
    assert said[2] == "m: http://host1/v1 is there again"


def test_a_pool_starts_again_in_another_event_loop():
    some = servers(1)
    pool = Pool(some, "m", QUICK)

    async def main():
        await pool.start()
        some[0].failures = [EngineError("closed", retryable=True, fatal=True)]
        answered = await calls(pool, ["one"])  # waits for the only server
        await pool.close()
        return answered

    assert [asyncio.run(asyncio.wait_for(main(), 300)) for _ in range(2)] == [[some[0].host]] * 2


def test_closing_closes_every_server():
    some = servers(3)

    async def main():
        pool = Pool(some, "m", QUICK)
        await pool.start()
        some[0].refuses = EngineError("cannot be stopped")
        with pytest.raises(EngineError, match="cannot be stopped"):
            await pool.close()

    asyncio.run(asyncio.wait_for(main(), 300))
    assert [server.closed for server in some] == [1, 1, 1]


def test_what_cannot_start():
    some = servers(2)
    for server in some:
        server.there = False
    with pytest.raises(EngineError, match="cannot reach http://host0"):
        using(some, lambda pool: asyncio.sleep(0))
    some = servers(2)
    some[1].offer = (True, 256)
    with pytest.raises(EngineError, match="offer different things"):
        using(some, lambda pool: asyncio.sleep(0))
    with pytest.raises(ConfigError, match="stands twice"):
        Pool([some[0], some[0]], "m", QUICK)


def test_a_cancelled_call_stays_cancelled_and_leaves_no_load():
    async def work(pool):
        drawing = asyncio.ensure_future(calls(pool, ["one"] * 5, 9.0))
        await asyncio.sleep(0.01)
        assert sum(member.load for member in pool.members) == 5
        drawing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await drawing
        await asyncio.sleep(0)
        assert sum(member.load for member in pool.members) == 0

    using(servers(), work)
