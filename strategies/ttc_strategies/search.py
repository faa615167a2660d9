"""What all tree searches share: immutable chains of steps, drawing and scoring them, and what a grant pays for.

Every response that ends by itself is a result and votes once. A chain that a cap or the grant ended never votes,
and no chain is extended beyond its end token.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import Field

from ttc.core.aggregate import Aggregation, aggregate
from ttc.core.protocols import Capability, Context
from ttc.core.tree import Fate, Trace, TraceNode
from ttc.core.types import Answer, Completion, Problem, Prompt, Sampling, Step, Steps, StepScores, Tokens, Usage
from ttc_strategies.drafts import all_settled, within
from ttc_strategies.pool import Select, answers_of, conclude, select_from, why

Limit = Annotated[int, Field(ge=1)]
NEEDS: frozenset[Capability] = frozenset({"live", "extends", "reward"})
"""What every tree search needs."""
LAST_SHARE = 1 / 16
"""Most of a grant that is left to the steps after the typical last one."""


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """A chain of steps: a prefix of token ids, never re-tokenised.

    Attributes:
        id: position in the trace, -1 for the prompt itself.
        prefix: the prompt and everything generated up to here.
        steps: the chain, this node's step last.
        scores: the reward model's, one a step; empty where it was not asked.
        last: the completion that was this step; None for the prompt.
        state: live: it may be extended; finished: the model ended it; cut: a cap or the grant did.
    """

    id: int
    prefix: Prompt
    steps: Steps = ()
    scores: StepScores = ()
    last: Completion | None = None
    state: Literal["live", "finished", "cut"] = "live"

    @property
    def depth(self) -> int:
        """Return how many steps lead here."""
        return len(self.steps)


@dataclass(frozen=True, slots=True)
class Lengths:
    """Typical tokens of a step, and typical steps of a response."""

    step_tokens: float
    steps: float


@dataclass(slots=True)
class _Row:
    parent: int
    step: int
    text: str
    tokens: int
    score: float | None
    fate: Fate


class Search:
    """The tree of one problem: the only state of a search that changes.

    Args:
        problem: what is asked.
        ctx: the problem's metered context.
        aggregation: how the scores of a chain's steps become one.
    """

    def __init__(self, problem: Problem, ctx: Context, aggregation: Aggregation) -> None:
        self.ctx, self.problem, self.aggregation = ctx, problem, aggregation
        self.root = Node(-1, problem.prompt)
        self.finished: list[Node] = []
        self.lengths: Lengths | None = None
        self.short = False
        """Whether the grant ended a draw."""
        self._rows: list[_Row] = []
        self._round = -1
        self._grant = 0
        self._sampling = ctx.profile.step_sampling(ctx.sampling)

    def value(self, node: Node) -> float:
        """Return the aggregated score of a chain that was scored."""
        return aggregate(node.scores, self.aggregation)

    async def grow(
        self, wants: Sequence[tuple[Node, int]], *, sampling: Sampling | None = None, scored: bool = True
    ) -> list[list[Node]]:
        """Draw the wanted number of next steps of each node, all at once, and score them, all at once.

        Calls start in the order given, each with the same cap, so which of them a small grant pays for does not
        depend on timing. Without `scored`, only finished chains are scored.

        Returns:
            The children of each want in order; fewer than wanted where the grant ended.

        Raises:
            EngineError: a call failed; every other one has settled by then.
        """
        self._round += 1
        step = self.ctx.branch(f"step{self._round}")
        cap = sampling or self._sampling
        contexts = [step.branch(str(i)) for i in range(len(wants))]
        drawn = await all_settled(
            [context.sample(node.prefix, n, cap) for context, (node, n) in zip(contexts, wants, strict=True)]
        )
        children = []
        # A response that fills the model's context gets no more steps either, and that is no matter of the grant.
        over = self.ctx.ended == "budget" or self.ctx.remaining < cap.max_tokens
        for (node, n), completions in zip(wants, drawn, strict=True):
            self.short = self.short or (over and len(completions) < n)
            if node.id >= 0:
                self._rows[node.id].fate = "kept" if completions else "cut"
            children += [self._child(node, c, cap) for c in completions]
        judged = await self._score(children, scored)
        self.finished += [child for child in judged if child.state == "finished"]
        in_order = iter(judged)
        return [[next(in_order) for _ in completions] for completions in drawn]

    def distinct(self, nodes: Sequence[Node]) -> list[Node]:
        """Return the nodes without those whose tokens an earlier one has; a finished one then has no vote either."""
        first: dict[Tokens, Node] = {}
        for node in nodes:
            first.setdefault(node.prefix.generated, node)
        kept = {node.id for node in first.values()}
        dropped = {node.id for node in nodes} - kept
        self.finished = [node for node in self.finished if node.id not in dropped]
        for i in dropped:
            self._rows[i].fate = "pruned"
        return [node for node in nodes if node.id in kept]

    def path(self, node: Node) -> list[int]:
        """Return the ids from a node's parent up to the prompt, -1."""
        ids, at = [], node.id
        while at >= 0:
            at = self._rows[at].parent
            ids.append(at)
        return ids

    def tokens(self, node_id: int) -> int:
        """Return the generated tokens of one node's step; the prompt, -1, has none."""
        return self._rows[node_id].tokens if node_id >= 0 else 0

    def _child(self, parent: Node, drawn: Completion, sampling: Sampling) -> Node:
        prefix = parent.prefix.extend(drawn.tokens)
        longest = self.ctx.sampling.max_tokens
        text = drawn.text
        if self.ctx.profile.is_end(drawn):
            # The cap of a whole response is checked here, so that all calls of a round have one cap.
            state: Literal["live", "finished", "cut"] = "finished" if len(prefix.generated) <= longest else "cut"
        else:
            whole_step = drawn.finish == "stop" or len(drawn.tokens) == sampling.max_tokens
            state = "live" if whole_step and len(prefix.generated) < longest else "cut"
            text += self._separator(drawn)
        fate: Fate = "pruned" if state == "live" else state
        self._rows.append(_Row(parent.id, self._round, text, len(drawn.tokens), None, fate))
        steps = (*parent.steps, Step(drawn.tokens, text, drawn.logprob))
        return Node(len(self._rows) - 1, prefix, steps, last=drawn, state=state)

    def _separator(self, drawn: Completion) -> str:
        """Return the text of what ended a step; that of a stop token is the profile's first separator."""
        if drawn.stop_reason is None:
            return ""
        return drawn.stop_reason if isinstance(drawn.stop_reason, str) else "".join(self.ctx.profile.step_stop[:1])

    async def _score(self, children: Sequence[Node], scored: bool) -> list[Node]:
        asked = [c for c in children if c.state == "finished" or (scored and c.state == "live")]
        found = await self.ctx.score([c.steps for c in asked]) if asked else []
        self.short = self.short or len(found) < len(asked)
        scores = {c.id: s for c, s in zip(asked, found, strict=False)}
        judged = []
        for child in children:
            if child.id in scores:
                child = replace(child, scores=scores[child.id])  # noqa: PLW2901 - the same node, now scored
                self._rows[child.id].score = self.value(child)
            elif child.state == "finished" or scored:
                child = replace(child, state="cut")  # noqa: PLW2901 - what cannot be judged cannot be chosen
                self._rows[child.id].fate = "cut"
            judged.append(child)
        return judged

    async def rollout(self, nodes: Sequence[Node], steps: int) -> dict[int, float]:
        """Return the value at the end of a greedy rollout of each live node, by its id (Snell et al. 2024, section 5.2).

        One that a cap or the grant ends is judged by its last whole step. The rollouts are charged, and forgotten.
        """
        greedy = replace(self._sampling, temperature=0.0)
        ends = {node.id: node for node in nodes}
        before = len(self._rows)
        kept = [self._rows[node.id].fate for node in nodes]
        results = len(self.finished)
        for number in range(1, steps + 1):
            live = [(origin, end) for origin, end in ends.items() if end.state == "live"]
            if not live:
                break
            grown = await self.grow([(end, 1) for _, end in live], sampling=greedy, scored=number == steps)
            for (origin, end), children in zip(live, grown, strict=True):
                whole = children and children[0].state != "cut"
                ends[origin] = children[0] if whole else replace(end, state="cut")
        del self.finished[results:]
        for row in self._rows[before:]:
            row.fate = "rollout"
        for node, fate in zip(nodes, kept, strict=True):
            self._rows[node.id].fate = fate
        unread = [origin for origin, end in ends.items() if not end.scores]
        found = await self.ctx.score([ends[origin].steps for origin in unread]) if unread else []
        for origin, scores in zip(unread, found, strict=False):
            ends[origin] = replace(ends[origin], scores=scores)
        return {origin: self.value(end) for origin, end in ends.items() if end.scores}

    async def complete(self, node: Node) -> None:
        """Draw the rest of a response in one call."""
        await self.grow([(node, 1)], sampling=within(self.ctx, len(node.prefix.generated)))

    async def prepare(self, limit: int | None, cost: int = 1) -> int:
        """Return the width that the grant pays for: tokens / (tokens of a step x steps x cost).

        Typical lengths are the profile's, else those of one chain drawn first, which stays a candidate. `limit` is the
        most; `cost` is how many steps one step of a branch takes.
        """
        profile = self.ctx.profile
        if profile.step_tokens is not None and profile.steps is not None:
            self.lengths = Lengths(profile.step_tokens, profile.steps)
        else:
            await self._first_chain()
        self._grant = self.ctx.remaining
        if self.lengths is None:
            return 0
        width = math.floor(self._grant / (self.lengths.step_tokens * self.lengths.steps * cost))
        return width if limit is None else min(limit, width)

    async def _first_chain(self) -> None:
        node = self.root
        while node.state == "live" and node.depth < self.ctx.sampling.max_tokens:
            (children,) = await self.grow([(node, 1)])
            if not children:
                break
            node = children[0]
        if node.depth:
            self.lengths = Lengths(len(node.prefix.generated) / node.depth, node.depth)

    def affordable(self, width: int, depth: int, cost: int = 1) -> int:
        """Return the width of the next step: `width`, or what the rest of the grant pays for over the steps to come.

        A response that is longer than usual would else use up the grant without one finished branch. Half the
        typical number of steps is always thought to lie ahead, and a typical response, at most a sixteenth of what
        the search began with, is left to the very last ones.
        """
        if self.lengths is None:
            return width
        response = self.lengths.step_tokens * self.lengths.steps * cost
        ahead = max(self.lengths.steps - depth, self.lengths.steps / 2, 1.0)
        free = self.ctx.remaining - min(response, self._grant * LAST_SHARE)
        return max(1, min(width, round(free / (self.lengths.step_tokens * ahead * cost))))

    async def single(self) -> Answer:
        """Return the first chain where it ended, else one whole sample: what a grant too small for more gets."""
        if self.finished:
            return await self.answer("weighted")
        drawn = await self.ctx.sample(self.problem.prompt, 1, self.ctx.sampling)
        self._round += 1
        for c in drawn:
            fate: Fate = "finished" if c.finish == "stop" else "cut"
            self._rows.append(_Row(-1, self._round, c.text, len(c.tokens), None, fate))
        choice = 0 if drawn and answers_of(drawn)[0] is not None else None
        return replace(conclude(drawn, choice, why(self.ctx)), trace=self.trace())

    async def answer(self, select: Select, groups: Mapping[int, int] | None = None, *, held: bool = False) -> Answer:
        """Select among the finished chains.

        `groups` maps a chain's id to what it belongs to; `held` says that the search could go back to any node.
        """
        chains = [self._response(i, node) for i, node in enumerate(self.finished)]
        belongs = None if groups is None else [groups.get(node.id, -1) for node in self.finished]
        pool, choice = await select_from(self.ctx, chains, select, belongs)
        return replace(conclude(pool, choice, "budget" if self.short else "finished"), trace=self.trace(held))

    def _response(self, index: int, node: Node) -> Completion:
        last = node.last
        if last is None:
            raise ValueError("the prompt itself is no response")
        tokens = node.prefix.generated
        return replace(
            last,
            index=index,
            text="".join(step.text for step in node.steps),
            tokens=tokens,
            usage=Usage(prompt=len(node.prefix.ids), completion=len(tokens)),
            logprob=None,
            confidence=None,
            token_logprobs=None,
            token_confidences=None,
            score=self.value(node),
        )

    def trace(self, held: bool = False) -> Trace:
        """Return the tree; where `held`, every node that could still be extended is held to the end."""
        until = [row.step for row in self._rows]
        for i in range(len(self._rows) - 1, -1, -1):
            row = self._rows[i]
            if held and row.fate in ("kept", "pruned"):
                until[i] = self._round
            if row.parent >= 0:
                until[row.parent] = max(until[row.parent], until[i])
        nodes = tuple(
            TraceNode(None if r.parent < 0 else r.parent, r.step, end, r.tokens, r.score, r.text, r.fate)
            for r, end in zip(self._rows, until, strict=True)
        )
        return Trace(nodes, len(self.problem.prompt.ids))
