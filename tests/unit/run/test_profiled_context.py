"""What strategies that stop, insert and go on rely on: whole answers, inserted text, templates, a full context."""

import asyncio
import dataclasses
import json

import pytest
from scripted import Scripted, context, question

from ttc.core.errors import ConfigError, EngineError
from ttc.core.profiles import DEFAULT, PROFILES
from ttc.core.specs import ModelSpec, parse_config
from ttc.core.types import Completion, Message, Prompt, Sampling, Usage
from ttc.engines.fake import FakeEngine
from ttc.engines.opening import open_engine
from ttc.run.bench import make_benches, serve
from ttc.run.context import MeteredContext, World
from ttc.run.ledger import Ledger


class Reader:
    """Answers with the whole text it was shown."""

    def __init__(self):
        self.read_texts = []

    async def read(self, problem_id, completions):
        self.read_texts += [c.text for c in completions]
        return [dataclasses.replace(c, answer=c.text) for c in completions]


class Stops(Scripted):
    """Ends every completion by one reason."""

    def __init__(self, text, stop_reason=None):
        super().__init__([("", len(text))])
        self.text, self.reason, self.finish, self.decoded = text, stop_reason, "stop", 0

    def completion(self, request):
        tokens = tuple(map(ord, self.text))
        return Completion(
            request.index, self.text, tokens, self.finish, Usage(0, 0, len(tokens)), stop_reason=self.reason
        )

    def decode(self, tokens):
        self.decoded += 1
        return super().decode(tokens)


def read(engine, prefix, *, profile=DEFAULT, stop=()):
    reader = Reader()
    world = World(engine, reader, Sampling(stop=stop), 0, 1, profile=profile)
    ctx = MeteredContext(world, question(engine), Ledger(10**6))
    (drawn,) = asyncio.run(ctx.sample(prefix, 1, Sampling(stop=("x",))))
    return drawn, reader.read_texts


def test_the_answer_of_a_continued_response_is_that_of_all_of_it():
    prefix = Prompt((), (1, 2), tuple(map(ord, "one two ")))
    drawn, shown = read(Stops("three"), prefix)
    assert shown == ["one two three"]
    assert (drawn.answer, drawn.text) == ("one two three", "three")
    cut = Stops("three")
    cut.finish = "length"
    read(cut, prefix)
    assert cut.decoded == 0  # a server is asked for text while everything waits
    drawn, _ = read(Stops("three"), Prompt((), (1, 2)))
    assert drawn.answer == "three"


def test_a_response_that_goes_on_is_not_read():
    for reason in ("\n\n", "\nExecution:"):
        drawn, shown = read(Stops("step", reason), Prompt((), (1, 2)))
        assert (drawn.answer, shown) == (None, [])
    drawn, shown = read(Stops("14", "}"), Prompt((), (1, 2)))
    assert drawn.answer == "14", "a forced answer is an answer"
    drawn, shown = read(Stops("14", "\n\n"), Prompt((), (1, 2)), stop=("\n\n",))
    assert drawn.answer == "14", "the run's own stop string ends a response"


def test_inserted_text_is_read_not_generated():
    engine = FakeEngine()
    world = World(engine, Reader(), Sampling(max_tokens=200), 0, 1, profile=DEFAULT)
    ctx = MeteredContext(world, question(engine), Ledger(1000))
    prompt = ctx.problem.prompt.extend(ctx.encode("Wait"))
    assert engine.decode(prompt.generated) == "Wait"
    (drawn,) = asyncio.run(ctx.sample(prompt, 1, ctx.sampling))
    assert ctx.meter.usage.prompt == len(prompt.tokens)
    assert ctx.meter.usage.completion == len(drawn.tokens)


def test_the_template_is_applied_with_the_profiles_flags():
    class Templated(Scripted):
        def render(self, messages, flags=None):
            self.flags = flags
            return super().render(messages)

    engine = Templated([("a", 1)])
    profile = dataclasses.replace(DEFAULT, template_flags={"enable_thinking": False})
    ctx = MeteredContext(World(engine, Reader(), Sampling(), 0, 1, profile=profile), question(engine), Ledger(9))
    ctx.render([Message("user", "hi")])
    assert engine.flags == {"enable_thinking": False}


def test_a_strategys_own_text_that_fills_the_context_ends_drawing():
    ctx = context(Scripted([("a", 5)], context_tokens=20, prompt_tokens=10), 1000)
    full = ctx.problem.prompt.extend(tuple(range(10)))
    assert asyncio.run(ctx.sample(full, 2, ctx.sampling)) == []
    assert (ctx.ended, ctx.meter.calls, ctx.ledger.reserved) == ("exhausted", 0, 0)
    with pytest.raises(EngineError, match="context is 10"):
        ctx = context(Scripted([("a", 5)], context_tokens=10, prompt_tokens=10), 1000)
        asyncio.run(ctx.sample(ctx.problem.prompt, 1, ctx.sampling))


def bench_of(tmp_path, **model):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"id": "p", "question": "What is 1 + 4?", "answer": "5"}))
    config = parse_config(
        {"task": {"name": "local", "data": str(tmp_path / "rows.jsonl")}, "model": {"path": "fake", **model}}, "t"
    )
    (bench,), _ = make_benches(config, open_engine)
    return bench


def test_a_bench_has_the_profile_of_its_model(tmp_path):
    plain = bench_of(tmp_path)
    assert plain.profile == DEFAULT
    assert bench_of(tmp_path, label="Qwen3-0.6B").profile == PROFILES["qwen3"]
    named = bench_of(tmp_path, profile="embedded")
    assert named.profile == PROFILES["embedded"]
    assert named.subject.engine_fingerprint != plain.subject.engine_fingerprint, "other prompts, other results"
    own = bench_of(tmp_path, profile={"sample_tokens": 7})
    assert own.profile == dataclasses.replace(DEFAULT, sample_tokens=7)
    assert own.subject.engine_fingerprint not in (plain.subject.engine_fingerprint, named.subject.engine_fingerprint)
    with pytest.raises(ConfigError, match="unknown model profile"):
        bench_of(tmp_path, profile="embeded")


def test_a_profile_is_matched_by_the_architecture_where_the_engine_knows_it():
    class Known(FakeEngine):
        architecture = "Qwen3ForCausalLM"

    assert serve(ModelSpec(path="x"), Known(), None).profile == PROFILES["qwen3"]
