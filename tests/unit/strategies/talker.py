"""An engine that says what a function tells it, with tokens, stops and caps as vLLM reports them."""

import asyncio

from ttc.core.profiles import DEFAULT
from ttc.core.types import Completion, Message, Problem, Prompt, Sampling, Usage
from ttc.run.context import MeteredContext, World
from ttc.run.ledger import Ledger
from ttc_evals.extraction import last_boxed

END = 0x10FFFF
"""The end token: in the tokens of what ended by itself, in no text."""


class Talker:
    """Tokens are code points. `say(question, written, request)` returns all that the model would go on to write."""

    label = fingerprint = "talker"
    parameters = None
    immediate = True
    capabilities = frozenset({"live", "extends", "temperature", "top_logprobs"})

    def __init__(self, say, *, context_tokens=None, logprob=None):
        self.say, self.context_tokens, self.logprob = say, context_tokens, logprob
        self.requests, self.written = [], []

    def render(self, messages, flags=None):
        text = "".join(f"<{m.role}>{m.content}" for m in messages) + "<assistant>"
        return Prompt(tuple(messages), tuple(map(ord, text)))

    def encode(self, text):
        return tuple(map(ord, text))

    def decode(self, tokens):
        return "".join(chr(token) for token in tokens if token != END)

    async def start(self):
        pass

    async def close(self):
        pass

    async def generate(self, requests):
        (request,) = requests
        self.requests.append(request)
        written = self.decode(request.prompt.generated)
        self.written.append(written)
        await asyncio.sleep(0)
        return [self._stopped(request, self.say(self.decode(request.prompt.ids), written, request))]

    def _stopped(self, request, text):
        at = {word: text.find(word) for word in request.sampling.stop if word in text}
        stop = min(at, key=at.get) if at else None
        kept = text[: at[stop]] if stop else text
        tokens = (*map(ord, kept + (stop or "")), *(() if stop else (END,)))
        cut = len(tokens) > request.max_tokens
        tokens = tokens[: request.max_tokens]
        kept = self.decode(tokens) if cut else kept
        return Completion(
            index=request.index, text=kept, tokens=tokens, finish="length" if cut else "stop",
            stop_reason=None if cut else stop, usage=Usage(len(request.prompt.tokens), 0, len(tokens)),
            logprob=None if self.logprob is None else self.logprob(kept),
        )  # fmt: skip


class Boxes:
    """Reads boxed answers, as the tasks do."""

    async def read(self, problem_id, completions):
        import dataclasses

        return [
            dataclasses.replace(c, answer=last_boxed(c.text) if c.finish == "stop" else None) for c in completions
        ]  # fmt: skip


def run(strategy, engine, grant, *, profile=DEFAULT, cap=512, reward=None, floor=1):
    """Solve one question and return the answer and the context."""
    problem = Problem("p", "How many?", engine.render([Message("user", "How many?")]))
    world = World(engine, Boxes(), Sampling(max_tokens=cap), 0, floor, reward, profile=profile)
    ctx = MeteredContext(world, problem, Ledger(grant))
    answer = asyncio.run(strategy.solve(problem, ctx))
    assert ctx.ledger.spent == ctx.meter.usage.completion <= grant
    assert ctx.ledger.reserved == 0
    return answer, ctx
