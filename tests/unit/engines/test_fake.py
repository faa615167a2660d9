"""The fake engine keeps the promises that real ones make."""

import asyncio
import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ttc.core.errors import EngineError
from ttc.core.types import GenRequest, Message, Problem, Sampling, Step
from ttc.engines.fake import FakeEngine, FakeOptions, FakeReward, fake_gold

ASKED = "What is 12 * 12?"


def request(engine, *, seed=1, max_tokens=1000, text=ASKED, generated=(), **sampling):
    prompt = engine.render([Message("user", text)]).extend(tuple(generated))
    return GenRequest("p", prompt, Sampling(**sampling), max_tokens, seed, 0)


def complete(engine, **asked):
    return asyncio.run(engine.generate([request(engine, **asked)]))[0]


@given(st.integers(0, 2**62), st.floats(0.1, 2))
@settings(max_examples=30, deadline=None)
def test_equal_requests_have_equal_answers(seed, temperature):
    asked = {"seed": seed, "temperature": temperature}
    assert complete(FakeEngine(), **asked) == complete(FakeEngine(FakeOptions(label="other")), **asked)


def test_temperature_zero_reads_no_seed_and_others_do():
    engine = FakeEngine(FakeOptions(p=0.0))
    assert len({complete(engine, seed=s, temperature=0.0).text for s in range(20)}) == 1
    assert len({complete(engine, seed=s).text for s in range(20)}) > 5


@given(st.integers(0, 200), st.integers(1, 150))
@settings(deadline=None)
def test_a_cap_cuts_the_same_text_and_charges_what_is_left(seed, cap):
    engine = FakeEngine()
    whole, cut = complete(engine, seed=seed), complete(engine, seed=seed, max_tokens=cap)
    assert cut.text == whole.text[:cap]
    assert cut.finish == ("stop" if cap >= len(whole.text) else "length")
    assert cut.usage.completion == len(cut.tokens) == min(cap, len(whole.text))
    assert engine.decode(cut.tokens) == cut.text
    assert cut.usage.prompt == len(ASKED)


@given(st.integers(0, 100))
@settings(max_examples=30, deadline=None)
def test_a_text_taken_up_at_the_end_of_a_step_goes_on_as_it_would_have(seed):
    engine = FakeEngine()
    whole = complete(engine, seed=seed)
    at = whole.text.index("\n\n") + 2
    assert complete(engine, seed=seed, generated=whole.tokens[:at]).text == whole.text[at:]


def test_what_stopped_a_text_is_left_out_of_it_and_kept_in_its_tokens():
    engine = FakeEngine()
    word = complete(engine, stop=("\n\n", "zzz"))
    token = complete(engine, stop_token_ids=(ord("\n"),))
    assert word.text == token.text == complete(engine).text.partition("\n")[0]
    assert (word.stop_reason, word.finish, token.stop_reason) == ("\n\n", "stop", ord("\n"))
    assert engine.decode(word.tokens) == word.text + "\n\n"
    assert engine.decode(token.tokens) == token.text + "\n"
    assert word.usage.completion == len(word.tokens)
    assert complete(engine, stop=("\n\n",), max_tokens=len(word.tokens) - 1).finish == "length"


@pytest.mark.parametrize(("asked", "gold"), [("3 + 4", 7), ("9-11 apples", -2), ("of 12 * 12.", 144)])
def test_the_answer_held_for_right_is_the_sum_in_the_question(asked, gold):
    assert fake_gold(asked) == gold
    assert complete(FakeEngine(FakeOptions(p=1.0)), text=asked).text.endswith(f"\\boxed{{{gold}}}")


def test_a_question_without_a_sum_still_has_one_answer():
    assert fake_gold("Why?") == fake_gold("Why?")
    assert 0 <= fake_gold("Why?") < 1000


def test_lower_p_answers_fewer_questions():
    def share(p):
        engine = FakeEngine(FakeOptions(p=p))
        return sum(complete(engine, seed=s, text=f"{s} + 1").text.endswith(f"{{{s + 1}}}") for s in range(300)) / 300

    assert share(1.0) == 1.0
    assert share(0.9) > share(0.5) > share(0.0)


def test_calls_fail_by_seed_at_the_share_asked_for():
    engine = FakeEngine(FakeOptions(fail=0.3))

    def fails(seed):
        try:
            complete(engine, seed=seed)
        except EngineError as error:
            assert error.retryable
            return True
        return False

    failed = [fails(seed) for seed in range(500)]
    assert 0.22 < sum(failed) / 500 < 0.38
    assert failed == [fails(seed) for seed in range(500)]


def test_the_fingerprint_changes_with_what_changes_answers_only():
    def fingerprint(**options):
        return FakeEngine(FakeOptions(**options)).fingerprint

    assert fingerprint() == fingerprint(delay_s=1.0) == fingerprint(label="x")
    assert len({fingerprint(), fingerprint(p=0.5), fingerprint(fail=0.1), fingerprint(context_tokens=9)}) == 4


def test_rewards_rise_with_the_share_of_right_steps_and_lie_in_the_unit_interval():
    engine, reward = FakeEngine(), FakeReward()
    problem = Problem("p", ASKED, engine.render([Message("user", ASKED)]))
    right = tuple(Step((), f"Step {i}: right\n") for i in (1, 2))
    mixed = (right[0], Step((), "Step 2: wrong\n"))
    (good, bad), tokens = asyncio.run(reward.score(problem, [right, mixed]))
    assert [len(good), len(bad)] == [2, 2]
    assert good[0] == bad[0]
    assert good[1] > bad[1]
    assert all(0 <= s <= 1 for s in (*good, *bad))
    assert tokens == reward.count_tokens(problem, [right, mixed]) == 2 * (len(ASKED) + 28)


def test_options_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        FakeOptions().p = 1.0
