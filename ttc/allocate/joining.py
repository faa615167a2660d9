"""Allocators that choose among strategies or models, as registered: each problem's own, or one mix for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Annotated, ClassVar, Literal, TypeVar

import numpy as np
from pydantic import Field

from ttc.allocate.baselines import equal_grants
from ttc.allocate.binned import quantile_edges
from ttc.allocate.difficulty import compute_optimal
from ttc.allocate.greedy import knapsack
from ttc.allocate.mixture import mixed
from ttc.allocate.routing import route
from ttc.core.allocation import Allocation, at_grants
from ttc.core.closed_forms import smoothed_rates
from ttc.core.curves import Curves, FloatArray, IntArray, joined, origin
from ttc.core.errors import ConfigError
from ttc.core.forecast import Training, Unit
from ttc.core.protocols import Ask, Joins, Need, Part

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StrategyByDifficulty:
    """Each problem is given to one strategy (compute-optimal scaling, Snell et al. 2024, arXiv 2408.03314).

    Attributes:
        form: `bins`, equal grants, and the strategy that did best with such a grant on other problems of the same
            predicted difficulty; `knapsack`, one option a strategy and budget for every problem, bought by gain a token.
        bins: quantile bins of the predicted success probability; for `bins` only.
    """

    form: Literal["bins", "knapsack"] = "bins"
    bins: Annotated[int, Field(ge=1)] = 5

    joins: ClassVar[Joins] = "strategies"

    @property
    def needs(self) -> frozenset[Need]:
        """Return what the form must be told."""
        return frozenset({"curves"} if self.form == "knapsack" else {"curves", "scores", "training"})

    def allocate(self, ask: Ask) -> Allocation:
        """Return grants, and whose strategy is whose; choices count the options of all strategies, one after another."""
        curves = [told(part, "curves", part.curves) for part in ask.parts]
        if self.form == "knapsack":
            split = knapsack(joined(curves), ask.total_tokens)
            return replace(split, member=np.maximum(origin(curves, split.choice)[0], 0))
        member = self._by_bin(ask)
        return _with_members(curves, member, equal_grants(len(ask.problem_ids), ask.total_tokens), ask.total_tokens)

    def _by_bin(self, ask: Ask) -> IntArray:
        rows, learned = shared_training(ask.parts)
        pace = ask.total_tokens // max(1, len(ask.problem_ids))
        table = np.stack(
            [_bought(t.curves, pace)[chosen] for t, chosen in zip(learned, rows, strict=True)], axis=1
        )  # (problems, strategies)
        scores = learned[0].scores[rows[0]]
        edges = quantile_edges(scores, self.bins)
        member = np.searchsorted(edges, scores, side="right")
        best = compute_optimal(member, table[:, :, None], np.random.default_rng(ask.seed)).choice[:, 0]
        return best[np.searchsorted(edges, told(ask.parts[0], "scores", ask.parts[0].scores), side="right")]


@dataclass(frozen=True, slots=True)
class Route:
    """Each problem is given to one of two models, the dear one where it is most likely to do better (Damani et al. 2024).

    The dear model is the one of larger weight, else of more parameters, else the one given last. Answers are whole
    calls, paid from the run's total at what they really cost.

    Attributes:
        samples: calls of its model that every problem is granted.
    """

    samples: Annotated[int, Field(ge=1)] = 1

    joins: ClassVar[Joins] = "models"
    pair: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({"scores", "samples"})
    unit: ClassVar[Unit] = "calls"

    def allocate(self, ask: Ask) -> Allocation:
        """Return whose model is whose; grants are what the calls are expected to cost."""
        weak, strong = weak_first(ask.parts)
        parts = (ask.parts[weak], ask.parts[strong])
        scores = np.stack([told(part, "scores", part.scores) for part in parts])
        each = [self.samples * part.weight * told(part, "costs", part.sample_tokens) for part in parts]
        costs = [np.ceil(tokens).astype(np.int64) for tokens in each]
        split = route(0.5 + 0.5 * (scores[1] - scores[0]), costs[0], costs[1], ask.total_tokens)
        taken = split.choice >= 0
        dear = split.choice == 1
        values = np.where(taken, np.where(dear, scores[1], scores[0]), 0.0)
        return replace(split, predicted_values=values, member=np.where(dear, strong, weak), bound=None)


@dataclass(frozen=True, slots=True)
class Mixed:
    """Every problem draws from the same mix of models, the one that solved most other problems (OSCA, arXiv 2410.22480).

    Models are configurations: one model at two temperatures is two of them. Grants are equal.
    """

    joins: ClassVar[Joins] = "models"
    needs: ClassVar[frozenset[Need]] = frozenset({"training"})
    unit: ClassVar[Unit] = "calls"

    def allocate(self, ask: Ask) -> Allocation:
        """Return equal grants, and how many samples of each model a round of the mix holds."""
        n = len(ask.problem_ids)
        pace = ask.total_tokens // max(1, n)
        rows, learned = shared_training(ask.parts)
        firsts = [t.curves.offsets[:-1][chosen] for t, chosen in zip(learned, rows, strict=True)]
        rates = np.stack([_rates(t.curves, at) for t, at in zip(learned, firsts, strict=True)])
        each = zip(learned, firsts, ask.parts, strict=True)
        costs = np.maximum(1, np.ceil([part.weight * t.curves.costs[at].mean() for t, at, part in each]))
        most = np.array([pace if part.samples is None else part.samples for part in ask.parts])
        mix = mixed(rates, costs, pace, most)
        counts, value = mix.counts, mix.value
        if not counts.any():  # the budget pays for no whole sample: the model that solves most a token begins one
            counts = (np.arange(len(costs)) == (rates.mean(axis=1) / costs).argmax()).astype(np.int64)
        spend = np.full(n, float(min(int(counts @ costs), pace)))
        grants = equal_grants(n, ask.total_tokens)
        return Allocation(grants, np.full(n, -1), np.full(n, value), spend, ask.total_tokens, counts=counts)


def told(part: Part, what: str, value: T | None) -> T:
    """Return what is known of a part. Raises ConfigError where it is not."""
    if value is None:
        raise ConfigError(
            f"this allocator needs predicted {what} of {part.name}", "give --predictor (ttc fit makes one)"
        )
    return value


def weak_first(parts: Sequence[Part]) -> tuple[int, int]:
    """Return the positions of the cheap and the dear one of two models.

    Raises:
        ConfigError: there are not two.
    """
    if len(parts) != 2:
        raise ConfigError(f"route is between two models, {len(parts)} are given")
    sizes = [part.parameters for part in parts]
    known = [size for size in sizes if size is not None]
    order = sorted(range(2), key=lambda i: (parts[i].weight, known[i] if len(known) == 2 else 0, i))
    return order[0], order[1]


def shared_training(parts: Sequence[Part]) -> tuple[list[IntArray], list[Training]]:
    """Return each part's rows of the training problems that all parts have, in one order, and the training itself.

    Raises:
        ConfigError: there is no training, or hardly a problem in common.
    """
    learned = [part.training for part in parts if part.training is not None]
    if not parts or len(learned) < len(parts):
        raise ConfigError("this allocator learns from other problems", "give --predictor (ttc fit makes one)")
    if any(not t.problem_ids for t in learned):
        if len({len(t.curves) for t in learned}) == 1:
            return [np.arange(len(t.curves)) for t in learned], learned
        shared: list[str] = []
    else:
        common = reduce(set[str].intersection, (set(t.problem_ids) for t in learned))
        shared = [name for name in learned[0].problem_ids if name in common]
    if len(shared) < 2:
        raise ConfigError(
            f"the predictor learned {' and '.join(part.name for part in parts)} on different problems",
            "fit it on outcomes of the same problems for everything that is joined",
        )
    places = [{name: i for i, name in enumerate(t.problem_ids)} for t in learned]
    return [np.array([place[name] for name in shared], dtype=np.int64) for place in places], learned


def _bought(curves: Curves, tokens: int) -> FloatArray:
    """Return what the same grant buys each problem, (n,)."""
    choice = curves.affordable(np.full(len(curves), tokens))
    return np.where(choice >= 0, curves.values[curves.offsets[:-1] + np.maximum(choice, 0)], 0.0)


def _rates(curves: Curves, first: IntArray) -> FloatArray:
    """Return the success rates of single samples: scores of one call, smoothed by the number of recorded samples."""
    samples = int(curves.sizes[0])
    return smoothed_rates(curves.values[first] * samples, samples)


def _with_members(curves: Sequence[Curves], member: IntArray, grants: IntArray, total_tokens: int) -> Allocation:
    """Describe equal grants to problems that were given to one part each."""
    each = [at_grants(part, grants, total_tokens) for part in curves]
    before = np.concatenate([np.zeros((1, member.size), np.int64), np.cumsum([c.sizes for c in curves], axis=0)])
    at = np.arange(member.size)
    choice = np.stack([a.choice for a in each])[member, at]
    return Allocation(
        grants,
        np.where(choice >= 0, choice + before[member, at], -1),
        np.stack([a.predicted_values for a in each])[member, at],
        np.stack([a.predicted_tokens for a in each])[member, at],
        total_tokens,
        member=member,
    )
