"""Scores of a reward model behind a vLLM server that was started with `--runner pooling`.

A server does not tell what its prefix cache held: every token sent counts as read. Its calibration is its own
(`--pooler-config`). Run with servers on a CPU only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ttc.core.errors import EngineError
from ttc.core.identity import identity
from ttc.core.types import Tokens
from ttc.engines.openai_http import OpenAIEngine, OpenAIOptions
from ttc.engines.rewards import QWEN_SEPARATOR, RewardFormat, RewardKind, Scored


@dataclass(frozen=True, slots=True)
class PoolingServerOptions(OpenAIOptions):
    """Where the server is, and how its model is asked."""

    kind: RewardKind | None = None
    """None finds out whether it scores sequences (classify) or tokens (token_classify)."""
    separator: int | None = None
    """The token after each step; None is Qwen's, and the server must have it as its `step_tag_id`."""
    end_token: int | None = None
    """Left out where a step ends in it."""


class PoolingServer:
    """Implements `ttc.engines.rewards.Backend`."""

    def __init__(self, options: PoolingServerOptions) -> None:
        self._options = options
        self._server = OpenAIEngine(options)
        self._form: RewardFormat | None = None
        self.label = options.label or options.model
        self.parameters: int | None = None
        asked = [options.kind, options.separator, options.end_token]
        self.fingerprint = f"{self._server.fingerprint}+{identity(asked)}"

    @property
    def format(self) -> RewardFormat:
        """Return how the model is asked. Raises EngineError before the start."""
        if self._form is None:
            raise EngineError(f"the reward model {self.label!r} is not running", "start it first")
        return self._form

    @property
    def host(self) -> str:
        """Return the server's address, without a user's name."""
        return self._server.host

    @property
    def offer(self) -> tuple[RewardFormat]:
        """Return what servers of one pool must agree on: how the model is asked."""
        return (self.format,)

    @property
    def version(self) -> str:
        """Return the server's build, where it tells."""
        return self._server.version

    async def healthy(self) -> bool:
        """Say whether the server answers a health check."""
        return await self._server.healthy()

    async def start(self) -> None:
        """Reach the server and find out what it scores. Raises EngineError with its cause."""
        options = self._options
        await self._server.start()
        try:
            kind = options.kind or await self._find_kind()
            separator = await self._find_separator() if kind == "token_classify" else None
        except BaseException:  # cancelled as well: a start that did not end well leaves nothing open; raised again
            await self.close()
            raise
        self._form = RewardFormat(kind, separator, () if options.end_token is None else (options.end_token,))

    async def read(self, tokens: Tokens, problem_id: str) -> Scored:
        """Score one list of tokens. Raises EngineError, `retryable` where the same call may succeed later."""
        work = "token_classify" if self.format.kind == "token_classify" else "classify"
        rows = await self._pool(list(tokens), {"task": work})
        try:
            # Of two labels the second one is "right".
            scores = tuple(float(row[-1]) for row in (rows if work == "token_classify" else [rows]))
        except (TypeError, ValueError, IndexError) as error:
            raise self._strange(f" for problem {problem_id!r}") from error
        return Scored(scores, cached=0)

    async def close(self) -> None:
        """Close the connections. Doing it twice is no error."""
        await self._server.close()

    async def _pool(self, tokens: list[int], more: dict[str, Any]) -> list[Any]:
        answer = await self._server.post("pooling", {"model": self._options.model, "input": [tokens], **more})
        try:
            rows = answer["data"][0]["data"]
        except (LookupError, TypeError) as error:
            raise self._strange("") from error
        if not isinstance(rows, list):
            raise self._strange("")
        return rows

    async def _find_kind(self) -> RewardKind:
        try:
            rows = await self._pool([0], {})
        except EngineError as error:
            hint = error.hint or "start the server with --runner pooling"
            raise EngineError(error.message, hint, retryable=error.retryable, fatal=error.fatal) from None
        # One number a label; of a model that scores tokens one row a separator, and here there is none.
        return "classify" if rows and isinstance(rows[0], float) else "token_classify"

    async def _find_separator(self) -> int:
        if self._options.separator is not None:
            return self._options.separator
        body = {"model": self._options.model, "prompt": QWEN_SEPARATOR, "add_special_tokens": False}
        tokens = (await self._server.post("tokenize", body)).get("tokens")
        if not isinstance(tokens, list) or len(tokens) != 1:
            raise EngineError(
                f"the reward model {self.label!r} has no token {QWEN_SEPARATOR!r} to put between steps",
                "name its own as the option `separator`",
            )
        return int(tokens[0])

    def _strange(self, where: str) -> EngineError:
        return EngineError(f"the server of {self.label!r} answered with something else than scores{where}")
