"""The allocators by registry name: frozen dataclasses around the pure functions of this package."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from ttc.allocate.baselines import random_grants
from ttc.allocate.binned import fit_bins, quantile_edges
from ttc.allocate.envelope import envelope
from ttc.allocate.exact import knapsack_dp, knapsack_exact
from ttc.allocate.greedy import knapsack, shadow_price
from ttc.allocate.online import streaming
from ttc.allocate.saturation import saturation_points
from ttc.allocate.thresholds import DualDescent, Threshold, calibrated
from ttc.core.allocation import Allocation, at_grants, blind
from ttc.core.curves import Curves
from ttc.core.forecast import Training, Unit
from ttc.core.protocols import Ask, Need

Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(gt=0, le=1)]
PREDICTED: frozenset[Need] = frozenset({"curves"})


@dataclass(frozen=True, slots=True)
class Random:
    """Give one cap's worth of tokens at a time to a problem drawn uniformly, until the total is granted.

    Everyone gets one before anyone gets two. Drawn by the run's seed.
    """

    def allocate(self, ask: Ask) -> Allocation:
        """Return the drawn grants."""
        rng = np.random.default_rng(ask.seed)
        return blind(random_grants(len(ask.problem_ids), ask.total_tokens, ask.cap_tokens, rng), ask.total_tokens)


@dataclass(frozen=True, slots=True)
class Knapsack:
    """Buy the upgrades that gain most per token on concave envelopes (Damani et al. 2024, arXiv 2410.04707).

    Attributes:
        pilot: samples drawn of every problem first; they are charged, looked at, and part of the answer.
    """

    pilot: Count = 0

    needs: ClassVar[frozenset[Need]] = PREDICTED

    def allocate(self, ask: Ask) -> Allocation:
        """Return the greedy split; its gap to the Lagrangian bound is in the allocation."""
        return knapsack(ask.known(), ask.total_tokens)


@dataclass(frozen=True, slots=True)
class KnapsackExact:
    """The same knapsack, solved to optimality: slower, and hardly better beyond a handful of problems.

    Attributes:
        solver: `milp` (HiGHS) or `dp` (dynamic programming, exact up to rounding of costs).
        pilot: as for `knapsack`.
    """

    solver: Literal["milp", "dp"] = "milp"
    pilot: Count = 0

    needs: ClassVar[frozenset[Need]] = PREDICTED

    def allocate(self, ask: Ask) -> Allocation:
        """Return the optimal split."""
        solve = knapsack_exact if self.solver == "milp" else knapsack_dp
        return solve(ask.known(), ask.total_tokens)


@dataclass(frozen=True, slots=True)
class BinnedPolicy:
    """A table learned on other problems and applied to one problem at a time (Damani et al. 2024, "offline").

    Attributes:
        bins: quantile bins of the predicted success probability.
    """

    bins: Annotated[int, Field(ge=1)] = 8

    needs: ClassVar[frozenset[Need]] = frozenset({"curves", "scores", "training"})

    def allocate(self, ask: Ask) -> Allocation:
        """Return what the table says for each problem's own score."""
        training = ask.learned()
        table = fit_bins(training.scores, training.curves, self.bins)
        return at_grants(ask.known(), table.apply(ask.difficulty(), ask.total_tokens), ask.total_tokens)


@dataclass(frozen=True, slots=True)
class Sequential:
    """Waves: a pilot, then again and again a new prediction from what was drawn, and a new split of what is left.

    What an early finisher does not need goes to whoever gains most from it. Grants are whole calls, paid at what they
    really cost, so no sample is cut while the total lasts.

    Attributes:
        pilot: samples drawn of every problem first.
        share: how much of its split a wave grants before it asks again; at least one call.
    """

    pilot: Count = 1
    share: Share = 0.5

    needs: ClassVar[frozenset[Need]] = PREDICTED
    unit: ClassVar[Unit] = "calls"

    def allocate(self, ask: Ask) -> Allocation:
        """Return the split of what is left over further calls."""
        return knapsack(ask.known(), ask.total_tokens)


@dataclass(frozen=True, slots=True)
class Streaming:
    """Problems arrive one by one and are decided for good, at the price that the tokens left over suggest.

    Attributes:
        rule: `dual`, a price that rises when spending runs ahead of an even pace; `time-fair`, a threshold with a
            guarantee against any order of arrival (LA-ECT, Lechowicz et al. 2023, arXiv 2305.13293).
        window: problems that run at once; what they did not need goes to later ones.
        trust: `time-fair` only, in [0, 1]: how far the price predicted from other problems is believed.
        rate: `dual` only: how fast the price moves.
    """

    rule: Literal["dual", "time-fair"] = "dual"
    window: Annotated[int, Field(ge=1)] = 16
    trust: Annotated[float, Field(ge=0, le=1)] = 0.5
    rate: Annotated[float, Field(gt=0)] = 0.05

    needs: ClassVar[frozenset[Need]] = frozenset({"curves", "training"})
    unit: ClassVar[Unit] = "calls"

    def threshold(self, training: Training | None, pace: float) -> Threshold:
        """Return the price to begin with: that of other problems at the same pace, in tokens a problem."""
        curves = Curves.from_table(np.zeros((1, 1)), np.zeros((1, 1))) if training is None else training.curves
        total = int(pace * len(curves))
        if self.rule == "time-fair":
            return calibrated(curves, total, self.trust)
        # Where the total would buy all that was offered there, the least of it: a price of nothing could never rise again,
        # and those who come first would leave nothing to the last.
        least = envelope(curves).slopes.min(initial=1.0)
        return DualDescent(max(shadow_price(curves, total), float(least)), self.rate)

    def allocate(self, ask: Ask) -> Allocation:
        """Return the split in the seed's order of arrival, as if every call cost what is expected."""
        order = np.random.default_rng(ask.seed).permutation(len(ask.problem_ids))
        threshold = self.threshold(ask.learned(), ask.total_tokens / max(1, len(ask.problem_ids)))
        return streaming(ask.known(), ask.total_tokens, threshold, order)


@dataclass(frozen=True, slots=True)
class SaturationCaps:
    """The knapsack, with nothing to gain beyond where problems of like difficulty stop gaining (TTSPM, arXiv 2505.20522).

    Attributes:
        least_gain: score that a further smallest grant must still gain.
        bins: difficulty bins, each with its own fitted ceiling and rate.
    """

    least_gain: Annotated[float, Field(gt=0, lt=1)] = 0.005
    bins: Annotated[int, Field(ge=1)] = 5

    needs: ClassVar[frozenset[Need]] = frozenset({"curves", "scores", "training"})

    def allocate(self, ask: Ask) -> Allocation:
        """Return the knapsack's split of the capped curves."""
        training = ask.learned()
        edges = quantile_edges(training.scores, self.bins)
        member = np.searchsorted(edges, training.scores, side="right")
        costs = training.curves.costs.reshape(len(training.curves), -1)
        unit = int(costs[:, 0].min())
        table = training.curves.values.reshape(costs.shape)
        points = saturation_points(member, costs[0] / unit, table, self.least_gain)
        caps = points[np.searchsorted(edges, ask.difficulty(), side="right")] * unit
        return knapsack(ask.known().capped(caps), ask.total_tokens)


@dataclass(frozen=True, slots=True)
class Oracle:
    """The knapsack on curves estimated from all recorded samples of the very problems: an upper bound.

    It knows each problem's curve, not the draw, and is flattered by noise. Needs a bank.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"bank"})
    oracle: ClassVar[bool] = True

    def allocate(self, ask: Ask) -> Allocation:
        """Return the best split of what was recorded."""
        return knapsack(ask.known(), ask.total_tokens)


@dataclass(frozen=True, slots=True)
class OracleSplit:
    """The oracle without its flattery: curves from one half of each problem's samples, answers from the other.

    Needs a bank with at least twice the samples that a problem may be granted.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"bank"})
    oracle: ClassVar[bool] = True
    split: ClassVar[bool] = True

    def allocate(self, ask: Ask) -> Allocation:
        """Return the best split of what the other half recorded."""
        return knapsack(ask.known(), ask.total_tokens)
