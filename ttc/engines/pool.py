"""Several servers or workers of one model: which of them is asked, and what happens when one fails.

A request goes to the server that its problem hashes to, so that a problem's branches meet the same prefix cache, unless
that server is much busier than the others: then to the least loaded one. A server that cannot be reached gets no further
requests until it answers a health check again; what it had in flight is sent to the others. A caller sees one answer a
request, and is charged for that one.

Not covered: what a lost server had generated of an answer that never came is counted nowhere. Equal seeds give equal
answers only where the servers are the same build on the same kind of machine; their builds are recorded and compared.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from ttc.core.errors import ConfigError, EngineError, TtcError
from ttc.core.types import Completion, GenRequest, Tokens
from ttc.engines.openai_answers import NotNowError
from ttc.engines.rewards import Scored


class Endpoint(Protocol):
    """One server of a pool."""

    @property
    def host(self) -> str:
        """Return its address, without a user's name."""

    @property
    def offer(self) -> tuple[Any, ...]:
        """Return what all servers of a pool must agree on; known once it has started."""

    @property
    def version(self) -> str:
        """Return its build, empty where it does not tell; known once it has started."""

    async def start(self) -> None:
        """Reach it. Raises EngineError, `retryable` where it may be there later."""

    async def healthy(self) -> bool:
        """Say whether it answers."""

    async def close(self) -> None:
        """Close the connections."""


class Draws(Endpoint, Protocol):
    """A server of a policy."""

    async def generate(self, requests: Sequence[GenRequest]) -> list[Completion]:
        """Draw one completion a request, in request order."""


class Scores(Endpoint, Protocol):
    """A server of a reward model."""

    async def read(self, tokens: Tokens, problem_id: str) -> Scored:
        """Score one list of tokens."""


E = TypeVar("E", bound=Endpoint)
D = TypeVar("D", bound=Draws)
S = TypeVar("S", bound=Scores)
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """How a pool deals requests, and how patiently."""

    affinity: bool = True
    """Prefer the server that a problem hashes to; otherwise always the least loaded."""
    max_retries: int = 5
    """Of one request after rate limits, server errors and lost connections, beside once a server."""
    busier: float = 1.25
    """A preferred server may have this many times the mean load (Mirrokni et al. 2016, arXiv 1608.01350) ..."""
    slack: int = 8
    """... and so many requests more: few requests are served as fast together as apart."""
    health_s: float = 5.0
    """Seconds between two health checks."""
    health_timeout_s: float = 10.0
    misses: int = 3
    """Failed health checks in a row after which a server is lost that no request found unreachable."""
    patience_s: float = 60.0
    """How long requests wait for any server to come back before they fail."""
    first_rest_s: float = 0.5
    """Rest of a server after a failure, doubled by every further one, or as Retry-After says ..."""
    longest_rest_s: float = 60.0
    """... but never longer than this."""


@dataclass(slots=True)
class EndpointStatistics:
    """What a server did since the pool started."""

    host: str
    requests: int = 0
    """Answered ones."""
    moved: int = 0
    """Requests that failed here and were sent again, here or elsewhere."""
    losses: int = 0
    """How often it was lost."""
    prompt: int = 0
    cached: int = 0
    completion: int = 0


@dataclass(slots=True, eq=False)
class _Member(Generic[E]):
    endpoint: E
    statistics: EndpointStatistics
    up: bool = False
    """Takes requests."""
    lost: bool = True
    """Has nothing in flight and must be started anew."""
    load: int = 0
    failures: int = 0
    """In a row."""
    misses: int = 0
    rests_until: float = 0.0
    calls: set[asyncio.Future[Any]] = field(default_factory=set)
    doubted: asyncio.Event = field(default_factory=asyncio.Event)


class Pool(Generic[E]):
    """Deals calls to servers and minds their health. `warnings` says what a user should know."""

    def __init__(self, endpoints: Sequence[E], label: str, options: PoolOptions, noun: str = "server") -> None:
        hosts = [endpoint.host for endpoint in endpoints]
        if twice := [host for host in hosts if hosts.count(host) > 1]:
            raise ConfigError(f"{twice[0]} stands twice in one pool", f"name each {noun} once")
        self.label, self.options, self.noun = label, options, noun
        self.members = [_Member(endpoint, EndpointStatistics(endpoint.host)) for endpoint in endpoints]
        self.warnings: list[str] = []
        self._watchers: list[asyncio.Task[None]] = []
        self._back = asyncio.Event()
        """Set when a server is taken back."""
        self._builds: set[str] = set()
        """Those that have taken requests since the start."""

    @property
    def up(self) -> list[E]:
        """Return the servers that take requests."""
        return [member.endpoint for member in self.members if member.up]

    async def start(self) -> None:
        """Reach every server; those that are not there yet are waited for in the background.

        Raises:
            EngineError: none can be reached, one refuses, or two offer different things.
        """
        self._builds = set()
        self._back = asyncio.Event()  # an event belongs to the loop that first waits for it, and a pool may start again
        for member in self.members:
            member.doubted = asyncio.Event()
        found = await asyncio.gather(*(member.endpoint.start() for member in self.members), return_exceptions=True)
        try:
            self._take(found)
        except BaseException:  # a start that did not end well leaves nothing open; raised again
            await self.close()
            raise
        self._compare_builds()
        self._watchers = [asyncio.create_task(self._watch(member)) for member in self.members]

    def _take(self, found: Sequence[BaseException | None]) -> None:
        failures = [outcome for outcome in found if outcome is not None]
        refusals = [failure for failure in failures if not (isinstance(failure, EngineError) and failure.retryable)]
        if refusals or len(failures) == len(found):
            raise (refusals or failures)[0]
        for member, failure in zip(self.members, found, strict=True):
            member.up = member.lost = False
            if failure is None:
                self._check_offer(member)
                member.up = True
            else:
                member.lost = True
                self.warnings.append(f"{self.label}: {failure}; its requests go to the other {self.noun}s")

    async def close(self) -> None:
        """Close every connection. Doing it twice is no error."""
        watchers, self._watchers = self._watchers, []
        for watcher in watchers:
            while not watcher.done():  # a time limit that ends at the same moment swallows a cancellation (Python 3.11)
                watcher.cancel()
                await asyncio.wait([watcher], timeout=1.0)
        for member in self.members:
            member.up = False
        closed = await asyncio.gather(*(member.endpoint.close() for member in self.members), return_exceptions=True)
        for failure in closed:
            if failure is not None:
                raise failure

    def endpoints(self) -> list[dict[str, Any]]:
        """Return the servers and what each did, for the record."""
        return [asdict(member.statistics) for member in self.members]

    async def call(self, key: str, work: Callable[[E], Awaitable[R]]) -> tuple[R, EndpointStatistics]:
        """Have one server do the work, another one where it cannot; returns its statistics to be filled in.

        Raises:
            EngineError: as the last server put it; `fatal` only where no server is left.
        """
        tried: list[_Member[E]] = []
        while True:
            member = await self._choose(key, tried)
            try:
                result = await self._at(member, work)
            except EngineError as error:
                if not error.retryable:
                    raise
                self._failed(member, error)
                tried.append(member)
                if len(tried) >= self.options.max_retries + len(self.members):
                    raise EngineError(
                        f"{error.message} (tried {len(tried)} times on {len(self.members)} {self.noun}s)",
                        error.hint,
                        retryable=True,
                        usage=error.usage,
                    ) from None
                continue
            member.failures = 0
            member.statistics.requests += 1
            return result, member.statistics

    def now(self, work: Callable[[E], R]) -> R:
        """Have a server do a small piece of work at once: the one that failed longest ago, of those that are not lost.

        Nothing else runs meanwhile, so nobody is waited for.

        Raises:
            EngineError: none can; never `fatal`, since a server may come back while calls wait for one.
        """
        failure = self._nobody()
        for member in sorted(self.members, key=lambda member: (not member.up, member.rests_until)):
            if member.lost:
                continue
            try:
                return work(member.endpoint)
            except EngineError as error:
                if not error.retryable:
                    raise
                self._failed(member, error)
                member.doubted.set()
                failure = error
        raise EngineError(failure.message, failure.hint, retryable=True, usage=failure.usage)

    async def _choose(self, key: str, tried: Sequence[_Member[E]]) -> _Member[E]:
        loop = asyncio.get_running_loop()
        while True:
            up = [member for member in self.members if member.up]
            if not up:
                if not await self._comes_back(self.options.patience_s):
                    raise self._nobody()
                continue
            ready = [member for member in up if member.rests_until <= loop.time()]
            if ready:
                return self._preferred(key, [member for member in ready if member not in tried] or ready)
            await self._comes_back(min(member.rests_until for member in up) - loop.time())

    def _preferred(self, key: str, members: Sequence[_Member[E]]) -> _Member[E]:
        # Rendezvous hashing: when a server goes or comes, only the problems that prefer it change places.
        first = max(members, key=lambda member: _weight(key, member.statistics.host))
        least = min(members, key=lambda member: member.load)
        mean = sum(member.load for member in members) / len(members)
        if self.options.affinity and first.load <= self.options.busier * mean + self.options.slack:
            return first
        return least

    async def _at(self, member: _Member[E], work: Callable[[E], Awaitable[R]]) -> R:
        call = asyncio.ensure_future(work(member.endpoint))
        member.load += 1
        member.calls.add(call)
        try:
            return await call
        except asyncio.CancelledError:
            own = asyncio.current_task()
            if member.up or (own is not None and own.cancelling()):
                raise
            raise EngineError(
                f"{member.statistics.host} was lost", f"look at the {self.noun}", retryable=True
            ) from None
        finally:
            member.calls.discard(call)
            member.load -= 1

    def _failed(self, member: _Member[E], error: EngineError) -> None:
        """Let a server rest after a failure; one that cannot be reached is looked at before it gets more."""
        member.statistics.moved += 1
        if member.lost:
            return
        now = asyncio.get_running_loop().time()
        if member.rests_until <= now:  # requests that fail together are one failure
            rest_s = self.options.first_rest_s * 2 ** min(member.failures, 10)
            if isinstance(error, NotNowError) and error.retry_after_s is not None:
                rest_s = error.retry_after_s
            member.failures += 1
            member.rests_until = now + min(rest_s, self.options.longest_rest_s)
        if error.fatal:
            member.up = False
            member.doubted.set()

    async def _comes_back(self, within_s: float) -> bool:
        """Wait for a server to be taken back; says whether one was in time."""
        self._back.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                return await self._back.wait()
        return False

    def _nobody(self) -> EngineError:
        return EngineError(
            f"none of the {len(self.members)} {self.noun}s of {self.label!r} can be reached",
            "bring them back, then run the command again: what is finished is kept",
            retryable=True,
            fatal=True,
        )

    async def _watch(self, member: _Member[E]) -> None:
        while True:
            # Not `wait_for`: in Python 3.11 a cancellation that meets its timeout is lost, and closing would never end.
            with suppress(TimeoutError):
                async with asyncio.timeout(self.options.health_s):
                    await member.doubted.wait()
            member.doubted.clear()
            if member.lost:
                await self._restart(member)
                continue
            healthy = False
            with suppress(TimeoutError):
                async with asyncio.timeout(self.options.health_timeout_s):
                    healthy = await member.endpoint.healthy()
            member.misses = 0 if healthy else member.misses + 1
            if healthy and not member.up:  # one connection was lost, not the server, which may still fail: it rests on
                member.up = True
                self._back.set()
            elif member.misses >= (self.options.misses if member.up else 1):
                self._lose(member)

    def _lose(self, member: _Member[E]) -> None:
        member.up, member.lost = False, True
        member.statistics.losses += 1
        self.warnings.append(
            f"{self.label}: {member.statistics.host} is lost; its requests go to the other {self.noun}s"
        )
        for call in list(member.calls):
            call.cancel()

    async def _restart(self, member: _Member[E]) -> None:
        """Take a server that answers again, unless it is another one now."""
        try:
            await member.endpoint.close()
            await member.endpoint.start()
            self._check_offer(member)
        except Exception as error:  # noqa: BLE001 - whatever it is, the next check tries again
            said = f"{self.label}: {member.statistics.host} is back and not taken: {str(error) or type(error).__name__}"
            if not (isinstance(error, TtcError) and error.retryable) and said not in self.warnings:
                self.warnings.append(said)
            return
        self.warnings.append(f"{self.label}: {member.statistics.host} is there again")
        member.up, member.lost = True, False
        member.failures = member.misses = 0
        member.rests_until = 0.0
        self._compare_builds()
        self._back.set()

    def _compare_builds(self) -> None:
        builds = self._builds | {endpoint.version for endpoint in self.up}
        if len(builds) > max(1, len(self._builds)):
            self.warnings.append(
                f"{self.label}: the {self.noun}s are different builds ({', '.join(sorted(builds))}):"
                " equal seeds may give other answers"
            )
        self._builds = builds

    def _check_offer(self, member: _Member[E]) -> None:
        for other in self.members:
            if other is not member and other.up and other.endpoint.offer != member.endpoint.offer:
                mine, others = member.statistics.host, other.statistics.host
                raise EngineError(
                    f"{mine} and {others} are one pool and offer different things: "
                    f"{member.endpoint.offer} and {other.endpoint.offer}",
                    "serve the same model by the same program with the same context length",
                )


async def drawn(pool: Pool[D], request: GenRequest) -> Completion:
    """Have one completion drawn, and count it."""
    (completion,), statistics = await pool.call(request.problem_id, lambda endpoint: endpoint.generate([request]))
    statistics.prompt += completion.usage.prompt
    statistics.cached += completion.usage.cached
    statistics.completion += completion.usage.completion
    return completion


async def scored(pool: Pool[S], tokens: Tokens, problem_id: str) -> Scored:
    """Have one list of tokens scored, and count it."""
    found, statistics = await pool.call(problem_id, lambda endpoint: endpoint.read(tokens, problem_id))
    statistics.prompt += len(tokens) - found.cached
    statistics.cached += found.cached
    return found


def _weight(key: str, host: str) -> bytes:
    return hashlib.blake2b(f"{key}\x1f{host}".encode(), digest_size=8).digest()
