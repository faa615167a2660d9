from dataclasses import replace

import numpy as np
import pytest
from made_up_problems import World, after, answers, finished_runs, outcomes, shuffled, world
from scipy.stats import spearmanr
from sklearn.base import clone

from ttc.allocate import Curves, knapsack
from ttc.core.errors import ConfigError, DataError
from ttc.core.forecast import Sample, Seen
from ttc.predictors import BudgetPredictor
from ttc_predictors.states import following, states_of

ROUNDS = 32
VOTES, COVERAGE = ("toy", "self-consistency", "calls"), ("toy", "coverage", "calls")
GRANTS = ("toy", "self-consistency", "tokens")


def table(curves):
    return curves.values.reshape(len(curves), -1)


def test_predicted_success_follows_the_truth_of_unseen_problems(fitted, fresh):
    guess = fitted.success("toy", fresh.problems)
    assert spearmanr(guess, fresh.rates).statistic > 0.65
    assert abs(guess.mean() - fresh.rates.mean()) < 0.05
    assert ((guess - fresh.rates) ** 2).mean() < 0.6 * fresh.rates.var()


def test_samples_bring_it_closer_though_nobody_says_which_are_right(fitted, fresh):
    found = outcomes(fresh, draws=1)
    errors = [((fitted.success("toy", after(found, k)) - fresh.rates) ** 2).mean() for k in (0, 2, 8)]
    assert errors[2] < errors[1] < errors[0]


def test_agreement_raises_and_disagreement_lowers_what_a_vote_is_worth(fitted, fresh):
    alike = tuple(Sample("7", 60, True, -6.0) for _ in range(4))
    apart = tuple(Sample(str(i), 60, True, -6.0) for i in range(4))
    levels, gains = [], []
    for drawn in (alike, apart):
        problems = [replace(p, drawn=drawn) for p in fresh.problems]
        values = table(fitted.curves(*VOTES, problems, np.array([0, 8])))
        levels.append(values[:, 0])
        gains.append(values[:, 1] - values[:, 0])
    assert (levels[0] > levels[1]).all()
    assert levels[0].mean() > levels[1].mean() + 0.15
    assert gains[1].mean() > gains[0].mean() + 0.02


def test_shuffled_outcomes_teach_nothing(made, fresh):
    found = [shuffled(outcomes(made, s, draws=5)) for s in ("self-consistency", "coverage")]
    blind = BudgetPredictor(most_rounds=ROUNDS).fit(found)
    guess = blind.success("toy", fresh.problems)
    assert guess.std() < 0.3 * fresh.rates.std()
    assert abs(guess.mean() - made.rates.mean()) < 0.05
    values = table(blind.curves(*COVERAGE, fresh.problems))
    # All have the mean curve, so the knapsack splits evenly up to its last upgrades.
    assert (values[:, 8] - values[:, 1]).std() < 0.02


def test_labels_leave_out_the_samples_that_features_saw():
    found = outcomes(world(12, s=6, seed=3), draws=3)
    rates, counts = following(found.right, states_of(found, 0))
    states = states_of(found, 0)
    flipped = tuple(tuple((*(not r for r in row[:2]), *row[2:]) for row in rows) for rows in found.right)
    again, _ = following(flipped, states)
    assert (again[states.drawn >= 2] == rates[states.drawn >= 2]).all()
    assert (again[states.drawn == 0] != rates[states.drawn == 0]).any()
    assert (counts == 6 - states.drawn).all()
    for s in range(states.problem.size):
        d = states.member_draw[np.flatnonzero(states.member_state == s)[0]]
        assert rates[s] == pytest.approx(np.mean(found.right[states.problem[s]][d][states.drawn[s] :]))


def test_coverage_is_near_the_closed_form_where_the_rate_is_known(fresh):
    known = world(300, seed=5, noise=0.0)
    predictor = BudgetPredictor(most_rounds=ROUNDS).fit([outcomes(known, "coverage", draws=4)])
    test = world(200, seed=6, noise=0.0)
    calls = np.arange(1, 17)
    values = table(predictor.curves(*COVERAGE, test.problems, calls))
    truth = 1 - (1 - test.rates[:, None]) ** calls
    assert np.abs(values - truth).mean() < 0.07
    assert abs((values - truth).mean()) < 0.03
    assert (np.diff(values, axis=1) >= 0).all()


def trap(n, seed):
    """Half of the problems are easy; the others have one wrong answer that is given more often than the right one."""
    rng = np.random.default_rng(seed)
    problems, samples, right, rates = [], [], [], []
    for i in range(n):
        rate = 0.3 if i % 2 else 0.75
        word = "tricky puzzle" if i % 2 else "plain sum"
        problems.append(Seen(f"q{i}", f"A {word} about item {i}: {i} + {i * 3}"))
        drawn, marks = answers(rate, 60, 16, rng, wrong_answers=1, cut=0.0)
        samples.append(drawn)
        right.append(marks)
        rates.append(rate)
    return World(tuple(problems), np.array(rates), np.full(n, 60.0), samples, right)


def test_votes_may_lose_by_more_samples():
    predictor = BudgetPredictor(most_rounds=ROUNDS).fit([outcomes(trap(120, 0), draws=4)])
    values = table(predictor.curves(*VOTES, trap(40, 1).problems, np.array([1, 15])))
    easy, tricky = values[::2], values[1::2]
    assert (easy[:, 1] > easy[:, 0] + 0.05).all()
    assert (tricky[:, 1] < tricky[:, 0] - 0.05).all()


def test_further_calls_cost_what_samples_are_expected_to_take(fitted, fresh):
    found = outcomes(fresh, draws=1)
    for k in (0, 3):
        problems = after(found, k)
        curves = fitted.curves(*VOTES, problems, np.array([0, 1, 5]))
        costs, values = curves.costs.reshape(-1, 3), table(curves)
        each, upper = fitted.sample_tokens("toy", problems)
        assert (costs[:, 0] == 0).all()
        assert np.abs(costs[:, 2] - 5 * each).max() <= 1
        assert (upper > each).all()
        assert (values[:, 0] == 0).all() if k == 0 else (values[:, 0] > 0).all()


def test_token_costs_are_unbiased_and_their_quantile_holds(fitted, fresh):
    found = outcomes(fresh, draws=1)
    for k in (0, 4):
        each, upper = fitted.sample_tokens("toy", after(found, k))
        assert each.sum() == pytest.approx(fresh.lengths.sum(), rel=0.05)
        following_lengths = np.array([orders[0][k].completion_tokens for orders in found.orders])
        assert (following_lengths <= upper).mean() == pytest.approx(0.9, abs=0.06)
    assert spearmanr(each, fresh.lengths).statistic > 0.7


def test_more_calls_than_were_recorded_bring_no_more(fitted, fresh):
    values = table(fitted.curves(*COVERAGE, fresh.problems, np.array([16, 17, 40])))
    assert (values[:, 1:] == values[:, :1]).all()


def test_grants_cost_what_they_are_and_may_be_left_over(fitted, fresh):
    options = fitted.options(*GRANTS)
    curves = fitted.curves(*GRANTS, fresh.problems)
    assert (curves.costs.reshape(-1, options.size) == options).all()
    assert curves.tokens is None or (curves.tokens <= curves.costs).all()
    between = (options[2] + options[3]) // 2
    three = table(fitted.curves(*GRANTS, fresh.problems, np.array([options[2], between, options[3]])))
    assert three[:, 1].mean() == pytest.approx(three.mean(), abs=0.05)
    drawn = after(outcomes(fresh, draws=1), 3)
    paid = np.array([sum(s.completion_tokens for s in p.drawn) for p in drawn])
    values = table(fitted.curves(*GRANTS, drawn))
    for i in range(20):
        below = values[i, options < paid[i]]
        assert below.size == 0 or np.ptp(below) == 0


@pytest.mark.parametrize("key", [VOTES, COVERAGE])
def test_a_split_by_predictions_beats_an_even_one(fitted, fresh, key):
    found = outcomes(fresh, key[1], draws=12)
    truth, spent = found.scores.mean(axis=1), found.tokens.mean(axis=1)
    rows, total = np.arange(300), int(2 * spent[:, 0].sum())

    def reached(curves):
        choice = knapsack(curves, total).choice
        return truth[rows, choice].mean(), spent[rows, choice].mean()

    score, tokens = reached(fitted.curves(*key, fresh.problems, found.options))
    best, _ = reached(Curves.from_table(spent, truth))
    even = np.interp(tokens, spent.mean(axis=0), truth.mean(axis=0))
    assert score > even + 0.1 * (best - even)


def test_training_problems_are_told_with_what_was_recorded(fitted, made):
    told = fitted.training(*GRANTS)
    found = outcomes(made, unit="tokens", draws=5)
    assert np.allclose(table(told.curves), found.scores.mean(axis=1))
    assert np.allclose(told.curves.tokens.reshape(150, -1), found.tokens.mean(axis=1))
    assert told.problem_ids == tuple(p.problem_id for p in made.problems)
    assert spearmanr(told.scores, made.rates).statistic > 0.6
    # Out of fold, so no better than on problems that are new.
    assert ((told.scores - made.rates) ** 2).mean() > 0.3 * (
        (fitted.success("toy", made.problems) - made.rates) ** 2
    ).mean()


def test_missing_texts_and_states_are_said_and_lived_with(made, fresh):
    blind = BudgetPredictor(most_rounds=8).fit([outcomes(made.blind("text", "vector"), draws=3)])
    assert len(blind.notes_) == 2
    assert not blind.wants_vectors
    guess = blind.success("toy", fresh.problems)
    assert np.ptp(guess) < 1e-9
    assert guess[0] == pytest.approx(np.mean(made.right), abs=0.03)
    assert blind.report_["success"][0]["spearman"] is None


def test_text_and_state_each_help(made, fresh):
    errors = {}
    for features in ("text", "hidden", "auto"):
        predictor = BudgetPredictor(features, most_rounds=8).fit([outcomes(made, draws=3)])
        assert predictor.wants_vectors == (features != "text")
        errors[features] = ((predictor.success("toy", fresh.problems) - fresh.rates) ** 2).mean()
    assert errors["auto"] < errors["text"] < fresh.rates.var()
    assert errors["hidden"] < fresh.rates.var()


def test_finished_runs_teach_without_samples(made, fresh):
    predictor = BudgetPredictor(most_rounds=8).fit([finished_runs(made)])
    key = ("toy", "beam", "tokens")
    assert predictor.known() == [key]
    curves = predictor.curves(*key, fresh.problems)
    values = table(curves)
    truth = 1 - (1 - fresh.rates[:, None]) ** np.array([1, 2, 4, 8])
    assert spearmanr(values[:, 1], truth[:, 1]).statistic > 0.5
    assert np.abs(values.mean(axis=0) - truth.mean(axis=0)).max() < 0.08
    assert (curves.tokens < curves.costs).any()
    assert any("without recorded samples" in note for note in predictor.notes_)


def test_two_fits_are_one(made):
    found = [outcomes(made, draws=2)]
    first, second, other = (BudgetPredictor(most_rounds=8, seed=seed).fit(found) for seed in (0, 0, 1))
    assert first.fingerprint == second.fingerprint != other.fingerprint


def test_a_problem_is_known_by_its_question_and_not_by_its_name_alone(fitted, fresh):
    first, second = fresh.problems[0], replace(fresh.problems[1], problem_id=fresh.problems[0].problem_id)
    apart = fitted.success("toy", [fresh.problems[1]])
    assert fitted.success("toy", [first]) != fitted.success("toy", [second])
    assert fitted.success("toy", [second]) == apart


def test_it_is_a_scikit_learn_estimator():
    made = BudgetPredictor(seed=3, quantile=0.8)
    assert clone(made).get_params() == made.get_params()
    assert made.set_params(seed=4).seed == 4


def test_what_it_does_not_know_is_refused_by_name(fitted, fresh):
    with pytest.raises(ConfigError, match="no curves of beam") as caught:
        fitted.curves("toy", "beam", "calls", fresh.problems)
    assert "self-consistency on toy in calls" in caught.value.hint
    with pytest.raises(ConfigError, match="does not know the model") as caught:
        fitted.success("tory", fresh.problems)
    assert "toy" in caught.value.hint


def test_nobody_has_no_curves(fitted):
    assert len(fitted.curves(*VOTES, [])) == 0
    assert fitted.success("toy", []).size == 0


@pytest.mark.parametrize(
    ("predictor", "change", "error", "said"),
    [
        (BudgetPredictor("hiden"), lambda found: [found], ConfigError, "hiden"),
        (BudgetPredictor(quantile=1.5), lambda found: [found], ConfigError, "quantile"),
        (BudgetPredictor(), lambda _: [], DataError, "no outcomes"),
        (BudgetPredictor(), lambda found: [found, found], DataError, "twice"),
        (BudgetPredictor(), lambda found: [found.of(range(5))], DataError, "too few"),
    ],
)
def test_what_cannot_be_learned_is_said(made, predictor, change, error, said):
    with pytest.raises(error, match=said):
        predictor.fit(change(outcomes(made, draws=1)))
