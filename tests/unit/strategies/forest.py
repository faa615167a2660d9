"""A model whose every continuation is a function of the prefix and the sample's index, and a reward that is one of the text.

Searches can then be followed on paper: `grow(prefix, index)` returns the next step, ended by `;` where the response
goes on; what follows `#` is its answer. Tokens are code points.
"""

import asyncio
import hashlib
from dataclasses import replace

from ttc.core.errors import EngineError
from ttc.core.profiles import ModelProfile
from ttc.core.types import Completion, Message, Problem, Prompt, Sampling, Usage
from ttc.run.context import MeteredContext, World
from ttc.run.granting import Fixed
from ttc.run.ledger import Ledger
from ttc.run.solve import Attempt, solve

PROFILE = ModelProfile("forest", step_stop=(";",), step_tokens=2, steps=4)


def unit(*parts):
    """Return a number in [0, 1) hashed from the parts."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=6).digest(), "big") / 2**48


class Forest:
    label, fingerprint, parameters, context_tokens = "forest", "forest", None, None
    capabilities = frozenset({"live", "extends", "temperature", "top_logprobs"})
    immediate = True

    def __init__(self, grow, *, delay=None):
        self.grow, self.requests, self.delay = grow, [], delay
        self.immediate = delay is None

    def render(self, messages, flags=None):
        return Prompt(tuple(messages), (63,))

    def decode(self, tokens):
        return "".join(map(chr, tokens))

    def encode(self, text):
        return tuple(map(ord, text))

    async def generate(self, requests):
        (request,) = requests
        self.requests.append(request)
        if self.delay is not None:
            await self.delay(request)
        text = self.grow(self.decode(request.prompt.generated), request.index)
        sampling = request.sampling
        by_string, by_token = ";" in sampling.stop, ord(";") in sampling.stop_token_ids
        while not (by_string or by_token) and text.endswith(";"):  # no separator stops it: it goes on to its end
            text += self.grow(self.decode(request.prompt.generated) + text, request.index)
        cut = len(text) > request.max_tokens
        tokens = tuple(map(ord, text[: request.max_tokens]))
        stopped = text.endswith(";") and not cut
        shown = text[:-1] if stopped else text[: request.max_tokens]
        return [
            Completion(
                index=request.index,
                text=shown,
                tokens=tokens,
                finish="length" if cut else "stop",
                usage=Usage(len(request.prompt.tokens), 0, len(tokens)),
                stop_reason=(";" if by_string else ord(";")) if stopped else None,
            )
        ]


class Judge:
    async def read(self, problem_id, completions):
        return [
            replace(c, answer=c.text.rpartition("#")[2]) if "#" in c.text and c.finish == "stop" else c
            for c in completions
        ]

    async def verdicts(self, problem_id, draw, candidates):
        return [c.answer == "right" for c in candidates]


class Reward:
    """Scores each step's whole text by `value`; keeps what it was asked."""

    label = fingerprint = "forest"

    def __init__(self, value, fail_at=None):
        self.value, self.asked, self.calls, self.fail_at = value, [], 0, fail_at

    def count_tokens(self, problem, responses):
        return len(responses)

    async def score(self, problem, responses):
        self.calls += 1
        if self.calls == self.fail_at:
            raise EngineError("the reward model failed")
        rows = []
        for steps in responses:
            texts = ["".join(s.text for s in steps[: i + 1]) for i in range(len(steps))]
            self.asked.append(texts[-1])
            rows.append(tuple(self.value(text) for text in texts))
        return rows, len(responses)


def problem(engine):
    return Problem("p", "?", engine.render([Message("user", "?")]))


def world(engine, reward, *, max_tokens=100, floor=1, profile=PROFILE, seed=0):
    return World(engine, Judge(), Sampling(max_tokens=max_tokens), seed, floor, reward, profile=profile)


def context(engine, reward, grant, **options):
    return MeteredContext(world(engine, reward, **options), problem(engine), Ledger(grant))


def searched(strategy, engine, reward, grant=100_000, **options):
    """Run a strategy on one problem and return its outcome."""
    shared = world(engine, reward, **options)
    attempt = Attempt(strategy, problem(engine), (Fixed(Ledger(10**9), {"p": grant}),), shared, Judge(), 500.0)
    outcome = asyncio.run(solve(attempt))[0]
    assert outcome.error is None, outcome.error
    return outcome


def letters(depth, *, width=26, jitter=0):
    """Return a model that writes one letter a step by index, and ends after `depth` (or a few fewer) letters."""

    def grow(prefix, index):
        written = prefix.count(";")
        letter = (
            chr(ord("a") + int(unit("letter", prefix, index) * width)) if width < 26 else chr(ord("a") + index % 26)
        )
        ends = written + 1 >= depth - int(jitter * unit("end", prefix, index))
        return f"{letter}#{letter}" if ends else f"{letter};"

    return grow


def texts(outcome):
    return sorted(c.text for c in outcome.answer.candidates)
