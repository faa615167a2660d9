"""What runs inside an actor, without Ray: calls begin and end in any order, and every end is told once."""

import asyncio
import pickle

import pytest

from ttc.core.errors import EngineError
from ttc.core.specs import ModelSpec
from ttc.core.types import GenRequest, Message, Prompt, Sampling, Usage
from ttc.engines import ray_host
from ttc.engines.fake import FakeEngine, FakeOptions
from ttc.engines.ray_host import Call, Host, Load, Loaded, Reading, Unload
from ttc.engines.rewards import Scored


def request(index, seed=0):
    messages = (Message("user", f"What is {index} + 1?"),)
    return GenRequest(f"p{index}", Prompt(messages, tuple(map(ord, messages[0].content))), Sampling(), 200, seed, index)


async def replies(host, count):
    found = {}
    while len(found) < count:
        for reply in await asyncio.wait_for(host.collect(), 60):
            assert reply.number not in found
            found[reply.number] = reply
    return found


def test_calls_are_answered_as_the_engine_answers_them():
    async def run():
        host = Host()
        await host.submit([Call(0, "policy", Load("policy", ModelSpec(path="fake")))])
        loaded = (await replies(host, 1))[0].result
        assert isinstance(loaded, Loaded)
        await host.submit([Call(i, "policy", request(i, seed=i)) for i in range(1, 20)])
        return loaded, await replies(host, 19)

    loaded, found = asyncio.run(run())
    engine = FakeEngine()
    assert loaded.fingerprint == engine.fingerprint
    wanted = asyncio.run(engine.generate([request(i, seed=i) for i in range(1, 20)]))
    assert [found[i].result for i in range(1, 20)] == wanted


def test_errors_are_told_with_all_they_hold():
    error = EngineError("it broke", "mend it", retryable=True, usage=Usage(completion=3), fatal=True)
    again = pickle.loads(pickle.dumps(error))
    assert (again.message, again.hint, again.retryable, again.usage, again.fatal) == (
        "it broke", "mend it", True, Usage(completion=3), True)  # fmt: skip

    async def run():
        host = Host()
        await host.submit([Call(0, "m", Load("policy", ModelSpec(path="fake:fail=1")))])
        await replies(host, 1)
        await host.submit(
            [
                Call(1, "m", request(1)),
                Call(2, "other", request(2)),
                Call(3, "m", Load("reward", ModelSpec(path="nowhere"))),
            ]
        )
        return await replies(host, 3)

    found = asyncio.run(run())
    assert "as it was told to" in found[1].error.message
    assert not found[1].error.fatal
    assert found[2].error.fatal  # the driver loads the model again
    assert "unknown reward model 'nowhere'" in found[3].error.message


class Mortal(FakeEngine):
    """Dies at the third call."""

    started, closed = 0, 0

    async def start(self):
        Mortal.started += 1
        self.calls = 0

    async def close(self):
        Mortal.closed += 1

    async def generate(self, requests):
        self.calls += 1
        if self.calls > 2:
            raise EngineError("the engine 'fake' died", fatal=True)
        return await super().generate(requests)


async def died():
    """Return a host whose model has died, what had it load the model, and the answers until then."""
    host, load = Host(), Load("policy", ModelSpec(path="fake"))
    await host.submit([Call(0, "m", load)])
    await replies(host, 1)
    await host.submit([Call(i, "m", request(i)) for i in (1, 2, 3)])
    return host, load, await replies(host, 3)


def test_a_model_that_died_is_loaded_anew(monkeypatch):
    monkeypatch.setattr(ray_host, "open_engine", lambda spec: Mortal())

    async def run():
        host, load, first = await died()
        await host.submit([Call(4, "m", request(4))])
        gone = await replies(host, 1)
        await host.submit([Call(5, "m", load)])
        await replies(host, 1)
        await host.submit([Call(6, "m", request(6))])
        again = await replies(host, 1)
        await host.submit([Call(7, "m", Unload())])
        await replies(host, 1)
        return first, gone, again

    first, gone, again = asyncio.run(run())
    assert [first[i].error is None for i in (1, 2, 3)] == [True, True, False]
    assert first[3].error.fatal
    assert gone[4].error.fatal
    assert again[6].error is None
    assert (Mortal.started, Mortal.closed) == (2, 2)


def test_the_end_of_a_model_that_died_keeps_no_answer_back(monkeypatch):
    class Stuck(Mortal):
        async def close(self):
            await released.wait()
            raise RuntimeError("its processes are gone")

    monkeypatch.setattr(ray_host, "open_engine", lambda spec: Stuck())
    released = asyncio.Event()

    async def run():
        host, load, first = await died()
        await host.submit([Call(4, "m", load), Call(5, "m", request(5))])
        meanwhile = await replies(host, 1)
        started = Mortal.started
        released.set()
        await replies(host, 1)
        await host.submit([Call(6, "m", request(6))])
        return first, meanwhile, started, await replies(host, 1)

    first, meanwhile, started, again = asyncio.run(asyncio.wait_for(run(), 60))
    assert first[3].error.fatal
    assert meanwhile[5].error.fatal
    assert started == 1  # the next one waits for the end of the first
    assert again[6].error is None


class Lengths:
    """A reward model's reader: a list's score is its length."""

    label = fingerprint = "lengths"
    parameters = None

    async def start(self): ...

    async def close(self): ...

    async def read(self, tokens, problem_id):
        await asyncio.sleep(0.001 * (5 - len(tokens)))
        return Scored((len(tokens) / 10,), 1)


def test_a_policy_and_a_reward_model_stand_side_by_side(monkeypatch):
    monkeypatch.setattr(ray_host, "open_backend", lambda spec: Lengths())

    async def run():
        host = Host()
        await host.submit(
            [Call(0, "p", Load("policy", ModelSpec(path="fake"))), Call(1, "r", Load("reward", ModelSpec(path="x/y")))]
        )
        await replies(host, 2)
        reads = [Call(i, "r", Reading((0,) * i, "p0")) for i in range(2, 5)]
        await host.submit([*reads, Call(5, "p", request(1)), Call(6, "p", Reading((0,), "p0"))])
        return await replies(host, 5)

    found = asyncio.run(run())
    assert [found[i].result for i in range(2, 5)] == [Scored((i / 10,), 1) for i in range(2, 5)]
    assert found[5].result.index == 1
    assert found[6].error is not None  # a policy scores nothing


def test_a_call_that_nobody_waits_for_is_stopped(monkeypatch):
    monkeypatch.setattr(ray_host, "open_engine", lambda spec: FakeEngine(FakeOptions(delay_s=600)))

    async def run():
        host = Host()
        await host.submit([Call(0, "m", Load("policy", ModelSpec(path="fake")))])
        await replies(host, 1)
        await host.submit([Call(1, "m", request(1)), Call(2, "m", request(2))])
        await asyncio.sleep(0)
        await host.cancel([1, 2, 99])
        while host._tasks:
            await asyncio.sleep(0.001)
        await host.submit([Call(3, "m", Unload())])
        return await replies(host, 1)

    assert list(asyncio.run(run())) == [3]


@pytest.fixture(autouse=True)
def fresh_counts():
    Mortal.started = Mortal.closed = 0
