"""Problems whose truth is known: a success rate that text and hidden state hint at, scattered wrong answers, lengths."""

from dataclasses import dataclass

import numpy as np

from ttc.core.forecast import Outcomes, Sample, Seen
from ttc.core.vote import majority

WIDTH = 24


@dataclass(frozen=True)
class World:
    """n problems, their true rates and mean lengths, and s samples of each."""

    problems: tuple
    rates: np.ndarray
    lengths: np.ndarray
    samples: list
    right: list


def world(n, s=16, seed=0, text=True, vectors=True, strength=1.0, scale=1.0):
    """Draw a world; `strength` says how far text and vector know the rate, `scale` how much rates differ."""
    rng = np.random.default_rng(seed)
    easy = rng.normal(size=n)
    hidden = rng.normal(size=n)
    logit = scale * (1.2 * strength * easy + 0.8 * strength * hidden + rng.normal(size=n) * 0.7) - 0.8
    rates = 1 / (1 + np.exp(-logit))
    lengths = np.exp(4.5 - 0.25 * easy + 0.2 * rng.normal(size=n))
    direction = np.random.default_rng(99).normal(size=(2, WIDTH))
    problems, samples, right = [], [], []
    for i in range(n):
        steps = int(np.clip(round(4 - 1.5 * easy[i] + 0.3 * rng.normal()), 1, 9))
        numbers = " + ".join(str(rng.integers(1, 10 ** (1 + steps // 3))) for _ in range(steps + 1))
        words = f"Problem {i}: {'hard work' if easy[i] < 0 else 'simple sum'} of {['cats', 'dogs', 'birds'][i % 3]}. What is {numbers}?"
        vector = direction[0] * easy[i] + direction[1] * hidden[i] + 0.3 * rng.normal(size=WIDTH)
        problems.append(Seen(f"p{i}", words if text else None, vector.astype(np.float32) if vectors else None))
        wrong = rng.dirichlet(np.full(6, 0.7))
        places = rng.permutation(900)[:7] + 100
        drawn, marks = [], []
        for _ in range(s):
            ok = bool(rng.random() < rates[i])
            cut = not ok and rng.random() < 0.15
            answer = None if cut else str(places[0] if ok else places[1 + rng.choice(6, p=wrong)])
            tokens = max(1, int(rng.gamma(16, lengths[i] / 16)))
            drawn.append(Sample(answer, tokens, not cut, -tokens * float(rng.gamma(4, 0.05) * (0.7 if ok else 1.2))))
            marks.append(ok)
        samples.append(drawn)
        right.append(marks)
    return World(tuple(problems), rates, lengths, samples, right)


def vote(answers, marks):
    winner = majority(answers)
    return float(winner is not None and marks[winner])


def coverage(answers, marks):
    return float(any(marks))


RULES = {"self-consistency": vote, "coverage": coverage}


def outcomes(made, strategy="self-consistency", unit="calls", draws=16, seed=0, model="toy"):
    """Deal the samples in seeded orders and apply the rule by hand."""
    rng = np.random.default_rng(seed)
    n, s = len(made.problems), len(made.samples[0])
    mean = float(np.mean([x.completion_tokens for row in made.samples for x in row]))
    options = np.arange(1, s + 1) if unit == "calls" else np.round(np.arange(1, 2 * s + 1) / 2 * mean).astype(int)
    orders, right = [], []
    scores, tokens = np.zeros((n, draws, options.size)), np.zeros((n, draws, options.size))
    for i in range(n):
        dealt = [rng.permutation(s) for _ in range(draws)]
        orders.append(tuple(tuple(made.samples[i][j] for j in order) for order in dealt))
        right.append(tuple(tuple(made.right[i][j] for j in order) for order in dealt))
        for d in range(draws):
            for o, option in enumerate(options):
                taken, spent = grant(orders[i][d], option, unit)
                answers = [x.answer for x in taken]
                scores[i, d, o] = RULES[strategy](answers, right[i][d][: len(taken)]) if taken else 0.0
                tokens[i, d, o] = spent
    return Outcomes(
        model,
        strategy,
        unit,
        np.asarray(options, dtype=np.int64),
        made.problems,
        tuple(orders),
        tuple(right),
        scores,
        tokens,
    )


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
