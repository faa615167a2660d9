"""Several servers as one engine, over real connections, which die, stall, are refused and come back."""

import asyncio
from contextlib import ExitStack

import pytest

from ttc.core.errors import ConfigError, EngineError
from ttc.core.specs import ModelSpec
from ttc.core.types import GenRequest, Message, Problem, Prompt, Sampling, Step
from ttc.engines.fake import FakeEngine
from ttc.engines.openai_http import OpenAIEngine, OpenAIOptions
from ttc.engines.opening import open_engine, open_reward
from ttc.engines.pool import PoolOptions
from ttc.engines.server_pools import PoolEngine
from ttc.testing.stub_server import CONTEXT_TOKENS, Stub, serving_stub

QUICK = PoolOptions(health_s=0.5, health_timeout_s=30.0, patience_s=2.0)
WAIT_S = 300.0
NEVER_S = 1_000_000.0


@pytest.fixture
def stubs():
    with ExitStack() as stack:
        yield [stack.enter_context(serving_stub(Stub(build=f"stub-{build}"))) for build in (1, 1, 1)]


def pool_of(stubs, options=None):
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
        return [c for pair in zip(*halves, strict=True) for c in pair], engine.endpoints()

    drawn, statistics = run(using(pool_of(stubs, PoolOptions(slack=PROBLEMS)), work))
    assert [c.tokens for c in drawn] == alone(ASKED)
    places = [{i for i, stub in enumerate(stubs) if f"What is {n} + {n}?" in stub.prompts} for n in range(PROBLEMS)]
    assert all(len(place) == 1 for place in places)
    assert set.union(*places) == {0, 1, 2}
    assert sum(s["requests"] for s in statistics) == len(ASKED)
    assert sum(s["completion"] for s in statistics) == sum(c.usage.completion for c in drawn)
    assert [s["moved"] for s in statistics] == [0, 0, 0]


@pytest.mark.parametrize("mood", ["dead", "stalled"])
def test_a_server_that_dies_loses_nothing(stubs, mood):
    options = PoolOptions(health_s=0.5, health_timeout_s=5.0, misses=2)
    stubs[0].turns = (3, mood)  # one of them is a health check's

    async def work(engine):
        drawn = await engine.generate(ASKED)
        await until(lambda: any("is lost" in said for said in engine.warnings))
        return drawn, engine.endpoints(), engine.warnings

    drawn, statistics, warnings = run(using(pool_of(stubs, options), work))
    assert [c.tokens for c in drawn] == alone(ASKED)
    assert sum(s["requests"] for s in statistics) == len(ASKED)
    assert sum(s["completion"] for s in statistics) == sum(c.usage.completion for c in drawn)
    assert statistics[0]["moved"] > 0
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
        return engine.endpoints()

    one, two = run(using(pool_of([first, second], QUICK), work))
    assert two["requests"] > 0
    assert one["requests"] + two["requests"] == 2 * len(ASKED)
    assert two["losses"] == 1


def test_a_server_that_is_not_there_at_the_start_joins_later():
    with serving_stub(Stub()) as first, serving_stub(Stub(mood="dead")) as second:

        async def work(engine):
            await engine.generate(ASKED)
            assert (second.answered, first.answered) == (0, len(ASKED) + 1)
            second.mood = "well"
            await until(lambda: any("is there again" in said for said in engine.warnings))

        engine = pool_of([first, second], QUICK)
        named = engine.fingerprint
        run(using(engine, work))
        both = pool_of([second, first])
        assert both.fingerprint == named
        run(using(both, lambda _: asyncio.sleep(0)))
        assert both.fingerprint == engine.fingerprint  # the cache is the same, whoever was there


def test_a_server_that_comes_back_as_another_one_is_not_taken():
    with serving_stub(Stub()) as first, serving_stub(Stub()) as second:
        engine = pool_of([first, second], QUICK)

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


@pytest.mark.parametrize(("rest_s", "second"), [(0.0, 2), (NEVER_S, 1)], ids=["no rest", "no end of it"])
def test_rate_limits_and_server_errors_are_answered_elsewhere(stubs, rest_s, second):
    async def work(engine):
        stubs[0].failures = [(429, {"Retry-After": str(NEVER_S)})]
        stubs[1].failures = [(500, {}), (503, {})]
        return [(await engine.generate([one]))[0] for one in ASKED], engine.endpoints()

    options = PoolOptions(first_rest_s=rest_s, longest_rest_s=NEVER_S)
    drawn, statistics = run(using(pool_of(stubs, options), work))
    assert [c.tokens for c in drawn] == alone(ASKED)
    assert [s["moved"] for s in statistics] == [1, second, 0]
    assert statistics[0]["requests"] == 0  # its first request was refused, and it was left alone from then on
    assert (statistics[1]["requests"] > 0) == (rest_s == 0)
    assert statistics[2]["requests"] == len(ASKED) - statistics[1]["requests"]
    assert [s["losses"] for s in statistics] == [0, 0, 0]


def test_builds_are_compared_and_recorded(stubs):
    stubs[1].build = "stub-2"
    engine = pool_of(stubs[:2])
    run(using(engine, lambda _: asyncio.sleep(0)))
    assert any("different builds (stub-1, stub-2)" in said for said in engine.warnings)
    assert [row["build"] for row in engine.endpoints()] == ["stub-1", "stub-2"]
    assert [row["host"] for row in engine.endpoints()] == [stub.address for stub in stubs[:2]]


def test_text_is_not_waited_for_as_long_as_completions():
    with serving_stub(Stub()) as stub:

        async def work(engine):
            stub.mood = "stalled"
            with pytest.raises(EngineError, match=r"gave no answer within 0\.1 s"):
                engine.render(question(1))

        options = OpenAIOptions(stub.address, "fake", max_retries=0, timeout_s=WAIT_S, text_timeout_s=0.1)
        run(using(OpenAIEngine(options), work))


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
        stubs[1].failures = [(500, {})]
        return [await reward.score(problem, [response]) for problem in problems]

    with pytest.raises(EngineError, match="is not running"):
        reward.count_tokens(problems[0], [response])
    stubs[0].mood = "dead"  # how the model is asked is known of the others
    for n, ((scores,), read) in enumerate(run(using(reward, work))):
        assert scores == pytest.approx([(2 * n + 10) % 100 / 100, (2 * n + 16) % 100 / 100])
        assert read == 4 + 5
    assert [stub.answered > 0 for stub in stubs] == [False, True, True]
