"""Search over plans and over executions apart (DREAM and DREAM+, Cui et al. 2025, arXiv 2509.25420).

A step is a plan, what to do next, and its execution. The choices are in the plans, so both phases draw and prune
candidates on their own, each by the reward of a prefix that ends at its boundary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ttc.core.protocols import Capability, Context
from ttc.core.tree import Fate, Trace, TraceNode
from ttc.core.types import Answer, Completion, Problem, Sampling, Step, Steps, Tokens
from ttc_strategies.drafts import Draft, all_settled, lengths, only_sample, within
from ttc_strategies.pool import chosen, conclude, why
from ttc_strategies.prompting import extended

LEAST_STEPS_LEFT = 3
"""Steps that are always thought to lie ahead: the last candidates may be this many times as long as a typical step."""
STOP_PERCENTILE, EXPAND_PERCENTILE = 70.0, 20.0
"""Of a phase's scores on a calibration split; the paper does not report its thresholds."""


@dataclass(frozen=True, slots=True)
class Gate:
    """When a phase stops early or draws more (DREAM+). Without thresholds it draws once (DREAM).

    Phases have gates of their own, since their scores are calibrated differently.

    Attributes:
        stop_at: drawing stops once as many candidates as are kept score this or more.
        expand_below: more are drawn where the best scores less than this.
        extra: most more of them, as a multiple of the phase's candidates.
    """

    stop_at: float | None = None
    expand_below: float | None = None
    extra: Annotated[float, Field(ge=0)] = 1.0

    def enough(self, scores: Sequence[float], keep: int) -> bool:
        """Say whether drawing may stop early."""
        return self.stop_at is not None and sum(score >= self.stop_at for score in scores) >= keep

    def too_poor(self, scores: Sequence[float]) -> bool:
        """Say whether more should be drawn."""
        return self.expand_below is not None and max(scores, default=-math.inf) < self.expand_below


def calibrate(scores: Sequence[float], stop: float = STOP_PERCENTILE, expand: float = EXPAND_PERCENTILE) -> Gate:
    """Return the gate whose thresholds are percentiles of the scores of a calibration split, linearly interpolated.

    Raises:
        ValueError: there are no scores.
    """
    if not scores:
        raise ValueError("a gate cannot be calibrated without scores")
    return Gate(_percentile(sorted(scores), stop), _percentile(sorted(scores), expand))


def _percentile(ordered: Sequence[float], percent: float) -> float:
    place = (len(ordered) - 1) * percent / 100
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


@dataclass(frozen=True, slots=True)
class _State:
    """A prefix in the search: planned (its execution comes next), at a step's end, or finished."""

    draft: Draft
    steps: Steps = ()
    """What a reward model reads; where `planned`, the last one is the plan alone."""
    planned: bool = False
    finished: Completion | None = None
    score: float = 0.0
    node: int | None = None


@dataclass(slots=True)
class _Recorder:
    """Collects what a trace holds, one round of drawing after another."""

    prompt_tokens: int
    nodes: list[TraceNode] = field(default_factory=list)
    round: int = -1

    def add(self, parent: int | None, piece: Completion, score: float | None, fate: Fate) -> int:
        """Enter a node, and keep its ancestors alive until now."""
        while_held = parent
        while while_held is not None:
            node = self.nodes[while_held]
            self.nodes[while_held] = replace(node, until=self.round, fate="kept")
            while_held = node.parent
        stop = piece.stop_reason if isinstance(piece.stop_reason, str) else ""
        self.nodes.append(TraceNode(parent, self.round, self.round, len(piece.tokens), score, piece.text + stop, fate))
        return len(self.nodes) - 1

    def trace(self) -> Trace:
        """Return what was collected."""
        return Trace(tuple(self.nodes), self.prompt_tokens)


@dataclass(frozen=True, slots=True)
class DualPhase:
    """Keep the best plans, then the best executions of them, step by step.

    Attributes:
        plans: most plans drawn a step, over all states.
        executions: most executions drawn a step, over all states.
        keep: plans, and executions, kept of them.
        plan_gate: thresholds of the plans.
        execution_gate: thresholds of the executions.
        select: `weighted` (the vote by reward) or `reward` (the best response) over the finished responses.
        max_steps: most steps of a response.
    """

    plans: Annotated[int, Field(ge=1)] | None = None
    executions: Annotated[int, Field(ge=1)] | None = None
    keep: Annotated[int, Field(ge=1)] = 2
    plan_gate: Gate = Gate()
    execution_gate: Gate = Gate()
    select: Literal["weighted", "reward"] = "weighted"
    max_steps: Annotated[int, Field(ge=1)] = 40

    requires: ClassVar[frozenset[Capability]] = frozenset({"live", "extends", "reward"})

    async def solve(self, problem: Problem, ctx: Context) -> Answer:
        """Search until all kept responses have ended, or the grant funds no more choices; then finish what is open."""
        if _width(ctx, 0) < 2:
            plain = await only_sample(ctx, problem.prompt)
            recorder = _Recorder(len(problem.prompt.ids), round=0)
            for piece in plain.candidates:
                recorder.add(None, piece, None, "finished" if piece.finish == "stop" else "cut")
            return replace(plain, trace=recorder.trace())
        profile = ctx.profile
        prompt = extended(problem, ctx, profile.step_format)
        beam = [_State(Draft(prompt).put(ctx, profile.no_think if profile.think_open else ""))]
        done: list[_State] = []
        recorder = _Recorder(len(prompt.ids))
        for step in range(self.max_steps):
            width = _width(ctx, step)
            if not beam or width < 2:
                break
            drawn = await self._step(ctx, recorder, step, beam, width)
            if not drawn:
                break
            done += [state for state in drawn if state.finished is not None]
            beam = [state for state in drawn if state.finished is None]
        done += await _finish(ctx, recorder, beam)
        return self._conclude(ctx, recorder, done)

    async def _step(
        self, ctx: Context, recorder: _Recorder, step: int, beam: Sequence[_State], width: int
    ) -> list[_State]:
        """Return what is kept after both phases of a step: states at its end, and finished ones."""
        plan = _Phase(f"plan{step}", min(width, self.plans or width), self.keep, self.plan_gate)
        planned = await plan.run(ctx, recorder, beam)
        open_ones = [state for state in planned if state.planned]
        whole = [state for state in planned if not state.planned]  # it ended, or its step had no separate plan
        if not open_ones:
            return whole
        execute = _Phase(f"execute{step}", min(width, self.executions or width), self.keep, self.execution_gate)
        return _best([*whole, *await execute.run(ctx, recorder, open_ones)], self.keep)

    def _conclude(self, ctx: Context, recorder: _Recorder, done: Sequence[_State]) -> Answer:
        finished = [(state.finished, state.score) for state in done]
        pool = [replace(c, index=i, score=s) for i, (c, s) in enumerate(finished) if c is not None]
        return replace(conclude(pool, chosen(pool, self.select), why(ctx)), trace=recorder.trace())


@dataclass(frozen=True, slots=True)
class _Phase:
    """One phase of one step."""

    key: str
    width: int
    keep: int
    gate: Gate

    async def run(self, ctx: Context, recorder: _Recorder, states: Sequence[_State]) -> list[_State]:
        """Draw candidates from all states and return the best of the pool, best first."""
        branches = [ctx.branch(f"{self.key}-{i}") for i in range(len(states))]
        pool: list[_State] = []
        asked, target = 0, self.width
        wave = min(target, self.keep) if self.gate.stop_at is not None else target
        while asked < target:
            count = min(wave, target - asked)
            shares = [count // len(states) + (i < count % len(states)) for i in range(len(states))]
            drawn = await _draw(ctx, recorder, branches, states, shares)
            asked += count
            pool = _distinct([*pool, *drawn])
            scores = [state.score for state in pool]
            if not drawn or self.gate.enough(scores, self.keep):
                break
            if asked == self.width and self.gate.too_poor(scores):
                affordable = ctx.remaining // (2 * lengths(ctx)[1])  # half of what is left: later steps need the rest
                target += min(round(self.gate.extra * self.width), affordable)
        return _best(pool, self.keep)


def _best(states: Sequence[_State], keep: int) -> list[_State]:
    return sorted(states, key=lambda state: -state.score)[:keep]


async def _draw(
    ctx: Context, recorder: _Recorder, branches: Sequence[Context], states: Sequence[_State], shares: Sequence[int]
) -> list[_State]:
    """Draw `shares[i]` candidates of each state and score them; one cut by its cap is no candidate."""
    cap = max(1, ctx.remaining // sum(shares))
    calls = [
        branch.sample(state.draft.prompt, share, _sampling(ctx, state, cap))
        for branch, state, share in zip(branches, states, shares, strict=True)
        if share
    ]
    parents = [state for state, share in zip(states, shares, strict=True) if share]
    found = await all_settled(calls)
    return await _judge(
        ctx, recorder, [(state, piece) for state, drawn in zip(parents, found, strict=True) for piece in drawn]
    )


async def _judge(ctx: Context, recorder: _Recorder, drawn: Sequence[tuple[_State, Completion]]) -> list[_State]:
    """Enter a round of pieces and return those that were scored; one that a cap cut cannot be."""
    whole = [i for i, (state, piece) in enumerate(drawn) if not _cut(ctx, state, piece)]
    rows = await ctx.score([_steps(*drawn[i]) for i in whole]) if whole else []
    scored = dict(zip(whole, rows, strict=False))
    recorder.round += 1
    for i, (state, piece) in enumerate(drawn):
        if i not in scored:
            recorder.add(state.node, piece, None, "cut")
    return [_child(ctx, recorder, *drawn[i], row[-1]) for i, row in scored.items()]


def _cut(ctx: Context, state: _State, piece: Completion) -> bool:
    """Say whether the cap of a call ended a piece, or that of a whole response leaves no token after it."""
    full = state.draft.then(piece).usage.completion >= ctx.sampling.max_tokens
    return piece.finish == "length" or (full and not ctx.profile.is_end(piece))


def _sampling(ctx: Context, state: _State, cap: int) -> Sampling:
    profile = ctx.profile
    sampling = profile.step_sampling(ctx.sampling) if state.planned else profile.plan_sampling(ctx.sampling)
    return within(ctx, state.draft.usage.completion, replace(sampling, max_tokens=min(sampling.max_tokens, cap)))


def _child(ctx: Context, recorder: _Recorder, state: _State, piece: Completion, score: float) -> _State:
    ended = ctx.profile.is_end(piece)
    return _State(
        draft=state.draft.then(piece),
        steps=_steps(state, piece),
        planned=not ended and not state.planned and piece.stop_reason in ctx.profile.plan_stop,
        finished=state.draft.closed(piece) if ended else None,
        score=score,
        node=recorder.add(state.node, piece, score, "finished" if ended else "pruned"),
    )


def _steps(state: _State, piece: Completion) -> Steps:
    """Return the steps that end with a piece; an execution belongs to the step of its plan."""
    stop = piece.stop_reason if isinstance(piece.stop_reason, str) else ""
    new = Step(piece.tokens, piece.text + stop, piece.logprob)
    if not state.planned:
        return (*state.steps, new)
    *before, plan = state.steps
    logprob = None if plan.logprob is None or new.logprob is None else plan.logprob + new.logprob
    return (*before, Step(plan.tokens + new.tokens, plan.text + new.text, logprob))


def _distinct(states: Sequence[_State]) -> list[_State]:
    """Leave out prefixes that are there already: they are one candidate, and one vote."""
    first: dict[Tokens, _State] = {}
    for state in states:
        first.setdefault(state.draft.prompt.generated, state)
    return list(first.values())


async def _finish(ctx: Context, recorder: _Recorder, beam: Sequence[_State]) -> list[_State]:
    """Complete open responses in one go each, and score them."""
    if not beam:
        return []
    sampling = replace(ctx.sampling, max_tokens=ctx.remaining // len(beam))
    calls = [
        ctx.branch(f"finish{i}").sample(state.draft.prompt, 1, within(ctx, state.draft.usage.completion, sampling))
        for i, state in enumerate(beam)
    ]
    found = await all_settled(calls)
    drawn = [(state, piece) for state, pieces in zip(beam, found, strict=True) for piece in pieces]
    done = await _judge(ctx, recorder, drawn)
    cut = [replace(state, finished=state.draft.closed(p)) for state, p in drawn if p.finish == "length"]
    return done + cut


def _width(ctx: Context, step: int) -> int:
    """Return the candidates a phase that the grant funds, shared evenly over the steps to come.

    What a phase may spend is shared among its candidates beforehand, so that none waits for another's tokens and
    timing changes nothing; the last steps therefore count as several.
    """
    _, tokens, steps = lengths(ctx)
    return ctx.remaining // (tokens * max(LEAST_STEPS_LEFT, steps - step))
