"""How steps become requests and answers become scores, on a backend that scores by arithmetic on the tokens."""

import asyncio
import json

import pytest

from ttc.core.errors import ConfigError, EngineError
from ttc.core.types import Message, Problem, Prompt, Step
from ttc.engines.rewards import PoolingReward, RewardFormat, Scored, read_format

SEPARATOR = 99
PROMPT = (1, 2, 3)
PROBLEM = Problem("p", "q", Prompt((Message("user", "q"),), PROMPT))


def steps(*parts):
    return tuple(Step(tuple(part), "") for part in parts)


def value(tokens):
    """Return a score that differs from list to list."""
    return (sum(i * t for i, t in enumerate(tokens, 1)) % 101) / 101


class Arithmetic:
    """Scores a list by `value`, or at each separator by the value of what is before it."""

    label, fingerprint, parameters = "stub", "f", 7

    def __init__(self, form=None, cached=0):
        self.format = form or RewardFormat("classify")
        self.cached = cached
        self.seen = []
        self.in_flight = self.most_in_flight = 0

    async def start(self):
        pass

    async def close(self):
        pass

    async def read(self, tokens, problem_id):
        assert problem_id == PROBLEM.id
        self.seen.append(tokens)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        await asyncio.sleep(0.001 * (len(tokens) % 3))  # answers arrive in another order than they were asked
        self.in_flight -= 1
        if self.format.kind != "token_classify":
            return Scored((value(tokens),), self.cached)
        return Scored(tuple(value(tokens[:i]) for i, t in enumerate(tokens) if t == SEPARATOR), self.cached)


def score(reward, *responses):
    return asyncio.run(reward.score(PROBLEM, responses))


def test_every_step_is_scored_by_the_prefix_it_ends():
    backend = Arithmetic()
    a, b = steps((4, 5), (6,), (7, 8)), steps((9,), (4,))
    scores, tokens = score(PoolingReward(backend), a, b)
    wanted_a = ((1, 2, 3, 4, 5), (1, 2, 3, 4, 5, 6), (1, 2, 3, 4, 5, 6, 7, 8))
    wanted_b = ((1, 2, 3, 9), (1, 2, 3, 9, 4))
    assert scores == [tuple(map(value, wanted_a)), tuple(map(value, wanted_b))]
    assert sorted(backend.seen) == sorted(wanted_a + wanted_b)
    assert tokens == sum(map(len, wanted_a + wanted_b))
    assert backend.most_in_flight == 5


def test_what_was_scored_is_neither_sent_nor_counted_again():
    backend = Arithmetic()
    reward = PoolingReward(backend)
    short, long = steps((4,), (5,)), steps((4,), (5,), (6,))
    assert reward.count_tokens(PROBLEM, [short, long, long]) == 4 + 5 + 6  # equal prefixes are one request
    first, _ = score(reward, short)
    assert reward.count_tokens(PROBLEM, [long]) == 6
    again, tokens = score(reward, long, long)
    assert tokens == 6
    assert [len(seen) for seen in backend.seen] == [4, 5, 6]
    assert again[0] == again[1] == (*first[0], value((1, 2, 3, 4, 5, 6)))
    assert score(reward, long) == ([again[0]], 0)


def test_other_prompts_are_other_prefixes():
    backend = Arithmetic()
    reward = PoolingReward(backend)
    score(reward, steps((4,)))
    other = Problem("p", "q", Prompt((), (1, 2)))
    assert asyncio.run(reward.score(other, [steps((4,))])) == ([(value((1, 2, 4)),)], 3)


def test_the_memory_is_bounded_and_forgets_what_was_used_longest_ago():
    backend = Arithmetic()
    reward = PoolingReward(backend, remembered=2)
    score(reward, steps((4,)))
    score(reward, steps((5,)))
    reward.count_tokens(PROBLEM, [steps((4,))])  # what was counted as remembered is used
    score(reward, steps((6,)))
    assert [reward.count_tokens(PROBLEM, [steps((t,))]) for t in (4, 5, 6)] == [0, 4, 0]


def test_tokens_of_the_prefix_cache_are_not_read():
    _, tokens = score(PoolingReward(Arithmetic(cached=3)), steps((4, 5), (6,)))
    assert tokens == (5 - 3) + (6 - 3)


def test_separators_stand_after_each_step_and_one_request_scores_them_all():
    backend = Arithmetic(RewardFormat("token_classify", SEPARATOR))
    reward = PoolingReward(backend)
    response = steps((4, 5), (6,))
    assert reward.count_tokens(PROBLEM, [response]) == 8
    scores, tokens = score(reward, response)
    assert backend.seen == [(1, 2, 3, 4, 5, SEPARATOR, 6, SEPARATOR)]
    assert scores == [(value((1, 2, 3, 4, 5)), value((1, 2, 3, 4, 5, SEPARATOR, 6)))]
    assert tokens == 8
    assert score(reward, steps((4, 5), (6,), (7,)))[1] == 10  # the whole prefix again


def test_a_separator_that_the_policy_wrote_ends_no_step():
    backend = Arithmetic(RewardFormat("token_classify", SEPARATOR))
    scores, _ = score(PoolingReward(backend), steps((4, SEPARATOR, 5), (6,)))
    before = (1, 2, 3, 4, SEPARATOR, 5)
    assert scores == [(value(before), value((*before, SEPARATOR, 6)))]


def test_an_outcome_is_one_request_and_every_step_has_its_score():
    backend = Arithmetic(RewardFormat("outcome"))
    reward = PoolingReward(backend)
    response = steps((4, 5), (6,), (7,))
    assert reward.count_tokens(PROBLEM, [response]) == 7
    assert score(reward, response) == ([(value((1, 2, 3, 4, 5, 6, 7)),) * 3], 7)
    assert backend.seen == [(1, 2, 3, 4, 5, 6, 7)]


@pytest.mark.parametrize(
    ("kind", "sent"),
    [
        ("classify", [(1, 2, 3, 4), (1, 2, 3, 4, 5)]),
        ("outcome", [(1, 2, 3, 4, 5)]),
        ("token_classify", [(1, 2, 3, 4, SEPARATOR, 5, SEPARATOR)]),
    ],
)
def test_end_tokens_of_the_policy_are_left_out(kind, sent):
    backend = Arithmetic(RewardFormat(kind, SEPARATOR, end_tokens=(7, 8, 3)))
    score(PoolingReward(backend), steps((4,), (5, 8, 7)))
    assert backend.seen == sent
    score(PoolingReward(backend), steps((7,)))
    assert backend.seen[-1][:3] == PROMPT  # the prompt is left as it is, whatever it ends in


def test_no_steps_ask_nothing():
    backend = Arithmetic()
    assert score(PoolingReward(backend), (), steps((4,))) == ([(), (value((1, 2, 3, 4)),)], 4)
    assert score(PoolingReward(backend)) == ([], 0)


@pytest.mark.parametrize("wrong", [1.5, -0.1, float("nan"), float("inf")])
def test_a_score_outside_the_unit_interval_is_an_error_and_is_not_remembered(wrong):
    class Unbounded(Arithmetic):
        async def read(self, tokens, problem_id):
            return Scored((wrong,), 0)

    reward = PoolingReward(Unbounded())
    with pytest.raises(EngineError, match=r"one in \[0, 1\] is needed"):
        score(reward, steps((4,)))
    assert reward.count_tokens(PROBLEM, [steps((4,))]) == 4


def test_another_number_of_scores_than_of_steps_is_an_error():
    class Deaf(Arithmetic):
        async def read(self, tokens, problem_id):
            return Scored((), 0)

    with pytest.raises(EngineError, match="0 scores for 2 steps") as told:
        score(PoolingReward(Deaf(RewardFormat("token_classify", SEPARATOR))), steps((4,), (5,)))
    assert "separator" in told.value.hint


def test_one_failure_ends_the_call_and_cancels_the_rest():
    cancelled = []

    class Failing(Arithmetic):
        async def read(self, tokens, problem_id):
            if tokens[-1] == 4:
                raise EngineError("dead", fatal=True)
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancelled.append(tokens)
                raise

    async def work():
        with pytest.raises(EngineError, match="dead"):
            await PoolingReward(Failing()).score(PROBLEM, [steps((4,)), steps((5,))])
        await asyncio.sleep(0)

    asyncio.run(work())
    assert cancelled == [(1, 2, 3, 5)]


ONE = {"architectures": ["Qwen2ForSequenceClassification"], "id2label": {"0": "LABEL_0"}, "eos_token_id": 7}
PRM = {"architectures": ["Qwen2ForProcessRewardModel"], "eos_token_id": [7, 8]}


def folder(tmp_path, prm=None, tokenizer=None):
    for name, content in (("prm.json", prm), ("tokenizer.json", tokenizer)):
        if content is not None:
            (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return tmp_path


def test_the_architecture_says_how_a_model_is_asked(tmp_path):
    found = folder(tmp_path, tokenizer={"added_tokens": [{"id": 51, "content": "<extra_0>"}]})
    assert read_format(found, ONE) == RewardFormat("classify")
    assert read_format(found, ONE, "outcome") == RewardFormat("outcome")
    assert read_format(found, {"architectures": ["LlamaForSequenceClassification"]}) == RewardFormat("classify")
    assert read_format(found, PRM) == RewardFormat("token_classify", 51, (7, 8))


def test_prm_json_adds_calibration_separator_and_end_tokens(tmp_path):
    said = {"logit_mean": 0.25, "logit_sigma": 2, "end_tokens": [3], "auroc": 0.9, "kind": "outcome"}
    assert read_format(folder(tmp_path, said), ONE) == RewardFormat("outcome", None, (3,), 0.25, 2.0)
    tokenizer = {"added_tokens": [], "model": {"vocab": {"\n": 5}}}
    said = {"separator": "\n", "end_tokens": []}
    assert read_format(folder(tmp_path, said, tokenizer), PRM) == RewardFormat("token_classify", 5)
    assert read_format(folder(tmp_path, {"separator": 12}), PRM).separator == 12


@pytest.mark.parametrize(
    ("config", "prm", "kind", "told", "hint"),
    [
        (
            {"architectures": ["Qwen2ForCausalLM"]},
            None,
            None,
            "its architecture is Qwen2ForCausalLM",
            "ForProcessReward",
        ),
        ({**ONE, "id2label": dict.fromkeys("012", "x")}, None, None, "with 3 labels", "1 or 2 labels"),
        (ONE, None, "token_classify", "cannot be asked by kind 'token_classify'", "classify, outcome"),
        (ONE, {"kind": "proces"}, None, "cannot be asked by kind 'proces'", "classify, outcome"),
        (PRM, None, "outcome", "cannot be asked by kind 'outcome'", "token_classify"),
        (PRM, None, None, "no token '<extra_0>'", "prm.json"),
        (ONE, {"logit_sigma": 0}, None, "logit_sigma must be above 0, not 0", ""),
        (ONE, {"logit_mean": "a"}, None, "logit_mean must be a number, not 'a'", ""),
        (ONE, {"end_tokens": 3}, None, "end_tokens must be a list of token numbers, not 3", ""),
        (ONE, "[1]", None, "prm.json must hold a JSON object, found list", ""),
        (ONE, "{", None, "cannot read .*prm.json", ""),
    ],
)
def test_what_does_not_fit_is_told_with_what_is_allowed(config, prm, kind, told, hint, tmp_path):
    with pytest.raises(ConfigError, match=told) as error:
        read_format(folder(tmp_path, prm), config, kind)
    assert hint in error.value.hint
    assert "\n" not in error.value.message
