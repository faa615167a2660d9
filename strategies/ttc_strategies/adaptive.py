"""Stop sampling when the vote is decided.

A stopping rule reads sample i only when samples 0..i-1 are in. Where no chunk is set, each wave draws exactly
the fewest samples after which the rule could fire: the decisions of drawing one by one, in fewer rounds, and
with no sample in flight when it fires.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Literal

from pydantic import Field

from ttc.core.protocols import Context
from ttc.core.types import Answer, Completion, Problem
from ttc.core.vote import majority, tally
from ttc_strategies.pool import answers_of, conclude, why

TOP_ANSWERS = 5
"""Answers that the Dirichlet rule looks at (Aggarwal et al. 2023, released code)."""


@lru_cache(maxsize=4096)
def beta_stability(first: int, second: int) -> float:
    """Return P(p1 > p2) for the two leading answers' counts under a uniform prior.

    1 - I_{1/2}(a+1, b+1), which for whole numbers is a binomial tail (Aggarwal et al. 2023, arXiv 2305.11860).
    """
    n = first + second + 1
    return sum(math.comb(n, k) for k in range(first + 1)) / (1 << n)


@lru_cache(maxsize=4096)
def dirichlet_stability(counts: tuple[int, ...]) -> float:
    """Return the chance that the first count's answer is the most likely one under Dirichlet(counts + 1).

    The paper integrates by Monte Carlo; here one-dimensional quadrature over independent gamma variables gives
    the same number without noise. A single answer is set against one unseen rival.
    """
    from scipy.integrate import quad
    from scipy.special import gammainc, gammaln

    leader, *others = [c + 1 for c in (counts if len(counts) > 1 else (*counts, 0))]
    norm = float(gammaln(leader))

    def density(x: float) -> float:
        ahead = math.prod(float(gammainc(o, x)) for o in others)
        return math.exp((leader - 1) * math.log(x) - x - norm) * ahead if x > 0 else 0.0

    top = leader + 12 * math.sqrt(leader) + 20
    return float(quad(density, 0, top, limit=200)[0])


@dataclass(frozen=True, slots=True)
class AdaptiveConsistency:
    """Stop when the leading answer is likely to stay the majority (Aggarwal et al. 2023, arXiv 2305.11860).

    Attributes:
        n: most samples to draw.
        rule: `beta` (the two leading answers) or `dirichlet` (the five leading answers).
        threshold: posterior probability at which to stop; not a guaranteed accuracy.
        chunk: samples a wave; None draws the fewest after which the rule could fire.
    """

    n: Annotated[int, Field(ge=1)] = 40
    rule: Literal["beta", "dirichlet"] = "beta"
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.95
    chunk: Annotated[int, Field(ge=1)] | None = None

    async def solve(self, problem: Problem, ctx: Context) -> Answer:
        """Draw in waves, read in index order, vote over what was read when the rule fired."""
        drawn: list[Completion] = []
        read = 0
        while len(drawn) < self.n:
            wave = min(self.chunk or self._fewest(answers_of(drawn)), self.n - len(drawn))
            more = await ctx.sample(problem.prompt, wave, ctx.sampling)
            drawn += more
            answers = answers_of(drawn)
            while read < len(drawn):
                read += 1
                if self._fires(answers[:read]):
                    return conclude(drawn, majority(answers[:read]), "confident")
            if len(more) < wave:
                break
        return conclude(drawn, majority(answers_of(drawn)), why(ctx))

    def _fires(self, answers: Sequence[str | None]) -> bool:
        return self._stable(sorted((int(c) for c in tally(answers).values()), reverse=True))

    def _stable(self, counts: Sequence[int]) -> bool:
        if not counts:
            return False
        if self.rule == "beta":
            value = beta_stability(counts[0], counts[1] if len(counts) > 1 else 0)
        else:
            value = dirichlet_stability(tuple(counts[:TOP_ANSWERS]))
        return value >= self.threshold

    def _fewest(self, answers: Sequence[str | None]) -> int:
        """Return how many more samples the rule needs at least: all of them for the leader."""
        counts = sorted((int(c) for c in tally(answers).values()), reverse=True) or [0]
        for more in range(1, self.n + 1):
            if self._stable([counts[0] + more, *counts[1:]]):
                return more
        return self.n


@dataclass(frozen=True, slots=True)
class EarlyStoppingConsistency:
    """Stop when all answers of one window agree (Li et al. 2024, arXiv 2401.10480).

    Where the grant ends before the first window is full, this is self-consistency.

    Attributes:
        n: most samples to draw.
        window: samples a window; windows do not overlap.
    """

    n: Annotated[int, Field(ge=1)] = 40
    window: Annotated[int, Field(ge=1)] = 5

    async def solve(self, problem: Problem, ctx: Context) -> Answer:
        """Return a window's unanimous answer, else the majority over everything drawn."""
        drawn: list[Completion] = []
        while len(drawn) < self.n:
            size = min(self.window, self.n - len(drawn))
            more = await ctx.sample(problem.prompt, size, ctx.sampling)
            start, drawn = len(drawn), drawn + more
            window = answers_of(more)
            if len(more) == self.window and window[0] is not None and set(window) == {window[0]}:
                return conclude(drawn, start, "confident")
            if len(more) < size:
                break
        return conclude(drawn, majority(answers_of(drawn)), why(ctx))
