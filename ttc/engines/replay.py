"""Deal recorded samples instead of generating: every method that only draws and selects, with no model.

In draw r, the samples of a (problem, configuration) are put in an order seeded by run seed, problem,
configuration and r, the same for every strategy, allocator and budget, and dealt without replacement.
"""

from __future__ import annotations

import copy
import hashlib
import random
from collections.abc import Mapping, Sequence

from ttc.core.errors import ConfigError
from ttc.core.protocols import Capability
from ttc.core.types import Completion, Exhausted, GenRequest, Message, Prompt, Tokens, Usage
from ttc.store.bank import Bank, Row


class ReplayEngine:
    """Implements `ttc.core.protocols.Engine` over one configuration of a bank.

    Each call counts its row's `prompt_tokens` as prefilled: a bank does not say what a cache would have served.
    """

    immediate = True
    context_tokens: int | None = None
    parameters: int | None = None

    def __init__(self, bank: Bank, config: str, seed: int) -> None:
        self.label = config
        self.fingerprint = f"{bank.fingerprint}:{config}"
        self.capabilities: frozenset[Capability] = frozenset({"score"}) if bank.scored(config) else frozenset()
        self._pool = bank.pools[config]
        self._seed = seed
        self._share = 1
        self._orders: dict[tuple[str, int], list[int]] = {}

    async def start(self) -> None:
        """Do nothing: the bank is loaded."""

    async def close(self) -> None:
        """Do nothing: there is no process."""

    def render(self, messages: Sequence[Message], flags: Mapping[str, bool | int | str] | None = None) -> Prompt:
        """Refuse: a bank holds no answers to new questions."""
        raise ConfigError(f"a recorded bank cannot answer new prompts ({len(messages)} messages given)")

    def encode(self, text: str) -> Tokens:
        """Refuse: a bank holds no token ids."""
        raise ConfigError(f"a recorded bank cannot continue a response ({text[:20]!r} given)")

    def decode(self, tokens: Sequence[int]) -> str:
        """Return nothing: a bank holds no token ids."""
        return ""

    def row(self, problem_id: str, draw: int, index: int) -> Row:
        """Return the sample that call `index` of a draw receives.

        Raises:
            Exhausted: the problem has no more samples.
        """
        samples = self._pool[problem_id]
        if index >= len(samples) // self._share:
            raise Exhausted
        order = self._orders.get((problem_id, draw))
        if order is None:
            key = f"{self._seed}\x1f{problem_id}\x1f{self.label}\x1f{draw}".encode()
            order = list(range(len(samples)))
            random.Random(hashlib.blake2b(key, digest_size=16).digest()).shuffle(order)  # noqa: S311 - not for secrets
            self._orders[problem_id, draw] = order
        return samples[order[index]]

    def first_half(self) -> ReplayEngine:
        """Return an engine that deals the first half of each problem's samples, in the same orders."""
        other = copy.copy(self)
        other._share = 2
        return other

    def samples(self, problem_id: str) -> int:
        """Return how many samples a problem has."""
        return len(self._pool[problem_id])

    async def generate(self, requests: Sequence[GenRequest]) -> list[Completion]:
        """Deal one sample a request; a longer one comes back cut at the request's cap, without an answer."""
        return [self._deal(request) for request in requests]

    def _deal(self, request: GenRequest) -> Completion:
        row = self.row(request.problem_id, request.draw, request.index)
        fits = row.completion_tokens <= request.max_tokens
        ended = fits and row.finish == "stop"
        return Completion(
            index=request.index,
            text="",
            tokens=(),
            finish="stop" if ended else "length",
            usage=Usage(prompt=row.prompt_tokens, completion=min(row.completion_tokens, request.max_tokens)),
            logprob=row.logprob if fits else None,
            answer=row.answer if ended else None,
            score=row.score if fits else None,
        )
