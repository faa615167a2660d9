"""Tree search that shares its width among all live nodes by reward, with and without pruning for the KV cache."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ttc.core.aggregate import Aggregation
from ttc.core.protocols import Capability, Context
from ttc.core.types import Answer, Problem
from ttc_strategies.pool import Select
from ttc_strategies.pruning import Embedding, Leaves, clusters, kept_leaves
from ttc_strategies.search import NEEDS, Limit, Node, Search

MOST_STEPS = 25
"""Depth of a search (Wu et al. 2024, released code)."""
Temperature = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
_EVEN = 1e-9  # equal scores must not round up unevenly
COVERAGE_BY_WIDTH = ((16, 1.5), (64, 1.4), (256, 1.45))
"""Width and lambda_d (Hooper et al. 2025, released scripts)."""


def balance(rewards: Sequence[float], width: int, temperature: float) -> list[int]:
    """Return how many children each node gets: `width` in all, in proportion to exp(reward / temperature).

    Nodes are served in order of reward, and each share is rounded up (Wu et al. 2024, arXiv 2408.00724, released
    code). Rounding to the nearest, as the paper writes it, may lose or add width.

    Args:
        rewards: in [0, 1]; logits would make any temperature winner-take-all.
        width: children to deal out, at least 0.
        temperature: the smaller, the more the best node gets.
    """
    order = sorted(range(len(rewards)), key=lambda j: (-rewards[j], j))
    shares = [0] * len(rewards)
    if not order:
        return shares
    top = rewards[order[0]]
    masses = [math.exp((rewards[j] - top) / temperature) for j in order]
    left = list(accumulate(reversed(masses)))[::-1]
    for j, mass, rest in zip(order, masses, left, strict=True):
        if rest > 0:
            shares[j] = min(width, math.ceil(width * mass / rest - _EVEN))
            width -= shares[j]
    return shares


@dataclass(frozen=True, slots=True)
class Rebase:
    """Reward-balanced search (Wu et al. 2024, arXiv 2408.00724).

    Every live node is extended in proportion to its softmaxed reward; a finished or cut one takes its share of the
    width along.

    Attributes:
        width: most branches; None keeps as many as the grant pays for.
        temperature: of the softmax over rewards.
        max_steps: greatest depth.
        select: how the answer is selected from the finished chains.
        aggregation: how the scores of a chain's steps become one.
    """

    width: Limit | None = None
    temperature: Temperature = 0.2
    max_steps: Limit = MOST_STEPS
    select: Select = "weighted"
    aggregation: Aggregation = "last"

    requires: ClassVar[frozenset[Capability]] = NEEDS

    async def solve(self, problem: Problem, ctx: Context) -> Answer:
        """Search, then let the finished chains vote."""
        search = Search(problem, ctx, self.aggregation)
        width = await search.prepare(self.width)
        if width < 2:
            return await search.single()

        def share(live: Sequence[Node], left: int) -> list[int]:
            return balance([search.value(node) for node in live], left, self.temperature)

        await _search(search, width, self.max_steps, share)
        return await search.answer(self.select)


@dataclass(frozen=True, slots=True)
class ETS:
    """Efficient tree search: REBASE that prunes leaves for a smaller KV cache (Hooper et al. 2025, arXiv 2502.13575).

    Each step solves a binary programme: kept reward mass, less lambda_b times the share of tree nodes kept alive,
    plus lambda_d times the share of semantic clusters covered. The full width is then dealt over the kept leaves.

    Attributes:
        width: most branches; None keeps as many as the grant pays for.
        lambda_b: weight of the nodes; 0 switches their cost off.
        lambda_d: weight of the clusters; None is the published value of the nearest published width.
        node_cost: `uniform`, as published, or `tokens`: a node costs its share of the tree's tokens.
        cluster_distance: cosine distance up to which two last steps mean the same; it belongs to the embedding.
        embedding: `characters` (counts of 2- to 4-grams) or `words` (counts); both need no model.
        temperature: of the softmax over rewards.
        max_steps: greatest depth.
        select: how the answer is selected from the finished chains.
        aggregation: how the scores of a chain's steps become one.
    """

    width: Limit | None = None
    lambda_b: Weight = 1.0
    lambda_d: Weight | None = None
    node_cost: Literal["uniform", "tokens"] = "uniform"
    cluster_distance: Weight = 0.05
    embedding: Embedding = "characters"
    temperature: Temperature = 0.2
    max_steps: Limit = MOST_STEPS
    select: Select = "weighted"
    aggregation: Aggregation = "last"

    requires: ClassVar[frozenset[Capability]] = NEEDS

    async def solve(self, problem: Problem, ctx: Context) -> Answer:
        """Search, then let the finished chains vote."""
        search = Search(problem, ctx, self.aggregation)
        width = await search.prepare(self.width)
        if width < 2:
            return await search.single()
        coverage = _published_coverage(width) if self.lambda_d is None else self.lambda_d

        def share(live: Sequence[Node], left: int) -> list[int]:
            rewards = [search.value(node) for node in live]
            shares = balance(rewards, left, self.temperature)
            kept = self._keep(search, live, shares, coverage)
            dealt = iter(balance([rewards[i] for i in kept], left, self.temperature))
            again = [0] * len(live)
            for i in kept:
                again[i] = next(dealt)
            return again

        await _search(search, width, self.max_steps, share)
        return await search.answer(self.select)

    def _keep(self, search: Search, live: Sequence[Node], shares: Sequence[int], coverage: float) -> list[int]:
        if len(live) == 1 or not self.lambda_b:  # free nodes are all worth keeping
            return list(range(len(live)))
        texts = [node.steps[-1].text for node in live]
        labels = clusters(texts, self.cluster_distance, self.embedding) if coverage and len(set(texts)) > 1 else None
        total = sum(shares)
        leaves = Leaves([share / total for share in shares], [search.path(node) for node in live], labels)
        ids = {*leaves.branches, *(node.id for node in live)}
        by_tokens = self.node_cost == "tokens"
        weights = {i: float(search.tokens(i)) if by_tokens else 1.0 for i in ids}
        scale = self.lambda_b / (math.fsum(weights.values()) or 1.0)
        return kept_leaves(
            leaves,
            leaf_costs=[scale * weights[node.id] for node in live],
            branch_costs={i: scale * weights[i] for i in leaves.branches},
            coverage=coverage,
        )


def _published_coverage(width: int) -> float:
    return min(COVERAGE_BY_WIDTH, key=lambda row: abs(math.log(width / row[0])))[1]


async def _search(
    search: Search, width: int, max_steps: int, share: Callable[[Sequence[Node], int], list[int]]
) -> None:
    """Extend live nodes by their shares until none is left, or no width."""
    wants = [(search.root, width)]
    for depth in range(1, max_steps + 1):
        children = [child for children in await search.grow(wants) for child in children]
        live = [child for child in children if child.state == "live"]
        width -= len(children) - len(live)
        if width < 1 or not live:
            return
        live.sort(key=lambda node: (-search.value(node), node.id))
        shares = share(live, search.affordable(width, depth))
        wants = [(node, n) for node, n in zip(live, shares, strict=True) if n]
