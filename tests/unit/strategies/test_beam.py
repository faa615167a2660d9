"""Beam search, lookahead and DVTS against plain re-computations on a model that can be followed on paper."""

import asyncio
import random

import pytest
from forest import PROFILE, Forest, Reward, letters, searched, texts, unit

from ttc_strategies.beam import DVTS, Beam, Lookahead


def steps_of(grow, prefix, n):
    return [prefix + grow(prefix, i) for i in range(n)]


def over(text):
    return not text.endswith(";")


def reference_beam(grow, value, n_beams, branching):
    """Snell's beam on whole strings: all steps of a round are ranked with what has ended."""
    ended, frontier = [], steps_of(grow, "", n_beams)
    drawn = sum(map(len, frontier))
    while True:
        new = list(dict.fromkeys(frontier))
        ended += [t for t in new if over(t)]
        pool = [*ended, *(t for t in new if not over(t))]
        kept = [t for t in sorted(pool, key=value, reverse=True)[: n_beams // branching] if not over(t)]
        if not kept:
            return sorted(ended), drawn
        frontier = []
        for prefix in kept:
            children = steps_of(grow, prefix, branching)
            drawn += sum(len(c) - len(prefix) for c in children)
            frontier += children


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(("n_beams", "branching"), [(4, 2), (8, 4), (9, 3), (6, 6), (5, 2)])
def test_beam_keeps_what_a_plain_search_keeps(seed, n_beams, branching):
    grow = letters(5, width=3 if seed % 2 else 26, jitter=3)

    def value(text):
        return unit("value", seed, text)

    expected, drawn = reference_beam(grow, value, n_beams - n_beams % branching, branching)
    outcome = searched(Beam(n_beams, branching), Forest(grow), Reward(value))
    assert texts(outcome) == expected
    assert outcome.meter.usage.completion == drawn


def test_the_rank_is_the_rollouts_end_and_the_rollouts_are_charged():
    """The released beam search draws lookahead text and scores the prefix without it."""

    def grow(prefix, index):
        if prefix.count(";") == 2:
            return "#right" if prefix.startswith("b") else "#wrong"
        return ("ab"[index] if not prefix else "x") + ";"

    def value(text):  # a looks best until its next step is read
        return {"a;": 0.9, "b;": 0.1}.get(text, 0.8 if text.startswith("b") else 0.2)

    engine, reward = Forest(grow), Reward(value)
    outcome = searched(Lookahead(2, 2, lookahead=1), engine, reward)
    assert outcome.answer.text == "right"
    assert "a;x;" in reward.asked
    greedy = [r for r in engine.requests if r.sampling.temperature == 0]
    assert len(greedy) == 3  # of a and of b, then of the one distinct step after b; ended ones need none
    assert sum(n.tokens for n in outcome.answer.trace.nodes) == outcome.meter.usage.completion
    assert [n.fate for n in outcome.answer.trace.nodes].count("rollout") == 3
    assert searched(Beam(2, 2), Forest(grow), Reward(value)).answer.text == "wrong"


def test_a_rollout_that_is_cut_is_judged_by_its_last_whole_step():
    def grow(prefix, index):
        if not prefix:
            return "ab"[index] + ";"
        if prefix == "a;":
            return "#right" if index else "x" * 30  # longer than a response may be
        return "#wrong"

    def value(text):
        return 0.9 if text.startswith("a") else 0.2

    for steps in (1, 2):
        engine = Forest(grow)
        outcome = searched(Lookahead(2, 2, lookahead=steps), engine, Reward(value), max_tokens=20)
        assert outcome.answer.text == "right"


def test_lookahead_of_no_step_is_beam_search():
    grow = letters(4, jitter=2)
    runs = [searched(s, Forest(grow), Reward(unit)) for s in (Beam(8, 2), Lookahead(8, 2, lookahead=0))]
    assert runs[0].answer == runs[1].answer


def test_a_rollout_that_ends_is_no_result():
    grow = letters(2)
    outcome = searched(Lookahead(2, 2, lookahead=3), Forest(grow), Reward(unit))
    finished = [n for n in outcome.answer.trace.nodes if n.fate == "finished"]
    assert len(outcome.answer.candidates) == len(finished) == 2


def test_identical_prefixes_count_once():
    grow = letters(3, width=1)  # every branch is the same
    outcome = searched(Beam(8, 4), Forest(grow), Reward(lambda t: 0.5))
    assert texts(outcome) == ["a;a;a#a"]
    assert [n.fate for n in outcome.answer.trace.nodes].count("kept") == 2


def test_identical_ended_responses_vote_once():
    def grow(prefix, index):
        return "x#common" if index < 3 else "y#rare"

    outcome = searched(Beam(4, 2), Forest(grow), Reward(lambda t: 0.9 if "rare" in t else 0.5))
    assert texts(outcome) == ["x#common", "y#rare"]
    assert outcome.answer.text == "rare"  # three copies of the other would outweigh it


def test_a_finished_response_competes_with_unfinished_ones():
    def grow(prefix, index):
        if not prefix:
            return ["e#early", "l;", "m;", "n;"][index]
        return "z#late"

    def value(text):
        return {"e#early": 0.95, "l;": 0.9, "m;": 0.2, "n;": 0.1}.get(text, 0.3)

    engine = Forest(grow)
    outcome = searched(Beam(4, 2), engine, Reward(value))
    assert texts(outcome) == ["e#early", "l;z#late"]  # one of the two kept places was taken: only l was extended
    assert not [r for r in engine.requests if "#" in engine.decode(r.prompt.generated)]


def reference_dvts(grow, value, n_beams, branching):
    results = []
    for subtree in range(n_beams // branching):
        prefix, first = "", True
        while True:
            children = steps_of(lambda p, i, s=subtree, f=first: grow(p, i, s) if f else grow(p, i), prefix, branching)
            first = False
            results += [t for t in dict.fromkeys(children) if over(t)]
            prefix = max(dict.fromkeys(children), key=value)
            if over(prefix):
                break
    return sorted(results)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(("n_beams", "branching"), [(8, 4), (6, 2), (9, 3)])
def test_subtrees_keep_their_own_best(seed, n_beams, branching):
    """Subtrees start from the same prompt; each branch of the first round has its own samples."""
    base = letters(5, width=4, jitter=3)

    class Numbered(Forest):
        async def generate(self, requests):
            self.first = len(self.requests)
            return await super().generate(requests)

    def grow(prefix, index, subtree=None):
        if not prefix:
            subtree = engine.first // branching if subtree is None else subtree
            return base(f"{subtree}", index)
        return base(prefix, index)

    def value(text):
        return unit("value", seed, text)

    engine = Numbered(grow)
    outcome = searched(DVTS(n_beams, branching), engine, Reward(value))
    assert texts(outcome) == reference_dvts(grow, value, n_beams, branching)


def test_beams_cut_by_length_never_vote():
    """The released beam search counts a beam cut by its cap as complete."""

    def grow(prefix, index):
        return "x" * 8 + ";" if index else "y;" if prefix.count(";") < 3 else "#right"

    outcome = searched(Beam(4, 2), Forest(grow), Reward(lambda t: 0.9 if "x" in t else 0.2), max_tokens=12)
    assert all("x" not in c.text and c.finish == "stop" for c in outcome.answer.candidates)
    assert {n.fate for n in outcome.answer.trace.nodes if "xx" in n.text} <= {"cut", "kept", "pruned"}
    assert any(n.fate == "cut" for n in outcome.answer.trace.nodes)


def test_rounds_are_bounded():
    endless = Forest(lambda prefix, index: "a;")
    outcome = searched(Beam(4, 2, max_steps=5), endless, Reward(lambda t: 0.5))
    assert max(n.step for n in outcome.answer.trace.nodes) == 4
    assert (outcome.answer.candidates, outcome.status) == ((), "unparsed")


@pytest.mark.parametrize("strategy", [Beam(8, 4), DVTS(8, 4), Lookahead(8, 4)])
@pytest.mark.parametrize("grant", [60, 110, 200])
def test_a_tight_grant_gives_the_same_answer_at_any_timing(strategy, grant):
    def delay(seed):
        dice = random.Random(seed)

        async def wait(_request):
            for _ in range(dice.randrange(6)):
                await asyncio.sleep(0)

        return wait

    grow = letters(5, jitter=2)
    outcomes = [
        searched(strategy, Forest(grow, delay=wait), Reward(unit), grant, max_tokens=30)
        for wait in (None, delay(1), delay(2), delay(3))
    ]
    assert all(o.answer == outcomes[0].answer for o in outcomes)
    assert all(o.spent == outcomes[0].spent <= grant for o in outcomes)


def test_the_grant_sets_beams_and_branching():
    """N = g / (step tokens x steps), M = 4 from 8 beams on, else 2, N a multiple of M; an explicit N is a limit."""

    def first_round(strategy, grant):
        engine = Forest(letters(4))
        searched(strategy, engine, Reward(unit), grant, max_tokens=50)
        at_root = [r for r in engine.requests if not r.prompt.generated]
        second = [r for r in engine.requests if len(r.prompt.generated) == 2 and r.sampling.temperature]
        return len(at_root), max((sum(r.prompt == s.prompt for s in second) for r in second), default=0)

    assert PROFILE.step_tokens * PROFILE.steps == 8
    assert first_round(Beam(), 8 * 7) == (6, 2)
    assert first_round(Beam(), 8 * 10) == (8, 4)
    assert first_round(Beam(n_beams=4), 8 * 100) == (4, 2)
    assert first_round(Beam(branching=3), 8 * 10) == (9, 3)
    assert first_round(Lookahead(lookahead=1), 8 * 2 * 6) == (6, 2)
    assert first_round(Lookahead(lookahead=3), 8 * 4 * 6) == (6, 2)
    assert first_round(DVTS(), 8 * 9) == (8, 8)  # both subtrees keep the same letter
