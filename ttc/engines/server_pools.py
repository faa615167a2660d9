"""Several servers of one model as one engine or reward model: `http://HOST1/v1,http://HOST2/v1#NAME`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ttc.core.errors import EngineError
from ttc.core.identity import identity
from ttc.core.protocols import Capability
from ttc.core.types import Completion, GenRequest, Message, Prompt, Tokens
from ttc.engines.openai_http import OpenAIEngine
from ttc.engines.openai_pooling import PoolingServer
from ttc.engines.pool import Pool, PoolOptions, drawn, scored
from ttc.engines.rewards import RewardFormat, Scored
from ttc.engines.together import together


class PoolEngine:
    """Implements `ttc.core.protocols.Engine` by several servers of one model."""

    def __init__(self, servers: Sequence[OpenAIEngine], label: str, options: PoolOptions | None = None) -> None:
        self._pool = Pool(servers, label, options or PoolOptions())
        self.label = label
        self._identity = identity(sorted(server.fingerprint for server in servers))
        self.fingerprint = f"servers:{self._identity}"
        """Names the servers and the model; once started, their builds as well, whichever of them are there."""
        self.capabilities: frozenset[Capability] = frozenset({"live", "temperature"})
        self.immediate = False
        self.context_tokens: int | None = None
        self.parameters: int | None = None

    @property
    def warnings(self) -> list[str]:
        """Return what a user should know of the servers so far."""
        return self._pool.warnings

    def endpoints(self) -> list[dict[str, Any]]:
        """Return the servers and what each did, for the record."""
        builds = [member.endpoint.version for member in self._pool.members]
        return [{**row, "build": build} for row, build in zip(self._pool.endpoints(), builds, strict=True)]

    async def start(self) -> None:
        """Reach the servers and find out what they can do. Raises EngineError where none is there, or two differ."""
        await self._pool.start()
        first, *others = self._pool.up
        self.capabilities, self.context_tokens = first.capabilities, first.context_tokens
        builds = sorted({server.version for server in (first, *others)})
        self.fingerprint = f"servers:{self._identity}+{identity(builds)}"

    def render(self, messages: Sequence[Message], flags: Mapping[str, bool | int | str] | None = None) -> Prompt:
        """Apply the chat template as any of the servers does."""
        return self._pool.now(lambda server: server.render(messages, flags))

    def encode(self, text: str) -> Tokens:
        """Return the tokens of a text; raises EngineError where the servers only chat."""
        return self._pool.now(lambda server: server.encode(text))

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of `tokens`; raises EngineError where the servers only chat."""
        ends = set[int]().union(*(member.endpoint.ends for member in self._pool.members))
        return self._pool.now(lambda server: server.decode([token for token in tokens if token not in ends]))

    async def generate(self, requests: Sequence[GenRequest]) -> list[Completion]:
        """Draw one completion a request, in request order. Raises EngineError as one server does."""
        return await together([drawn(self._pool, request) for request in requests])

    async def close(self) -> None:
        """Close the connections. Doing it twice is no error."""
        await self._pool.close()


class PoolingPool:
    """Implements `ttc.engines.rewards.Backend` by several servers of one reward model."""

    def __init__(self, servers: Sequence[PoolingServer], label: str, options: PoolOptions | None = None) -> None:
        self._pool = Pool(servers, label, options or PoolOptions())
        self.label = label
        self.fingerprint = f"servers:{identity(sorted(server.fingerprint for server in servers))}"
        self.parameters: int | None = None
        self._format: RewardFormat | None = None

    @property
    def warnings(self) -> list[str]:
        """Return what a user should know of the servers so far."""
        return self._pool.warnings

    def endpoints(self) -> list[dict[str, Any]]:
        """Return the servers and what each did, for the record."""
        return self._pool.endpoints()

    @property
    def format(self) -> RewardFormat:
        """Return how the model is asked. Raises EngineError before the start."""
        if self._format is None:
            raise EngineError(f"the reward model {self.label!r} is not running", "start it first")
        return self._format

    async def start(self) -> None:
        """Reach the servers and find out what they score. Raises EngineError where none is there, or two differ."""
        await self._pool.start()
        self._format = self._pool.up[0].format

    async def read(self, tokens: Tokens, problem_id: str) -> Scored:
        """Score one list of tokens. Raises EngineError as one server does."""
        return await scored(self._pool, tokens, problem_id)

    async def close(self) -> None:
        """Close the connections. Doing it twice is no error."""
        await self._pool.close()
