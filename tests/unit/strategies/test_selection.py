"""Which of the drawn answers is chosen, against the choice written out by hand."""

import asyncio
import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import Scripted, answered, attempt

from ttc.core.errors import ConfigError
from ttc.core.types import Completion, Usage
from ttc.engines.fake import FakeReward
from ttc.run.solve import solve
from ttc_strategies.best_of_n import BestOfN
from ttc_strategies.coverage import Coverage
from ttc_strategies.pool import answers_of
from ttc_strategies.single import Greedy
from ttc_strategies.voting import SelfConsistency, WeightedVote


def test_logprob_is_per_token():
    """Summed, the short one would win."""
    engine = Scripted([("short", 10), ("long", 100)], logprob=[-10.0, -50.0])
    assert answered(BestOfN(select="logprob"), engine, 110).answer.text == "long"


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b", None]), st.integers(1, 12), st.sampled_from([-8.0, -4.0, -2.0, None]),
            st.sampled_from([0.0, 0.5, 1.0]),
        ),
        min_size=1, max_size=8,
    )
)  # fmt: skip
def test_the_best_finished_answer_wins_and_ties_go_to_the_first(pool):
    def engine():
        return Scripted(
            [(answer, length) for answer, length, _, _ in pool],
            logprob=[logprob for *_, logprob, _ in pool],
            score=[score for *_, score in pool],
        )  # fmt: skip

    finished = [i for i, (answer, length, _, _) in enumerate(pool) if answer is not None and length <= 10]
    by_logprob = [(-(pool[i][2] / pool[i][1]), i) for i in finished if pool[i][2] is not None]
    by_score = [(-pool[i][3], i) for i in finished]
    n = len(pool)
    for select, keys in (("logprob", by_logprob), ("reward", by_score)):
        outcome = answered(BestOfN(n, select), engine(), cap=10)
        assert outcome.answer.choice == (min(keys)[1] if keys else None)
        assert len(outcome.answer.candidates) == n
    mass = {pool[i][0]: sum(pool[j][3] for j in finished if pool[j][0] == pool[i][0]) for i in finished}
    winner = next((i for i in finished if mass[pool[i][0]] == max(mass.values())), None)
    assert answered(WeightedVote(n), engine(), cap=10).answer.choice == winner
    votes = {pool[i][0]: sum(pool[j][0] == pool[i][0] for j in finished) for i in finished}
    winner = next((i for i in finished if votes[pool[i][0]] == max(votes.values())), None)
    assert answered(SelfConsistency(n), engine(), cap=10).answer.choice == winner


def test_auto_is_reward_where_every_sample_has_a_score_else_logprob():
    assert BestOfN(3).resolve(frozenset({"live", "score"})) == BestOfN(3, "reward")
    assert BestOfN(3).resolve(frozenset({"live"})) == BestOfN(3, "logprob")
    for select in ("reward", "logprob", "confidence"):
        assert BestOfN(3, select).resolve(frozenset({"score"})) == BestOfN(3, select)


def test_requirements_follow_the_measure():
    assert BestOfN(select="auto").requires == BestOfN(select="logprob").requires == frozenset()
    assert BestOfN(select="reward").requires == {"score"}
    assert BestOfN(select="confidence").requires == {"live", "top_logprobs"}


def test_confidence_asks_for_the_top_twenty_and_takes_the_most_confident():
    engine = Scripted([("a", 5), ("b", 5)], confidence=[1.0, 2.0])
    assert answered(BestOfN(2, "confidence"), engine).answer.text == "b"
    assert {r.sampling.top_logprobs for r in engine.requests} == {20}


class Scorer(FakeReward):
    """Scores a response by the number it is told for its text, and notes what it was asked."""

    def __init__(self, scores):
        self.scores, self.asked = scores, []

    async def score(self, problem, responses):
        self.asked += [steps[0].text for steps in responses]
        return [(self.scores[steps[0].text],) for steps in responses], 0


def test_the_reward_model_scores_only_finished_samples_without_a_recorded_score():
    reward = Scorer({"a": 0.2, "c": 0.4})
    engine = Scripted([("a", 5), ("cut", 50), ("c", 5), ("d", 5)], score=[None, None, None, 0.3])
    outcome = answered(BestOfN(4, "reward"), engine, cap=10, reward=reward)
    assert reward.asked == ["a", "c"]
    assert [c.score for c in outcome.answer.candidates] == [0.2, None, 0.4, 0.3]
    assert outcome.answer.text == "c"


def test_weighted_vote_sums_the_reward_of_equal_answers():
    reward = Scorer({"a": 0.9, "b": 0.5})
    engine = Scripted([("a", 5), ("b", 5), ("b", 5)])
    assert answered(WeightedVote(3), engine, reward=reward).answer.text == "b"
    assert answered(BestOfN(3, "reward"), engine, reward=reward).answer.text == "a"


def test_selection_by_reward_without_a_reward_model_is_a_wrong_request():
    with pytest.raises(ConfigError, match="no reward model"):
        answered(BestOfN(2, "reward"), Scripted([("a", 5)]))


def test_a_cut_sample_does_not_vote_even_if_its_reader_found_an_answer():
    whole = Completion(0, "4", (), "stop", Usage(), answer="4")
    assert answers_of([whole, dataclasses.replace(whole, finish="length")]) == ["4", None]


def test_greedy_draws_one_answer_at_temperature_zero():
    engine = Scripted([("right", 5)])
    outcome = answered(Greedy(), engine)
    assert [r.sampling.temperature for r in engine.requests] == [0.0]
    assert (outcome.answer.text, outcome.score) == ("right", 1.0)
    assert answered(Greedy(), Scripted([("right", 500)])).answer.choice is None


def test_without_n_the_grant_alone_ends_the_draw():
    for strategy in (BestOfN(select="logprob"), SelfConsistency(), Coverage()):
        outcome = answered(strategy, Scripted([("a", 30)]), 100, cap=40, floor=20)
        assert [c.usage.completion for c in outcome.answer.candidates] == [30, 30, 30]
        assert (outcome.answer.stop_reason, outcome.spent) == ("budget", 90)


def test_an_empty_draw_has_no_choice():
    for strategy in (BestOfN(select="logprob"), SelfConsistency(), Greedy(), WeightedVote()):
        outcome = answered(strategy, Scripted([("a", 30)]), 0)
        assert (outcome.answer.choice, outcome.answer.candidates, outcome.status) == (None, (), "budget")


def test_coverage_selects_nothing_and_is_marked_as_an_oracle():
    outcome = answered(Coverage(2), Scripted([("wrong", 5), ("right", 5)]))
    assert (outcome.answer.choice, outcome.answer.any_of, outcome.score) == (None, True, 1.0)
    assert Coverage.oracle


def test_strategies_are_frozen_and_keep_no_state_between_problems():
    for strategy in (BestOfN(2, "logprob"), SelfConsistency(2), Coverage(2)):
        with pytest.raises(dataclasses.FrozenInstanceError):
            strategy.n = 3
        a = attempt(strategy, Scripted([("a", 5), ("b", 5)]), draws=2)
        first, second = asyncio.run(solve(a))
        assert first.answer == second.answer
