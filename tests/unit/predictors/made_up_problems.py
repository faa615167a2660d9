"""Problems whose truth is known: a success rate that text and hidden state hint at, scattered wrong answers, lengths."""

from dataclasses import dataclass, replace

import numpy as np

from ttc.core.forecast import Outcomes, Sample, Seen
from ttc.core.vote import majority

WIDTH = 24


@dataclass(frozen=True)
class World:
    """n problems, their true rates and mean lengths, and the samples of each."""

    problems: tuple
    rates: np.ndarray
    lengths: np.ndarray
    samples: list
    right: list

    def blind(self, *fields):
        """Return the same with some of `text` and `vector` forgotten."""
        return replace(self, problems=tuple(replace(p, **dict.fromkeys(fields)) for p in self.problems))


def world(n, s=16, seed=0, noise=0.7, known_by="both"):
    """Draw a world; `noise` is the part of a problem's difficulty, in log-odds, that nothing hints at."""
    rng = np.random.default_rng(seed)
    easy, hidden = rng.normal(size=n), rng.normal(size=n)
    rates = 1 / (1 + np.exp(0.8 - 1.2 * easy - 0.8 * hidden - noise * rng.normal(size=n)))
    lengths = np.exp(4.5 - 0.25 * easy + 0.2 * rng.normal(size=n))
    direction = np.random.default_rng(99).normal(size=(2, WIDTH))
    problems, samples, right = [], [], []
    for i in range(n):
        vector = direction[0] * easy[i] + direction[1] * hidden[i] + 0.3 * rng.normal(size=WIDTH)
        text = question(i, easy[i], rng)
        problems.append(Seen(f"p{i}", text, vector.astype(np.float32)))
        drawn, marks = answers(rates[i], lengths[i], s, rng)
        samples.append(drawn)
        right.append(marks)
    return World(tuple(problems), rates, lengths, samples, right)


def question(i, easy, rng):
    steps = int(np.clip(round(4 - 1.5 * easy + 0.3 * rng.normal()), 1, 9))
    numbers = " + ".join(str(rng.integers(1, 10 ** (1 + steps // 3))) for _ in range(steps + 1))
    words = f"{'hard work' if easy < 0 else 'simple sum'} of {['cats', 'dogs', 'birds'][i % 3]}"
    return f"Problem {i}: {words}. What is {numbers}?"


def answers(rate, length, s, rng, wrong_answers=6, cut=0.15):
    """Draw samples: right ones say the same, wrong ones scatter; wrong ones are less sure of themselves."""
    shares, names = rng.dirichlet(np.full(wrong_answers, 0.7)), rng.permutation(900)[: wrong_answers + 1] + 100
    drawn, marks = [], []
    for _ in range(s):
        ok = bool(rng.random() < rate)
        ended = ok or rng.random() >= cut
        answer = str(names[0] if ok else names[1 + rng.choice(wrong_answers, p=shares)]) if ended else None
        tokens = max(1, int(rng.gamma(16, length / 16)))
        logprob = -tokens * float(rng.gamma(4, 0.05) * (0.7 if ok else 1.2))
        drawn.append(Sample(answer, tokens, ended, logprob))
        marks.append(ok)
    return drawn, marks


def vote(given, marks):
    winner = majority(given)
    return float(winner is not None and marks[winner])


def coverage(_given, marks):
    return float(any(marks))


RULES = {"self-consistency": vote, "coverage": coverage}


def outcomes(made, strategy="self-consistency", unit="calls", draws=16, seed=0, model="toy"):
    """Deal the samples in seeded orders and apply the rule by hand."""
    rng = np.random.default_rng(seed)
    n, s = len(made.problems), len(made.samples[0])
    mean = float(np.mean([x.completion_tokens for row in made.samples for x in row]))
    options = np.arange(1, s + 1) if unit == "calls" else np.round(np.arange(1, s + 1) * mean).astype(int)
    orders, right = [], []
    scores, tokens = np.zeros((n, draws, options.size)), np.zeros((n, draws, options.size))
    for i in range(n):
        dealt = [rng.permutation(s) for _ in range(draws)]
        orders.append(tuple(tuple(made.samples[i][j] for j in order) for order in dealt))
        right.append(tuple(tuple(made.right[i][j] for j in order) for order in dealt))
        for d in range(draws):
            for o, option in enumerate(options):
                taken, spent = grant(orders[i][d], option, unit)
                given = [x.answer for x in taken]
                scores[i, d, o] = RULES[strategy](given, right[i][d][: len(taken)]) if taken else 0.0
                tokens[i, d, o] = spent
    asked = np.asarray(options, dtype=np.int64)
    return Outcomes(model, strategy, unit, asked, made.problems, tuple(orders), tuple(right), scores, tokens)


def grant(order, option, unit):
    """Return the whole samples that an option pays for, and what is spent; in tokens the last call may be cut."""
    if unit == "calls":
        return order[:option], sum(x.completion_tokens for x in order[:option])
    spent, taken = 0, []
    for sample in order:
        if spent + sample.completion_tokens > option:
            return taken, int(option)
        spent += sample.completion_tokens
        taken.append(sample)
    return taken, spent


def shuffled(found, seed=0):
    """Return outcomes in which every problem has another one's samples and scores."""
    order = np.random.default_rng(seed).permutation(len(found.problems)).tolist()
    return replace(found.of(order), problems=found.problems)


def after(found, k, draw=0):
    """Return the problems with the first k samples of a draw in sight."""
    return [replace(p, drawn=found.orders[i][draw][:k]) for i, p in enumerate(found.problems)]


def finished_runs(made, model="toy", strategy="beam", seeds=2):
    """Return outcomes as finished runs tell them: no samples, one draw a seed; more tokens help."""
    rng = np.random.default_rng(5)
    budgets = np.array([128, 256, 512, 1024])
    chance = 1 - (1 - made.rates[:, None, None]) ** np.array([1, 2, 4, 8])
    scores = (rng.random((len(made.problems), seeds, budgets.size)) < chance).astype(np.float64)
    tokens = np.minimum(budgets, 3 * made.lengths[:, None, None]) * np.ones_like(scores)
    none = tuple(() for _ in made.problems)
    return Outcomes(model, strategy, "tokens", budgets.astype(np.int64), made.problems, none, none, scores, tokens)
