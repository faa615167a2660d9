"""Monte-Carlo tree search over steps, by the treequest library."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Annotated, ClassVar

from pydantic import Field

from ttc.core.aggregate import Aggregation
from ttc.core.errors import ConfigError
from ttc.core.protocols import Capability, Context
from ttc.core.types import Answer, Problem
from ttc_strategies.pool import Select
from ttc_strategies.search import NEEDS, Limit, Node, Search

_VISITS_PER_NODE = 8
"""Visits that meet an ended chain draw nothing; this bounds them."""


@dataclass(frozen=True, slots=True)
class MCTS:
    """Expand the most promising leaf by UCT until the grant is used, then finish the best unfinished chain.

    A node is one step, and its reward the score of the chain at its last step: no random playout. treequest's
    standard search does the selection and the back-propagation (`pip install 'ttc-toolkit[mcts]'`). A visit that
    meets an ended chain draws nothing and is worth 0. One typical response of the grant is kept back to finish with.

    Attributes:
        nodes: most nodes of the tree, one for each step drawn; None draws as many as the grant pays for.
        branching: next steps of an expanded node, drawn at once; None is 2, or what it takes for a tree of typical
            depth to hold as many steps as the grant pays for.
        exploration: weight of the exploration term.
        select: how the answer is selected from the finished chains.
        aggregation: how the scores of a chain's steps become one.
    """

    nodes: Limit | None = None
    branching: Limit | None = None
    exploration: Annotated[float, Field(ge=0)] = math.sqrt(2)
    select: Select = "weighted"
    aggregation: Aggregation = "last"

    requires: ClassVar[frozenset[Capability]] = NEEDS

    def resolve(self, available: frozenset[Capability]) -> MCTS:
        """Return the strategy itself, once it is known before the run that its library is there."""
        _check_library()
        return self

    async def solve(self, problem: Problem, ctx: Context) -> Answer:
        """Search, finish, then let the finished chains vote."""
        _check_library()
        search = Search(problem, ctx, self.aggregation)
        if await search.prepare(None) < 2 or search.lengths is None:
            return await search.single()
        step, response = search.lengths.step_tokens, search.lengths.step_tokens * search.lengths.steps
        paid = math.floor((ctx.remaining - response) / step)
        limit = paid if self.nodes is None else min(paid, self.nodes)
        branching = self.branching or _branching(limit, search.lengths.steps)
        leaves = await self._expand(search, limit, branching, response)
        await _finish(search, leaves, ctx)
        return await search.answer(self.select, held=True)

    async def _expand(self, search: Search, limit: int, branching: int, kept_back: float) -> list[Node]:
        """Return the live leaves once `limit` steps are drawn, or the whole tree is."""
        from treequest import StandardMCTS

        algorithm = StandardMCTS[Node](samples_per_action=branching, exploration_weight=self.exploration)
        state = algorithm.init_tree()
        leaves = {search.root.id: search.root}
        drawn = 0
        for _ in range(_VISITS_PER_NODE * max(1, limit)):
            if drawn >= limit or not leaves or search.short or search.ctx.remaining <= kept_back:
                break
            state, trials = algorithm.ask_batch(state, branching, ["step"])
            node = trials[0].parent_state or search.root
            if node.state == "live":
                (children,) = await search.grow([(node, len(trials))])
                drawn += len(children)
                leaves.pop(node.id, None)
                leaves.update({child.id: child for child in children if child.state == "live"})
            else:
                children = []
            # Where nothing is left to draw, a visit that gains nothing turns the search to other branches. treequest
            # asks for the same trials until each is told.
            missing = len(trials) - len(children)
            children += [replace(node, scores=(), state="cut")] * missing
            for trial, child in zip(trials, children, strict=True):
                state = algorithm.tell(state, trial.trial_id, (child, search.value(child) if child.scores else 0.0))
        return [leaf for leaf in leaves.values() if leaf.depth]


async def _finish(search: Search, leaves: list[Node], ctx: Context) -> None:
    """Draw the rest of the best live chains, one after another, while the grant pays for a typical one."""
    lengths = search.lengths
    if lengths is None:
        return
    for node in sorted(leaves, key=lambda leaf: (-search.value(leaf), leaf.id)):
        if search.short or ctx.remaining < lengths.step_tokens * max(1.0, lengths.steps - node.depth):
            return
        await search.complete(node)


def _branching(nodes: int, steps: float) -> int:
    depth, branching = max(1, round(steps)), 2
    while sum(branching**d for d in range(1, depth + 1)) < nodes:
        branching += 1
    return branching


def _check_library() -> None:
    if find_spec("treequest") is None:
        raise ConfigError("mcts needs the treequest library", "pip install 'ttc-toolkit[mcts]'")
