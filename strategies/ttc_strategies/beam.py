"""Beam search over steps, with lookahead, and in independent subtrees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from ttc.core.aggregate import Aggregation
from ttc.core.protocols import Capability, Context
from ttc.core.types import Answer, Problem
from ttc_strategies.pool import Select
from ttc_strategies.search import NEEDS, Limit, Node, Search

MOST_STEPS = 40
"""Rounds of a search (Snell et al. 2024, section 5.2)."""


@dataclass(frozen=True, slots=True)
class Beam:
    """Keep the best prefixes of every step and branch from each (Snell et al. 2024, arXiv 2408.03314, section 5.2).

    A round ranks the new prefixes and all finished ones on one scale and keeps the best n_beams / branching; from
    each of them that can go on, `branching` next steps are drawn. Identical prefixes count once.

    Attributes:
        n_beams: most prefixes drawn a round; None draws as many as the grant pays for.
        branching: next steps of a kept prefix; None is 4 from 8 beams on, else 2.
        max_steps: most rounds.
        select: how the answer is selected from the finished chains.
        aggregation: how the scores of a chain's steps become one.
    """

    n_beams: Limit | None = None
    branching: Limit | None = None
    max_steps: Limit = MOST_STEPS
    select: Select = "weighted"
    aggregation: Aggregation = "last"

    requires: ClassVar[frozenset[Capability]] = NEEDS

    async def solve(self, problem: Problem, ctx: Context) -> Answer:
        """Search, then let the finished chains vote."""
        search = Search(problem, ctx, self.aggregation)
        shape = await _shape(search, self.n_beams, self.branching)
        if shape is None:
            return await search.single()
        await _beam_search(search, *shape, self.max_steps)
        return await search.answer(self.select)


@dataclass(frozen=True, slots=True)
class Lookahead:
    """Beam search that judges a prefix by where it leads (Snell et al. 2024, arXiv 2408.03314, section 5.2).

    The score of a prefix is the reward model's at the end of a greedy rollout from it. Rollouts are charged.

    Attributes:
        n_beams: most prefixes drawn a round; None draws as many as the grant pays for.
        branching: next steps of a kept prefix; None is 4 from 8 beams on, else 2.
        lookahead: steps of a rollout; 0 is beam search.
        max_steps: most rounds.
        select: how the answer is selected from the finished chains.
        aggregation: how the scores of a chain's steps become one.
    """

    n_beams: Limit | None = None
    branching: Limit | None = None
    lookahead: Annotated[int, Field(ge=0)] = 1
    max_steps: Limit = MOST_STEPS
    select: Select = "weighted"
    aggregation: Aggregation = "last"

    requires: ClassVar[frozenset[Capability]] = NEEDS | {"temperature"}

    async def solve(self, problem: Problem, ctx: Context) -> Answer:
        """Search, then let the finished chains vote."""
        search = Search(problem, ctx, self.aggregation)
        shape = await _shape(search, self.n_beams, self.branching, self.lookahead + 1)
        if shape is None:
            return await search.single()
        await _beam_search(search, *shape, self.max_steps, self.lookahead)
        return await search.answer(self.select)


@dataclass(frozen=True, slots=True)
class DVTS:
    """Diverse verifier tree search: independent subtrees, each of one kept prefix (Beeching, Tunstall, Rush 2024).

    Each of n_beams / branching subtrees draws `branching` next steps of its prefix and keeps the best, until the
    best one ends. All finished chains vote; the released code returns only the last candidates of each subtree.

    Attributes:
        n_beams: most prefixes drawn a round; None draws as many as the grant pays for.
        branching: next steps of a kept prefix; None is 4 from 8 beams on, else 2.
        max_steps: most rounds.
        select: how the answer is selected from the finished chains; a verifier's groups are the subtrees.
        aggregation: how the scores of a chain's steps become one.
    """

    n_beams: Limit | None = None
    branching: Limit | None = None
    max_steps: Limit = MOST_STEPS
    select: Select = "weighted"
    aggregation: Aggregation = "last"

    requires: ClassVar[frozenset[Capability]] = NEEDS

    async def solve(self, problem: Problem, ctx: Context) -> Answer:
        """Search every subtree at once, then let the finished chains vote."""
        search = Search(problem, ctx, self.aggregation)
        shape = await _shape(search, self.n_beams, self.branching)
        if shape is None:
            return await search.single()
        subtree_of = await _search_subtrees(search, *shape, self.max_steps)
        return await search.answer(self.select, subtree_of)


async def _shape(search: Search, n_beams: int | None, branching: int | None, cost: int = 1) -> tuple[int, int] | None:
    """Return beams (a multiple of the branching) and branching, None where the grant pays for fewer than two beams."""
    width = await search.prepare(n_beams, cost)
    if width < 2:
        return None
    branching = min(branching or (4 if width >= 8 else 2), width)
    return width - width % branching, branching


async def _beam_search(search: Search, n_beams: int, branching: int, max_steps: int, lookahead: int = 0) -> None:
    wants = [(search.root, n_beams)]
    values: dict[int, float] = {}
    ended: list[Node] = []
    for depth in range(1, max_steps + 1):
        grown = await search.grow(wants, scored=not lookahead)
        children = search.distinct([child for children in grown for child in children])
        live = [child for child in children if child.state == "live"]
        if lookahead:
            values.update(await search.rollout(live, lookahead))
        else:
            values.update({child.id: search.value(child) for child in live})
        new = [child for child in children if child.state == "finished"]
        values.update({child.id: search.value(child) for child in new})
        ended += new
        width = search.affordable(n_beams, depth, lookahead + 1)
        ranked = sorted([*ended, *live], key=lambda node: (-values.get(node.id, 0.0), node.id))
        kept = [node for node in ranked[: max(1, width // branching)] if node.state == "live"]
        if not kept:
            return
        wants = [(node, min(branching, width)) for node in kept]


async def _search_subtrees(search: Search, n_beams: int, branching: int, max_steps: int) -> dict[int, int]:
    """Return the subtree that each node belongs to, by the node's id."""
    active = [(subtree, search.root) for subtree in range(n_beams // branching)]
    each = branching
    subtree_of: dict[int, int] = {}
    for depth in range(1, max_steps + 1):
        grown = await search.grow([(node, each) for _, node in active])
        going: list[tuple[int, Node]] = []
        for (subtree, _), children in zip(active, grown, strict=True):
            subtree_of.update({child.id: subtree for child in children})
            best = _best(search, search.distinct(children))
            if best is not None and best.state == "live":
                going.append((subtree, best))
        if not going:
            break
        going.sort(key=lambda path: (-search.value(path[1]), path[0]))
        width = search.affordable(len(going) * branching, depth)
        active = going[:width]
        each = min(branching, width // len(active))
    return subtree_of


def _best(search: Search, children: Sequence[Node]) -> Node | None:
    judged = [child for child in children if child.state != "cut"]
    return max(judged, key=lambda child: (search.value(child), -child.id), default=None)
