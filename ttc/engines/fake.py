"""A deterministic engine for logic: no model, no weights, no claim about speed or accuracy.

It "solves" a question one paragraph a step and ends with a boxed number. The reference answer is the value of the
first `a + b`, `a - b` or `a * b` in the question, else a number hashed from it. Each step goes wrong with a
chance that depends on the question's hashed difficulty; a wrong step shifts the final answer. Tokens are
Unicode code points, so prefixes can be extended and cut anywhere.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ttc.core.errors import EngineError
from ttc.core.identity import identity
from ttc.core.protocols import Capability
from ttc.core.types import Completion, Finish, GenRequest, Message, Problem, Prompt, Steps, StepScores, Tokens, Usage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_ARITHMETIC = re.compile(r"(\d{1,9})\s*([+*-])\s*(\d{1,9})")
_STEP = re.compile(r"Step \d+: (right|wrong)")


@dataclass(frozen=True, slots=True)
class FakeOptions:
    """How the fake behaves. `p` is the chance of a right step on the hardest question."""

    p: float = 0.6
    fail: float = 0.0
    """Share of calls that raise an EngineError, chosen by seed."""
    delay_s: float = 0.0
    """Seconds a call takes; 0 answers at once."""
    context_tokens: int = 8192
    label: str = "fake"


def fake_gold(question: str) -> int:
    """Return the answer that the fake engine holds for right."""
    found = _ARITHMETIC.search(question)
    if found is None:
        return int(_unit("gold", question) * 1000)
    a, operation, b = int(found[1]), found[2], int(found[3])
    return {"+": a + b, "-": a - b, "*": a * b}[operation]


def _unit(*parts: object) -> float:
    """Return a number in [0, 1) hashed from the parts."""
    data = "\x1f".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(data, digest_size=6).digest(), "big") / 2**48


def _steps(question: str) -> int:
    """Return how many steps a solution has: 2 to 5."""
    return 2 + int(_unit("steps", question) * 4)


class FakeEngine:
    """Implements `ttc.core.protocols.Engine`."""

    parameters: int | None = None
    capabilities: frozenset[Capability] = frozenset({"live", "extends", "temperature", "top_logprobs"})

    def __init__(self, options: FakeOptions | None = None) -> None:
        self.options = options or FakeOptions()
        o = self.options
        self.label = o.label
        self.immediate = o.delay_s == 0
        self.context_tokens: int | None = o.context_tokens
        self.fingerprint = identity(["fake", 2, o.p, o.fail, o.context_tokens])

    async def start(self) -> None:
        """Do nothing: there is no model."""

    async def close(self) -> None:
        """Do nothing: there is no process."""

    def render(self, messages: Sequence[Message], flags: Mapping[str, bool | int | str] | None = None) -> Prompt:
        """Return the messages' contents as code points."""
        return _rendered(messages)

    def encode(self, text: str) -> Tokens:
        """Return the code points of a text."""
        return tuple(map(ord, text))

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of code points."""
        return "".join(map(chr, tokens))

    async def generate(self, requests: Sequence[GenRequest]) -> list[Completion]:
        """Answer each request by its seed alone."""
        if self.options.delay_s:
            await asyncio.sleep(self.options.delay_s)
        return [self._complete(request) for request in requests]

    def _complete(self, request: GenRequest) -> Completion:
        seed = 0 if request.sampling.temperature == 0 else request.seed
        if self.options.fail and _unit("fail", request.seed) < self.options.fail:
            raise EngineError("the fake engine failed this call, as it was told to", retryable=True)
        question = request.prompt.messages[-1].content if request.prompt.messages else ""
        text, wrong = self._solution(question, self.decode(request.prompt.generated), seed)
        text, tokens, finish, stop = _cut(text, request)
        mean_logprob = -0.2 - 0.1 * wrong - 0.2 * _unit("logprob", seed)
        return Completion(
            index=request.index,
            text=text,
            tokens=tuple(map(ord, tokens)),
            finish=finish,
            stop_reason=stop,
            usage=Usage(prompt=len(request.prompt.tokens), completion=len(tokens)),
            logprob=mean_logprob * len(tokens),
            confidence=1.0 - mean_logprob,
        )

    def _solution(self, question: str, prefix: str, seed: int) -> tuple[str, int]:
        """Return the rest of a solution after `prefix`, and how many of its steps are wrong in all."""
        steps = _steps(question)
        miss = (1 - self.options.p) * _unit("difficulty", question)
        marks = _STEP.findall(prefix)
        lines = []
        for number in range(len(marks) + 1, steps + 1):
            good = _unit("step", seed, number) >= miss
            marks.append("right" if good else "wrong")
            lines.append(f"Step {number}: {marks[-1]}" + "." * int(_unit("length", seed, number) * 12) + "\n\n")
        wrong = marks.count("wrong")
        # Few distinct wrong answers, so that votes can go either way.
        value = fake_gold(question) + (0 if not wrong else 1 + int(_unit("wrong", seed) * 3))
        return "".join(lines) + f"\\boxed{{{value}}}", wrong


def _rendered(messages: Sequence[Message]) -> Prompt:
    return Prompt(tuple(messages), tuple(map(ord, "\n".join(m.content for m in messages))))


def _cut(text: str, request: GenRequest) -> tuple[str, str, Finish, int | str | None]:
    """Apply stop strings, stop tokens and the cap, as vLLM does: the text leaves out what stopped it, tokens hold it.

    Returns:
        The text, the text with what stopped it, how it ended, and the stop string or token.
    """
    end, whole = len(text), len(text)
    reason: int | str | None = None
    for word in request.sampling.stop:
        at = text.find(word)
        if 0 <= at < end:
            end, whole, reason = at, at + len(word), word
    for token in request.sampling.stop_token_ids:
        at = text.find(chr(token))
        if 0 <= at < end:
            end, whole, reason = at, at + 1, token
    if whole > request.max_tokens:
        cut = text[: request.max_tokens]
        return cut, cut, "length", None
    return text[:end], text[:whole], "stop", reason


class FakeReward:
    """Scores a step by the share of right steps so far: implements `ttc.core.protocols.RewardModel`."""

    label = "fake"
    fingerprint = identity(["fake-reward", 1])
    parameters: int | None = None

    async def start(self) -> None:
        """Do nothing: there is no model."""

    async def close(self) -> None:
        """Do nothing: there is no process."""

    def count_tokens(self, problem: Problem, responses: Sequence[Steps]) -> int:
        """Return the characters of all responses with their prompts."""
        return sum(len(problem.prompt.ids) + sum(len(s.text) for s in steps) for steps in responses)

    async def score(self, problem: Problem, responses: Sequence[Steps]) -> tuple[list[StepScores], int]:
        """Score by the words the fake engine writes, with a little hashed noise."""
        scores = []
        for steps in responses:
            text, row = "", []
            for step in steps:
                text += step.text
                marks = _STEP.findall(text)
                share = marks.count("right") / len(marks) if marks else 0.5
                row.append(0.9 * share + 0.1 * _unit("score", text))
            scores.append(tuple(row))
        return scores, self.count_tokens(problem, responses)


class FakeEmbedder:
    """What the fake engine knows of a question, and hashed noise: implements `ttc.core.protocols.Embedder`."""

    width = 8
    fingerprint = identity(["fake-embedder", 1])

    def __init__(self, options: FakeOptions | None = None) -> None:
        self.options = options or FakeOptions()
        self.label = self.options.label

    async def start(self) -> None:
        """Do nothing: there is no model."""

    async def close(self) -> None:
        """Do nothing: there is no process."""

    def render(self, messages: Sequence[Message], flags: Mapping[str, bool | int | str] | None = None) -> Prompt:
        """Return the messages' contents as code points, as the fake engine does."""
        return _rendered(messages)

    async def embed(self, prompt: Prompt, problem_id: str) -> tuple[NDArray[np.float32], int]:
        """Return the question's difficulty in [0, 1), its steps and noise, and the prompt's length."""
        import numpy as np

        length = len(prompt.tokens)
        if length > self.options.context_tokens:
            raise EngineError(f"problem {problem_id!r}: {length} tokens do not fit the context of {self.label!r}")
        question = prompt.messages[-1].content if prompt.messages else ""
        known = [_unit("difficulty", question), float(_steps(question))]
        noise = [_unit("noise", question, i) for i in range(self.width - len(known))]
        return np.asarray(known + noise, dtype=np.float32), length
