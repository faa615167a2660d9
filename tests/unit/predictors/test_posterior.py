import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import beta

from ttc.core.forecast import Sample
from ttc_predictors.posterior import Habits, Polls, fit_habits

HABITS = Habits(4.0, 1.5)


def sequence_chance(answers, right, guess):
    """Multiply the predictive chances of samples one after another, `right` being the right answer."""
    a, b = 4.0 * guess, 4.0 * (1 - guess)
    chance, hits, wrong = 1.0, 0, {}
    for t, answer in enumerate(answers):
        if answer == right:
            chance *= (a + hits) / (a + b + t)
            hits += 1
            continue
        people = sum(wrong.values())
        chance *= (b + t - hits) / (a + b + t)
        chance *= wrong[answer] / (1.5 + people) if answer in wrong else 1.5 / (1.5 + people)
        wrong[answer] = wrong.get(answer, 0) + 1
    return chance, (a + hits) / (a + b + len(answers))


@pytest.mark.parametrize("answers", ["AAB", "ABC", "AABBC", "A", "AAAA"])
def test_the_posterior_is_what_sequences_of_the_process_give(answers):
    names = sorted(set(answers), key=lambda x: -answers.count(x))
    each = [sequence_chance(answers, right, 0.3) for right in [*names, "?"]]
    total = sum(chance for chance, _ in each)
    counts = np.zeros((1, 16), dtype=np.float32)
    counts[0, : len(names)] = [answers.count(x) for x in names]
    rate, leader, second, unseen = HABITS.features(np.array([0.3]), np.array([float(len(answers))]), counts)[0]
    assert rate == pytest.approx(sum(chance * p for chance, p in each) / total, rel=1e-4)
    assert leader == pytest.approx(each[0][0] / total, rel=1e-4)
    assert second == pytest.approx(each[1][0] / total if len(names) > 1 else 0, abs=1e-5)
    assert unseen == pytest.approx(each[-1][0] / total, rel=1e-4)


@pytest.mark.parametrize(("drawn", "further"), [(0, 1), (0, 5), (3, 4)])
def test_coverage_gains_what_the_beta_integral_says(drawn, further):
    guess, level = 0.25, 0.4
    rates = beta(4 * guess, 4 * (1 - guess) + drawn)
    missed = quad(lambda p: rates.pdf(p) * (1 - p) ** further, 0, 1)[0]
    found = HABITS.closed_gain(
        np.array([guess]), np.array([level]), np.array([float(drawn)]), np.array([float(further)])
    )
    assert found[0] == pytest.approx((1 - level) * (1 - missed), rel=1e-6)


def play(guess, start, further, rng, plays):
    """Let the process go on from the votes `start`, its first being the right answer, and say how often it wins."""
    a, b = 4.0 * guess + start[0], 4.0 * (1 - guess) + sum(start[1:])
    wins = 0
    for _ in range(plays):
        p, votes = rng.beta(a, b), list(start)
        for _ in range(further):
            if rng.random() < p:
                votes[0] += 1
                continue
            people = sum(votes[1:])
            shares = np.array([*votes[1:], 1.5]) / (1.5 + people)
            at = rng.choice(len(shares), p=shares)
            if at == len(votes) - 1:
                votes.append(0)
            votes[1 + at] += 1
        wins += votes[0] >= max(votes[1:], default=0)
    return wins / plays


@pytest.mark.parametrize(("start", "further"), [((2, 1), 6), ((3, 2), 4), ((1,), 5)])
def test_a_right_leader_stays_about_as_often_as_when_played_out(start, further):
    rng = np.random.default_rng(0)
    first, second = float(start[0]), float(start[1]) if len(start) > 1 else 0.0
    one = np.ones(1)
    polls = Polls(one * sum(start), one * sum(start), one * first, one * second, one, one * 0)
    gain = HABITS.voted_gain(np.array([0.5]), polls, one * further)[0]
    assert 1 + gain == pytest.approx(play(0.5, start, further, rng, 4000), abs=0.12)


def test_votes_that_are_too_few_change_nothing_and_many_help_where_the_leader_is_likely_wrong():
    one = np.ones(1)
    polls = Polls(one * 3, one * 3, one * 2, one, one * 0.3, one * 0.6)
    assert HABITS.voted_gain(np.array([0.5]), polls, one)[0] == 0
    few, many = (HABITS.voted_gain(np.array([0.5]), polls, one * e)[0] for e in (2, 12))
    assert 0 < few < many
    sure = Polls(one * 3, one * 3, one * 3, one * 0, one, one * 0)
    assert HABITS.voted_gain(np.array([0.5]), sure, one * 12)[0] <= 0


def test_habits_are_found_again():
    rng = np.random.default_rng(1)
    guess = rng.uniform(0.1, 0.9, 600)
    answers = []
    for p in rng.beta(6 * guess, 6 * (1 - guess)):
        drawn, wrong = [], {}
        for _ in range(20):
            if rng.random() < p:
                drawn.append((Sample("right", 1, True), True))
                continue
            names = [*wrong, f"w{len(wrong)}"]
            shares = np.array([*wrong.values(), 2.0])
            name = names[rng.choice(len(names), p=shares / shares.sum())]
            wrong[name] = wrong.get(name, 0) + 1
            drawn.append((Sample(name, 1, True), False))
        answers.append(drawn)
    found = fit_habits(guess, answers)
    assert found.concentration == pytest.approx(6, rel=0.3)
    assert found.scatter == pytest.approx(2, rel=0.3)
