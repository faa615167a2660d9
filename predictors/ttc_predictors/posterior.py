"""What counts of answers say about which one is right, under a plain model of how a policy errs.

A problem's rate p is beta distributed around the guess from its question. Right answers are all the same; wrong ones
gather as in a Chinese restaurant process of concentration theta: the smaller, the more they repeat each other. Both
numbers are fitted by likelihood. Its conclusions are features, not verdicts: what is learned from them is calibrated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ttc.core.curves import FloatArray
from ttc.core.forecast import Sample
from ttc_predictors.blocks import rounded

FEATURES = ("posterior_rate", "posterior_leader", "posterior_second", "posterior_unseen")
CONCENTRATIONS = tuple(float(c) for c in np.logspace(-0.5, 2.5, 31))
SCATTERS = tuple(float(c) for c in np.logspace(-1, 2, 31))


@dataclass(frozen=True)
class Habits:
    """How rates differ from the guess, and how wrong answers scatter."""

    concentration: float
    """Of the beta distribution of rates around a guess."""
    scatter: float
    """Theta."""

    def features(self, guess: FloatArray, drawn: FloatArray, counts: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the posterior mean of the rate, and the chances that the leader, the second or none is right, (n, 4).

        `counts` (n, width) are the answers' votes, the leader's first and the second's next; `guess` and `drawn` (n,).
        """
        from scipy.special import gammaln

        a, b = self._rates(guess)
        votes = np.column_stack([counts, np.zeros(len(counts))]).astype(np.float64)  # the last one: not seen yet
        answered = counts.sum(axis=1, dtype=np.float64)
        distinct = (counts > 0).sum(axis=1)
        right = gammaln(a[:, None] + votes) + gammaln(b[:, None] + drawn[:, None] - votes)
        others = answered[:, None] - votes
        tables = distinct[:, None] - (votes > 0)
        own = np.where(votes > 0, gammaln(np.maximum(votes, 1.0)), 0.0)
        wrong = tables * np.log(self.scatter) - own - gammaln(self.scatter + others)
        log = np.where((votes > 0) | (np.arange(votes.shape[1]) == votes.shape[1] - 1), right + wrong, -np.inf)
        chance = np.exp(log - log.max(axis=1, keepdims=True))
        chance /= chance.sum(axis=1, keepdims=True)
        rate = (chance * (a[:, None] + votes)).sum(axis=1) / (a + b + drawn)
        return np.column_stack([rate, chance[:, 0], chance[:, 1], chance[:, -1]]).astype(np.float32)

    def closed_gain(self, guess: FloatArray, level: FloatArray, drawn: FloatArray, further: FloatArray) -> FloatArray:
        """Return what `further` samples add to coverage, (n,), where `level` is the chance that it is reached already.

        (1 - level) * (1 - E[(1 - p)^b]), the mean over the rates that remain likely when none of the drawn was right.
        """
        from scipy.special import gammaln

        a, b = self._rates(guess)
        b = b + drawn
        missed = np.exp(gammaln(b + further) + gammaln(a + b) - gammaln(b) - gammaln(a + b + further))
        return np.asarray((1 - level) * (1 - missed))

    def voted_gain(self, guess: FloatArray, polls: Polls, further: FloatArray) -> FloatArray:
        """Return what `further` votes add to the chance that the leader is right, (n,).

        The right answer is the leader, the second or one not seen yet; it wins where it ends ahead of its strongest
        rival, whose votes are taken as normal around the process's own prediction. The leader wins ties.
        """
        a, b = self._rates(guess)
        k, first, second, n = polls.drawn, polls.first, polls.second, polls.answered
        unseen = np.maximum(0.0, 1.0 - polls.leader - polls.runner_up)
        rival = np.where(second > 0, second / (self.scatter + n - first), 1.0 / (1.0 + self.scatter))
        stays = _wins(a + first, b + k - first, rival, first - second, further)
        takes = _wins(a + second, b + k - second, first / (self.scatter + n - second), second - first - 1, further)
        comes = _wins(a, b + k, first / (self.scatter + n), -first - 1, further)
        return np.asarray(polls.leader * (stays - 1) + polls.runner_up * takes + unseen * comes)

    def _rates(self, guess: FloatArray) -> tuple[FloatArray, FloatArray]:
        p = np.clip(guess, 1e-3, 1 - 1e-3)
        return self.concentration * p, self.concentration * (1 - p)


@dataclass(frozen=True)
class Polls:
    """How votes stand, arrays of (n,)."""

    drawn: FloatArray
    answered: FloatArray
    first: FloatArray
    second: FloatArray
    leader: FloatArray
    """The chance that the leader is right."""
    runner_up: FloatArray


def _wins(a: FloatArray, b: FloatArray, rival: FloatArray, lead: FloatArray, further: FloatArray) -> FloatArray:
    """Return the chance that the right answer's votes, less its rival's, end at least at `-lead`.

    Its rate is beta(a, b), integrated over three nodes; the rival gets the share `rival` of the other votes.
    """
    from scipy.special import ndtr

    mean = a / (a + b)
    spread = np.sqrt(3 * mean * (1 - mean) / (a + b + 1))
    total = np.zeros_like(mean)
    for step, weight in ((-1.0, 1 / 6), (0.0, 2 / 3), (1.0, 1 / 6)):
        p = np.clip(mean + step * spread, 0.0, 1.0)
        s = (1 - p) * np.minimum(1.0, rival)
        width = np.sqrt(np.maximum(1e-9, further * (p + s - (p - s) ** 2)))
        total += weight * ndtr((lead + 0.5 + further * (p - s)) / width)
    # So few votes cannot turn it, and no vote does.
    return np.where(lead >= further, 1.0, np.where(-lead > further, 0.0, total))


def fit_habits(guess: FloatArray, answers: Sequence[Sequence[tuple[Sample, bool]]]) -> Habits:
    """Find the likeliest habits of problems with graded samples; `guess` (n,) comes from others' outcomes."""
    from scipy.special import gammaln
    from scipy.stats import betabinom

    known = [i for i, drawn in enumerate(answers) if drawn]
    if not known:
        return Habits(4.0, 1.0)
    p = np.clip(guess[known], 1e-3, 1 - 1e-3)
    n = np.array([len(answers[i]) for i in known])
    wins = np.array([sum(right for _, right in answers[i]) for i in known])
    likely = [float(np.sum(betabinom.logpmf(wins, n, c * p, c * (1 - p)))) for c in CONCENTRATIONS]
    tables, people = np.array([_wrong(answers[i]) for i in known], dtype=np.float64).T
    scattered = [float(np.sum(tables * np.log(t) + gammaln(t) - gammaln(t + people))) for t in SCATTERS]
    best = CONCENTRATIONS[int(np.argmax(likely))], SCATTERS[int(np.argmax(scattered))]
    return Habits(*rounded(best).tolist())


def _wrong(drawn: Sequence[tuple[Sample, bool]]) -> tuple[int, int]:
    """Return the number of different wrong answers, and of samples that gave one."""
    wrong = [sample.answer for sample, right in drawn if not right and sample.answer is not None]
    return len(set(wrong)), len(wrong)
