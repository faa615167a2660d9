"""Chains of revisions: what is shown, how a grant is split, and who is chosen."""

import pytest
from talker import Talker, run

from ttc.core.profiles import PROFILES
from ttc.engines.fake import FakeReward
from ttc_strategies.revise import Revise


class Scores(FakeReward):
    def __init__(self, scores):
        self.scores = scores

    async def score(self, problem, responses):
        return [(self.scores[steps[-1].text],) for steps in responses], 0


def attempts(texts):
    """Write `texts[chain][k]` as the k-th attempt; first attempts are the root's samples."""

    def say(question, _written, request):
        if "Look for it" not in question:
            return texts[request.index][0]
        last = question.rpartition("<user>")[0].rpartition("<assistant>")[2]
        row = next(row for row in texts if last in row)
        return row[row.index(last) + 1]

    return Talker(say)


def named(chain, k):
    return f"{'pqrs'[chain]}{k} \\boxed{{{k}}}" + "." * 60


def test_sqrt_many_chains_of_sqrt_many_attempts():
    texts = [[named(c, k) for k in range(6)] for c in range(4)]
    length = len(texts[0][0]) + 1
    for samples, (chains, rounds) in ((1, (1, 1)), (3, (3, 1)), (4, (2, 2)), (9, (3, 3)), (16, (4, 4))):
        engine = attempts(texts)
        answer, ctx = run(Revise(select="majority"), engine, samples * length)
        assert len(answer.candidates) == chains * rounds == samples
        assert ctx.meter.usage.completion == samples * length
    engine = attempts(texts)
    answer, _ = run(Revise(select="majority", length=1, n=3), engine, 16 * length)
    assert len(answer.candidates) == 3
    answer, _ = run(Revise(select="majority", n=4), attempts(texts), 16 * length)
    assert len(answer.candidates) == 4, "an explicit n is an upper limit"


def test_a_chain_sees_its_own_last_four_attempts_and_nothing_else():
    length = len(named(0, 0)) + 1
    engine = attempts([[named(0, k) for k in range(7)]] * 6)
    run(Revise(select="majority", n=36, length=6), engine, 36 * length)
    prompts = [engine.decode(r.prompt.ids) for r in engine.requests]
    assert [k for k in range(7) if named(0, k) in prompts[-1]] == [1, 2, 3, 4]
    assert "Look for it" in prompts[-1]


def test_right_answers_that_are_revised_away_still_vote():
    """The last attempt of a chain is not its answer."""
    texts = [["a \\boxed{4}", "b \\boxed{4}", "c \\boxed{4}", "d \\boxed{5}"]]
    answer, _ = run(Revise(n=16, select="majority"), attempts(texts * 4), 10_000)
    assert answer.text == "4"


def test_the_reward_model_judges_chains():
    """Over all attempts, 3 has the largest sum; chain by chain it never wins."""
    texts = [["a \\boxed{1}", "b \\boxed{3}"], ["c \\boxed{2}", "d \\boxed{3}"]]
    reward = Scores({"a \\boxed{1}": 0.5, "b \\boxed{3}": 0.4, "c \\boxed{2}": 0.6, "d \\boxed{3}": 0.4})
    answer, _ = run(Revise(n=4, select="verifier"), attempts(texts), 10_000, reward=reward)
    assert [c.score for c in answer.candidates] == [0.5, 0.4, 0.6, 0.4], "chain by chain"
    assert answer.text == "2"


def test_a_model_that_follows_no_instructions_draws_samples():
    engine = Talker(lambda q, w, r: "\\boxed{4}")
    answer, _ = run(Revise(select="majority"), engine, 100, profile=PROFILES["embedded"], cap=10)
    assert len(answer.candidates) == 10
    assert len({engine.decode(r.prompt.ids) for r in engine.requests}) == 1


def test_the_thinking_of_earlier_attempts_is_not_shown():
    engine = Talker(lambda q, w, r: "<think>secret</think>Said \\boxed{4}")
    run(Revise(n=4, select="majority"), engine, 10_000, profile=PROFILES["qwen3"])
    later = [engine.decode(r.prompt.ids) for r in engine.requests if "Look for it" in engine.decode(r.prompt.ids)]
    assert later
    assert all("Said" in p and "secret" not in p for p in later)


def test_a_full_context_ends_a_chain_and_is_no_error():
    engine = Talker(lambda q, w, r: "x" * 80 + "\\boxed{4}", context_tokens=150)
    answer, _ = run(Revise(n=4, select="majority"), engine, 10_000)
    assert (answer.text, len(answer.candidates)) == ("4", 2)


@pytest.mark.parametrize("grant", [0, 1, 5])
def test_tiny_grants(grant):
    answer, _ = run(Revise(select="majority"), Talker(lambda q, w, r: "\\boxed{4}"), grant)
    assert answer.choice is None


def test_auto_is_the_verifier_where_there_is_a_reward_model():
    assert Revise().resolve(frozenset({"live", "reward"})).select == "verifier"
    assert Revise().resolve(frozenset({"live"})).select == "majority"
