"""One Ray actor, seen from the driver: calls travel to it in batches, and its death is the end of each that waits."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from typing import Any

from ttc.core.errors import EngineError
from ttc.engines.ray_host import BREATH_S, Asked, Call, Load, Loaded, Reply, Result, Unload

PLACED_S = 900.0
"""How long a cluster may take to find room for a worker: some start machines first."""


class Worker:
    """One actor, seen from the driver. A dead one is replaced when a model is next loaded."""

    def __init__(self, number: int, place: Callable[[], Any]) -> None:
        self.label = f"worker {number}"
        self.pid: int | None = None
        self._place = place
        self._actor: Any = None
        self._models: set[str] = set()
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[Result]] = {}
        self._outbox: list[Call] = []
        self._listener: asyncio.Task[None] | None = None
        self._sending: set[asyncio.Task[None]] = set()
        self._changing = asyncio.Lock()

    async def load(self, name: str, asked: Load) -> Loaded:
        """Have the actor hold a model. Raises EngineError where it cannot, or where no machine takes the actor."""
        async with self._changing:
            if self._actor is None:
                await self._begin()
            loaded = await self.ask(name, asked)
            if not isinstance(loaded, Loaded):
                raise EngineError(f"{self.label} answered {type(loaded).__name__} when a model was loaded")
            self._models.add(name)
            self.pid = loaded.pid
            return loaded

    async def unload(self, name: str) -> None:
        """Stop a model; the last one takes the actor along."""
        async with self._changing:
            if self._actor is None:
                return
            self._models.discard(name)
            try:
                await self.ask(name, Unload())
            except EngineError as error:
                if not error.fatal:
                    raise
            if not self._models:
                self._end(self._actor)

    async def ask(self, model: str, asked: Asked) -> Result:
        """Return the actor's answer.

        Raises:
            EngineError: what the model raised; retryable and fatal where the actor is gone.
        """
        if self._actor is None:
            raise self._gone()
        loop, number = asyncio.get_running_loop(), next(self._numbers)
        answer: asyncio.Future[Result] = loop.create_future()
        self._waiting[number] = answer
        if not self._outbox:
            loop.call_later(BREATH_S, self._send)
        self._outbox.append(Call(number, model, asked))
        try:
            return await answer
        except asyncio.CancelledError:
            if self._waiting.pop(number, None) is not None and self._actor is not None:
                self._actor.cancel.remote([number])
            raise

    def holds(self, model: str) -> bool:
        """Say whether the actor lives and has the model."""
        return self._actor is not None and model in self._models

    def drop(self, model: str) -> None:
        """Note that a model died in a living actor."""
        self._models.discard(model)

    def _gone(self) -> EngineError:
        return EngineError(f"{self.label} is gone: its process or its machine ended", retryable=True, fatal=True)

    def _send(self) -> None:
        calls, self._outbox = [call for call in self._outbox if call.number in self._waiting], []
        if calls and self._actor is not None:
            sending = asyncio.create_task(self._deliver(self._actor, calls))
            self._sending.add(sending)
            sending.add_done_callback(self._sending.discard)

    async def _deliver(self, actor: Any, calls: Sequence[Call]) -> None:
        from ray.exceptions import RayActorError

        try:
            await actor.submit.remote(calls)
        except RayActorError:
            self._end(actor)
        except Exception as error:  # noqa: BLE001 - whatever keeps a batch from arriving: somebody waits for each call
            cause = _last_line(error)
            for call in calls:
                self._settle(Reply(call.number, error=EngineError(f"{self.label} cannot be asked: {cause}")))

    async def _begin(self) -> None:
        from ray.exceptions import RayError

        actor = None
        try:
            actor = self._place()
            await asyncio.wait_for(actor.submit.remote([]), PLACED_S)
        except (RayError, TimeoutError) as error:
            if actor is not None:
                _kill(actor)
            late = isinstance(error, TimeoutError)
            cause = f"no machine took it within {PLACED_S:g} s" if late else _last_line(error)
            raise EngineError(
                f"{self.label} cannot start: {cause}", "ray status shows what the cluster offers", retryable=True
            ) from error
        except asyncio.CancelledError:
            _kill(actor)
            raise
        self._actor = actor
        self._listener = asyncio.create_task(self._listen(actor))

    async def _listen(self, actor: Any) -> None:
        """Hand out answers until the actor dies."""
        try:
            while True:
                replies: list[Reply] = await actor.collect.remote()
                for reply in replies:
                    self._settle(reply)
        except Exception:  # noqa: BLE001 - it died, or says what cannot be read: nobody would hear of its answers
            self._end(actor)

    def _settle(self, reply: Reply) -> None:
        answer = self._waiting.pop(reply.number, None)
        if answer is None or answer.done():
            return
        if reply.error is None:
            answer.set_result(reply.result)
        else:
            answer.set_exception(reply.error)

    def _end(self, actor: Any) -> None:
        """Forget the actor and fail what it was asked; one that was forgotten before changes nothing."""
        if actor is None or actor is not self._actor:
            return
        self._actor = self.pid = None
        self._models.clear()
        listener, self._listener = self._listener, None
        if listener is not None and listener is not asyncio.current_task():
            listener.cancel()
        _kill(actor)
        waiting, self._waiting, self._outbox = self._waiting, {}, []
        for answer in waiting.values():
            if not answer.done():
                answer.set_exception(self._gone())


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def _kill(actor: Any) -> None:
    import ray

    ray.kill(actor)
