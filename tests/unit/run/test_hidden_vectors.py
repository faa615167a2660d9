"""Hidden states are computed once, before the policy runs, and counted whenever they are used."""

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest

from ttc.api import make_plan
from ttc.core.errors import ConfigError, EngineError
from ttc.core.specs import ModelSpec
from ttc.engines.fake import FakeEmbedder, FakeOptions
from ttc.run import features
from ttc.run.features import check_features, hidden_vectors
from ttc.store.bank import Row, write_bank
from ttc.store.features import FILE, load_features, read_features

FAKE = ModelSpec(path="fake")


class Watched(FakeEmbedder):
    """Counts what is asked of it; `fails` says which problems are refused, or kill it."""

    def __init__(self, fails=None, options=None, fingerprint=None):
        super().__init__(options)
        self.fails = fails or {}
        self.fingerprint = fingerprint or self.fingerprint
        self.events, self.asked, self.flags = [], [], []

    async def start(self):
        self.events.append("start")

    async def close(self):
        self.events.append("close")

    def render(self, messages, flags=None):
        self.flags.append(dict(flags or {}))
        return super().render(messages, flags)

    async def embed(self, prompt, problem_id):
        assert self.events[-1] == "start"
        self.asked.append(problem_id)
        await asyncio.sleep(0)
        if problem_id in self.fails:
            raise self.fails[problem_id]
        return await super().embed(prompt, problem_id)


@pytest.fixture
def watch(monkeypatch):
    def watch(**changed):
        watched = Watched(**changed)
        monkeypatch.setattr(features, "open_embedder", lambda spec: watched)
        return watched

    return watch


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def bench(n=6, model=None):
    lines = [{"id": f"q{i}", "question": f"What is {i} + {i * i}?", "answer": str(i + i * i)} for i in range(n)]
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    asked = {"task": {"name": "local", "data": "rows.jsonl"}, "model": model or "fake", "strategies": "greedy"}
    return make_plan({**asked, "budgets": [100]}).benches[0]


def compute(asked, folder, **told):
    return asyncio.run(hidden_vectors(asked, FAKE, folder, **told))


def test_every_problem_has_the_vector_of_its_own_prompt(folder):
    asked, engine = bench(), FakeEmbedder()
    vectors, tokens = compute(asked, folder)
    assert list(vectors) == [f"q{i}" for i in range(6)]
    for problem in asked.problems():
        alone = asyncio.run(engine.embed(problem.prompt, problem.id))[0]
        assert np.array_equal(vectors[problem.id], alone)
    assert tokens == sum(len(problem.prompt.tokens) for problem in asked.problems())


def test_the_engine_is_stopped_and_a_resume_starts_none_but_counts_the_same(folder, watch):
    first, second = watch(), None
    vectors, tokens = compute(bench(), folder)
    assert first.events == ["start", "close"]
    stamp = (folder / FILE).stat().st_mtime_ns
    second = watch()
    again, counted = compute(bench(), folder)
    assert (second.events, counted) == ([], tokens)
    assert (folder / FILE).stat().st_mtime_ns == stamp
    assert all(np.array_equal(again[p], vectors[p]) for p in vectors)


def test_only_new_problems_are_read(folder, watch):
    compute(bench(4), folder)
    watched = watch()
    vectors, tokens = compute(bench(6), folder)
    assert watched.asked == ["q4", "q5"]
    assert len(vectors) == 6
    assert tokens == sum(row.prompt_tokens for row in load_features(folder))


def test_what_was_read_before_a_crash_is_kept(folder, watch, monkeypatch):
    monkeypatch.setattr(features, "_CHUNK", 2)
    watched = watch(fails={"q3": EngineError("gone", fatal=True)})
    with pytest.raises(EngineError, match="gone"):
        compute(bench(), folder)
    assert watched.events == ["start", "close"]
    watched = watch()
    compute(bench(), folder)
    assert watched.asked == ["q2", "q3", "q4", "q5"]


@pytest.mark.parametrize("what", ["model", "question", "flags"])
def test_another_model_question_or_template_is_read_again(folder, watch, what):
    compute(bench(), folder)
    asked, fingerprint = bench(), None
    if what == "model":
        fingerprint = "other weights"
    elif what == "question":
        Path("rows.jsonl").write_text(Path("rows.jsonl").read_text().replace("What is 3", "How much is 3"))
        asked = make_plan({"task": {"name": "local", "data": "rows.jsonl"}, "model": "fake", "strategies": "greedy",
                           "budgets": [100]}).benches[0]  # fmt: skip
    else:
        asked = bench(model={"path": "fake", "profile": {"template_flags": {"enable_thinking": False}}})
    watched = watch(fingerprint=fingerprint)
    compute(asked, folder)
    assert watched.asked == (["q3"] if what == "question" else [f"q{i}" for i in range(6)])
    if what == "flags":
        assert all(flags == {"enable_thinking": False} for flags in watched.flags)
    assert len(load_features(folder)) == 6


def test_configurations_of_one_model_share_the_reading(folder, watch):
    vectors, tokens = compute(bench(), folder, config="m T=0.7")
    watched = watch()
    again, counted = compute(bench(), folder, config="m T=1")
    assert (watched.events, counted) == ([], tokens)
    stored = read_features(folder)
    assert list(stored) == ["m T=0.7", "m T=1"]
    assert all(np.array_equal(stored["m T=1"][p], vectors[p]) and np.array_equal(again[p], vectors[p]) for p in vectors)


def test_a_prompt_that_is_refused_costs_its_own_vector_and_is_told(folder, watch):
    watch(fails={"q2": EngineError("problem 'q2': too long")})
    heard = []
    vectors, _ = compute(bench(), folder, note=heard.append)
    assert set(vectors) == {f"q{i}" for i in (0, 1, 3, 4, 5)}
    assert "no hidden state: problem 'q2': too long" in heard


def test_where_every_prompt_is_refused_the_reason_is_the_error(folder, watch):
    watched = watch(options=FakeOptions(context_tokens=3))
    with pytest.raises(EngineError, match="do not fit the context"):
        compute(bench(), folder)
    assert watched.events == ["start", "close"]
    assert not (folder / FILE).exists()


def test_the_prompt_tokens_are_told(folder):
    heard = []
    _, tokens = compute(bench(), folder, note=heard.append)
    assert heard == [
        "starting fake to read 6 prompts", f"hidden states of 6 prompts: 8 numbers each, {tokens:,} prompt tokens",
    ]  # fmt: skip


def test_a_bank_has_no_model_to_ask(folder):
    write_bank([Row("p", "q", "m", 0, "1", True, 5, 3, "stop")], folder / "bank", "t")
    replayed = make_plan({"bank": "bank", "strategies": "coverage", "budgets": [60]}).benches[0]
    with pytest.raises(ConfigError, match="no model that could tell hidden states") as caught:
        asyncio.run(hidden_vectors(replayed, ModelSpec(path="m"), folder))
    assert "ttc collect" in caught.value.hint


def test_an_unknown_kind_is_told_with_the_nearest():
    with pytest.raises(ConfigError, match="unknown features 'hiden'") as caught:
        check_features("hiden", FAKE)
    assert caught.value.hint == "did you mean 'hidden'?"
    with pytest.raises(ConfigError, match="tells no hidden states"):
        check_features("hidden", ModelSpec(path="http://h:1/v1#m"))
