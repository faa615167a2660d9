"""Outcomes of recorded samples: against closed forms, and against the grant rule written out by hand."""

import collections
import random
from dataclasses import replace

import numpy as np
import pytest

from ttc.core.errors import ConfigError, DataError
from ttc.core.forecast import Outcomes, Seen
from ttc.engines.replay import ReplayEngine
from ttc.run import crossfit
from ttc.run.crossfit import CrossFitted
from ttc.run.outcomes import Recorded, half, mean_curves, outcomes, recorded_runs
from ttc.store.bank import Bank, Row
from ttc_strategies.adaptive import AdaptiveConsistency
from ttc_strategies.coverage import Coverage
from ttc_strategies.voting import SelfConsistency

CAP = 100


def bank(problems=6, samples=8, length=None, seed=0):
    """Return a bank with random answers; every third sample is cut at the cap where lengths vary."""
    rng = random.Random(seed)
    pools = {}
    for p in range(problems):
        rows = []
        for i in range(samples):
            tokens = length or rng.choice([20, 35, 60, CAP])
            cut = length is None and tokens == CAP
            answer = None if cut else rng.choice(["right", "right", "wrong", "other"])
            finish = "length" if cut else "stop"
            rows.append(Row(f"p{p}", f"question {p}", "m", i, answer, answer == "right", tokens, 7, finish, -3.0))
        pools[f"p{p}"] = tuple(rows)
    return Bank("sums", "fingerprint", {"m": pools})


def recorded(rows, floor=5, seed=3):
    return Recorded(rows, "m", seed, CAP, floor)


def by_hand(samples, grant, floor):
    """Deal samples under a hard grant, one call at a time; returns the answers of finished ones and the tokens."""
    left, answers = grant, []
    for sample in samples:
        allowed = min(CAP, left)
        if allowed < CAP and allowed < floor:
            break
        used = min(sample.completion_tokens, allowed)
        left -= used
        answers.append(sample.answer if sample.completion_tokens <= allowed and sample.finished else None)
    return answers, grant - left


def vote(answers):
    counts = collections.Counter(a for a in answers if a is not None)
    best = max(counts.values(), default=0)
    return next((a for a in answers if a is not None and counts[a] == best), None)


def test_grants_in_tokens_against_the_rule_written_out():
    what = recorded(bank())
    voted, any_of = outcomes(what, SelfConsistency(), "sc", "tokens", 5), outcomes(what, Coverage(), "c", "tokens", 5)
    for i in range(6):
        for draw in range(5):
            for j, grant in enumerate(voted.options.tolist()):
                answers, spent = by_hand(voted.orders[i][draw], grant, 5)
                assert voted.scores[i, draw, j] == (vote(answers) == "right")
                assert any_of.scores[i, draw, j] == ("right" in answers)
                assert voted.tokens[i, draw, j] == any_of.tokens[i, draw, j] == spent


def test_whole_calls_are_never_cut_and_cost_what_they_are():
    found = outcomes(recorded(bank()), SelfConsistency(), "sc", "calls", 4)
    assert found.options.tolist() == list(range(1, 9))
    for i in range(6):
        for draw in range(4):
            order = found.orders[i][draw]
            for j in range(8):
                assert found.tokens[i, draw, j] == sum(s.completion_tokens for s in order[: j + 1])
                assert found.scores[i, draw, j] == (vote([s.answer for s in order[: j + 1]]) == "right")


def test_means_over_many_draws_are_the_closed_form():
    """Coverage of k calls is pass@k (Chen et al. 2021): 1 - C(n - c, k) / C(n, k)."""
    from math import comb

    what = recorded(bank(problems=3, samples=6, length=10))
    curves = mean_curves(outcomes(what, Coverage(), "c", "calls", 600))
    for i, rows in enumerate(what.bank.pools["m"].values()):
        wrong = sum(not row.correct for row in rows)
        expected = [1 - comb(wrong, k) / comb(6, k) for k in range(1, 7)]
        np.testing.assert_allclose(curves.values[6 * i : 6 * i + 6], expected, atol=0.07)
    assert curves.costs.reshape(3, 6)[0].tolist() == [10, 20, 30, 40, 50, 60]


def test_a_rule_that_stops_early_is_not_asked_again():
    what = recorded(bank(problems=2, samples=8, length=10))
    same = {
        "m": {
            p: tuple(replace(r, answer="right", correct=True) for r in rows) for p, rows in what.bank.pools["m"].items()
        }
    }
    found = outcomes(replace(what, bank=Bank("b", "f", same)), AdaptiveConsistency(), "ac", "calls", 2)
    assert found.tokens[0, 0].tolist() == [10, 20, 30, 40, 40, 40, 40, 40]


def test_what_is_seen_holds_no_grade_and_the_labels_fit_the_order():
    what = recorded(bank())
    found = outcomes(what, SelfConsistency(), "sc", "calls", 3)
    assert [seen.text for seen in found.problems] == [f"question {i}" for i in range(6)]
    assert all(not seen.drawn for seen in found.problems)
    for orders, rights in zip(found.orders, found.right, strict=True):
        for order, right in zip(orders, rights, strict=True):
            assert [s.answer == "right" for s in order] == list(right)
    assert len(set(found.orders[0])) > 1  # draws deal in other orders


def test_options_offer_no_more_than_the_samples_there_are():
    what = recorded(bank(samples=4, length=50))
    assert what.options("calls").tolist() == [1, 2, 3, 4]
    assert what.options("tokens")[-1] == 200


def test_the_two_halves_share_no_sample():
    what = recorded(bank())
    engine = ReplayEngine(what.bank, "m", what.seed)
    for draw in range(4):
        second = half(what, draw).bank.pools["m"]
        for name, rows in what.bank.pools["m"].items():
            dealt = {engine.first_half().row(name, draw, i).sample for i in range(4)}
            kept = {row.sample for row in second[name]}
            assert dealt | kept == {row.sample for row in rows}
            assert not dealt & kept


def test_runs_become_one_row_a_problem_seed_and_budget():
    rows = [
        {"model": "m", "strategy": "beam", "budget": b, "seed": s, "problem_id": p, "score": (b + s) % 2, "completion_tokens": b - 1}
        for b in (64, 128) for s in (0, 1) for p in ("x", "y")
    ]  # fmt: skip
    (found,) = recorded_runs(iter(rows), {"x": "?"})
    assert (found.strategy, found.unit, found.options.tolist()) == ("beam", "tokens", [64, 128])
    assert found.scores.tolist() == [[[0, 0], [1, 1]]] * 2
    assert found.tokens[1, 0].tolist() == [63, 127]
    assert [seen.text for seen in found.problems] == ["?", None]
    with pytest.raises(DataError, match="beam on m"):
        recorded_runs(iter(rows[:-1]), {})


class Watching:
    """A predictor that remembers which problems it learned from, and says their number."""

    def fit(self, found):
        self.learned = {seen.problem_id for each in found for seen in each.problems}
        return self

    @staticmethod
    def folds(problems, count, seed):
        return np.arange(len(problems)) % count

    def curves(self, model, strategy, unit, problems, options=None):
        from ttc.core.curves import Curves

        assert not self.learned & {seen.problem_id for seen in problems}
        values = [[float(seen.problem_id[1:]), 1.0] for seen in problems]
        return Curves.from_table([1, 2], np.array(values))

    def success(self, model, problems):
        assert not self.learned & {seen.problem_id for seen in problems}
        return np.array([float(seen.problem_id[1:]) for seen in problems])


def test_cross_fitting_never_asks_a_model_about_a_problem_it_learned_from(monkeypatch):
    monkeypatch.setattr(crossfit, "load", lambda kind, name: Watching)
    what = recorded(bank(problems=11))
    predictor = CrossFitted(what, {"self-consistency": SelfConsistency()}, 0)
    problems = [Seen(f"p{i}") for i in (7, 0, 10, 3)]
    curves = predictor.curves("m", "self-consistency", "calls", problems)
    assert curves.values.reshape(4, 2)[:, 0].tolist() == [7, 0, 10, 3]  # in the order asked
    assert predictor.success("m", problems).tolist() == [7, 0, 10, 3]
    with pytest.raises(ConfigError, match="other problems"):
        predictor.training("m", "self-consistency", "calls")


def test_outcomes_refuse_shapes_that_do_not_fit():
    found = outcomes(recorded(bank()), SelfConsistency(), "sc", "calls", 2)
    with pytest.raises(DataError, match="do not fit"):
        Outcomes(
            "m",
            "s",
            "calls",
            found.options,
            found.problems,
            found.orders,
            found.right,
            found.scores[:, :, :-1],
            found.tokens,
        )
    assert found.of([4, 1]).problems == (found.problems[4], found.problems[1])
    assert found.of([4, 1]).scores.tolist() == found.scores[[4, 1]].tolist()
