"""What all tree searches share: the trace and its KV tokens, ended and cut chains, grants, selection, failures."""

import asyncio
import itertools
from dataclasses import replace

import pytest
from forest import PROFILE, Forest, Judge, Reward, context, letters, problem, searched, unit, world
from hypothesis import given, settings
from hypothesis import strategies as st

from ttc.core.errors import ConfigError
from ttc.core.registry import load
from ttc.core.tree import kv_token_steps
from ttc.core.types import Completion, Usage
from ttc.run.granting import Fixed
from ttc.run.ledger import Ledger
from ttc.run.solve import Attempt, solve
from ttc_strategies import mcts
from ttc_strategies.beam import DVTS, Beam, Lookahead
from ttc_strategies.mcts import MCTS
from ttc_strategies.particles import ParticleFiltering
from ttc_strategies.pool import chosen, hierarchical, select_from
from ttc_strategies.rebase import ETS, Rebase
from ttc_strategies.search import Search

SEARCHES = [Beam(8, 4), Lookahead(8, 4), DVTS(8, 4), Rebase(8), ETS(8), ParticleFiltering(8)]
STEP_WISE = [s for s in SEARCHES if not isinstance(s, Lookahead)]
UNKNOWN = replace(PROFILE, step_tokens=None, steps=None)


def union_of_root_paths(trace):
    """Return the KV tokens of a search in rounds: at each, the tokens of all nodes above and of the new ones."""
    paths = []
    for i, node in enumerate(trace.nodes):
        paths.append({i} if node.parent is None else {i, *paths[node.parent]})
    total = 0
    for step in {n.step for n in trace.nodes}:
        held = set().union(*(paths[i] for i, n in enumerate(trace.nodes) if n.step == step))
        total += sum(trace.nodes[i].tokens for i in held)
    return total


@pytest.mark.parametrize("strategy", STEP_WISE, ids=lambda s: type(s).__name__)
def test_kv_tokens_are_those_of_the_root_paths_of_every_round(strategy):
    for seed in range(4):
        outcome = searched(strategy, Forest(letters(6, jitter=3)), Reward(lambda t, s=seed: unit(s, t)))
        trace = outcome.answer.trace
        assert kv_token_steps(trace) == union_of_root_paths(trace) > 0


@pytest.mark.parametrize("strategy", [*SEARCHES, MCTS()], ids=lambda s: type(s).__name__)
def test_the_trace_holds_every_generated_token_and_every_result(strategy):
    outcome = searched(strategy, Forest(letters(5, jitter=2)), Reward(unit), 400, max_tokens=40)
    trace = outcome.answer.trace
    assert sum(n.tokens for n in trace.nodes) == outcome.meter.usage.completion
    assert sum(n.fate == "finished" for n in trace.nodes) >= len(outcome.answer.candidates) > 0
    for i, node in enumerate(trace.nodes):
        assert node.parent is None or (node.parent < i and trace.nodes[node.parent].step < node.step)
        assert (node.fate == "kept") == any(child.parent == i and child.fate != "rollout" for child in trace.nodes)
    assert trace.prompt_tokens == 1


def test_steps_are_scored_at_their_end_and_results_keep_the_last_score():
    reward = Reward(unit)
    outcome = searched(Rebase(4), Forest(letters(3)), reward)
    for c in outcome.answer.candidates:
        assert c.score == unit(c.text)
        assert c.text in reward.asked
        assert c.usage.completion == len(c.tokens) == len(c.text)


@pytest.mark.parametrize(
    ("how", "fold"), [("min", min), ("mean", lambda s: sum(s) / len(s)), ("last", lambda s: s[-1])]
)
def test_the_aggregation_is_of_all_steps(how, fold):
    outcome = searched(Rebase(4, aggregation=how), Forest(letters(3)), Reward(unit))
    for c in outcome.answer.candidates:
        ends = [i for i, letter in enumerate(c.text, 1) if letter == ";"]
        assert c.score == pytest.approx(fold([unit(c.text[:end]) for end in [*ends, len(c.text)]]))


def test_a_step_at_its_cap_goes_on_and_a_response_at_its_own_does_not_vote():
    steps = Forest(lambda prefix, index: "x" * 4 + ";" if prefix.count("x") < 12 else "#right")
    profile = replace(PROFILE, sample_tokens=3)  # caps a step at 3 tokens: every step is cut in two
    outcome = searched(Rebase(2), steps, Reward(lambda t: 0.5), profile=profile, max_tokens=40)
    assert {n.tokens for n in outcome.answer.trace.nodes} == {3}
    assert outcome.answer.candidates == ()  # "#right" never fits a step of 3 tokens
    longer = searched(Rebase(2), steps, Reward(lambda t: 0.5), max_tokens=30)
    assert longer.answer.text == "right"
    assert longer.answer.candidates[0].text == "xxxx;" * 3 + "#right"
    shorter = searched(Rebase(2), steps, Reward(lambda t: 0.5), max_tokens=20)
    assert (shorter.answer.candidates, shorter.status) == ((), "unparsed")


def test_a_stop_token_separates_steps_like_a_stop_string():
    profile = replace(PROFILE, step_stop=("\n",), step_stop_token_ids=(ord(";"),))
    engine = Forest(letters(3))
    outcome = searched(Rebase(3), engine, Reward(unit), profile=profile)
    for c in outcome.answer.candidates:
        assert c.text == engine.decode(c.tokens).replace(
            ";", "\n"
        )  # no text is told for a token: the profile's is used
        assert c.answer == c.text[-1]


@pytest.mark.parametrize("strategy", [Beam(4, 2), Rebase(4), MCTS(branching=2)])
def test_a_response_that_fills_the_context_is_cut_and_the_search_goes_on(strategy):
    def grow(prefix, index):
        if prefix.startswith("a"):
            return "xx;"  # with the prompt's token and "a;", the seventh fills a context of 24
        return "ab"[index % 2] + ";" if not prefix else "#right"

    engine = Forest(grow)
    engine.context_tokens = 24
    outcome = searched(strategy, engine, Reward(lambda t: 0.52 if t.startswith("a") else 0.5), 5000, max_tokens=100)
    assert max(len(r.prompt.tokens) for r in engine.requests) == 21
    assert outcome.answer.text == "right"
    assert outcome.answer.stop_reason == "finished"


def test_no_call_follows_an_end_or_a_cut():
    for strategy in (*SEARCHES, MCTS(), MCTS(branching=2)):
        engine = Forest(letters(5, jitter=4))
        searched(strategy, engine, Reward(unit), 500, max_tokens=40)
        assert not [r for r in engine.requests if "#" in engine.decode(r.prompt.generated)]


@pytest.mark.parametrize("strategy", [Beam(), DVTS(), Rebase(), ETS(), ParticleFiltering(), Lookahead(), MCTS()])
def test_a_grant_too_small_for_a_search_buys_one_sample(strategy):
    engine = Forest(letters(3))
    outcome = searched(strategy, engine, Reward(unit), 15, max_tokens=40)  # two branches would take 2 x 4 x 2 = 16
    assert len(engine.requests) == 1
    assert engine.requests[0].max_tokens == 15
    assert outcome.answer.candidates[0].answer is not None
    assert outcome.answer.choice == 0
    assert kv_token_steps(outcome.answer.trace) == outcome.meter.usage.completion


def test_without_typical_lengths_a_first_chain_measures_them_and_stays_a_candidate():
    engine = Forest(letters(4))
    outcome = searched(Rebase(), engine, Reward(unit), 100, max_tokens=30, profile=UNKNOWN)
    assert [len(r.prompt.generated) for r in engine.requests[:4]] == [0, 2, 4, 6]
    # 4 steps of 9 / 4 tokens: 91 tokens are left for 91 / 9 = 10 branches
    assert len([r for r in engine.requests if not r.prompt.generated]) == 1 + 10
    assert outcome.answer.candidates[0].text == "a;a;a;a#a"


@pytest.mark.parametrize("grant", [479, 480])
def test_long_pruned_siblings_leave_enough_for_an_answer(grant):
    """Eight whole responses of 30 tokens and a step more, 480 in all, are no upper bound: what is pruned costs too."""

    def grow(prefix, index):
        if prefix.count(";") >= 5:
            return "#right"
        return "x" * 14 + ";" if index else "a;"

    outcome = searched(
        Beam(8, 4), Forest(grow), Reward(lambda t: 1 / (1 + len(t))), grant, max_tokens=30, profile=UNKNOWN
    )
    assert outcome.answer.text == "right"


def test_a_first_chain_that_is_cut_leaves_one_sample():
    calls = itertools.count()
    engine = Forest(lambda prefix, index: "xxxx;" if next(calls) < 8 else "#right")
    outcome = searched(Rebase(), engine, Reward(unit), 75, max_tokens=40, profile=UNKNOWN)
    assert outcome.answer.text == "right"
    assert [n.tokens for n in outcome.answer.trace.nodes] == [5] * 8 + [6]
    assert outcome.answer.trace.nodes[7].fate == "cut"


def test_the_width_narrows_where_responses_are_longer_than_typical():
    """Ten steps where four are typical: a fixed width would end the grant with nothing finished."""
    for strategy in (Beam(), DVTS(), Rebase(), ETS(), ParticleFiltering()):
        outcome = searched(strategy, Forest(letters(10)), Reward(unit), 8 * 16, max_tokens=40)
        assert outcome.answer.candidates, type(strategy).__name__
        rounds = [n.step for n in outcome.answer.trace.nodes]
        assert rounds.count(0) == 16
        assert rounds.count(8) < 8


def test_all_live_nodes_are_drawn_at_once_and_scored_at_once():
    running, most = 0, 0

    async def delay(_request):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1

    reward = Reward(unit)
    outcome = searched(Rebase(8), Forest(letters(4), delay=delay), reward)
    assert most == 8
    assert reward.calls == 4
    assert outcome.meter.calls == 32


def test_a_failing_call_leaves_nothing_running_or_reserved():
    async def delay(request):
        await asyncio.sleep(0.001 * (1 + request.index))

    def grow(prefix, index):
        if prefix and index == 1:
            raise ConnectionError("gone")
        return "a;"

    total = Ledger(10**6)
    granters = (Fixed(total, {"p": 10**5}),)
    engine = Forest(grow, delay=delay)
    attempt = Attempt(Beam(8, 4), problem(engine), granters, world(engine, Reward(unit)), Judge(), 500.0)
    outcome = asyncio.run(solve(attempt))[0]
    assert (outcome.status, total.reserved) == ("error", 0)
    assert "gone" in outcome.error


def test_a_reward_model_that_fails_midway_fails_the_problem():
    reward = Reward(unit, fail_at=2)
    engine = Forest(letters(4))
    total = Ledger(10**6)
    granters = (Fixed(total, {"p": 10**5}),)
    attempt = Attempt(Rebase(4), problem(engine), granters, world(engine, reward), Judge(), 500.0)
    outcome = asyncio.run(solve(attempt))[0]
    assert (outcome.status, outcome.error, total.reserved) == ("error", "the reward model failed", 0)
    assert outcome.spent == total.spent == 16  # both rounds that were drawn


def test_branches_of_a_round_have_seeds_of_their_own():
    engine = Forest(letters(4))
    searched(Rebase(16), engine, Reward(unit))
    assert len({r.seed for r in engine.requests}) == len(engine.requests)


@given(
    st.integers(0, 300), st.sampled_from(["beam", "lookahead", "dvts", "rebase", "ets", "particle-filtering", "mcts"])
)
@settings(max_examples=80, deadline=None)
def test_no_search_outspends_its_grant_or_leaves_tokens_out(grant, name):
    engine = Forest(letters(6, jitter=4))
    outcome = searched(load("strategies", name)(), engine, Reward(unit), grant, max_tokens=25)
    generated = sum(n.tokens for n in outcome.answer.trace.nodes)
    assert generated == outcome.meter.usage.completion == outcome.spent <= grant


def test_mcts_says_what_it_lacks(monkeypatch):
    monkeypatch.setattr(mcts, "find_spec", lambda name: None)
    engine = Forest(letters(3))
    with pytest.raises(ConfigError, match="treequest") as caught:
        asyncio.run(MCTS().solve(problem(engine), context(engine, Reward(unit), 100)))
    assert "ttc-toolkit[mcts]" in caught.value.hint
    with pytest.raises(ConfigError, match="treequest"):  # when cells are planned, before an engine starts
        MCTS().resolve(frozenset())


def test_mcts_expands_what_uct_prefers_and_finishes_with_what_it_kept_back():
    def value(text):
        return 0.9 if text.startswith("b") else 0.1

    engine = Forest(lambda p, i: ("abc"[i % 3] if not p else "xy"[i % 2]) + (";" if p.count(";") < 3 else "#z"))
    outcome = searched(MCTS(branching=3, exploration=0.1), engine, Reward(value), 2 * 30, max_tokens=20)
    below = [engine.decode(r.prompt.generated)[0] for r in engine.requests if r.prompt.generated]
    assert below.count("b") > 0.7 * len(below)
    assert outcome.answer.candidates
    assert outcome.spent > 40


def test_mcts_turns_away_from_a_leaf_that_fills_the_context():
    def grow(prefix, index):
        if prefix.startswith("a"):
            return "x" * 20 + ";"  # with the prompt's token and "a;", all of a context of 24
        return "ab"[index] + ";" if not prefix else "#right"

    engine = Forest(grow)
    engine.context_tokens = 24
    reward = Reward(lambda t: 0.52 if t.startswith("a") else 0.5)
    searched(MCTS(nodes=40, branching=2, exploration=0.0), engine, reward, 5000, max_tokens=100)
    assert [engine.decode(r.prompt.generated) for r in engine.requests] == ["", "", "a;", "a;", "b;", "b;"]


def test_a_value_is_needed_to_grow_and_a_duplicate_is_no_result():
    engine = Forest(lambda p, i: "#same")
    search = Search(problem(engine), context(engine, Reward(unit), 1000), "last")
    (children,) = asyncio.run(search.grow([(search.root, 3)]))
    assert len(search.finished) == 3
    assert search.distinct(children) == children[:1] == search.finished


def pool(*rows):
    return [
        Completion(i, "", (), "length" if answer == "cut" else "stop", Usage(), answer=None if answer == "cut" else answer,
                   score=score)
        for i, (answer, score) in enumerate(rows)
    ]  # fmt: skip


ROWS = pool(("x", 0.9), ("y", 0.5), ("y", 0.5), ("z", 0.3), ("z", 0.3), ("z", 0.3), ("cut", 1.0), (None, 1.0))


@pytest.mark.parametrize(("select", "choice"), [("majority", 3), ("weighted", 1), ("reward", 0)])
def test_selectors_choose_from_any_pool(select, choice):
    assert chosen(ROWS, select) == choice
    assert chosen(pool(("cut", 1.0), (None, 0.5)), select) is None
    assert chosen([], select) is None


def test_a_verifier_reads_the_pool_anew_and_votes_in_groups():
    class Rescoring:
        async def score(self, responses):
            self.asked = len(responses)
            return [(s,) for s in (0.1, 0.2, 0.2, 0.9, 0.8, 0.1, 0.5)]

    ctx = Rescoring()
    scored, choice = asyncio.run(select_from(ctx, ROWS, "verifier", [0, 0, 0, 1, 1, 1, 1, 1]))
    assert ctx.asked == 7  # all but the cut one
    assert [c.score for c in scored] == [0.1, 0.2, 0.2, 0.9, 0.8, 0.1, None, 0.5]
    assert choice == 3


def test_groups_vote_first_and_their_winners_then():
    # Group 0: y beats x (.5 to .4); group 1: x alone (.45). Flat, x would win by .85 to .5.
    answers, weights = ["x", "y", "x"], [0.4, 0.5, 0.45]
    assert hierarchical(answers, weights, [0, 0, 1]) == 1
    assert hierarchical(answers, weights, [0, 0, 0]) == 0
    assert hierarchical([None, None], [1.0, 1.0], [0, 1]) is None
