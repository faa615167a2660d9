"""One problem is one record, whatever the strategy, the engine or the grader does."""

import asyncio
import dataclasses
import json

import pytest
from scripted import Judge, Scripted, answered, attempt, forever, refused

from ttc.core.errors import ConfigError, EngineError, StorageError
from ttc.core.types import Answer, Completion, Usage
from ttc.run.solve import record, solve


@dataclasses.dataclass(frozen=True)
class First:
    """Draws n and takes the first."""

    n: int | None = 1
    any_of: bool = False

    async def solve(self, problem, ctx):
        drawn = await ctx.sample(problem.prompt, self.n, ctx.sampling)
        choice = 0 if drawn and drawn[0].answer is not None else None
        return Answer(tuple(drawn), None if self.any_of else choice, ctx.ended or "finished", self.any_of)


@dataclasses.dataclass(frozen=True)
class Raises:
    error: BaseException

    async def solve(self, problem, ctx):
        await ctx.sample(problem.prompt, 1, ctx.sampling)
        raise self.error


@dataclasses.dataclass(frozen=True)
class Returns:
    value: object

    async def solve(self, problem, ctx):
        await ctx.sample(problem.prompt, 1, ctx.sampling)
        return self.value


@dataclasses.dataclass(frozen=True)
class Never:
    """Stops without an answer, having spent something."""

    async def solve(self, problem, ctx):
        await ctx.sample(problem.prompt, 1, ctx.sampling)
        await asyncio.Event().wait()


def right(length=10):
    return Scripted([("right", length)])


@pytest.mark.parametrize(("answer", "score"), [("right", 1.0), ("wrong", 0.0)])
def test_an_answer_is_ok_and_scored_by_its_verdict(answer, score):
    outcome = answered(First(), Scripted([(answer, 10)]))
    assert (outcome.status, outcome.score, outcome.spent) == ("ok", score, 10)


def test_a_grant_too_small_for_any_finished_sample_is_status_budget():
    outcome = answered(First(None), right(100), 40)
    assert (outcome.status, outcome.score, outcome.spent) == ("budget", 0.0, 40)
    outcome = answered(First(None), right(), 0)
    assert (outcome.status, outcome.score, outcome.answer.candidates) == ("budget", 0.0, ())


def test_a_vote_cut_short_by_its_grant_is_ok_with_reason_budget():
    outcome = answered(First(None), right(30), 50)
    assert (outcome.status, outcome.answer.stop_reason) == ("ok", "budget")


def test_finished_text_without_an_answer_is_unparsed():
    for strategy in (First(), First(any_of=True)):
        outcome = answered(strategy, Scripted([(None, 10)]))
        assert (outcome.status, outcome.score) == ("unparsed", 0.0)


def test_samples_cut_by_their_own_cap_are_unparsed():
    """The grant was not what ended them."""
    outcome = answered(First(), right(200), cap=100)
    assert (outcome.status, outcome.score) == ("unparsed", 0.0)


def test_any_of_asks_whether_a_candidate_is_right():
    script = [("wrong", 5), (None, 5), ("right", 5), ("wrong", 5)]
    for n, score in ((1, 0.0), (2, 0.0), (3, 1.0), (4, 1.0)):
        outcome = answered(First(n, any_of=True), Scripted(script))
        assert (outcome.status, outcome.score) == ("ok", score)


def test_a_strategy_that_never_returns_is_a_timeout_charged_what_it_spent():
    outcome = answered(Never(), right(), timeout_s=0.05)
    assert (outcome.status, outcome.score, outcome.spent) == ("timeout", 0.0, 10)
    assert "0.05 s" in outcome.error
    assert outcome.wall_s < 5


@pytest.mark.parametrize("n", [1, None])
def test_an_engine_that_never_answers_is_a_timeout_charged_its_reservations(n):
    a = attempt(First(n), Scripted([("right", 1)], delay=forever), 250, timeout_s=0.05)
    outcome = asyncio.run(asyncio.wait_for(solve(a), 10))[0]
    assert (outcome.status, outcome.spent) == ("timeout", 100 if n else 200)
    assert a.granters[0].total.reserved == 0


@pytest.mark.parametrize("error", [ValueError("odd"), KeyError("k"), AssertionError(), ZeroDivisionError("/")])
def test_a_strategy_that_raises_is_an_error_without_a_score(error):
    outcome = answered(Raises(error), right())
    assert (outcome.status, outcome.score, outcome.spent) == ("error", None, 10)
    assert outcome.error == f"Raises raised {type(error).__name__}: {error}"


@pytest.mark.parametrize(
    "value",
    [
        None,
        "right",
        ("a", 0),
        Answer((), 0),
        Answer((), -1),
        Answer(("right",), 0),
        Answer((), None, "bored"),
    ],
)
def test_a_strategy_that_returns_something_else_is_an_error(value):
    outcome = answered(Returns(value), right())
    assert (outcome.status, outcome.score) == ("error", None)
    assert outcome.error.startswith("Returns raised ")


def test_a_failed_call_is_an_error_with_the_engines_words():
    outcome = answered(First(), Scripted([refused(3)]))
    assert (outcome.status, outcome.error, outcome.spent) == ("error", "refused", 3)


@pytest.mark.parametrize(
    "error", [EngineError("gone", fatal=True), ConfigError("wrong request"), StorageError("disk full")]
)
def test_what_concerns_the_whole_run_ends_it(error):
    for strategy, engine in ((Raises(error), right()), (First(), Scripted([error]))):
        with pytest.raises(type(error), match=error.message):
            answered(strategy, engine)


def test_a_grader_that_fails_leaves_the_score_open():
    for fault in ("error", RuntimeError("grader")):
        outcome = answered(First(), right(), judge=Judge(fault=fault))
        assert (outcome.status, outcome.score) == ("error", None)


def test_an_answer_whose_grading_never_ends_is_wrong():
    outcome = answered(First(), right(), judge=Judge(fault="timeout"))
    assert (outcome.status, outcome.score) == ("timeout", 0.0)


def rows(strategy, engine, draws=1, *, store_text=True, **options):
    a = attempt(strategy, engine, 1000, draws=draws, **options)
    return record(a, asyncio.run(solve(a)), store_text)


def test_a_record_holds_the_counts_of_its_one_draw():
    row = rows(First(3), Scripted([("right", 10), ("wrong", 30), (None, 20)], prompt_tokens=9, cached=4))
    expected = {
        "problem_id": "p1", "grant_tokens": 1000, "answer": "right", "correct": True, "score": 1.0, "status": "ok",
        "stop_reason": "finished", "completion_tokens": 60, "prompt_tokens": 15, "cached_tokens": 12,
        "sequential_tokens": 30, "calls": 3, "draw_spent": [60],
    }  # fmt: skip
    assert {key: row[key] for key in expected} == expected
    assert [(c["answer"], c["correct"], c["completion_tokens"]) for c in row["candidates"]] == [
        ("right", True, 10), ("wrong", False, 30), (None, False, 20)
    ]  # fmt: skip
    assert "error" not in row


def test_a_record_keeps_texts_only_where_asked():
    assert rows(First(), right())["candidates"][0]["text"] == "right"
    assert rows(First(), right(), store_text=False)["candidates"][0]["text"] is None


def test_a_record_is_json_whatever_the_engine_measures():
    nan, inf = float("nan"), float("inf")
    row = rows(First(2), Scripted([("right", 1)], logprob=[nan, -inf], score=[inf, nan]))
    assert [(c["logprob"], c["score"]) for c in row["candidates"]] == [(None, None), (None, None)]
    json.dumps(row, allow_nan=False)


class ByDraw(Scripted):
    """Right in the draws listed, with a length of its own in each."""

    def completion(self, request):
        answer = "right" if request.draw in (0, 3) else "wrong"
        length = 10 * (request.draw + 1)
        return Completion(0, answer, (), "stop", Usage(completion=length), answer=answer)


def test_a_record_of_draws_holds_their_means():
    row = rows(First(), ByDraw([]), draws=4)
    assert (row["score"], row["completion_tokens"], row["calls"]) == (0.5, 25.0, 1.0)
    assert row["draw_tokens"] == row["draw_spent"] == [10, 20, 30, 40]
    assert (row["correct"], row["answer"], row["wall_s"], row["candidates"]) == (None, None, None, [])


def test_one_failed_draw_leaves_the_whole_record_without_a_score():
    @dataclasses.dataclass(frozen=True)
    class FailsOnce:
        async def solve(self, problem, ctx):
            if ctx.draw == 2:
                raise ValueError("second")
            return await First().solve(problem, ctx)

    row = rows(FailsOnce(), ByDraw([]), draws=4)
    assert (row["score"], row["correct"], row["status"]) == (None, None, "error")
    assert "ValueError: second" in row["error"]


def test_each_draw_has_a_total_of_its_own():
    a = attempt(First(), ByDraw([]), 1000, draws=3)
    asyncio.run(solve(a))
    assert [g.total.spent for g in a.granters] == [10, 20, 30]


def test_the_clock_of_an_answer_from_the_cache_means_nothing():
    cached = Scripted([("right", 1)], from_cache=[True])
    assert rows(First(), cached)["wall_s"] is None
    assert rows(First(), right())["wall_s"] >= 0
