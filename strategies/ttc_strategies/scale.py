"""Think only where it is hard: decompose, rate the parts, give thinking to the hard ones (SCALE, Xiao et al. 2025).

arXiv 2512.00466 (AAAI 2026). A model that follows no instructions cannot be asked for parts or ratings: its own lines
are the parts, and a line is as hard as the model is unsure of it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from pydantic import Field

from ttc.core.protocols import Capability, Context
from ttc.core.types import Answer, Completion, Message, Problem
from ttc.core.vote import majority
from ttc_strategies.drafts import Draft, all_settled, lengths, only_sample, within
from ttc_strategies.pool import answers_of, conclude, why
from ttc_strategies.prompting import asked, directly, read_json, strings, visible

RATING_TOKENS = 64
LAST_DIFFICULTY = 0.9
"""The last part is the question itself: always among the hard ones (released code)."""
UNRATED = 1.0
"""A part whose rating cannot be read counts as hard."""
MOST_RETRIES = 3
LEAST_SAMPLES = 4
"""Whole samples that the grant must pay for: below, a plain sample is drawn."""
STEP_SHARE = 4
"""A part without thinking is taken to cost a quarter of a typical sample."""
MOST_PARTS = 12
LINE_ALTERNATIVES = 4
MOST_LINES = 64

_DECOMPOSE = (
    "Break this problem into the sub-problems that have to be solved one after another. Do not solve it. Answer with"
    ' one JSON object: {{"step1": "...", "step2": "...", ...}}.\n\nProblem:\n{question}'
)
_CHOOSE = (
    "Here are several ways to break a problem into sub-problems. Answer with the number of the best one, and nothing"
    " else.\n\nProblem:\n{question}\n\n{outlines}"
)
_RATE = (
    "How hard is this sub-problem? Answer with one number from 0 to 1, and nothing else: up to 0.5 for what a pupil"
    " can do at once, more for what needs careful reasoning.\n\nProblem:\n{question}\n\nSub-problem:\n{part}"
)
_EXECUTE = (
    "{known}Solve only this sub-problem of the problem below, {how}. End with one line 'Answer: ...'.\n\n"
    "Problem:\n{question}\n\nSub-problem:\n{part}"
)
_NUMBER = re.compile(r"(?<![\d.])(?:0?\.\d+|[01](?:\.\d+)?)(?!\d)")
_ANSWER = re.compile(r"^\W*answer\W*:\s*(.+)$", re.IGNORECASE | re.MULTILINE)


def affordable_threshold(scores: Sequence[float], think: int, direct: int, grant: int) -> float:
    """Return the smallest threshold whose expected tokens are within the grant; 1 where none is.

    A part is given thinking, `think` tokens, where its score is above the threshold, else `direct` tokens.
    """
    for threshold in sorted({0.0, *scores}):
        hard = sum(score > threshold for score in scores)
        if hard * think + (len(scores) - hard) * direct <= grant:
            return threshold
    return 1.0


@dataclass(frozen=True, slots=True)
class Scale:
    """Give thinking to the hard parts of a problem only.

    Attributes:
        threshold: difficulty above which a part is given thinking: at 0 all parts but those rated 0 are, at 1 none. A
            small grant raises it to what the grant pays for.
        outlines: most ways to break the problem up that are drawn; the model picks one.
    """

    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    outlines: Annotated[int, Field(ge=1)] = 8

    requires: ClassVar[frozenset[Capability]] = frozenset({"live"})

    async def solve(self, problem: Problem, ctx: Context) -> Answer:
        """Decompose, rate, assign, execute; the answer is that of the last part."""
        typical = lengths(ctx)[0]
        # An engine that only takes chats continues no line.
        by_lines = not ctx.profile.instructable
        if ctx.remaining < LEAST_SAMPLES * typical or (by_lines and not problem.prompt.ids):
            return await only_sample(ctx, problem.prompt)
        if by_lines:
            return await _by_lines(problem, ctx, self.threshold)
        parts = await self._decompose(problem, ctx, typical)
        if not parts:
            return await only_sample(ctx, problem.prompt)
        parts[-1] = problem.question
        scores = await _rate(problem, ctx, parts)
        direct = max(1, typical // STEP_SHARE)
        threshold = max(self.threshold, affordable_threshold(scores, typical, direct, ctx.remaining))
        return await _execute(problem, ctx, parts, [score > threshold for score in scores])

    async def _decompose(self, problem: Problem, ctx: Context, typical: int) -> list[str]:
        """Return the parts of the outline that the model picked; empty where none could be read."""
        cap = max(1, typical // 2)
        # A quarter of the grant at most goes into outlines: they cost tokens like anything else.
        n = max(1, min(self.outlines, ctx.remaining // 4 // cap))
        branch = ctx.branch("outlines")
        sampling = replace(ctx.sampling, max_tokens=cap)
        prompt = asked(branch, _DECOMPOSE.format(question=problem.question), think=False)
        outlines: list[list[str]] = []
        for attempt in range(1 + MOST_RETRIES):
            drawn = await branch.sample(prompt, 1 if attempt else n, sampling)
            read = [strings(read_json(visible(c, ctx.profile))) for c in drawn]
            outlines = [parts[:MOST_PARTS] for parts in read if parts]
            if outlines or ctx.remaining < LEAST_SAMPLES // 2 * typical:
                break
        if len(outlines) < 2:
            return outlines[0] if outlines else []
        listed = "\n\n".join(f"{i}. " + "; ".join(parts) for i, parts in enumerate(outlines, 1))
        prompt = asked(ctx, _CHOOSE.format(question=problem.question, outlines=listed), think=False)
        said = await ctx.branch("choice").sample(prompt, 1, replace(ctx.sampling, max_tokens=RATING_TOKENS))
        number = re.search(r"\d+", visible(said[0], ctx.profile)) if said else None
        chosen = int(number[0]) - 1 if number else 0
        return outlines[chosen if 0 <= chosen < len(outlines) else 0]


def read_rating(text: str) -> float:
    """Return the first number from 0 to 1 in a text; 1, hard, where there is none."""
    found = _NUMBER.search(text)
    return min(1.0, float(found[0])) if found else UNRATED


def final_answer(text: str) -> str:
    """Return what follows the last "Answer:", else the last line."""
    stated: list[str] = _ANSWER.findall(text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return stated[-1].strip() if stated else lines[-1] if lines else "unknown"


async def _rate(problem: Problem, ctx: Context, parts: Sequence[str]) -> list[float]:
    """Ask for the difficulty of each part but the last."""
    cap = max(1, min(RATING_TOKENS, ctx.remaining // (4 * len(parts))))
    sampling = replace(ctx.sampling, max_tokens=cap)
    calls = []
    for i, part in enumerate(parts[:-1]):
        prompt = asked(ctx, _RATE.format(question=problem.question, part=part), think=False)
        calls.append(ctx.branch(f"rating{i}").sample(prompt, 1, sampling))
    said = await all_settled(calls)
    return [*(read_rating(visible(c[0], ctx.profile)) if c else UNRATED for c in said), LAST_DIFFICULTY]


async def _execute(problem: Problem, ctx: Context, parts: Sequence[str], hard: Sequence[bool]) -> Answer:
    """Solve the parts in order; each sees the answers of the earlier ones, and none of their reasoning."""
    known: list[str] = []
    for i, part in enumerate(parts[:-1]):
        how = "step by step" if hard[i] else "in as few words as possible"
        before = "Known so far:\n" + "\n".join(known) + "\n\n" if known else ""
        text = _EXECUTE.format(known=before, how=how, question=problem.question, part=part)
        cap = ctx.remaining // (len(parts) - i)  # lengths are heavy-tailed: none may eat the others' share
        sampling = replace(ctx.sampling, max_tokens=max(1, min(ctx.sampling.max_tokens, cap)))
        drawn = await ctx.branch(f"part{i}").sample(asked(ctx, text, think=hard[i]), 1, sampling)
        said = visible(drawn[0], ctx.profile) if drawn and drawn[0].finish == "stop" else ""
        known.append(f"- {part} Answer: {final_answer(said)}")
    *before_last, last = problem.prompt.messages
    content = f"{last.content}\n\nKnown so far:\n" + "\n".join(known) if known else last.content
    prompt = directly(ctx, ctx.render([*before_last, Message(last.role, content)]), think=hard[-1])
    return await only_sample(ctx, prompt)


async def _by_lines(problem: Problem, ctx: Context, threshold: float) -> Answer:
    """Write line after line; where the model is unsure of one, take the most frequent of several."""
    _, step_tokens, steps = lengths(ctx)
    profile = ctx.profile
    draft = Draft(problem.prompt)
    for line in range(MOST_LINES):
        if draft.usage.completion >= ctx.sampling.max_tokens:
            break
        sampling = within(ctx, draft.usage.completion, profile.step_sampling(ctx.sampling))
        first = await ctx.sample(draft.prompt, 1, sampling)
        if not first:
            break
        pieces = first
        spare = ctx.remaining // step_tokens - max(0, steps - line)
        if line_difficulty(first[0]) > threshold and spare > 0:
            pieces = first + await ctx.sample(draft.prompt, min(LINE_ALTERNATIVES - 1, spare), sampling)
        chosen = majority([c.text if c.finish == "stop" else None for c in pieces])
        piece = pieces[chosen or 0]
        if chosen is None or profile.is_end(piece):
            whole = draft.closed(piece)
            return conclude([whole], 0 if answers_of([whole])[0] is not None else None, why(ctx))
        draft = draft.then(piece)
    return conclude([], None, why(ctx))


def line_difficulty(line: Completion) -> float:
    """Return the chance that the model would have written another line; 1 where it tells no probabilities."""
    return 1.0 if line.logprob is None else 1.0 - math.exp(min(0.0, line.logprob))
