"""Several servers as one engine, against servers that die, stall, refuse and come back."""

import asyncio
from collections import Counter
from contextlib import ExitStack

import pytest

from ttc.core.errors import ConfigError, EngineError
from ttc.core.specs import ModelSpec
from ttc.core.types import GenRequest, Message, Problem, Prompt, Sampling, Step
from ttc.engines.fake import FakeEngine
from ttc.engines.openai_http import OpenAIEngine, OpenAIOptions
from ttc.engines.opening import open_engine, open_reward
from ttc.engines.pool import Pool, PoolEngine, PoolOptions
from ttc.testing.stub_server import CONTEXT_TOKENS, Stub, serving_stub

QUICK = PoolOptions(health_s=0.3, health_timeout_s=30.0, patience_s=1.0)
WAIT_S = 300.0


@pytest.fixture
def stubs():
    with ExitStack() as stack:
        yield [stack.enter_context(serving_stub(Stub(build=f"stub-{build}"))) for build in (1, 1, 1)]


def pool_of(stubs, options=QUICK):
    servers = [OpenAIEngine(OpenAIOptions(s.address, "fake", max_retries=0, timeout_s=WAIT_S)) for s in stubs]
    return PoolEngine(servers, "fake", options)


def question(number):
    return (Message("user", f"What is {number} + {number}?"),)


def request(number, seed=0):
    text = question(number)[0].content
    return GenRequest(f"p{number}", Prompt(question(number), tuple(map(ord, text))), Sampling(), 200, seed, seed)


def run(work):
    return asyncio.run(asyncio.wait_for(work, WAIT_S))


async def using(engine, work):
    await engine.start()
    try:
        return await work(engine)
    finally:
        await engine.close()


async def until(true):
    while not true():
        await asyncio.sleep(0.01)


PROBLEMS = 40
"""So many that every server is somebody's preferred one, wherever it listens."""
ASKED = [request(number, seed) for number in range(PROBLEMS) for seed in range(2)]


def alone(requests):
    """Return what the fake engine says by itself to the same requests."""
    return [c.tokens for c in run(FakeEngine().generate(requests))]


def test_answers_are_those_of_one_server_and_each_problem_stays_with_one(stubs):
    async def work(engine):
        assert engine.capabilities == {"live", "temperature", "extends", "top_logprobs"}
        assert engine.context_tokens == CONTEXT_TOKENS
        assert engine.render(question(3)).ids == tuple(map(ord, "What is 3 + 3?"))
        assert engine.decode(engine.encode("ab")) == "ab"
        halves = [await engine.generate(ASKED[i::2]) for i in range(2)]
        return [c for pair in zip(*halves, strict=True) for c in pair], engine.statistics

    drawn, statistics = run(using(pool_of(stubs, PoolOptions(slack=PROBLEMS)), work))
    assert [c.tokens for c in drawn] == alone(ASKED)
    places = [{i for i, stub in enumerate(stubs) if f"What is {n} + {n}?" in stub.prompts} for n in range(PROBLEMS)]
    assert all(len(place) == 1 for place in places)
    assert set.union(*places) == {0, 1, 2}
    assert sum(s.requests for s in statistics) == len(ASKED)
    assert sum(s.completion for s in statistics) == sum(c.usage.completion for c in drawn)
    assert [s.moved for s in statistics] == [0, 0, 0]


def test_a_problem_moves_only_with_its_server(stubs):
    """Rendezvous hashing: without one server only its problems change places."""

    def places(some):
        pool = Pool([OpenAIEngine(OpenAIOptions(s.address, "m")) for s in some], "m", PoolOptions())
        return {key: pool._preferred(key, pool.members).statistics.host for key in map(str, range(300))}

    whole, less = places(stubs), places(stubs[:2])
    assert {k for k in whole if whole[k] != less[k]} == {k for k in whole if whole[k] == stubs[2].address}
    assert min(Counter(whole.values()).values()) > 60


def test_a_much_busier_server_is_spared(stubs):
    for stub in stubs:
        stub.delay_s = 0.2
    requests = [request(1, seed) for seed in range(60)]
    drawn, statistics = run(using(pool_of(stubs), lambda e: _with_statistics(e, requests)))
    assert [c.tokens for c in drawn] == alone(requests)
    counts = sorted(s.requests for s in statistics)
    assert counts[0] >= 12  # one problem of sixty branches is worth the prompt's prefill everywhere
    assert counts[2] >= 25  # (60 + slack) * busier / 3


async def _with_statistics(engine, requests):
    return await engine.generate(requests), engine.statistics


def test_without_affinity_the_least_loaded_is_chosen(stubs):
    for stub in stubs:
        stub.delay_s = 0.2
    options = PoolOptions(affinity=False)
    requests = [request(1, seed) for seed in range(30)]
    _, statistics = run(using(pool_of(stubs, options), lambda e: _with_statistics(e, requests)))
    assert [s.requests for s in statistics] == [10, 10, 10]


@pytest.mark.parametrize("mood", ["dead", "stalled"])
def test_a_server_that_dies_loses_nothing(stubs, mood):
    options = PoolOptions(health_s=0.3, health_timeout_s=3.0, misses=2)
    for stub in stubs:
        stub.delay_s, stub.slots = 0.05, 4

    async def work(engine):
        drawing = asyncio.ensure_future(engine.generate(ASKED))
        await until(lambda: stubs[0].answered >= 2)
        stubs[0].mood = mood
        drawn = await drawing
        await until(lambda: any("is lost" in said for said in engine.warnings))
        return drawn, engine.statistics, engine.warnings

    drawn, statistics, warnings = run(using(pool_of(stubs, options), work))
    assert [c.tokens for c in drawn] == alone(ASKED)
    assert sum(s.requests for s in statistics) == len(ASKED)
    assert sum(s.completion for s in statistics) == sum(c.usage.completion for c in drawn)
    assert statistics[0].moved > 0
    assert any("is lost" in said and stubs[0].address in said for said in warnings)


def test_a_server_comes_back(stubs):
    first, second = stubs[:2]

    async def work(engine):
        second.mood = "dead"
        await engine.generate(ASKED)
        before = second.answered
        await until(lambda: any("is lost" in said for said in engine.warnings))
        second.mood = "well"
        await until(lambda: any("is there again" in said for said in engine.warnings))
        assert second.answered > before  # looked at by one token
        await engine.generate(ASKED)
        return engine.statistics

    one, two = run(using(pool_of([first, second]), work))
    assert two.requests > 0
    assert one.requests + two.requests == 2 * len(ASKED)
    assert two.losses == 1


def test_a_server_that_is_not_there_at_the_start_joins_later():
    with serving_stub(Stub()) as first, serving_stub(Stub(mood="dead")) as second:

        async def work(engine):
            await engine.generate(ASKED)
            assert (second.answered, first.answered) == (0, len(ASKED) + 1)
            second.mood = "well"
            await until(lambda: any("is there again" in said for said in engine.warnings))

        engine = pool_of([first, second])
        named = engine.fingerprint
        run(using(engine, work))
        both = pool_of([second, first])
        assert both.fingerprint == named
        run(using(both, lambda _: asyncio.sleep(0)))
        assert both.fingerprint == engine.fingerprint  # the cache is the same, whoever was there


def test_a_server_that_comes_back_as_another_one_is_not_taken():
    with serving_stub(Stub()) as first, serving_stub(Stub()) as second:
        engine = pool_of([first, second])

        async def work(engine):
            await engine.generate(ASKED)
            second.mood = "dead"
            await engine.generate(ASKED)
            await until(lambda: any("is lost" in said for said in engine.warnings))
            second.name, second.mood = "other", "well"
            await until(lambda: any("has no model 'fake'" in said for said in engine.warnings))
            answered = second.answered
            await engine.generate(ASKED)
            assert second.answered == answered
            assert second.address in engine.warnings[-1]

        run(using(engine, work))


def test_rate_limits_and_server_errors_are_answered_elsewhere(stubs):
    async def work(engine):
        stubs[0].failures = [(429, {"Retry-After": "30"})]
        stubs[1].failures = [(500, {}), (503, {})]
        return [(await engine.generate([one]))[0] for one in ASKED], engine.statistics

    drawn, statistics = run(using(pool_of(stubs), work))
    assert [c.tokens for c in drawn] == alone(ASKED)
    assert [s.moved for s in statistics] == [1, 2, 0]
    assert statistics[0].requests == 0  # its first request was refused, and it was left alone from then on
    assert statistics[1].requests > 0
    assert [s.losses for s in statistics] == [0, 0, 0]


def test_a_resting_server_is_left_alone_and_waited_for_where_it_is_the_last():
    with serving_stub(Stub()) as first, serving_stub(Stub()) as second:

        async def work(engine):
            for stub in (first, second):
                stub.failures = [(429, {"Retry-After": "0.3"})]
            loop = asyncio.get_running_loop()
            started = loop.time()
            drawn = await engine.generate([request(1)])
            return drawn, loop.time() - started, engine.statistics

        drawn, took_s, statistics = run(using(pool_of([first, second]), work))
        assert [c.tokens for c in drawn] == alone([request(1)])
        assert took_s >= 0.25
        assert [s.moved for s in statistics] == [1, 1]


def test_a_request_that_always_fails_ends(stubs):
    async def work(engine):
        for stub in stubs:
            stub.failures = [(500, {})] * 50
        await engine.generate([request(1)])

    with pytest.raises(EngineError, match=r"500.*tried 4 times on 3 servers") as told:
        run(using(pool_of(stubs, PoolOptions(max_retries=1)), work))
    assert (told.value.retryable, told.value.fatal) == (True, False)


def test_a_refused_request_is_not_tried_elsewhere(stubs):
    async def work(engine):
        for stub in stubs:
            stub.failures = [(400, {})]
        await engine.generate([request(1)])

    with pytest.raises(EngineError, match="refused the request"):
        run(using(pool_of(stubs), work))
    assert sum(len(stub.failures) for stub in stubs) == 2


def test_when_none_is_left_the_run_ends(stubs):
    async def work(engine):
        for stub in stubs:
            stub.mood = "dead"
        await engine.generate([request(1)])

    with pytest.raises(EngineError, match="none of the 3 servers of 'fake' can be reached") as told:
        run(using(pool_of(stubs), work))
    assert told.value.fatal


def test_a_cancelled_request_stays_cancelled(stubs):
    for stub in stubs:
        stub.delay_s = 0.5

    async def work(engine):
        drawing = asyncio.ensure_future(engine.generate([request(1)]))
        await until(lambda: any(len(stub.prompts) > 1 for stub in stubs))
        drawing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await drawing
        assert sum(member.load for member in engine._pool.members) == 0

    run(using(pool_of(stubs), work))


def test_builds_are_compared_and_recorded(stubs):
    stubs[1].build = "stub-2"
    engine = pool_of(stubs[:2])
    run(using(engine, lambda _: asyncio.sleep(0)))
    assert any("different builds (stub-1, stub-2)" in said for said in engine.warnings)
    assert [row["build"] for row in engine.endpoints()] == ["stub-1", "stub-2"]
    assert [row["host"] for row in engine.endpoints()] == [stub.address for stub in stubs[:2]]


def test_servers_of_another_model_or_program_are_refused(stubs):
    stubs[1].name = "other"
    with pytest.raises(EngineError, match="has no model 'fake', but other"):
        run(pool_of(stubs).start())


def test_what_the_words_of_model_open(stubs):
    path = ",".join(stub.address for stub in stubs) + "#fake"
    engine = open_engine(ModelSpec(path=path, options={"max_retries": 2}))
    assert isinstance(engine, PoolEngine)
    assert (engine.label, engine._pool.options.max_retries) == ("fake", 2)
    assert isinstance(open_engine(ModelSpec(path=f"{stubs[0].address}#fake")), OpenAIEngine)
    for wrong in ("http://a/v1,http://b/v1", "http://a/v1,b#m", "http://a/v1,,http://b/v1#m"):
        with pytest.raises(ConfigError, match="is not a model of a server"):
            open_engine(ModelSpec(path=wrong))
    with pytest.raises(ConfigError, match="stands twice"):
        open_engine(ModelSpec(path="http://a/v1,http://a/v1#m"))


def test_reward_models_are_pooled_too(stubs):
    problems = [Problem(f"p{n}", "q", Prompt((), (n, n + 1))) for n in range(9)]
    response = (Step((4, 5), ""), Step((6,), ""))
    reward = open_reward(",".join(stub.address for stub in stubs) + "#fake")

    async def work(reward):
        stubs[0].failures = [(500, {})]
        return [await reward.score(problem, [response]) for problem in problems]

    for n, ((scores,), read) in enumerate(run(using(reward, work))):
        assert scores == pytest.approx([(2 * n + 10) % 100 / 100, (2 * n + 16) % 100 / 100])
        assert read == 4 + 5
    assert all(stub.answered > 0 for stub in stubs)
