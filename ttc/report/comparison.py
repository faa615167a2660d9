"""Paired comparisons of cells at equal realised tokens: one resample of the problems for a whole table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ttc.core.identity import sample_seed
from ttc.metrics.frontier import Curve, compute_to_match, log_weights
from ttc.metrics.statistics import (
    LEVEL,
    RESAMPLES,
    Difference,
    benjamini_hochberg,
    minimum_detectable_difference,
    paired_differences,
)
from ttc.report.outcomes import Outcomes

Floats = NDArray[np.float64]
NEVER = 1e-6
"""Expected number of resamples below which one does not happen."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A paired difference and what may be claimed from it.

    `q` is the p-value after Benjamini and Hochberg's correction over the comparisons with the same baseline; None for
    an oracle, which is no method and is not in that family.
    """

    difference: Difference
    q: float | None = None

    @property
    def mean(self) -> float:
        """Return the mean difference, a fraction."""
        return self.difference.mean

    @property
    def points(self) -> tuple[float, float, float]:
        """Return the mean difference and its interval, as fractions."""
        return self.difference.mean, self.difference.low, self.difference.high

    @property
    def discordant(self) -> int:
        """Return on how many problems the two sides differ."""
        return self.difference.wins + self.difference.losses

    @property
    def significant(self) -> bool:
        """Say whether the difference can be told from zero at a false-discovery rate of 5 %."""
        return (self.difference.p_value if self.q is None else self.q) <= 1 - LEVEL


@dataclass(frozen=True, slots=True)
class TokensToMatch:
    """The share of a rival's tokens with which a series reaches the rival's accuracy, and its interval.

    `at_most`: the cheapest point of the series is there already, so that the share is an upper bound.
    """

    share: float
    low: float
    high: float
    accuracy: float
    rival_tokens: float
    at_most: bool


def bootstrap_seed(run_seed: int) -> int:
    """Return the seed of every resample of a section: equal problems are then resampled equally."""
    return sample_seed(run_seed, "", "bootstrap", 0)


def claims(differences: Mapping[str, Floats], family: Sequence[str], run_seed: int) -> dict[str, Claim]:
    """Return a claim for each named column of paired differences (problems,), corrected within the family.

    NaN marks a problem that a comparison leaves out; a comparison without problems has no claim.
    """
    if not differences:
        return {}
    found = paired_differences(np.column_stack(list(differences.values())), seed=bootstrap_seed(run_seed))
    made = {name: Claim(claim) for name, claim in zip(differences, found, strict=True) if claim is not None}
    members = [name for name in family if name in made]
    qs = benjamini_hochberg([made[name].difference.p_value for name in members])
    return made | {name: replace(made[name], q=float(q)) for name, q in zip(members, qs, strict=True)}


def versus(outcomes: Outcomes, cell: int, curve: Sequence[int]) -> Floats | None:
    """Return a cell's paired differences to a curve, interpolated in log tokens at what the cell really spent.

    None outside the curve's range of tokens. Cells of other seeds saw other samples and are no part of the curve.
    """
    own = outcomes.cells[cell]
    rivals = [i for i in curve if outcomes.cells[i]["seed"] == own["seed"]]
    weights = log_weights([outcomes.cells[i]["tokens_per_problem"] for i in rivals], own["tokens_per_problem"])
    if weights is None:
        return None
    level = np.zeros(len(outcomes.problems))
    for i, weight in weights:
        level += weight * outcomes.score[:, rivals[i]]
    return outcomes.score[:, cell] - level


def tokens_to_match(outcomes: Outcomes, curve: Sequence[int], rival: int) -> TokensToMatch | None:
    """Return with which share of a rival cell's tokens a series reaches that cell's accuracy.

    None where it does not, where a resample may have spent nothing, or where so many resamples never do that the interval has no upper end.
    """
    columns = [*curve, rival]
    shared = ~np.isnan(outcomes.score[:, columns]).any(axis=1)
    tokens, score = outcomes.tokens[shared][:, columns], outcomes.score[shared][:, columns]
    if not shared.any() or _may_cost_nothing(tokens):
        return None
    cell = outcomes.cells[rival]
    found = compute_to_match(
        Curve(tokens[:, :-1].T, score[:, :-1].T), tokens[:, -1], score[:, -1], seed=bootstrap_seed(cell["seed"])
    )
    if found.ratio is None or found.status == "not reached" or not math.isfinite(found.ratio.high):
        return None
    ratio = found.ratio
    return TokensToMatch(ratio.estimate, ratio.low, ratio.high, float(cell["accuracy"]),
                         float(cell["tokens_per_problem"]), found.status == "at most")  # fmt: skip


def _may_cost_nothing(tokens: Floats) -> bool:
    """Say whether a resample of the problems may hold only such that spent nothing: no ratio is defined there."""
    idle = (tokens <= 0).mean(axis=0)
    return bool((idle ** len(tokens)).max() * RESAMPLES > NEVER)


def detectable(differences: Floats) -> float | None:
    """Return the smallest difference that as many problems, differing as these do, show with a power of 80 %."""
    known = differences[~np.isnan(differences)]
    return minimum_detectable_difference(known.size, float(np.square(known).mean())) if known.size else None
