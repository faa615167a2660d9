"""Answer one problem: run a strategy on a metered context, grade what it returns, make the record."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

from ttc.core.errors import ConfigError, EngineError, StorageError, TtcError
from ttc.core.protocols import Strategy
from ttc.core.tree import kv_token_steps, to_columns
from ttc.core.types import Answer, Completion, Problem, Status, StopReason
from ttc.engines.joint import HasRates
from ttc.run.context import AnswerReader, Meter, MeteredContext, World
from ttc.run.granting import Granter
from ttc.run.ledger import Ledger
from ttc.run.watchdog import DeadlineError, deadline, extend

Verdict = bool | Literal["timeout", "error"]


class Judge(AnswerReader, Protocol):
    """Reads answers and says which candidates are right. Nothing else sees the ground truth."""

    async def verdicts(self, problem_id: str, draw: int, candidates: Sequence[Completion]) -> list[Verdict]:
        """Judge each candidate; one cut by its cap, or without an answer, is wrong."""

    async def close(self) -> None:
        """Stop every process this judge started."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One attempt at one problem."""

    status: Status
    score: float | None
    meter: Meter
    wall_s: float
    answer: Answer | None = None
    verdicts: tuple[Verdict, ...] = ()
    error: str | None = None
    spent: int = 0
    """Budget tokens charged; completion tokens unless an exchange rate is set."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """What is tried: a strategy on a problem, once a granter: one for each draw."""

    strategy: Strategy
    problem: Problem
    granters: Sequence[Granter]
    world: World
    judge: Judge
    timeout_s: float
    """Not counting the time that it waits for its turn."""


async def solve(attempt: Attempt) -> list[Outcome]:
    """Try once a draw, one after another."""
    return [await _solve_draw(attempt, draw, granter) for draw, granter in enumerate(attempt.granters)]


async def _solve_draw(attempt: Attempt, draw: int, granter: Granter) -> Outcome:
    ctx = MeteredContext(attempt.world, attempt.problem, Ledger(0), draw=draw)
    started = time.perf_counter()
    status: Status = "ok"
    answer, verdicts, error = None, list[Verdict](), None
    limit: asyncio.Timeout | None = None
    try:
        ctx.ledger = await granter.admit(attempt.problem, ctx.call_tokens())
        with deadline(attempt.timeout_s):
            async with asyncio.timeout(attempt.timeout_s) as limit:
                ctx.more = _patient(granter, attempt.problem, limit)
                answer = await attempt.strategy.solve(attempt.problem, ctx)
                _check(answer)
        granter.leave(attempt.problem)
        wall_s = time.perf_counter() - started
        verdicts = await attempt.judge.verdicts(attempt.problem.id, draw, answer.candidates)
    except TimeoutError as failure:
        if isinstance(failure, DeadlineError) or (limit is not None and limit.expired()):
            status, error = "timeout", f"no answer within {attempt.timeout_s:g} s"
        else:
            status, error = "error", f"{type(attempt.strategy).__name__} raised TimeoutError: {failure}"
    except (ConfigError, StorageError):
        raise
    except TtcError as failure:
        if isinstance(failure, EngineError) and failure.fatal:
            raise
        status, error = "error", failure.message
    except Exception as failure:  # noqa: BLE001 - the boundary of one problem: a strategy may raise anything
        status, error = "error", f"{type(attempt.strategy).__name__} raised {type(failure).__name__}: {failure}"
    finally:
        granter.leave(attempt.problem)
    spent = ctx.ledger.spent
    if answer is None or error is not None:
        score = 0.0 if status == "timeout" else None
        wall_s = time.perf_counter() - started
        return Outcome(status, score, ctx.meter, wall_s, error=error, spent=spent)
    status, score = judged(answer, verdicts)
    return Outcome(status, score, ctx.meter, wall_s, answer, tuple(verdicts), spent=spent)


def _patient(
    granter: Granter, problem: Problem, limit: asyncio.Timeout
) -> Callable[[Sequence[Completion]], Awaitable[bool]]:
    """Return a way to ask for more in which waiting for the others takes none of the problem's own time."""

    async def more(drawn: Sequence[Completion]) -> bool:
        ends, asked = limit.when(), time.monotonic()
        limit.reschedule(None)
        try:
            return await granter.more(problem, drawn)
        finally:
            waited = time.monotonic() - asked
            extend(waited)
            limit.reschedule(None if ends is None else ends + waited)

    return more


def _check(answer: Answer) -> None:
    if not isinstance(answer, Answer):
        raise TypeError(f"solve must return an Answer, not {type(answer).__name__}")
    if answer.choice is not None and not 0 <= answer.choice < len(answer.candidates):
        raise IndexError(f"choice {answer.choice} is not one of {len(answer.candidates)} candidates")
    if answer.stop_reason not in get_args(StopReason):
        raise ValueError(f"stop_reason {answer.stop_reason!r} is none of {', '.join(get_args(StopReason))}")
    for candidate in answer.candidates:
        if not isinstance(candidate, Completion):
            raise TypeError(f"a candidate must be a Completion, not {type(candidate).__name__}")


def judged(answer: Answer, verdicts: Sequence[Verdict]) -> tuple[Status, float | None]:
    """Return status and score; only a grader that failed leaves the score open."""
    finished = any(c.finish == "stop" for c in answer.candidates)
    answered = any(c.finish == "stop" and c.answer is not None for c in answer.candidates)
    unanswered: Status = "budget" if answer.stop_reason == "budget" and not finished else "unparsed"
    if answer.any_of:
        if any(v is True for v in verdicts):
            return "ok", 1.0
        if "error" in verdicts:
            return "error", None
        return ("ok", 0.0) if answered else (unanswered, 0.0)
    if answer.choice is None or answer.text is None:
        return unanswered, 0.0
    verdict = verdicts[answer.choice]
    if verdict == "error":
        return "error", None
    return ("timeout", 0.0) if verdict == "timeout" else ("ok", float(verdict))


def record(attempt: Attempt, outcomes: Sequence[Outcome], store_text: bool) -> dict[str, Any]:
    """Make the journal line: means over draws, and the candidates where there was one draw."""
    n = len(outcomes)

    def mean(values: Sequence[float]) -> float:
        return sum(values) / n

    scores = [o.score for o in outcomes]
    score = None if None in scores else mean([s for s in scores if s is not None])
    live_clock = n == 1 and outcomes[0].meter.cache_hits == 0
    only = outcomes[0] if n == 1 else None
    reasons = Counter(o.answer.stop_reason for o in outcomes if o.answer is not None)
    row: dict[str, Any] = {
        "problem_id": attempt.problem.id,
        "grant_tokens": round(mean([g.granted(attempt.problem) for g in attempt.granters])),
        "answer": only.answer.text if only is not None and only.answer is not None else None,
        "correct": bool(score) if only is not None and score is not None else None,
        "score": score,
        "status": Counter(o.status for o in outcomes).most_common(1)[0][0] if score is not None else "error",
        "stop_reason": reasons.most_common(1)[0][0] if reasons else None,
        "completion_tokens": mean([o.meter.usage.completion for o in outcomes]),
        "probe_tokens": mean([o.meter.probe_tokens for o in outcomes]),
        "prompt_tokens": mean([o.meter.usage.prompt for o in outcomes]),
        "cached_tokens": mean([o.meter.usage.cached for o in outcomes]),
        "reward_tokens": mean([o.meter.usage.reward for o in outcomes]),
        "sequential_tokens": mean([o.meter.sequential_tokens for o in outcomes]),
        "kv_token_steps": _kv_token_steps(outcomes),
        "attended_tokens": mean([o.meter.attended_tokens for o in outcomes]),
        "kv_read_tokens": mean([o.meter.kv_read_tokens for o in outcomes]),
        "calls": mean([o.meter.calls for o in outcomes]),
        "wall_s": outcomes[0].wall_s if live_clock else None,
        "candidates": [],
        "allocation": _told(attempt),
    }
    if only is None:
        row["draw_tokens"] = [o.meter.usage.completion for o in outcomes]
        row["draw_spent"] = [o.spent for o in outcomes]
    else:
        row["draw_spent"] = [only.spent]
        with_text = store_text and not attempt.problem.meta.get("private")
        row["candidates"] = _candidates(only, with_text)
        if only.answer is not None and only.answer.trace is not None:
            row["trace"] = to_columns(only.answer.trace, with_text)
    if isinstance(attempt.world.engine, HasRates):  # the cell has no parameter count to compute it from
        known = [o.meter.flops for o in outcomes if o.meter.flops is not None]
        row["policy_flops"] = mean(known) if len(known) == n else None
    errors = [o.error for o in outcomes if o.error is not None]
    if errors:
        row["error"] = errors[0]
    return row


def _told(attempt: Attempt) -> dict[str, Any] | None:
    """Return what was predicted of the problem: the mean over draws, and the option of the first."""
    told = [t for g in attempt.granters if (t := g.told(attempt.problem)) is not None]
    if not told:
        return None
    means: dict[str, Any] = {"option": told[0].get("option")}
    for key in ("predicted_value", "predicted_tokens", "price"):
        known = [t[key] for t in told if t.get(key) is not None]
        means[key] = sum(known) / len(known) if known else None
    return means


def _kv_token_steps(outcomes: Sequence[Outcome]) -> float | None:
    """Return the mean over draws, None where a draw left no trace: its strategy searches no tree, or failed."""
    traces = [o.answer.trace for o in outcomes if o.answer is not None and o.answer.trace is not None]
    return sum(map(kv_token_steps, traces)) / len(traces) if traces and len(traces) == len(outcomes) else None


def _candidates(outcome: Outcome, with_text: bool) -> list[dict[str, Any]]:
    if outcome.answer is None:
        return []
    return [
        {
            "index": i,
            "answer": c.answer,
            "correct": verdict if isinstance(verdict, bool) else None,
            "score": _finite(c.score),
            "logprob": _finite(c.logprob),
            "completion_tokens": c.usage.completion,
            "prompt_tokens": c.usage.prompt + c.usage.cached,
            "finish": c.finish,
            "text": c.text if with_text else None,
        }
        for i, (c, verdict) in enumerate(zip(outcome.answer.candidates, outcome.verdicts, strict=True))
    ]


def _finite(value: float | None) -> float | None:
    # JSON has no word for the rest, and a reward model may return it.
    return value if value is not None and math.isfinite(value) else None
