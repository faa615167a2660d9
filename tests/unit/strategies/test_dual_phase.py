"""Plans and executions are searched apart: who is kept, what early stop and expansion draw, what finishes."""

import hashlib
import random
from dataclasses import replace

import numpy as np
import pytest
from talker import END, Talker, run

from ttc.core.profiles import DEFAULT, PROFILES
from ttc.core.tree import kv_token_steps
from ttc_strategies.dual_phase import DualPhase, Gate, calibrate

EMBEDDED = replace(PROFILES["embedded"], sample_tokens=40, step_tokens=10, steps=3)


def dice(*parts):
    return random.Random(hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest())


def liner(lines=2, plans="abcd", results="1234"):
    """Write lines `plan=result`, both drawn by seed, then a box that spells the whole way."""

    def say(_question, written, request):
        rng = dice(request.seed, written)
        done = written.split("\n")
        text, left = written, lines + 1 - len(done)
        if done[-1] and not done[-1].endswith("="):
            raise AssertionError(f"asked to go on from {written!r}")
        if done[-1].endswith("="):
            text += rng.choice(results) + "\n"
            left -= 1
        for _ in range(left + (not done[-1])):
            if text.count("\n") < lines:
                text += f"{rng.choice(plans)}={rng.choice(results)}\n"
        way = text.replace("\n", ",").replace("=", "").strip(",")
        return (text + f"\\boxed{{{way}}}")[len(written) :]

    return Talker(say)


class Judge:
    """Scores a response by a function of its text, and keeps what it was asked."""

    label = fingerprint = "judge"

    def __init__(self, score):
        self.score_of, self.asked, self.steps = score, [], []

    def count_tokens(self, problem, responses):
        return sum(len(s.text) for steps in responses for s in steps)

    async def score(self, problem, responses):
        """Give every step but the last a score that would spoil the choice."""
        texts = ["".join(step.text for step in steps) for steps in responses]
        assert texts == ["".join(chr(t) for step in steps for t in step.tokens if t != END) for steps in responses]
        self.asked += texts
        self.steps += [tuple(step.text for step in steps) for steps in responses]
        scores = [(*[9.0] * (len(s) - 1), self.score_of(t)) for s, t in zip(responses, texts, strict=True)]
        return scores, self.count_tokens(problem, responses)


def by_letters(text):
    """Plan `d` and result `4` are best at every line."""
    rows = text.split("\n")
    return (
        sum(ord(row[0]) - 96 + (int(row[2]) if len(row) > 2 else 0) for row in rows if len(row) > 1 and row[1] == "=")
        / 100
    )


def test_both_boundaries_are_scored_and_the_best_way_is_found():
    judge = Judge(by_letters)
    answer, _ = run(DualPhase(keep=2), liner(), 4000, profile=EMBEDDED, reward=judge)
    assert answer.text == "d4,d4"
    ends = {text[-1] for text in judge.asked}
    assert ends == {"=", "\n", "}"}, "a plan, a step, a response"
    assert answer.candidates[answer.choice].text == "d=4\nd=4\n\\boxed{d4,d4}"
    assert answer.stop_reason == "finished"
    assert ("d=4\n", "d=") in judge.steps, "a plan alone is a step of its own"
    assert ("d=4\n", "d=4\n") in judge.steps, "with its execution it is one step"
    assert all(step.endswith("\n") for steps in judge.steps for step in steps[:-1])


def test_it_is_the_search_written_out_by_hand():
    """One line, all candidates of a phase seen at once: the best plan of those drawn, the best result of it."""
    judge = Judge(by_letters)
    engine = liner(lines=1)
    answer, _ = run(DualPhase(plans=6, executions=5, keep=1), engine, 4000, profile=EMBEDDED, reward=judge)
    plans, executions = judge.asked[:6], judge.asked[6:11]
    assert all(text.endswith("=") for text in plans)
    best_plan = max(plans, key=by_letters)
    assert all(text.startswith(best_plan) and text.endswith("\n") for text in executions)
    assert answer.candidates[0].text.startswith(max(executions, key=by_letters))


def test_equal_prefixes_are_one_candidate_and_one_vote():
    answer, _ = run(DualPhase(keep=3), liner(plans="a", results="1"), 4000, profile=EMBEDDED, reward=Judge(by_letters))
    assert [c.text for c in answer.candidates] == ["a=1\na=1\n\\boxed{a1,a1}"]


def test_nothing_is_asked_after_the_end():
    engine = liner(lines=1)
    run(DualPhase(keep=3), engine, 4000, profile=EMBEDDED, reward=Judge(by_letters))
    assert not [written for written in engine.written if "\\boxed" in written]


def test_early_stop_draws_fewer_and_expansion_more():
    def drawn(gate, grant=4000):
        engine = liner(lines=1)
        run(
            DualPhase(plans=8, executions=8, keep=2, plan_gate=gate),
            engine,
            grant,
            profile=EMBEDDED,
            reward=Judge(lambda _: 0.5),
        )
        return sum(written == "" for written in engine.written)

    assert drawn(Gate()) == 8
    assert drawn(Gate(stop_at=0.5)) == 2, "as many as are kept are good enough"
    assert drawn(Gate(stop_at=0.6)) == 8
    assert drawn(Gate(expand_below=0.5)) == 8
    assert drawn(Gate(expand_below=0.6)) == 16
    assert drawn(Gate(expand_below=0.6, extra=0.25)) == 10
    assert drawn(Gate(stop_at=0.5, expand_below=0.6)) == 2
    left = 320 - 8 * len("a=")
    assert drawn(Gate(expand_below=0.6, extra=10), grant=320) == 8 + left // 20, "half of it stays for later steps"


def test_phases_have_thresholds_of_their_own():
    engine = liner(lines=1)
    score = lambda text: 0.9 if text.endswith("=") else 0.1  # noqa: E731
    strategy = DualPhase(plans=8, executions=8, keep=2, plan_gate=Gate(stop_at=0.5), execution_gate=Gate(stop_at=0.5))
    run(strategy, engine, 4000, profile=EMBEDDED, reward=Judge(score))
    assert sum(written == "" for written in engine.written) == 2
    assert sum(written.endswith("=") for written in engine.written) == 8


def test_thresholds_are_percentiles_of_the_calibration_split():
    rng = np.random.default_rng(0)
    for n in (1, 2, 7, 100):
        scores = rng.random(n)
        gate = calibrate(list(scores))
        assert gate.stop_at == pytest.approx(np.percentile(scores, 70))
        assert gate.expand_below == pytest.approx(np.percentile(scores, 20))
    with pytest.raises(ValueError, match="without scores"):
        calibrate([])


def test_the_width_is_what_the_grant_pays_for_over_the_steps_to_come():
    for grant, width in ((60, 2), (90, 3), (300, 10)):
        engine = liner(lines=1)
        run(DualPhase(), engine, grant, profile=EMBEDDED, reward=Judge(by_letters))
        assert sum(written == "" for written in engine.written) == width
    engine = liner(lines=1)
    run(DualPhase(plans=4), engine, 300, profile=EMBEDDED, reward=Judge(by_letters))
    assert sum(written == "" for written in engine.written) == 4, "an explicit width is an upper limit"


@pytest.mark.parametrize("grant", [0, 1, 20, 59])
def test_a_grant_for_less_than_two_candidates_is_one_plain_sample(grant):
    engine = liner()
    answer, _ = run(DualPhase(), engine, grant, profile=EMBEDDED, reward=Judge(by_letters))
    assert len(engine.requests) == len(answer.trace.nodes) == min(grant, 1)
    assert all(not r.sampling.stop for r in engine.requests)


def test_what_is_open_when_the_grant_shrinks_is_finished_in_one_go():
    engine = liner(lines=6)
    answer, ctx = run(DualPhase(), engine, 100, profile=EMBEDDED, reward=Judge(by_letters))
    assert ctx.meter.usage.completion <= 100
    assert answer.choice is not None or answer.candidates[0].finish == "length"


def test_candidates_cut_by_the_grant_have_no_say():
    engine = Talker(lambda q, written, r: "x" * 500)
    answer, _ = run(DualPhase(), engine, 200, profile=EMBEDDED, reward=Judge(by_letters))
    assert answer.choice is None


def test_an_ordinary_model_is_asked_for_plans_and_executions():
    def say(question, written, request):
        assert "Plan: ..." in question
        assert question.endswith("<assistant>")
        steps = ["Plan: add\nExecution: 2 + 2 = 4\n\n", "Plan: finish\nExecution: \\boxed{4}"]
        return "".join(steps)[len(written) :]

    judge = Judge(lambda text: len(text) / 1000)
    answer, _ = run(
        DualPhase(keep=1), Talker(say), 9000, profile=replace(DEFAULT, steps=2, step_tokens=40), reward=judge
    )
    assert answer.text == "4"
    assert "Plan: add\nExecution:" in judge.asked
    assert "Plan: add\nExecution: 2 + 2 = 4\n\n" in judge.asked


def test_a_step_without_a_plan_of_its_own_is_taken_whole():
    def say(_question, written, _request):
        return "first\n\nsecond\n\n\\boxed{4}"[len(written) :]

    answer, _ = run(DualPhase(), Talker(say), 4000, reward=Judge(by_letters))
    assert answer.text == "4"


def test_no_response_is_longer_than_its_cap():
    for lines in (2, 6, 30):
        answer, _ = run(DualPhase(), liner(lines), 4000, profile=EMBEDDED, reward=Judge(by_letters), cap=30)
        assert all(c.usage.completion <= 30 for c in answer.candidates)
        assert (answer.choice is not None) == (lines == 2)


def test_what_ends_while_planning_takes_a_place_among_the_kept():
    def say(_question, written, request):
        if not written:
            return "\\boxed{e}" if request.index % 2 else "a=1\n\\boxed{1}"
        return "12"[request.index % 2] + "\n\\boxed{1}" if written.endswith("=") else "\\boxed{1}"

    engine = Talker(say)
    run(DualPhase(keep=2), engine, 4000, profile=EMBEDDED, reward=Judge(lambda t: 0.9 if t == "\\boxed{e}" else 0.5))
    assert len({written for written in engine.written if written.endswith("\n")}) == 1


def test_select_by_vote_or_by_the_best_response():
    def say(_question, written, request):
        return "\\boxed{often}" if request.index else "\\boxed{best}"

    judge = Judge(lambda text: 0.9 if "best" in text else 0.5)
    strategy = DualPhase(plans=4, keep=4)
    assert run(strategy, Talker(say), 4000, profile=EMBEDDED, reward=judge)[0].text == "best", "equal texts vote once"

    def longer(question, written, request):
        return "ab"[request.index % 2] * request.index + say(question, written, request)

    assert run(strategy, Talker(longer), 4000, profile=EMBEDDED, reward=judge)[0].text == "often"
    strategy = replace(strategy, select="reward")
    assert run(strategy, Talker(longer), 4000, profile=EMBEDDED, reward=judge)[0].text == "best"


def test_the_trace_holds_every_generated_token():
    answer, ctx = run(DualPhase(), liner(), 600, profile=EMBEDDED, reward=Judge(by_letters))
    nodes = answer.trace.nodes
    assert sum(node.tokens for node in nodes) == ctx.meter.usage.completion
    for i, node in enumerate(nodes):
        children = [child for child in nodes if child.parent == i]
        assert node.until == max([node.step, *(child.until for child in children)])
        assert (node.fate == "kept") == bool(children)
        assert all(child.step > node.step for child in children)
    # Unique live tokens, step by step, from the definition.
    live = 0
    for step in range(max(node.step for node in nodes) + 1):
        held = set()
        for i, node in enumerate(nodes):
            place = i if node.step == step else None
            while place is not None:
                held.add(place)
                place = nodes[place].parent
        live += sum(nodes[i].tokens for i in held)
    assert live == kv_token_steps(answer.trace)


def test_a_reward_model_that_scores_nothing_more_ends_the_search():
    class Short(Judge):
        async def score(self, problem, responses):
            return [], 0

    answer, ctx = run(DualPhase(), liner(), 600, profile=EMBEDDED, reward=Short(by_letters))
    assert answer.choice is None or answer.text
    assert sum(node.tokens for node in answer.trace.nodes) == ctx.meter.usage.completion
