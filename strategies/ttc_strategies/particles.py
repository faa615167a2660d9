"""Particle filtering over steps."""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, ClassVar, Literal

from ttc.core.aggregate import Aggregation
from ttc.core.identity import identity
from ttc.core.protocols import Capability, Context
from ttc.core.types import Answer, Problem
from ttc_strategies.pool import Select
from ttc_strategies.search import NEEDS, Limit, Node, Search

if TYPE_CHECKING:
    import numpy as np

MOST_STEPS = 32
"""Steps of a particle (its_hub, released code)."""
_CLIP = 1e-7  # its_hub, released code
_ESS_SHARE = 0.5
Resampling = Literal["multinomial", "systematic"]


@dataclass(frozen=True, slots=True)
class ParticleFiltering:
    """Resample chains in proportion to their odds of being right after every step (Puri et al. 2025, arXiv 2502.01618).

    A chain's weight is s / (1 - s) of its score, afresh at every step. Finished chains take part in resampling with
    their last weight; those that survive it compete, and copies of one chain are one result.

    Attributes:
        n_particles: most chains; None keeps as many as the grant pays for.
        resampling: `multinomial` at every step, as published, or `systematic`, and only where the effective sample
            size 1 / sum p^2 is below half the particles.
        max_steps: most steps.
        select: how the answer is selected from the finished chains; published is the best score.
        aggregation: how the scores of a chain's steps become one.
    """

    n_particles: Limit | None = None
    resampling: Resampling = "multinomial"
    max_steps: Limit = MOST_STEPS
    select: Select = "reward"
    aggregation: Aggregation = "last"

    requires: ClassVar[frozenset[Capability]] = NEEDS

    async def solve(self, problem: Problem, ctx: Context) -> Answer:
        """Extend and resample, then select among the finished chains."""
        search = Search(problem, ctx, self.aggregation)
        width = await search.prepare(self.n_particles)
        if width < 2:
            return await search.single()
        wants = [(search.root, width)]
        ended: list[Node] = []
        for depth in range(1, self.max_steps + 1):
            children = [child for children in await search.grow(wants) for child in children]
            particles = [*ended, *(child for child in children if child.state != "cut")]
            if not particles:
                break
            counts = self._counts(particles, odds([search.value(node) for node in particles]), width, depth)
            chosen = list(zip(particles, counts, strict=True))
            ended = [node for node, n in chosen if node.state == "finished" for _ in range(n)]
            live = [(node, n) for node, n in chosen if node.state == "live" and n]
            if not live:
                break
            live.sort(key=lambda want: (-search.value(want[0]), want[0].id))
            wants = _first(live, search.affordable(width, depth))
        surviving = {node.id for node in ended}
        # Where the grant ended every survivor before its end, what finished earlier is better than no answer.
        search.finished = [node for node in search.finished if node.id in surviving] or search.finished
        return await search.answer(self.select)

    def _counts(self, particles: Sequence[Node], weights: Sequence[float], n: int, depth: int) -> list[int]:
        import numpy as np

        if self.resampling == "systematic":
            ample = effective_size(weights) >= _ESS_SHARE * len(particles)
            if ample and n >= len(particles):
                return [1] * len(particles)
        # Hashed from what was drawn: it changes with the run's seed, and with nothing else.
        name = identity([depth, [[node.id, node.prefix.generated] for node in particles]], digits=32)
        return resample(weights, n, self.resampling, np.random.default_rng(int(name, 16)))


def _first(wants: Sequence[tuple[Node, int]], n: int) -> list[tuple[Node, int]]:
    """Return the first `n` of the wanted draws."""
    kept = []
    for node, wanted in wants:
        if n < 1:
            break
        kept.append((node, min(wanted, n)))
        n -= wanted
    return kept


def odds(scores: Sequence[float]) -> list[float]:
    """Return s / (1 - s) of each score, clipped to [1e-7, 1 - 1e-7], normalised to sum 1."""
    clipped = [min(max(score, _CLIP), 1 - _CLIP) for score in scores]
    raw = [score / (1 - score) for score in clipped]
    total = math.fsum(raw)
    return [value / total for value in raw]


def effective_size(weights: Sequence[float]) -> float:
    """Return 1 / sum p^2 of weights that sum to 1."""
    return 1.0 / math.fsum(p * p for p in weights)


def resample(weights: Sequence[float], n: int, how: Resampling, rng: np.random.Generator) -> list[int]:
    """Return how often each particle is drawn, `n` in all.

    multinomial: independent draws; systematic: n equally spaced points with one random shift, so that each count
    is within one of n times its weight (Kitagawa 1996).
    """
    edges = list(accumulate(weights))
    if how == "systematic":
        shift = rng.random()
        points = [(i + shift) / n for i in range(n)]
    else:
        points = rng.random(n).tolist()
    counts = [0] * len(weights)
    for point in points:
        counts[min(bisect(edges, point * edges[-1]), len(weights) - 1)] += 1
    return counts
