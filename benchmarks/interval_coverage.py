"""How often 95 % intervals hold the truth, by simulation.

    python benchmarks/interval_coverage.py [--runs 2000] [--problems 40,200,1000]

A number in the table is a mean over settings: p from 0.1 to 0.9 for one method's accuracy, pairs of accuracies for a
paired difference. Differences are split by how many discordant pairs are expected: from 10 on the bootstrap is meant
to cover 93 to 97 %; below, intervals are exact and cover more.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ttc.metrics.statistics import (
    FEW_DISCORDANT,
    bootstrap_mean,
    mcnemar_interval,
    paired_differences,
    wilson,
)

Floats = NDArray[np.float64]
P = np.linspace(0.1, 0.9, 9)
SEEDS = 4
RESAMPLES = 1000


@dataclass(frozen=True)
class Row:
    """Coverage of one kind of interval, averaged over its settings."""

    what: str
    n: int
    settings: int
    coverage: float
    lowest: float
    width: float


def summary(what: str, n: int, found: list[tuple[float, float]]) -> Row:
    """Return a row of (coverage, width) pairs, one a setting."""
    coverage, width = zip(*found, strict=True)
    return Row(what, n, len(found), float(np.mean(coverage)), min(coverage), float(np.mean(width)))


def accuracy_by_wilson(n: int) -> Row:
    """Exactly, by enumeration: no simulation is needed."""
    from scipy.stats import binom

    ends = np.array([wilson(c, n) for c in range(n + 1)])
    found = []
    for p in P:
        chance = binom.pmf(np.arange(n + 1), n, p)
        found.append((float(chance @ ((ends[:, 0] <= p) & (p <= ends[:, 1]))), float(chance @ np.ptp(ends, axis=1))))
    return summary("accuracy, one seed: Wilson", n, found)


def accuracy_by_bootstrap(n: int, runs: int, generator: np.random.Generator) -> Row:
    """Problems of different difficulty, Beta(2p, 2(1-p)), and a few seeds of each."""
    found = []
    for p in P:
        hits, width = 0, 0.0
        for run in range(runs):
            difficulty = generator.beta(2 * p, 2 * (1 - p), n)
            scores = generator.random((n, SEEDS)) < difficulty[:, None]
            interval = bootstrap_mean(scores, resamples=RESAMPLES, seed=run)
            if interval is not None:
                hits += interval.low <= p <= interval.high
                width += interval.high - interval.low
        found.append((hits / runs, width / runs))
    return summary(f"accuracy, {SEEDS} seeds: bootstrap", n, found)


def pairs(n: int) -> list[tuple[float, float]]:
    """Return chances (won, lost) of a problem: accuracy p against p less a gain, with agreement beyond chance."""
    found = []
    for p in P:
        for gain in (0.0, 0.05, 0.1):
            for churn in (0.01, 0.05, 0.15, 0.25):
                won, lost = gain + churn, churn
                if won <= p and lost <= 1 - p:
                    found.append((won, lost))
    return sorted(set(found))


def differences(n: int, runs: int, generator: np.random.Generator) -> list[Row]:
    """Differences of 0/1 scores, each run a column."""
    many, few, exact = (list[tuple[float, float]]() for _ in range(3))
    for won, lost in pairs(n):
        draws = generator.random((n, runs))
        table: Floats = (draws < won).astype(float) - (draws > 1 - lost)
        claims = [c for c in paired_differences(table, resamples=RESAMPLES) if c is not None]
        truth = won - lost
        hits = float(np.mean([c.low <= truth <= c.high for c in claims]))
        width = float(np.mean([c.high - c.low for c in claims]))
        (many if n * (won + lost) >= FEW_DISCORDANT else few).append((hits, width))
        if n * (won + lost) < FEW_DISCORDANT:
            ends = [mcnemar_interval(c.wins, c.losses, n) for c in claims]
            exact.append((float(np.mean([a <= truth <= b for a, b in ends])), float(np.mean([b - a for a, b in ends]))))
    rows = [summary("difference, 10 or more discordant expected", n, many)]
    if few:
        rows.append(summary("difference, fewer expected", n, few))
        rows.append(summary("difference, fewer expected: exact only", n, exact))
    return rows


def false_claims(n: int, runs: int, generator: np.random.Generator) -> Row:
    """Equal methods: one less the share of runs called significant."""
    found = []
    for churn in (0.01, 0.05, 0.15):
        draws = generator.random((n, runs))
        table: Floats = (draws < churn).astype(float) - (draws > 1 - churn)
        claims = [c for c in paired_differences(table, resamples=RESAMPLES) if c is not None]
        found.append(
            (1 - float(np.mean([c.significant for c in claims])), float(np.mean([c.high - c.low for c in claims])))
        )
    return summary("equal methods: not called different", n, found)


def averaged_differences(n: int, runs: int, generator: np.random.Generator) -> Row:
    """Differences of scores averaged over a few seeds, problems of different difficulty."""
    found = []
    for p in P:
        for gain in (0.0, 0.1):
            difficulty = generator.beta(2 * p, 2 * (1 - p), (n, runs))
            first = generator.binomial(SEEDS, difficulty + gain * (1 - difficulty)) / SEEDS
            table = first - generator.binomial(SEEDS, difficulty) / SEEDS
            claims = [c for c in paired_differences(table, resamples=RESAMPLES) if c is not None]
            truth = gain * (1 - p)
            hits = float(np.mean([c.low <= truth <= c.high for c in claims]))
            found.append((hits, float(np.mean([c.high - c.low for c in claims]))))
    return summary(f"difference, {SEEDS} seeds: bootstrap", n, found)


def table(problems: list[int], runs: int, seed: int = 0) -> list[Row]:
    """Return every interval's coverage at every number of problems."""
    rows = []
    for n in problems:
        generator = np.random.default_rng([seed, n])
        rows += [accuracy_by_wilson(n), accuracy_by_bootstrap(n, runs, generator)]
        rows += differences(n, runs, generator)
        rows += [averaged_differences(n, runs, generator), false_claims(n, runs, generator)]
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--problems", default="40,200,1000")
    options = parser.parse_args()
    print("| interval | n | settings | coverage % | lowest % | mean width |\n|---|---:|---:|---:|---:|---:|")
    for row in table([int(n) for n in options.problems.split(",")], options.runs):
        print(f"| {row.what} | {row.n:,} | {row.settings} | {row.coverage:.1%} | {row.lowest:.1%} | {row.width:.3f} |")


if __name__ == "__main__":
    main()
