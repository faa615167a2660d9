"""What runs inside a Ray actor: the models of one worker, asked in batches of calls, answering as they end.

It knows nothing of Ray, of budgets or of journals: the driver keeps those.
"""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from ttc.core.errors import EngineError, TtcError
from ttc.core.protocols import Engine
from ttc.core.specs import ModelSpec
from ttc.core.types import Completion, GenRequest, Tokens
from ttc.engines.opening import open_backend, open_engine
from ttc.engines.rewards import Backend, Scored

Part = Literal["policy", "reward"]

BREATH_S = 0.001
"""How long answers are gathered before a batch of them leaves: one vLLM step ends many requests at once."""


@dataclass(frozen=True, slots=True)
class Load:
    """Have a model ready; one that runs already stays."""

    part: Part
    spec: ModelSpec


@dataclass(frozen=True, slots=True)
class Unload:
    """Stop a model's processes."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A list of tokens for a reward model."""

    tokens: Tokens
    problem_id: str


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a worker says of a model that it holds."""

    fingerprint: str
    context_tokens: int | None
    pid: int
    """The worker's process."""


Asked = Load | Unload | GenRequest | Reading
Result = Loaded | Completion | Scored | None


@dataclass(frozen=True, slots=True)
class Call:
    """What is asked of one of the worker's models; `number` is the driver's own."""

    number: int
    model: str
    asked: Asked


@dataclass(frozen=True, slots=True)
class Reply:
    """The end of a call: a result, or the error that it raised."""

    number: int
    result: Result = None
    error: TtcError | None = None


class Host:
    """Holds models by name. Every method runs in the actor's event loop."""

    def __init__(self) -> None:
        # Ray limits a worker to the cores it reserved; a model shares the machine as it would without Ray.
        os.environ.pop("OMP_NUM_THREADS", None)
        self._policies: dict[str, Engine] = {}
        self._rewards: dict[str, Backend] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._changing: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._ending: set[asyncio.Task[None]] = set()
        self._done: list[Reply] = []
        self._news = asyncio.Event()

    async def submit(self, calls: Sequence[Call]) -> None:
        """Begin some calls; `collect` tells their ends."""
        for call in calls:
            self._tasks[call.number] = asyncio.create_task(self._answer(call))

    async def cancel(self, numbers: Sequence[int]) -> None:
        """Stop calls that nobody waits for any more."""
        for number in numbers:
            task = self._tasks.get(number)
            if task is not None:
                task.cancel()

    async def collect(self) -> list[Reply]:
        """Return the calls that ended since the last time, once there is one."""
        await self._news.wait()
        await asyncio.sleep(BREATH_S)
        self._news.clear()
        done, self._done = self._done, []
        return done

    async def _answer(self, call: Call) -> None:
        reply: Reply | None = None
        held = self._held(call.model)
        try:
            reply = Reply(call.number, await self._ask(call.model, call.asked))
        except TtcError as error:
            reply = Reply(call.number, error=error)
            if isinstance(error, EngineError) and error.fatal:
                self._discard(call.model, held)
        except Exception as error:  # noqa: BLE001 - the boundary of the process: the driver must hear of every end
            reply = Reply(call.number, error=EngineError(f"{type(error).__name__}: {error}"))
        finally:
            del self._tasks[call.number]
            if reply is not None:
                self._done.append(reply)
                self._news.set()

    async def _ask(self, model: str, asked: Asked) -> Result:
        if isinstance(asked, Load):
            return await self._load(model, asked)
        if isinstance(asked, Unload):
            await self._unload(model)
            return None
        if isinstance(asked, GenRequest) and model in self._policies:
            return (await self._policies[model].generate([asked]))[0]
        if isinstance(asked, Reading) and model in self._rewards:
            return await self._rewards[model].read(asked.tokens, asked.problem_id)
        raise EngineError("it does not hold the model any more", fatal=True)

    async def _load(self, name: str, asked: Load) -> Loaded:
        async with self._changing[name]:
            if asked.part == "policy":
                if name not in self._policies:
                    engine = open_engine(asked.spec)
                    await engine.start()
                    self._policies[name] = engine
                engine = self._policies[name]
                return Loaded(engine.fingerprint, engine.context_tokens, os.getpid())
            if name not in self._rewards:
                backend = open_backend(asked.spec)
                await backend.start()
                self._rewards[name] = backend
            return Loaded(self._rewards[name].fingerprint, None, os.getpid())

    async def _unload(self, name: str) -> None:
        async with self._changing[name]:
            model = self._forget(name)
            if model is not None:
                await model.close()

    def _held(self, name: str) -> Engine | Backend | None:
        return self._policies.get(name) or self._rewards.get(name)

    def _forget(self, name: str) -> Engine | Backend | None:
        return self._policies.pop(name, None) or self._rewards.pop(name, None)

    def _discard(self, name: str, model: Engine | Backend | None) -> None:
        """Forget a model that died; the next `Load` starts it anew, once what is left of this one has ended."""
        if model is None or self._held(name) is not model:  # an earlier call's end did that
            return
        self._forget(name)
        ending = asyncio.create_task(self._end(name, model))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    async def _end(self, name: str, model: Engine | Backend) -> None:
        async with self._changing[name]:
            with suppress(Exception):  # it is dead already: its call has been answered so
                await model.close()
