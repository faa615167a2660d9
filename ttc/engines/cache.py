"""The generation cache: what was drawn once is not drawn again, within a run or in a shared folder.

Keyed by (engine fingerprint, prompt ids, sampling without max_tokens, seed), so that best-of-8's samples are
the first 8 of best-of-64, and a resumed run continues where it was. A hit is charged like a call.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sqlite3
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ttc.core.errors import StorageError
from ttc.core.identity import canonical_json
from ttc.core.protocols import Engine
from ttc.core.types import Completion, GenRequest, Message, Prompt, Tokens, Usage
from ttc.engines.together import together

_TABLE = """CREATE TABLE IF NOT EXISTS completions (
    key BLOB PRIMARY KEY, tokens BLOB, text TEXT, finish TEXT, stop_reason TEXT, usage TEXT,
    logprob REAL, confidence REAL, token_logprobs BLOB, token_confidences BLOB, top_logprobs INTEGER
) WITHOUT ROWID"""


class CachedEngine:
    """An engine with a memory: implements `ttc.core.protocols.Engine` around another one."""

    def __init__(self, engine: Engine, path: Path) -> None:
        self._engine = engine
        self._path = path
        self._in_flight: dict[bytes, asyncio.Future[None]] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Autocommit, and no fsync: a killed process loses nothing, a power cut may lose the last samples.
            self._db = sqlite3.connect(path, timeout=30, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=OFF")
            self._db.execute(_TABLE)
        except (OSError, sqlite3.Error) as error:
            raise self._failed(error) from error
        self.label = engine.label
        self.fingerprint = engine.fingerprint
        self.capabilities = engine.capabilities
        self.immediate = engine.immediate
        self.context_tokens = engine.context_tokens
        self.parameters = engine.parameters

    def _failed(self, error: Exception) -> StorageError:
        return StorageError(
            f"the generation cache {self._path} failed: {error}",
            "free some space, delete it, or give --cache off",
        )

    async def start(self) -> None:
        """Do nothing: only a started engine is wrapped."""

    async def close(self) -> None:
        """Close the cache and the engine behind it."""
        self.close_cache()
        await self._engine.close()

    def close_cache(self) -> None:
        """Close the cache alone."""
        self._db.close()

    def render(self, messages: Sequence[Message], flags: Mapping[str, bool | int | str] | None = None) -> Prompt:
        """Apply the engine's chat template."""
        return self._engine.render(messages, flags)

    def encode(self, text: str) -> Tokens:
        """Return the engine's tokens of a text."""
        return self._engine.encode(text)

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the engine's text of `tokens`."""
        return self._engine.decode(tokens)

    async def generate(self, requests: Sequence[GenRequest]) -> list[Completion]:
        """Return stored completions where they fit, and draw and store the others."""
        return await together([self._one(request) for request in requests])

    async def _one(self, request: GenRequest) -> Completion:
        key = self._key(request)
        while key in self._in_flight:  # the same sample is being drawn for another cell
            await asyncio.wait([self._in_flight[key]])  # awaiting it plainly would let one waiter cancel it for all
        stored = self._look_up(key, request)
        if stored is not None:
            return stored
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._in_flight[key] = done
        try:
            completion = (await self._engine.generate([request]))[0]
            self._store(key, request, completion)
            return completion
        finally:
            del self._in_flight[key]
            done.set_result(None)

    def _key(self, request: GenRequest) -> bytes:
        s = request.sampling
        drawn_by = [s.temperature, s.top_p, s.top_k, s.min_p, s.stop, s.stop_token_ids]
        digest = hashlib.blake2b(digest_size=16)
        seed = request.seed if s.temperature else 0  # greedy decoding reads no seed
        digest.update(canonical_json([self.fingerprint, drawn_by, seed]).encode())
        if request.prompt.tokens:
            digest.update(array("q", request.prompt.tokens).tobytes())
        else:
            digest.update(canonical_json([[m.role, m.content] for m in request.prompt.messages]).encode())
        return digest.digest()

    def _look_up(self, key: bytes, request: GenRequest) -> Completion | None:
        try:
            row = self._db.execute("SELECT * FROM completions WHERE key = ?", (key,)).fetchone()
            if row is None or row[10] < request.sampling.top_logprobs:
                return None
            completion = _from_row(row, request.index)
        except (sqlite3.Error, ValueError, TypeError, IndexError) as error:  # the file, or one row, is damaged
            raise self._failed(error) from error
        length, limit = completion.usage.completion, request.max_tokens
        if length <= limit:
            # A text that was cut before this call's cap would have gone on.
            return None if completion.finish == "length" and length < limit else completion
        if len(completion.tokens) != length:
            return None  # a server that tells no token ids: the text cannot be cut at a token
        return self._cut(completion, limit)

    def _cut(self, c: Completion, limit: int) -> Completion:
        logprobs = c.token_logprobs[:limit] if c.token_logprobs is not None else None
        confidences = c.token_confidences[:limit] if c.token_confidences is not None else None
        return replace(
            c,
            tokens=c.tokens[:limit],
            text=self._engine.decode(c.tokens[:limit]),
            finish="length",
            stop_reason=None,
            usage=replace(c.usage, completion=limit),
        ).recording(logprobs, confidences)

    def _store(self, key: bytes, request: GenRequest, c: Completion) -> None:
        usage = canonical_json([c.usage.prompt, c.usage.cached, c.usage.completion])
        row = (key, array("q", c.tokens).tobytes(), c.text, c.finish, json.dumps(c.stop_reason), usage,
               c.logprob, c.confidence, _packed(c.token_logprobs), _packed(c.token_confidences),
               request.sampling.top_logprobs)  # fmt: skip
        try:
            self._db.execute(f"INSERT OR REPLACE INTO completions VALUES ({','.join('?' * len(row))})", row)  # noqa: S608 - only question marks
        except sqlite3.Error as error:
            raise self._failed(error) from error


def _packed(values: Sequence[float] | None) -> bytes | None:
    return None if values is None else array("d", values).tobytes()


def _unpacked(code: str, data: bytes | None) -> tuple[Any, ...] | None:
    if data is None:
        return None
    values = array(code)
    values.frombytes(data)
    return tuple(values)


def _from_row(row: Sequence[Any], index: int) -> Completion:
    prompt, cached, completion = json.loads(row[5])
    return Completion(
        index=index,
        text=row[2],
        tokens=_unpacked("q", row[1]) or (),
        finish=row[3],
        stop_reason=json.loads(row[4]),
        usage=Usage(prompt, cached, completion),
        logprob=row[6],
        confidence=row[7],
        token_logprobs=_unpacked("d", row[8]),
        token_confidences=_unpacked("d", row[9]),
        from_cache=True,
    )
