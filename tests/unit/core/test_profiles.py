"""How a model writes: chosen by name, matched by label or architecture, overridden from a configuration."""

import random
from dataclasses import replace

import pytest

from ttc.core.errors import ConfigError
from ttc.core.profiles import DEFAULT, PROFILES, choose_profile, match_profile
from ttc.core.protocols import LoadOptions
from ttc.core.types import Completion, Sampling, Usage
from ttc_evals.arithmetic import Arithmetic, reference_solution
from ttc_evals.countdown import generate
from ttc_evals.countdown import reference_solution as countdown_solution

EMBEDDED = PROFILES["embedded"]


@pytest.mark.parametrize(
    ("label", "architecture", "name"),
    [
        ("embedded", None, "embedded"),
        ("embedded-policy", "Qwen2ForCausalLM", "embedded"),
        ("Qwen/Qwen3-0.6B", None, "qwen3"),
        ("Qwen/Qwen3-4B-Instruct-2507", "Qwen3ForCausalLM", "default"),
        ("Qwen/Qwen3-Coder-30B", "Qwen3MoeForCausalLM", "default"),
        ("my-finetune", "Qwen3ForCausalLM", "qwen3"),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", "Qwen2ForCausalLM", "r1"),
        ("deepseek-ai/DeepSeek-R1-0528-Qwen3-8B", "Qwen3ForCausalLM", "r1"),
        ("Qwen/QwQ-32B", "Qwen2ForCausalLM", "r1"),
        ("Qwen/Qwen2.5-0.5B-Instruct", "Qwen2ForCausalLM", "default"),
        ("not-embedded", None, "default"),
        ("fake", None, "default"),
    ],
)
def test_models_are_matched_by_label_then_architecture(label, architecture, name):
    assert match_profile(label, architecture).name == name


def test_a_given_profile_is_a_name_or_fields_over_the_matched_or_named_one():
    assert choose_profile(None, "Qwen3-1.7B") is PROFILES["qwen3"]
    assert choose_profile("r1", "Qwen3-1.7B") is PROFILES["r1"]
    own = choose_profile({"step_stop": ["\n"], "sample_tokens": 900}, "Qwen3-1.7B")
    assert own == replace(PROFILES["qwen3"], step_stop=("\n",), sample_tokens=900)
    own = choose_profile({"name": "r1", "wait": "Hmm"}, "Qwen3-1.7B")
    assert own == replace(PROFILES["r1"], wait="Hmm")
    own = choose_profile({"name": "mine", "template_flags": {"enable_thinking": False}}, "x")
    assert own == replace(DEFAULT, name="mine", template_flags={"enable_thinking": False})


@pytest.mark.parametrize(
    ("given", "message", "hint"),
    [
        ("qwen", "unknown model profile 'qwen'", "qwen3"),
        ({"think_opn": "<t>"}, "no parameter 'think_opn'", "think_open"),
        ({"sample_tokens": 0}, "sample_tokens", ""),
        ({"step_stop": 3}, "step_stop", ""),
    ],
)
def test_a_wrong_profile_is_refused_in_one_line(given, message, hint):
    with pytest.raises(ConfigError) as caught:
        choose_profile(given, "some-model")
    assert message in caught.value.message
    assert "\n" not in caught.value.message
    assert hint in caught.value.hint


def completion(finish="stop", stop_reason=None):
    return Completion(0, "x", (1,), finish, Usage(), stop_reason=stop_reason)


def test_an_end_is_neither_a_cut_nor_a_separator():
    profile = replace(PROFILES["qwen3"], step_stop_token_ids=(198,))
    for goes_on in ("\n\n", "\nExecution:", "</think>", 198):
        assert not profile.is_end(completion(stop_reason=goes_on)), goes_on
    for ended in (None, "}", "<end>", 7):
        assert profile.is_end(completion(stop_reason=ended)), ended
    assert not profile.is_end(completion("length"))
    assert DEFAULT.is_end(completion(stop_reason="")), "a profile without tags has no separator for them"


def test_one_step_and_one_plan():
    own = Sampling(temperature=0.3, stop=("END",), stop_token_ids=(5,), max_tokens=400)
    step = EMBEDDED.step_sampling(own)
    assert (step.stop, step.stop_token_ids, step.temperature) == (("END", "\n"), (5,), 0.3)
    assert EMBEDDED.plan_sampling(own).stop == ("END", "=", "\n")
    assert own.stop == ("END",), "a copy"
    again = EMBEDDED.step_sampling(step)
    assert again.stop == step.stop, "no separator twice"


def test_a_step_is_at_most_256_tokens_or_a_typical_sample():
    own = Sampling(max_tokens=4096)
    assert DEFAULT.step_sampling(own).max_tokens == 256
    assert replace(DEFAULT, sample_tokens=100).step_sampling(own).max_tokens == 100
    assert replace(DEFAULT, sample_tokens=999).plan_sampling(own).max_tokens == 256
    assert DEFAULT.step_sampling(Sampling(max_tokens=9)).max_tokens == 9


def test_the_embedded_profile_fits_what_the_tasks_define():
    examples = Arithmetic().load(LoadOptions(limit=60)).examples
    texts = [reference_solution(e.question) for e in examples]
    texts += [countdown_solution(e.question, random.Random(0)) for e in generate("test", 60, 0)]
    for text in texts:
        *lines, box = text.split(EMBEDDED.step_stop[0])
        assert all(line.count(EMBEDDED.plan_stop[0]) == 1 for line in lines)
        assert box.startswith(EMBEDDED.answer_suffix)
        assert box.endswith(EMBEDDED.answer_stop[0])
    tokens = [len(t.replace("\\boxed{", "#").replace(", left ", "#")) + 1 for t in texts]
    steps = [t.count("\n") + 1 for t in texts]
    assert EMBEDDED.sample_tokens == pytest.approx(sum(tokens) / len(tokens), rel=0.15)
    assert EMBEDDED.step_tokens == pytest.approx(sum(tokens) / sum(steps), rel=0.15)
    assert EMBEDDED.steps == pytest.approx(sum(steps) / len(steps), rel=0.15)
