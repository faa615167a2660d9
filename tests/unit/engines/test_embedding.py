"""Whose hidden states can be had, and what the fake's say."""

import asyncio

import numpy as np
import pytest

from ttc.core.errors import ConfigError, EngineError
from ttc.core.specs import ModelSpec
from ttc.core.types import Message
from ttc.engines.fake import FakeEmbedder, FakeEngine, FakeOptions
from ttc.engines.opening import open_embedder, open_engine


def embedded(embedder, question):
    prompt = embedder.render([Message("system", "Be brief."), Message("user", question)])
    return asyncio.run(embedder.embed(prompt, "p"))


def test_a_server_tells_none():
    with pytest.raises(ConfigError, match="tells no hidden states") as caught:
        open_embedder(ModelSpec(path="http://localhost:8000/v1#some-model"))
    assert "folder" in caught.value.hint


def test_a_wrong_name_or_option_is_told_before_anything_is_loaded():
    with pytest.raises(ConfigError, match="no such model folder"):
        open_embedder(ModelSpec(path="./nowhere"))
    with pytest.raises(ConfigError, match="has no parameter 'kv_cache'"):
        open_embedder(ModelSpec(path="embedded", options={"kv_cache": 1.0}))


def test_a_name_changes_with_what_could_change_a_vector():
    plain = open_embedder(ModelSpec(path="embedded"))
    assert plain.label == "embedded"
    assert plain.fingerprint == open_embedder(ModelSpec(path="embedded", label="other")).fingerprint
    assert plain.fingerprint != open_embedder(ModelSpec(path="embedded", options={"dtype": "float32"})).fingerprint
    assert plain.fingerprint != open_engine(ModelSpec(path="embedded")).fingerprint


def test_a_call_before_the_start_is_an_error():
    embedder = open_embedder(ModelSpec(path="embedded"))
    with pytest.raises(EngineError, match="is not running"):
        embedder.render([Message("user", "1 + 1")])
    asyncio.run(embedder.close())


def test_the_fake_reads_the_prompt_of_the_fake_engine():
    embedder = open_embedder(ModelSpec(path="fake:p=0.3", label="f"))
    assert isinstance(embedder, FakeEmbedder)
    assert embedder.label == "f"
    chat = [Message("system", "Be brief."), Message("user", "What is 4 + 5?")]
    assert embedder.render(chat) == FakeEngine().render(chat)
    vector, tokens = embedded(embedder, "What is 4 + 5?")
    assert tokens == len("Be brief.\nWhat is 4 + 5?")
    assert (vector.dtype, vector.shape) == (np.float32, (FakeEmbedder.width,))


def test_the_fake_says_the_same_of_the_same_question_only():
    vectors = [embedded(FakeEmbedder(), f"question {i}")[0] for i in (1, 2, 1)]
    assert np.array_equal(vectors[0], vectors[2])
    assert not np.isclose(vectors[0], vectors[1]).all()


def test_the_fake_knows_how_hard_a_question_is():
    """Its first number is what decides in the fake engine how often a step goes wrong."""
    engine, embedder = FakeEngine(FakeOptions(p=0.0)), FakeEmbedder()
    hard, wrong = [], []
    for i in range(60):
        question = f"question {i}"
        texts = [engine._solution(question, "", seed)[0] for seed in range(40)]
        marks = [line for text in texts for line in text.splitlines() if line.startswith("Step")]
        vector = embedded(embedder, question)[0]
        assert len(marks) / len(texts) == vector[1]
        hard.append(vector[0])
        wrong.append(sum(": wrong" in line for line in marks) / len(marks))
    assert np.corrcoef(hard, wrong)[0, 1] > 0.95


def test_the_fake_refuses_what_its_context_cannot_hold():
    with pytest.raises(EngineError, match="do not fit the context"):
        embedded(FakeEmbedder(FakeOptions(context_tokens=12)), "a question of some length")
