"""Exits by agreement: published values, the rule written out by hand, and what the released code gets wrong."""

import math
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import Scripted, answered
from talker import Talker, run

from ttc.core.profiles import DEFAULT, PROFILES
from ttc_strategies.certaindex import HESITATION, Certaindex, Probe, agreement, certaindex


@pytest.mark.parametrize(
    ("counts", "value"),
    [([5], 1), ([4, 1], 0.6891), ([3, 2], 0.5818), ([3, 1, 1], 0.4096), ([2, 2, 1], 0.3445), ([1] * 5, 0)],
)
def test_published_values(counts, value):
    answers = [str(i) for i, count in enumerate(counts) for _ in range(count)]
    assert certaindex(answers) == pytest.approx(value, abs=5e-5)


@given(st.lists(st.sampled_from(["a", "b", "c", None]), max_size=12))
def test_it_is_one_minus_the_relative_entropy(answers):
    value = certaindex(answers)
    n = len(answers)
    if n < 2:
        assert value == 0
        return
    classes = Counter(a if a is not None else ("none", i) for i, a in enumerate(answers))
    bits = -sum(c / n * math.log2(c / n) for c in classes.values())
    assert value == pytest.approx(1 - bits / math.log2(n), abs=1e-12)


def probes(spelled):
    """`A` is a certain probe, `a` a hesitant one with the same answer, `-` one without an answer."""
    return [Probe(None if c == "-" else c.upper(), certain=c.isupper()) for c in spelled]


@pytest.mark.parametrize(
    ("seen", "window", "value"),
    [
        ("", 3, 0), ("AAA", 3, 1), ("BAAA", 3, 1), ("AAB", 3, 1 / 3), ("ABA", 3, 2 / 3), ("AA", 3, 2 / 3),
        ("AaA", 3, 2 / 3), ("aaa", 3, 0), ("AA-", 3, 0), ("-AA", 3, 2 / 3), ("A-A", 3, 2 / 3), ("---", 3, 0), ("A", 1, 1),
    ],
)  # fmt: skip
def test_agreement_is_the_share_of_the_window_that_is_certain_and_equal_to_the_last(seen, window, value):
    assert agreement(probes(seen), window) == pytest.approx(value)


def test_hesitation_is_whole_words():
    for text in ("I know the distribution", "a notebook", "holding on", "Okayama", "await"):
        assert not HESITATION.search(text), text
    for text in ("Wait, 4", "but 4", "no.", "Hmm", "okay", "hold on", "NO!"):
        assert HESITATION.search(text), text


def prober(*answers, length=1000):
    """Write on and on; the k-th probe is answered by the k-th of `answers`, the last one for good."""

    def say(_question, written, request):
        if request.sampling.kind == "probe":
            return answers[min(request.index, len(answers) - 1)]
        return ("x" * (length - len(written)) + "\\boxed{end}") if len(written) <= length else ""

    return Talker(say)


def test_a_response_ends_when_its_last_probes_agree():
    engine = prober("1}", "2}", "2}", "2}", "3}")
    answer, ctx = run(Certaindex(exit="probe", window=3, chunk=10, min_tokens=0), engine, 5000)
    assert (answer.text, answer.stop_reason) == ("2", "confident")
    streamed = [r for r in engine.requests if r.sampling.kind == "answer"]
    assert [len(r.prompt.generated) for r in streamed] == [0, 10, 20, 30], "a probe leaves no trace in the response"
    assert ctx.meter.probe_tokens == 4 * len("2}")
    assert ctx.meter.usage.completion == 4 * 10 + 4 * len("2}")


def test_enough_probes_that_disagree_do_not_end_it():
    """The released exit test returns true once there are enough answers, whatever they are."""
    engine = prober(*[f"{i}}}" for i in range(200)])
    answer, _ = run(Certaindex(exit="probe", window=2, chunk=50), engine, 9000, cap=2000)
    assert (answer.text, answer.stop_reason) == ("end", "finished")


def test_hesitant_probes_do_not_end_it():
    going_on = replace(DEFAULT, answer_stop=())
    for probe, said in (("2}. But wait", "end"), ("2}, I know", "2")):
        answer, _ = run(Certaindex(exit="probe", window=2, chunk=200), prober(probe), 9000, profile=going_on, cap=2000)
        assert answer.text == said


@pytest.mark.parametrize("said", ["no", "yes"])
def test_an_answer_is_no_hesitation(said):
    answer, _ = run(Certaindex(exit="probe", window=2, chunk=200), prober(said + "}"), 9000, cap=2000)
    assert (answer.text, answer.stop_reason) == (said, "confident")


def test_probes_without_an_answer_do_not_end_it():
    engine = prober("y" * 50)
    answer, ctx = run(Certaindex(exit="probe", window=1, chunk=300, probe_tokens=7), engine, 9000, cap=2000)
    assert answer.text == "end"
    assert ctx.meter.probe_tokens == 3 * 7


def test_no_exit_before_the_least_tokens():
    engine = prober("2}")
    run(Certaindex(exit="probe", window=1, chunk=10, min_tokens=35), engine, 5000)
    assert len([r for r in engine.requests if r.sampling.kind == "answer"]) == 4
    engine = prober("2}")
    run(Certaindex(exit="probe", window=1, chunk=10), engine, 5000, cap=400)
    assert len([r for r in engine.requests if r.sampling.kind == "answer"]) == 10, "a quarter of a typical sample"


def numbered(rest=""):
    """Think 100 tokens, then write `rest`; probes are answered by their number."""

    def say(_question, written, request):
        if request.sampling.kind == "probe":
            return f"{request.index}}}"
        return rest if "</think>" in written else ("x" * 100 + "</think>")[len(written) - len("<think>\n") :]

    return Talker(say)


def test_a_response_that_ends_without_an_answer_has_its_latest_probes():
    engine = Talker(lambda q, w, r: f"{r.index}}}" if r.sampling.kind == "probe" else "x" * (100 - len(w)))
    answer, _ = run(Certaindex(exit="probe", chunk=30), engine, 5000)
    assert (answer.text, len(answer.candidates)) == ("2", 1)
    for rest, grant in (("I do not know", 5000), ("so " * 900, 5000), ("so " * 900, 200)):
        answer, _ = run(Certaindex(exit="probe", chunk=30), numbered(rest), grant, profile=PROFILES["qwen3"])
        assert (answer.text, len(answer.candidates)) == ("2", 1)


def test_a_response_is_no_longer_than_its_cap():
    engine = prober(*[f"{i}}}" for i in range(200)])
    answer, _ = run(Certaindex(exit="probe", chunk=10), engine, 5000, cap=128)
    assert answer.text == str(max(r.index for r in engine.requests if r.sampling.kind == "probe"))
    assert answer.candidates[0].usage.completion <= 128
    answer, _ = run(Certaindex(exit="probe", chunk=50), prober("y" * 500), 5000, cap=128)
    assert (answer.choice, answer.candidates[0].usage.completion) == (None, 128)


def test_a_grant_that_ends_first_gives_the_latest_probe():
    engine = prober(*[f"{i}}}" for i in range(200)])
    answer, ctx = run(Certaindex(exit="probe", window=2, chunk=10, probe_tokens=5), engine, 60)
    assert answer.text == str(max(r.index for r in engine.requests if r.sampling.kind == "probe"))
    assert ctx.meter.usage.completion <= 60


def test_a_model_that_ends_its_thinking_is_asked_no_more():
    def say(_question, written, request):
        if request.sampling.kind == "probe":
            return f"{len(written)}}}"
        if "</think>" in written:
            return "So \\boxed{4}."
        return ("x" * 100 + "</think>")[len(written) - len("<think>\n") :]

    engine = Talker(say)
    answer, _ = run(Certaindex(exit="probe", chunk=30), engine, 5000, profile=PROFILES["qwen3"])
    assert answer.text == "4"
    assert [r.sampling.kind for r in engine.requests] == ["answer", "probe"] * 3 + ["answer", "answer"]
    assert all("</think>\n\nFinal answer:" not in w for w in engine.written if "So" in w)


def test_the_chunk_is_an_eighth_of_a_sample_from_8_to_64():
    for cap, chunk in ((64, 8), (160, 20), (4096, 64)):
        engine = prober("2}")
        run(Certaindex(exit="probe"), engine, 5000, cap=cap)
        assert engine.requests[0].max_tokens == chunk


@pytest.mark.parametrize("grant", [0, 1, 5, 20, 27])
def test_a_grant_below_one_chunk_and_probe_is_one_plain_sample(grant):
    engine = prober("2}", length=3)
    run(Certaindex(exit="probe", chunk=8), engine, grant)
    assert len(engine.requests) == min(1, grant)
    assert all(not r.sampling.stop for r in engine.requests)


def test_a_vote_is_looked_at_once():
    unanimous = Scripted([("a", 5)] * 5 + [("b", 5)] * 20)
    outcome = answered(Certaindex(exit="entropy", n=20), unanimous)
    assert (outcome.answer.stop_reason, len(outcome.answer.candidates)) == ("confident", 5)
    split = Scripted([("a", 5)] * 4 + [("b", 5)] * 16)
    outcome = answered(Certaindex(exit="entropy", n=20), split)
    assert (outcome.answer.text, len(outcome.answer.candidates)) == ("b", 20), ".7 at 5 means that all agree"
    outcome = answered(Certaindex(exit="entropy", n=20, threshold=0.68), split)
    assert (outcome.answer.text, len(outcome.answer.candidates)) == ("a", 5)
    none = Scripted([(None, 5)] * 5 + [("b", 5)])
    assert len(answered(Certaindex(exit="entropy", n=6), none).answer.candidates) == 6


def test_a_grant_below_the_detection_step_is_a_plain_vote():
    outcome = answered(Certaindex(exit="entropy"), Scripted([("a", 10)]), 35, floor=10)
    assert (outcome.answer.text, outcome.answer.stop_reason, outcome.spent) == ("a", "budget", 30)


def test_auto_probes_where_a_prefix_can_be_continued():
    everything = frozenset({"live", "extends", "temperature"})
    assert Certaindex().resolve(everything).exit == "probe"
    assert Certaindex().resolve(frozenset({"live", "temperature"})).exit == "entropy"
    assert Certaindex(exit="entropy").resolve(everything).exit == "entropy"
    assert Certaindex(exit="probe").requires == everything
    assert Certaindex(exit="entropy").requires == frozenset()
