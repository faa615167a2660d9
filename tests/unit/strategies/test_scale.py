"""Decompose, rate, assign, execute: who is asked what, what the answer rests on, and what a grant pays for."""

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from talker import Talker, run

from ttc.core.profiles import DEFAULT, PROFILES
from ttc.core.types import Prompt
from ttc_strategies.scale import Scale, affordable_threshold, final_answer, line_difficulty, read_rating

SHORT = replace(DEFAULT, sample_tokens=160)
PARTS = ["count the legs", "count the cats", "add up"]


class Solver:
    """Answers every kind of request, and keeps the questions by kind."""

    def __init__(self, outlines=None, ratings=("0.2", "0.8"), choice="1"):
        self.outlines = outlines or [json.dumps({f"step{i}": p for i, p in enumerate(PARTS, 1)})]
        self.ratings, self.choice, self.asked = ratings, choice, []

    def __call__(self, question, written, request):
        if "JSON object" in question:
            kind, said = "outline", self.outlines[request.index % len(self.outlines)]
        elif "several ways" in question:
            kind, said = "choice", self.choice
        elif "How hard" in question:
            kind = "rating"
            said = self.ratings[next(i for i, p in enumerate(PARTS) if f"Sub-problem:\n{p}" in question)]
        elif "Solve only this" in question:
            part = question.rpartition("Sub-problem:\n")[2].partition("<assistant>")[0]
            kind, said = "part", f"private thoughts on {part}\nAnswer: {len(part)}"
        else:
            kind, said = "last", "\\boxed{18}"
        self.asked.append((kind, question, written))
        return said

    def of(self, kind):
        return [(question, written) for k, question, written in self.asked if k == kind]


def test_parts_are_solved_in_order_and_see_answers_never_reasoning():
    solver = Solver()
    answer, _ = run(Scale(), Talker(solver), 4000, profile=SHORT)
    assert (answer.text, len(answer.candidates)) == ("18", 1)
    (first, _), (second, _) = solver.of("part")
    assert "Known so far" not in first
    assert f"count the legs Answer: {len(PARTS[0])}" in second
    ((last, _),) = solver.of("last")
    assert last.startswith("<user>How many?\n\nKnown so far"), "the last part is the question itself"
    assert f"count the cats Answer: {len(PARTS[1])}" in last
    assert "private" not in second + last


def test_only_hard_parts_are_given_thinking():
    profile = replace(PROFILES["qwen3"], sample_tokens=160)
    solver = Solver()
    run(Scale(), Talker(solver), 4000, profile=profile)
    closed = "<think>\n\n</think>\n\n"
    assert [written for _, written in solver.of("part")] == [closed, ""], "0.2 without, 0.8 with thinking"
    assert [written for _, written in solver.of("last")] == [""], "the last part counts as 0.9"
    assert {written for kind in ("outline", "rating") for _, written in solver.of(kind)} == {closed}
    for threshold, parts in ((0.0, ["", ""]), (0.85, [closed, closed]), (1.0, [closed, closed])):
        solver = Solver()
        run(Scale(threshold=threshold), Talker(solver), 4000, profile=profile)
        assert [written for _, written in solver.of("part")] == parts
        assert [written for _, written in solver.of("last")] == ["" if threshold < 0.9 else closed]


def test_a_model_without_thinking_is_told_how_much_to_write():
    solver = Solver()
    run(Scale(), Talker(solver), 4000, profile=SHORT)
    easy, hard = (question for question, _ in solver.of("part"))
    assert "in as few words as possible" in easy
    assert "step by step" in hard


def test_the_model_picks_among_outlines():
    outlines = ['{"step1": "wrong way"}', "no json", json.dumps(PARTS)]
    for choice, chosen in (("2", "count the legs"), ("the first, 1.", None), ("99", None)):
        solver = Solver(outlines, choice=choice)
        run(Scale(outlines=3), Talker(solver), 4000, profile=SHORT)
        ((_, _),) = solver.of("choice")
        assert any(chosen in q for q, _ in solver.of("part")) if chosen else not solver.of("part")


def test_outlines_that_cannot_be_read_leave_a_plain_sample():
    solver = Solver(["no json at all"])
    answer, _ = run(Scale(outlines=2), Talker(solver), 4000, profile=SHORT)
    assert answer.text == "18"
    assert len(solver.of("outline")) == 2 + 3, "three retries"
    assert solver.of("last")[0][0] == "<user>How many?<assistant>"


def test_outlines_are_charged_and_take_a_quarter_of_the_grant_at_most():
    solver = Solver(["x" * 300])
    engine = Talker(solver)
    _, ctx = run(Scale(), engine, 1280, profile=SHORT)
    first = [r.max_tokens for r in engine.requests[:4]]
    assert first == [80] * 4 == [1280 // 4 // 4] * 4
    assert ctx.meter.usage.completion == 7 * 80 + len("\\boxed{18}") + 1


@pytest.mark.parametrize("grant", [0, 1, 50, 639])
def test_a_small_grant_is_one_plain_sample(grant):
    solver = Solver()
    run(Scale(), Talker(solver), grant, profile=SHORT)
    assert [kind for kind, _, _ in solver.asked] == ["last"] * min(1, grant)


@given(st.lists(st.sampled_from([0.0, 0.2, 0.5, 0.8, 1.0]), min_size=1, max_size=6), st.integers(0, 400))
def test_the_threshold_is_the_smallest_that_the_grant_pays_for(scores, grant):
    def cost(threshold):
        return sum(60 if score > threshold else 15 for score in scores)

    found = affordable_threshold(scores, 60, 15, grant)
    fitting = [t / 100 for t in range(101) if cost(t / 100) <= grant]
    assert found == (min(fitting) if fitting else 1.0)


def test_ratings_are_read_and_what_cannot_be_read_is_hard():
    for text, value in (("0.3", 0.3), ("Difficulty: .7!", 0.7), ("1", 1.0), ("0", 0.0), ("1.0", 1.0)):
        assert read_rating(text) == value
    for text in ("", "hard", "7", "10", "3/10"):
        assert read_rating(text) == 1.0, text


def test_final_answers_are_the_stated_ones():
    assert final_answer("so\nAnswer: 4\nAnswer: 5 cats") == "5 cats"
    assert final_answer("**Answer**: 7") == "7"
    assert final_answer("it is\n9 \n\n") == "9"
    assert final_answer("") == "unknown"


def lines(*wanted):
    """Write lines; where a line is unsure, its draws are dealt from its options."""

    def say(_question, written, request):
        done = written.count("\n")
        return "".join(options[request.index % len(options)] for options in wanted[done:])

    return say


def test_the_lines_of_the_embedded_model_are_its_parts():
    """A sure line is drawn once; an unsure one four times, and the most frequent is taken."""
    unsure = ["1+1=3\n", "1+1=2\n", "1+1=2\n", "1+1=3\n", "1+1=2\n"]
    engine = Talker(
        lines(["3+4=7\n"], unsure, ["\\boxed{2}"]),
        logprob=lambda text: math.log(0.4) if text.startswith("1+1") else math.log(0.9),
    )
    answer, _ = run(Scale(), engine, 400, profile=PROFILES["embedded"])
    assert [engine.written.count(w) for w in ("", "3+4=7\n", "3+4=7\n1+1=2\n")] == [1, 4, 1]
    assert answer.candidates[0].text == "3+4=7\n1+1=2\n\\boxed{2}"
    engine = Talker(lines(["3+4=7\n"], unsure, ["\\boxed{2}"]), logprob=lambda text: 0.0)
    run(Scale(), engine, 400, profile=PROFILES["embedded"])
    assert len(engine.written) == 3, "never unsure: one draw a line"


def test_a_line_is_as_hard_as_the_model_is_unsure_of_it():
    engine = Talker(lines(["\\boxed{2}"]), logprob=lambda text: math.log(0.25))
    answer, _ = run(Scale(threshold=1), engine, 400, profile=PROFILES["embedded"])
    assert line_difficulty(answer.candidates[0]) == pytest.approx(0.75)
    assert line_difficulty(replace(answer.candidates[0], logprob=None)) == 1.0


def test_lines_are_no_longer_together_than_a_response_may_be():
    engine = Talker(lambda q, w, r: "1+1=2\n", logprob=lambda text: 0.0)
    _, ctx = run(Scale(), engine, 600, profile=PROFILES["embedded"], cap=20)
    assert ctx.meter.usage.completion == 20


def test_a_server_that_continues_nothing_is_asked_once():
    class ChatOnly(Talker):
        capabilities = frozenset({"live", "temperature"})

        def render(self, messages, flags=None):
            return Prompt(tuple(messages))

    engine = ChatOnly(lines(["3+4=7\n"], ["\\boxed{7}"]))
    answer, _ = run(Scale(), engine, 600, profile=PROFILES["embedded"])
    assert (answer.text, len(engine.requests)) == ("7", 1)


def test_lines_without_end_are_given_up():
    engine = Talker(lambda q, w, r: "1+1=2\n", logprob=lambda text: 0.0)
    answer, ctx = run(Scale(), engine, 600, profile=PROFILES["embedded"])
    assert answer.choice is None
    assert ctx.meter.usage.completion <= 600
