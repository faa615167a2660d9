"""The metered context: the only road from a strategy to an engine or a reward model."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from ttc.core.errors import ConfigError, EngineError
from ttc.core.identity import sample_seed
from ttc.core.profiles import DEFAULT, ModelProfile
from ttc.core.protocols import Engine, RewardModel
from ttc.core.types import (
    Completion,
    Exhausted,
    GenRequest,
    Message,
    Problem,
    Prompt,
    Sampling,
    Steps,
    StepScores,
    Tokens,
    Usage,
)
from ttc.engines.joint import HasRates
from ttc.run.ledger import Ledger


class AnswerReader(Protocol):
    """Fills in `Completion.answer`."""

    async def read(self, problem_id: str, completions: Sequence[Completion]) -> list[Completion]:
        """Extract answers, spelled as the first equivalent answer of the same problem."""


@dataclass(frozen=True, slots=True)
class Prices:
    """Exchange rates into completion tokens (`--price`): what one other token costs. All 0 by default."""

    prompt: float = 0.0
    cached: float = 0.0
    reward: float = 0.0

    def charge(self, usage: Usage) -> int:
        """Return the budget tokens of a usage, rounded up."""
        extra = self.prompt * usage.prompt + self.cached * usage.cached + self.reward * usage.reward
        return usage.completion + math.ceil(extra - 1e-9)

    def worst_case(self, prompt_tokens: int) -> int:
        """Return what a prompt costs at most: all of it at the dearer of the two rates."""
        return math.ceil(max(self.prompt, self.cached) * prompt_tokens - 1e-9)


def rate_of(engine: Engine, problem_id: str, index: int) -> float:
    """Return the budget tokens that a token of a call costs: 1, unless the engine is made of several."""
    return engine.rate(problem_id, index) if isinstance(engine, HasRates) else 1.0


def flops_of(engine: Engine, request: GenRequest, usage: Usage) -> float | None:
    """Return the FLOPs of a call, None where the size of the model that answered is not known."""
    parameters = engine.parameters
    if isinstance(engine, HasRates):
        parameters = engine.parameters_of(request.problem_id, request.index)
    return None if parameters is None else 2.0 * parameters * (usage.prompt + usage.completion)


def weighted(rate: float, tokens: int) -> int:
    """Return what tokens cost at a rate: whole budget tokens, rounded up."""
    return math.ceil(rate * tokens - 1e-9)


@dataclass(slots=True)
class Meter:
    """What one problem has used so far."""

    usage: Usage = field(default_factory=Usage)
    probe_tokens: int = 0
    sequential_tokens: int = 0
    calls: int = 0
    cache_hits: int = 0
    ended: Literal["budget", "exhausted"] | None = None
    drawn: list[Completion] = field(default_factory=list)
    """Whole answers to the problem's own prompt, in the order they were read."""
    attended_tokens: int = 0
    """Summed over generated tokens: how many tokens stand before each."""
    flops: float | None = 0.0
    """None once a model of unknown size has answered."""
    kv_read_tokens: int = 0
    """The same, but a prefix that calls made together share is read once a step for all of them."""

    def attend(self, together: Sequence[Completion]) -> None:
        """Count what the tokens of completions of one prefix, drawn together, attend to."""
        lengths = [c.usage.completion for c in together]
        prefix = max((c.usage.prompt + c.usage.cached for c in together), default=0)
        own = sum(length * (length - 1) // 2 for length in lengths)
        self.attended_tokens += prefix * sum(lengths) + own
        self.kv_read_tokens += prefix * max(lengths, default=0) + own


@dataclass(frozen=True, slots=True)
class World:
    """What all problems of a cell share."""

    engine: Engine
    reader: AnswerReader
    sampling: Sampling
    seed: int
    min_call_tokens: int
    reward: RewardModel | None = None
    prices: Prices = Prices()
    on_tokens: Callable[[int], None] | None = None
    """Told the completion tokens of each call, for a progress display."""
    profile: ModelProfile = DEFAULT


@dataclass(slots=True)
class MeteredContext:
    """Implements `ttc.core.protocols.Context` (architecture, "Tokens are the one currency")."""

    world: World
    problem: Problem
    ledger: Ledger
    meter: Meter = field(default_factory=Meter)
    draw: int = 0
    more: Callable[[Sequence[Completion]], Awaitable[bool]] | None = None
    """Asked when the grant ends, with what was drawn: whether it holds more now (`ttc.run.granting`)."""
    path: str = ""
    depth: int = 0
    """Generated tokens on the longest causal chain that a call made here now depends on; inner branches are over."""
    _next_index: int = 0
    _branches: set[str] = field(default_factory=set)
    _parent: MeteredContext | None = None
    _stopped: bool = False
    """No further call is worth starting: one failed, or the recorded pool is used up."""

    @property
    def remaining(self) -> int:
        """Return the tokens that are neither spent nor reserved."""
        return self.ledger.remaining

    @property
    def sampling(self) -> Sampling:
        """Return the run's own sampling settings."""
        return self.world.sampling

    @property
    def profile(self) -> ModelProfile:
        """Return how the run's model writes."""
        return self.world.profile

    @property
    def ended(self) -> Literal["budget", "exhausted"] | None:
        """Say why the last `sample` returned fewer completions than asked for, if it did."""
        return self.meter.ended

    def branch(self, key: str) -> MeteredContext:
        """Return a context on the same grant with its own seed stream.

        Raises:
            ConfigError: the key was used before: two branches would draw the same samples.
        """
        if key in self._branches:
            raise ConfigError(f"branch {key!r} was opened twice for problem {self.problem.id}")
        self._branches.add(key)
        return replace(self, path=f"{self.path}/{key}", _next_index=0, _branches=set(), _parent=self)

    def _deepen(self, depth: int) -> None:
        """Note a chain that ended here. No context is deeper than the one around it, so the walk ends early."""
        context: MeteredContext | None = self
        while context is not None and context.depth < depth:
            context.depth = depth
            context = context._parent

    async def sample(self, prefix: Prompt, n: int | None, sampling: Sampling) -> list[Completion]:
        """Draw up to `n` completions of `prefix`, in index order; None: as many as the grant pays for.

        Calls start in index order, each as soon as its whole cap can be reserved. Returns fewer where the grant
        ends first, or a recorded pool or the model's context is used up; `ended` then says which.

        Raises:
            EngineError: a call failed; every other call has settled by then.
        """
        self._check(prefix)
        drawn: list[Completion] = []
        while True:
            drawn += await self._draw(prefix, None if n is None else n - len(drawn), sampling)
            if self.meter.ended != "budget" or self.more is None or not await self.more(self.meter.drawn):
                return drawn

    async def _draw(self, prefix: Prompt, n: int | None, sampling: Sampling) -> list[Completion]:
        """Draw what the grant pays for as it is now."""
        self.meter.ended, self._stopped = None, False
        start = self.depth
        calls: list[asyncio.Task[Completion] | Completion] = []
        try:
            await self._start_calls(calls, prefix, n, sampling)
        except Exhausted:
            self.meter.ended = "exhausted"
        except asyncio.CancelledError:
            _cancel(calls)  # cancelled while a later call waited for room: this is the only notice
            raise
        finally:
            await _settle(calls)
        completions = self._results(calls)
        self.meter.attend(completions)
        self._deepen(start + max((c.usage.completion for c in completions), default=0))
        self.meter.sequential_tokens = max(self.meter.sequential_tokens, self.depth)
        if sampling.kind == "probe":
            self.meter.probe_tokens += sum(c.usage.completion for c in completions)
        completions = await self._read(prefix, completions)
        if sampling.kind == "answer" and prefix.tokens == self.problem.prompt.tokens:
            self.meter.drawn += completions
        return completions

    async def _read(self, prefix: Prompt, completions: list[Completion]) -> list[Completion]:
        """Fill in the answers of whole responses; one that stopped at a separator goes on and has none."""
        world, own = self.world, self.world.sampling.stop
        ended = [
            i
            for i, c in enumerate(completions)
            if c.stop_reason is None or c.stop_reason in own or not world.profile.is_separator(c.stop_reason)
        ]
        whole = [completions[i] for i in ended]
        if prefix.generated:  # together: a tokenizer may spell the start of a text otherwise than its middle
            whole = [
                replace(c, text=world.engine.decode(prefix.generated + c.tokens)) if c.finish == "stop" else c
                for c in whole  # nobody reads what was cut
            ]
        read = await world.reader.read(self.problem.id, whole)
        for i, with_answer in zip(ended, read, strict=True):
            completions[i] = replace(completions[i], answer=with_answer.answer)
        return completions

    def render(self, messages: Sequence[Message]) -> Prompt:
        """Apply the chat template with the profile's flags."""
        return self.world.engine.render(messages, self.world.profile.template_flags)

    def encode(self, text: str) -> Tokens:
        """Return the tokens of a text to be put into a response."""
        return self.world.engine.encode(text)

    async def _start_calls(
        self, calls: list[asyncio.Task[Completion] | Completion], prefix: Prompt, n: int | None, sampling: Sampling
    ) -> None:
        world = self.world
        cap, prompt_cost = self._caps(prefix, sampling)
        while (n is None or len(calls) < n) and not self._stopped:
            rate = rate_of(world.engine, self.problem.id, self._next_index)
            # What the prompt costs comes on top of the smallest call worth making.
            whole, least = (weighted(rate, tokens + prompt_cost) for tokens in (cap, world.min_call_tokens))
            reserved = await self.ledger.reserve(whole, least)
            if reserved is None:
                self.meter.ended = "budget"
                return
            index, self._next_index = self._next_index, self._next_index + 1
            request = GenRequest(
                problem_id=self.problem.id,
                prompt=prefix,
                sampling=sampling,
                max_tokens=min(cap, math.floor(reserved / rate + 1e-9) - prompt_cost),
                seed=sample_seed(world.seed, self.problem.id, self.path, index),
                index=index,
                draw=self.draw,
            )
            call = self._call(request, reserved)
            calls.append(await call if world.engine.immediate else asyncio.create_task(call))

    def _results(self, calls: Sequence[asyncio.Task[Completion] | Completion]) -> list[Completion]:
        done, failures = [], []
        for call in calls:
            failure = call.exception() if isinstance(call, asyncio.Task) else None
            if isinstance(failure, Exhausted):
                self.meter.ended = "exhausted"
            elif failure is not None:
                failures.append(failure)
            else:
                done.append(call.result() if isinstance(call, asyncio.Task) else call)
        if failures:
            raise failures[0]  # the lowest index: the same one at any timing
        return done

    async def _call(self, request: GenRequest, reserved: int) -> Completion:
        meter, engine = self.meter, self.world.engine
        rate = rate_of(engine, request.problem_id, request.index)
        # A call that ends without saying what it spent is charged all it reserved.
        usage, charge = Usage(completion=request.max_tokens), reserved
        ended = False
        try:
            completion = (await engine.generate([request]))[0]
            usage = completion.usage
            charge = weighted(rate, self.world.prices.charge(usage))
            meter.calls += 1
            meter.cache_hits += completion.from_cache
            ended = True
            return completion
        except Exhausted:
            usage, charge = Usage(), 0
            raise
        except EngineError as error:
            if error.usage is not None:
                usage = error.usage
                charge = min(reserved, weighted(rate, self.world.prices.charge(usage)))
            raise
        finally:
            self._stopped = self._stopped or not ended
            meter.usage += usage
            flops = flops_of(engine, request, usage)
            meter.flops = None if meter.flops is None or flops is None else meter.flops + flops
            self.ledger.settle(reserved, charge)
            if self.world.on_tokens is not None:
                self.world.on_tokens(usage.completion)

    def call_tokens(self) -> int:
        """Return what one whole answer to the problem's prompt reserves. Raises EngineError where it does not fit."""
        tokens = sum(self._caps(self.problem.prompt, self.world.sampling))
        return weighted(rate_of(self.world.engine, self.problem.id, 0), tokens)

    def _caps(self, prefix: Prompt, sampling: Sampling) -> tuple[int, int]:
        """Return the most tokens one call may generate, and the most its prompt may be charged."""
        engine, length = self.world.engine, len(prefix.tokens)
        cap = sampling.max_tokens
        if engine.context_tokens is not None and length:
            cap = min(cap, engine.context_tokens - length)
            if cap < 1:
                if prefix.tokens != self.problem.prompt.tokens:
                    raise Exhausted  # the strategy's own text has filled the context: it stops like a used-up pool
                raise EngineError(
                    f"problem {self.problem.id}: the prompt has {length} tokens, the model's context is"
                    f" {engine.context_tokens}",
                    "use a model with a longer context, or leave this problem out",
                )
        prices = self.world.prices
        if not length and (prices.prompt or prices.cached):
            raise ConfigError("--price needs prompt lengths, which a chat-only endpoint does not tell beforehand")
        return cap, prices.worst_case(length)

    def _check(self, prefix: Prompt) -> None:
        if prefix.generated and "extends" not in self.world.engine.capabilities:
            raise ConfigError(
                f"engine {self.world.engine.label} cannot extend a prefix",
                "use a strategy that only draws whole answers, or a vLLM engine or server",
            )

    async def score(self, responses: Sequence[Steps]) -> list[StepScores]:
        """Score each response's steps by the run's reward model, charged at the reward price.

        Returns fewer scores than responses where the price ends the grant.

        Raises:
            ConfigError: the run has no reward model.
            EngineError: the reward model failed.
        """
        reward = self.world.reward
        if reward is None:
            raise ConfigError("this run has no reward model", "give --prm, or a strategy that needs no scores")
        if not responses:
            return []
        price, cost, reserved = self.world.prices.reward, 0, 0
        if price:
            cost = math.ceil(price * reward.count_tokens(self.problem, responses) - 1e-9)
        if cost:
            held = await self.ledger.reserve(cost, cost)
            if held is None:
                self.meter.ended = "budget"
                return []
            reserved = held
        spent = reserved
        try:
            scores, tokens = await reward.score(self.problem, responses)
            usage = Usage(reward=tokens)
            self.meter.usage += usage
            spent = self.world.prices.charge(usage)
        finally:
            if reserved:
                self.ledger.settle(reserved, spent)
        return scores


async def _settle(calls: Sequence[asyncio.Task[Completion] | Completion]) -> None:
    """Wait until every call has ended; when this is cancelled, so are they."""
    tasks = [call for call in calls if isinstance(call, asyncio.Task)]
    if not tasks:
        return
    try:
        await asyncio.wait(tasks)
    except asyncio.CancelledError:
        _cancel(calls)
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


def _cancel(calls: Sequence[asyncio.Task[Completion] | Completion]) -> None:
    for call in calls:
        if isinstance(call, asyncio.Task):
            call.cancel()
