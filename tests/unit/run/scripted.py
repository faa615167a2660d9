"""An engine whose every completion is written down beforehand, and what it takes to run a strategy on it."""

import asyncio
import random

from ttc.core.errors import EngineError
from ttc.core.types import Completion, Exhausted, Message, Problem, Prompt, Sampling, Usage
from ttc.run.context import MeteredContext, Prices, World
from ttc.run.granting import Fixed
from ttc.run.ledger import Ledger
from ttc.run.solve import Attempt, solve


class Scripted:
    """Deals `script[index]`: (answer, completion tokens), or an exception to raise; repeats its last line."""

    label, fingerprint, parameters = "scripted", "scripted", None

    def __init__(self, script, *, delay=None, context_tokens=None, prompt_tokens=10, endless=True, cached=0, **extra):
        self.script, self.delay, self.context_tokens = list(script), delay, context_tokens
        self.prompt_tokens, self.endless, self.cached, self.extra = prompt_tokens, endless, cached, extra
        self.immediate = delay is None
        self.capabilities = frozenset({"live", "extends", "temperature", "top_logprobs"})
        self.requests, self.running, self.most_running = [], 0, 0

    def render(self, messages, flags=None):
        return Prompt(tuple(messages), tuple(range(self.prompt_tokens)))

    def decode(self, tokens):
        return "".join(map(chr, tokens))

    async def start(self):
        pass

    async def close(self):
        pass

    async def generate(self, requests):
        (request,) = requests
        self.requests.append(request)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            if self.delay is not None:
                await self.delay(request)
            return [self.completion(request)]
        finally:
            self.running -= 1

    def completion(self, request):
        if request.index >= len(self.script) and not self.endless:
            raise Exhausted
        line = self.script[min(request.index, len(self.script) - 1)]
        if isinstance(line, Exception):
            raise line
        answer, length = line
        fits = length <= request.max_tokens
        fields = {name: values[request.index] for name, values in self.extra.items()}
        return Completion(
            index=request.index,
            text=answer or "",
            tokens=tuple(range(min(length, request.max_tokens))),
            finish="stop" if fits else "length",
            usage=Usage(request.prompt.tokens.__len__() - self.cached, self.cached, min(length, request.max_tokens)),
            answer=answer if fits else None,
            **fields,
        )


async def forever(_request):
    await asyncio.Event().wait()


def shuffled(seed, turns=8):
    """Finish calls in any order: each yields to the event loop a random number of times."""
    dice = random.Random(seed)

    async def delay(_request):
        for _ in range(dice.randrange(turns)):
            await asyncio.sleep(0)

    return delay


class Judge:
    """Answers are in the script already; `gold` is right."""

    def __init__(self, gold="right", fault=None):
        self.gold, self.fault = gold, fault

    async def read(self, problem_id, completions):
        return list(completions)

    async def verdicts(self, problem_id, draw, candidates):
        if isinstance(self.fault, Exception):
            raise self.fault
        if self.fault is not None:
            return [self.fault for _ in candidates]
        return [c.answer == self.gold and c.answer is not None for c in candidates]


def question(engine, number=1):
    return Problem(f"p{number}", "How many?", engine.render([Message("user", "How many?")]))


def world(engine, *, cap=100, floor=1, seed=0, reward=None, prices=None, judge=None):
    prices = prices if prices is not None else Prices()
    return World(engine, judge or Judge(), Sampling(max_tokens=cap), seed, floor, reward, prices)


def context(engine, grant, *, total=None, **options):
    return MeteredContext(world(engine, **options), question(engine), Ledger(grant, total))


def attempt(strategy, engine, grant=10**6, *, timeout_s=30.0, total=None, draws=1, judge=None, **options):
    judge = judge or Judge()
    limit = total if total is not None else 10**9
    granters = [Fixed(Ledger(limit), {"p1": grant}) for _ in range(draws)]
    return Attempt(
        strategy, question(engine), granters, world(engine, judge=judge, **options), judge, timeout_s
    )  # fmt: skip


def answered(strategy, engine, grant=10**6, **options):
    """Run a strategy once and return its outcome."""
    return asyncio.run(solve(attempt(strategy, engine, grant, **options)))[0]


def refused(tokens=None):
    """Return what an engine raises where a call fails; `tokens` is what it says it moved."""
    return EngineError("refused", usage=None if tokens is None else Usage(completion=tokens))
