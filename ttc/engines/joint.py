"""Engines made of several: a mix of configurations for every problem, or one of them for each problem.

A configuration is an engine with settings of its own. Strategies that draw and select run over both kinds unchanged.
Continuing a prefix needs one tokenizer, so it is offered only where all members are the same engine.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from ttc.core.errors import ConfigError
from ttc.core.identity import identity
from ttc.core.protocols import Capability, Engine
from ttc.core.types import Completion, GenRequest, Message, Prompt, Tokens
from ttc.engines.replay import ReplayEngine
from ttc.engines.together import together
from ttc.store.bank import Row


@dataclass(frozen=True, slots=True)
class Member:
    """A configuration: an engine, and what is asked of it otherwise than the run asks.

    Raises:
        ConfigError: a weight that is not above 0, or a temperature that cannot be chosen.
    """

    engine: Engine
    temperature: float | None = None
    """In place of the run's; None keeps that."""
    weight: float = 1.0
    """Budget tokens that one of its tokens costs: 3 for a model three times as large as the one budgets count in."""
    flags: Mapping[str, bool | int | str] | None = None
    """Variables of its chat template; None takes those that the run renders with."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise ConfigError(f"{self.engine.label}: a weight must be above 0, found {self.weight}")
        if self.temperature is None:
            return
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ConfigError(f"{self.engine.label}: a temperature must be at least 0, found {self.temperature}")
        if "temperature" not in self.engine.capabilities:
            raise ConfigError(f"{self.engine.label}: its samples are recorded, their temperature cannot be chosen")

    @property
    def label(self) -> str:
        """Return the engine's name, with the temperature where it has one of its own."""
        return self.engine.label if self.temperature is None else f"{self.engine.label}@{self.temperature:g}"


@runtime_checkable
class HasRates(Protocol):
    """An engine whose calls do not all cost the same."""

    def rate(self, problem_id: str, index: int) -> float:
        """Return the budget tokens that a token of this call costs."""

    def parameters_of(self, problem_id: str, index: int) -> int | None:
        """Return the parameter count of the model that answers this call, None where it is not known."""


class Joint(ABC):
    """What both kinds share: implements `ttc.core.protocols.Engine` but for `place`.

    A sample's seed stays that of its own index, so sample i of a live member is sample i of that member's own cell,
    and two temperatures of one model never share their randomness.
    """

    def __init__(self, members: Sequence[Member], used: Sequence[int], rule: Sequence[Any]) -> None:
        self.members = tuple(members)
        self._used = tuple(used)
        self._rule = list(rule)
        self._engines = {id(members[i].engine): members[i].engine for i in used}
        self._prompts: dict[tuple[Message, ...], dict[int, Prompt]] = {}
        self._describe()

    def _describe(self) -> None:
        members = [self.members[i] for i in self._used]
        engines = list(self._engines.values())
        self.label = "+".join(dict.fromkeys(m.label for m in members))
        told = [[m.engine.fingerprint, m.temperature, m.weight, dict(m.flags or {})] for m in members]
        self.fingerprint = identity(["joint", 1, told, self._rule])
        self.immediate = all(e.immediate for e in engines)
        lengths = [e.context_tokens for e in engines if e.context_tokens is not None]
        self.context_tokens: int | None = min(lengths, default=None)
        sizes = {e.parameters for e in engines}
        self.parameters: int | None = sizes.pop() if len(sizes) == 1 else None
        offered = frozenset.intersection(*(e.capabilities for e in engines))
        if any(m.temperature is not None for m in members):
            offered -= {"temperature"}
        self.capabilities: frozenset[Capability] = offered - (frozenset() if len(engines) == 1 else self._separate)

    _separate: frozenset[Capability] = frozenset({"extends"})
    """What several engines do not offer together, though each of them does."""

    @abstractmethod
    def place(self, problem_id: str, index: int) -> tuple[int, int]:
        """Return the member that answers sample `index` of a problem, and the sample's index there."""

    def rate(self, problem_id: str, index: int) -> float:
        """Return the budget tokens that a token of this call costs."""
        return self.members[self.place(problem_id, index)[0]].weight

    def parameters_of(self, problem_id: str, index: int) -> int | None:
        """Return the parameter count of the model that answers this call, None where it is not known."""
        return self.members[self.place(problem_id, index)[0]].engine.parameters

    @abstractmethod
    def over(self, wrap: Callable[[Engine], Engine]) -> Joint:
        """Return the same with each distinct engine wrapped, as in a cache."""

    def row(self, problem_id: str, draw: int, index: int) -> Row:
        """Return the recorded sample that call `index` of a draw receives.

        Raises:
            ConfigError: the member is a live model.
            Exhausted: its pool has no more samples.
        """
        position, own = self.place(problem_id, index)
        engine = self.members[position].engine
        if not isinstance(engine, ReplayEngine):
            raise ConfigError(f"{engine.label} is a live model and holds no recorded samples")
        return engine.row(problem_id, draw, own)

    async def start(self) -> None:
        """Start each distinct engine once; where one fails, none stays open."""
        async with AsyncExitStack() as stack:
            for engine in self._engines.values():
                stack.push_async_callback(engine.close)
                await engine.start()
            stack.pop_all()
        self._describe()

    async def close(self) -> None:
        """Close each distinct engine, also where closing another one fails."""
        async with AsyncExitStack() as stack:
            for engine in self._engines.values():
                stack.push_async_callback(engine.close)

    def render(self, messages: Sequence[Message], flags: Mapping[str, bool | int | str] | None = None) -> Prompt:
        """Apply each member's own template; the longest prompt stands for all, so that reservations hold for each."""
        used = [(i, self.members[i]) for i in self._used]
        own = {i: m.engine.render(messages, flags if m.flags is None else m.flags) for i, m in used}
        self._prompts[tuple(messages)] = own
        return max(own.values(), key=lambda prompt: len(prompt.ids))

    def encode(self, text: str) -> Tokens:
        """Return the tokens of a text. Raises ConfigError where members have tokenizers of their own."""
        return self._only().encode(text)

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens. Raises ConfigError where members have tokenizers of their own."""
        return self._only().decode(tokens)

    def _only(self) -> Engine:
        if len(self._engines) > 1:
            raise ConfigError(
                f"{self.label} are several models, whose tokens differ",
                "use a strategy that only draws whole answers, or one model",
            )
        return next(iter(self._engines.values()))

    async def generate(self, requests: Sequence[GenRequest]) -> list[Completion]:
        """Have each request answered by its member, in request order."""
        return await together([self._one(request) for request in requests])

    async def _one(self, request: GenRequest) -> Completion:
        position, own = self.place(request.problem_id, request.index)
        member, sampling = self.members[position], request.sampling
        if member.temperature is not None:
            sampling = replace(sampling, temperature=member.temperature)
        prompt = self._own_prompt(position, request.prompt)
        asked = replace(request, prompt=prompt, sampling=sampling, index=own)
        completion = (await member.engine.generate([asked]))[0]
        return replace(completion, index=request.index, member=position)

    def _own_prompt(self, position: int, prompt: Prompt) -> Prompt:
        if prompt.messages not in self._prompts:
            if len(self._engines) == 1 or "live" not in self.members[position].engine.capabilities:
                return prompt  # rendered elsewhere by the same engine, or a recorded one
            self.render(prompt.messages)
        return replace(self._prompts[prompt.messages][position], generated=prompt.generated)


class MixedEngine(Joint):
    """Every problem draws from the same mix: implements `ttc.core.protocols.Engine`.

    Samples go to members in the order of `proportional_sequence(counts)`, again and again. A member counts its own
    from 0, so that recorded ones are dealt without replacement and equal those of its own cell in order; members with
    one engine count together. The first recorded pool that is used up ends a problem: without it the mix is another.
    Source: OSCA (Zhang et al. 2024, arXiv 2410.22480); `ttc.allocate.mixed` finds the counts.

    Args:
        members: the configurations.
        counts: how many samples of each one round of the mix holds; a member with 0 is not started.

    Raises:
        ConfigError: counts that do not fit, or all 0.
    """

    _separate = frozenset({"extends", "top_logprobs"})  # confidences of two models are on two scales

    def __init__(self, members: Sequence[Member], counts: Sequence[int]) -> None:
        if len(counts) != len(members) or not members or any(c < 0 for c in counts) or not sum(counts):
            raise ConfigError(f"a mix of {len(members)} members needs as many counts, not all 0; found {list(counts)}")
        self.counts = tuple(int(c) for c in counts)
        used = [i for i, count in enumerate(self.counts) if count]
        self._turns: list[tuple[int, int]] = []
        self._round: dict[int, int] = {}
        for position in proportional_sequence(self.counts):
            engine = id(members[position].engine)
            self._turns.append((position, self._round.get(engine, 0)))
            self._round[engine] = self._round.get(engine, 0) + 1
        super().__init__(members, used, ["mixed", [self.counts[i] for i in used]])

    def place(self, problem_id: str, index: int) -> tuple[int, int]:
        """Return the member that answers sample `index` of a problem, and the sample's index there."""
        rounds, at = divmod(index, len(self._turns))
        position, own = self._turns[at]
        return position, rounds * self._round[id(self.members[position].engine)] + own

    def over(self, wrap: Callable[[Engine], Engine]) -> MixedEngine:
        """Return the same mix with each distinct engine wrapped, as in a cache."""
        other = MixedEngine(_wrapped(self.members, wrap), self.counts)
        other._prompts = self._prompts
        return other


class RoutedEngine(Joint):
    """Each problem is answered by one member: implements `ttc.core.protocols.Engine`.

    Samples are those of the member's own cell. Source: routing of Damani et al. 2024 (arXiv 2410.04707);
    `ttc.allocate.route` decides.

    Args:
        members: the configurations, the weak one first where there are two.
        route: the position of each problem's member; a member that nobody is sent to is not started.

    Raises:
        ConfigError: a position that is no member's, or no problem at all.
    """

    def __init__(self, members: Sequence[Member], route: Mapping[str, int]) -> None:
        self.route = dict(route)
        used = sorted(set(self.route.values()))
        if not used or used[0] < 0 or used[-1] >= len(members):
            raise ConfigError(f"a route names members 0 to {len(members) - 1}, found {used}")
        super().__init__(members, used, ["routed", [[p, used.index(i)] for p, i in sorted(self.route.items())]])

    def place(self, problem_id: str, index: int) -> tuple[int, int]:
        """Return the member that answers a problem, and the sample's index, which is its own."""
        if problem_id not in self.route:
            raise ConfigError(f"problem {problem_id!r} is not on the route", "give every problem a member")
        return self.route[problem_id], index

    def over(self, wrap: Callable[[Engine], Engine]) -> RoutedEngine:
        """Return the same route with each distinct engine wrapped, as in a cache."""
        other = RoutedEngine(_wrapped(self.members, wrap), self.route)
        other._prompts = self._prompts
        return other


def proportional_sequence(counts: Sequence[int]) -> tuple[int, ...]:
    """Return each position as often as it counts, so that every prefix is as proportional as its predecessor allows.

    The next place goes to the largest deficit: its share of the places so far less those it has. Ties go to the first.
    """
    whole, given = sum(counts), [0] * len(counts)
    turns: list[int] = []
    for places in range(1, whole + 1):
        deficits = [count * places - whole * had for count, had in zip(counts, given, strict=True)]
        turns.append(deficits.index(max(deficits)))
        given[turns[-1]] += 1
    return tuple(turns)


def _wrapped(members: Sequence[Member], wrap: Callable[[Engine], Engine]) -> list[Member]:
    distinct = {id(m.engine): m.engine for m in members}
    wrapped = {name: wrap(engine) for name, engine in distinct.items()}
    return [replace(m, engine=wrapped[id(m.engine)]) for m in members]
