"""Outcomes at the edges: they are learned from without a warning, and what is said stays a probability."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
from made_up_problems import after, finished_runs, outcomes, world

from ttc.predictors import BudgetPredictor

SMALL = world(24, s=5, seed=1)


def samples(made, **changes):
    return replace(made, samples=[[replace(sample, **changes) for sample in row] for row in made.samples])


def graded(made, verdict):
    return replace(made, right=[[verdict] * len(row) for row in made.right])


def asked(made, **changes):
    return replace(made, problems=tuple(replace(p, **changes) for p in made.problems))


def ragged(found):
    """Problems with different numbers of samples."""
    orders = tuple(tuple(order[: 2 + i % 4] for order in row) for i, row in enumerate(found.orders))
    right = tuple(tuple(marks[: 2 + i % 4] for marks in row) for i, row in enumerate(found.right))
    return replace(found, orders=orders, right=right)


def one_option(found):
    return replace(found, options=found.options[:1], scores=found.scores[..., :1], tokens=found.tokens[..., :1])


CASES = {
    "one sample": lambda: outcomes(world(24, s=1, seed=2), draws=1),
    "one sample in tokens": lambda: outcomes(world(24, s=1, seed=2), unit="tokens", draws=1),
    "two samples": lambda: outcomes(world(24, s=2, seed=2), "coverage", draws=2),
    "ten problems": lambda: outcomes(world(10, s=4, seed=3), draws=2),
    "always right": lambda: outcomes(graded(SMALL, True), draws=2),
    "never right": lambda: outcomes(graded(SMALL, False), "coverage", draws=2),
    "nobody answers": lambda: outcomes(graded(samples(SMALL, answer=None, finished=False), False), draws=2),
    "no log-probabilities": lambda: outcomes(samples(SMALL, logprob=None), draws=2),
    "no tokens": lambda: outcomes(samples(SMALL, completion_tokens=0), draws=2),
    "one question": lambda: outcomes(asked(SMALL, text="Why?"), draws=2),
    "empty questions": lambda: outcomes(asked(SMALL, text=""), draws=2),
    "one hidden state": lambda: outcomes(asked(SMALL, vector=np.ones(8, dtype=np.float32)), draws=2),
    "different numbers of samples": lambda: ragged(outcomes(SMALL, draws=2)),
    "one option": lambda: one_option(outcomes(SMALL, draws=2)),
    "one budget of runs": lambda: one_option(finished_runs(SMALL)),
}


@pytest.mark.parametrize("case", CASES)
def test_the_edges_are_lived_with(case, tmp_path):
    found = CASES[case]()
    key = (found.model, found.strategy, found.unit)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        predictor = BudgetPredictor(most_rounds=8).fit([found])
        predictor.save(tmp_path / "p")
        seen = [found.problems, after(found, 1)] if found.orders[0] else [found.problems]
        for problems in seen:
            curves = predictor.curves(*key, problems)
            assert ((curves.values >= 0) & (curves.values <= 1)).all()
            guess = predictor.success(found.model, problems)
            assert ((guess >= 0) & (guess <= 1)).all()
            again = BudgetPredictor.load(tmp_path / "p").curves(*key, problems)
            assert np.array_equal(curves.values, again.values)
    if "right" in case:
        assert guess.mean() == pytest.approx(float(case == "always right"), abs=0.05)
