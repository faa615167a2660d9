"""The driver's side of an actor, on a stand-in whose methods run in this process: deaths, losses and batches."""

import asyncio
import sys
import time
from pathlib import Path
from typing import ClassVar

import psutil
import pytest
import ray
from ray.exceptions import RayActorError, RayError, RaySystemError

from ttc.core.errors import ConfigError, EngineError
from ttc.core.specs import ModelSpec
from ttc.core.types import GenRequest, Message, Prompt, Sampling
from ttc.engines import ray_actor, ray_host
from ttc.engines.fake import FakeEngine, FakeOptions
from ttc.engines.pool import Pool, PoolOptions, drawn, scored
from ttc.engines.ray_actor import Worker
from ttc.engines.ray_cluster import RayOptions, _of_ray
from ttc.engines.ray_host import Host, Load
from ttc.engines.ray_workers import Fleet, _Held
from ttc.engines.rewards import Scored

QUICK = PoolOptions(health_s=0.01, patience_s=60.0)
SPEC = ModelSpec(path="fake:delay_s=0.01")


class Method:
    """A remote method: counts its messages, and fails once its actor is dead."""

    def __init__(self, actor, function):
        self.actor, self.function, self.messages = actor, function, 0

    def remote(self, *arguments):
        self.messages += 1
        return asyncio.ensure_future(self.run(arguments))

    async def run(self, arguments):
        if self.actor.refuses is not None and arguments and arguments[0]:
            raise self.actor.refuses
        work = asyncio.ensure_future(self.function(*arguments))
        death = asyncio.ensure_future(self.actor.died.wait())
        await asyncio.wait([work, death], return_when=asyncio.FIRST_COMPLETED)
        if death.done():
            work.cancel()
            raise RayActorError
        death.cancel()
        return work.result()


class Actor:
    """Stands in for a handle."""

    made: ClassVar[list] = []

    def __init__(self):
        self.died, self.refuses = asyncio.Event(), None
        self.host = Host()
        self.submit, self.collect, self.cancel = (
            Method(self, f) for f in (self.host.submit, self.host.collect, self.host.cancel)
        )
        Actor.made.append(self)


@pytest.fixture(autouse=True)
def no_ray(monkeypatch):
    Actor.made = []
    monkeypatch.setattr(ray_actor, "_kill", lambda actor: actor.died.set())


def request(index):
    messages = (Message("user", f"What is {index} + 1?"),)
    return GenRequest(
        f"p{index}", Prompt(messages, tuple(map(ord, messages[0].content))), Sampling(), 200, index, index
    )


def pool_of(count, spec=SPEC):
    held = [
        _Held(Worker(i, Actor), "policy 0", Load("policy", spec), FakeEngine(FakeOptions(fail=float("fail" in spec.path))).fingerprint)
        for i in range(1, count + 1)
    ]  # fmt: skip
    return Pool(held, "fake", QUICK)


async def draw(pool, index):
    return await drawn(pool, request(index))


def wanted(count):
    return asyncio.run(FakeEngine().generate([request(i) for i in range(count)]))


def test_many_calls_are_few_messages():
    async def run():
        pool = pool_of(2)
        await pool.start()
        found = await asyncio.gather(*(draw(pool, i) for i in range(60)))
        messages = [(a.submit.messages, a.collect.messages) for a in Actor.made]
        await pool.close()
        return found, messages

    found, messages = asyncio.run(run())
    assert found == wanted(60)
    assert len(messages) == 2
    assert sum(sent + got for sent, got in messages) < 30
    assert all(actor.died.is_set() for actor in Actor.made)  # nobody is left


def test_the_calls_of_a_dead_actor_are_made_elsewhere_and_it_is_replaced():
    async def run():
        pool = pool_of(2)
        await pool.start()
        calls = [asyncio.ensure_future(draw(pool, i)) for i in range(60)]
        await asyncio.sleep(0.005)
        Actor.made[0].died.set()
        found = await asyncio.gather(*calls)
        while len(pool.up) < 2:
            await asyncio.sleep(0.005)
        before = pool.members[0].statistics.requests
        await asyncio.gather(*(draw(pool, i) for i in range(60)))
        after = pool.members[0].statistics.requests
        await pool.close()
        return found, pool.members[0].statistics.losses, after - before

    found, losses, answered = asyncio.run(run())
    assert found == wanted(60)
    assert losses == 1
    assert answered > 0
    assert len(Actor.made) == 3


def test_a_batch_that_cannot_be_sent_is_told():
    async def run():
        pool = pool_of(1)
        await pool.start()
        Actor.made[0].refuses = TypeError("cannot pickle this")
        with pytest.raises(EngineError, match="cannot be asked: cannot pickle this"):
            await asyncio.wait_for(draw(pool, 1), 60)
        Actor.made[0].refuses = None
        found = await draw(pool, 2)
        await pool.close()
        return found

    assert asyncio.run(run()) == wanted(3)[2]


def test_a_model_s_own_failure_is_told_once():
    async def run():
        pool = pool_of(2, ModelSpec(path="fake:fail=1"))
        await pool.start()
        with pytest.raises(EngineError, match="as it was told to") as failure:
            await asyncio.wait_for(draw(pool, 1), 60)
        await pool.close()
        return failure.value, sum(member.statistics.moved for member in pool.members)

    error, moved = asyncio.run(run())
    assert not error.retryable
    assert not error.fatal
    assert moved == 0


def test_a_model_that_dies_in_a_living_actor_is_loaded_again(monkeypatch):
    class Mortal(FakeEngine):
        made = 0

        async def start(self):
            Mortal.made += 1
            self.mortal = Mortal.made == 1

        async def generate(self, requests):
            if self.mortal:
                raise EngineError("the engine 'fake' died", fatal=True)
            return await super().generate(requests)

    monkeypatch.setattr(ray_host, "open_engine", lambda spec: Mortal(FakeOptions()))

    async def run():
        pool = pool_of(2)
        await pool.start()
        found = await asyncio.gather(*(draw(pool, i) for i in range(20)))
        while len(pool.up) < 2:
            await asyncio.sleep(0.005)
        await pool.close()
        return found

    assert asyncio.run(run()) == wanted(20)
    assert Mortal.made == 3
    assert len(Actor.made) <= 3


def test_what_a_reward_model_reads_is_counted(monkeypatch):
    class Lengths:
        label = fingerprint = "lengths"

        async def start(self): ...

        async def close(self): ...

        async def read(self, tokens, problem_id):
            return Scored((len(tokens) / 10,), 1)

    monkeypatch.setattr(ray_host, "open_backend", lambda spec: Lengths())

    async def run():
        held = [_Held(Worker(i, Actor), "reward 0", Load("reward", SPEC), "lengths") for i in (1, 2)]
        pool = Pool(held, "lengths", QUICK, "worker")
        await pool.start()
        found = await asyncio.gather(*(scored(pool, (0,) * length, f"p{length}") for length in range(1, 5)))
        rows = pool.endpoints()
        await pool.close()
        return [one.scores for one in found], rows

    scores, rows = asyncio.run(run())
    assert scores == [(0.1,), (0.2,), (0.3,), (0.4,)]
    assert [row["host"] for row in rows] == ["worker 1", "worker 2"]
    assert [sum(row[key] for row in rows) for key in ("requests", "prompt", "cached")] == [4, 1 + 2 + 3 + 4 - 4, 4]


def test_a_worker_that_cannot_be_placed_may_be_placed_later():
    def place():
        raise RaySystemError("the cluster is gone")

    with pytest.raises(EngineError, match=r"worker 1 cannot start: .*the cluster is gone") as told:
        asyncio.run(Worker(1, place).load("policy 0", Load("policy", SPEC)))
    assert told.value.retryable


def test_a_worker_that_cannot_be_placed_for_a_reason_without_words():
    def place():
        raise RayError

    with pytest.raises(EngineError, match="worker 1 cannot start: RayError"):
        asyncio.run(Worker(1, place).load("policy 0", Load("policy", SPEC)))


def test_only_what_ray_started_is_ended_after_a_failed_start():
    """Another thread may start a process while Ray does."""
    here = Path(ray.__file__).parent
    commands = [
        ["sleep", "60"],
        [sys.executable, "-c", "import time; time.sleep(60)", f"{here}/_private/log_monitor.py"],
    ]
    processes = [psutil.Popen(command) for command in commands]
    try:
        while not all(process.cmdline() for process in processes):  # not yet replaced by their programs
            time.sleep(0.01)
        assert [process.pid for process in _of_ray(processes)] == [processes[1].pid]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_options_that_are_no_numbers_are_told():
    with pytest.raises(ConfigError, match="tensor_parallel_size"):
        Fleet(RayOptions(workers=1)).open_reward(ModelSpec(path="o/m;tensor_parallel_size=two"))


def test_a_worker_with_another_model_is_refused():
    async def run():
        held = _Held(Worker(1, Actor), "policy 0", Load("policy", SPEC), "another")
        pool = Pool([held], "fake", QUICK)
        with pytest.raises(EngineError, match="finds another model or another vLLM"):
            await pool.start()

    asyncio.run(run())
    assert [actor.died.is_set() for actor in Actor.made] == [True]
