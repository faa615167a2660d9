"""Cells of several strategies or models: whose problem is whose, and who answers it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ttc.core.errors import TtcError
from ttc.core.protocols import Engine, Strategy
from ttc.engines.joint import Joint, MixedEngine, RoutedEngine
from ttc.run.bench import BankJudge
from ttc.run.granting import Purse, Told, Turn
from ttc.run.plan import Cell
from ttc.run.solve import Judge

if TYPE_CHECKING:  # numpy comes with them
    from ttc.core.allocation import Allocation
    from ttc.core.protocols import Part


@dataclass(frozen=True, slots=True)
class Arranged:
    """Who answers the problems of a cell."""

    engine: Engine
    judge: Judge
    strategies: Mapping[str, Strategy]
    """By problem."""


def arranged(cell: Cell, split: Allocation, engine: Engine, judge: Judge) -> Arranged:
    """Return the engine and the strategies of a cell as an allocator chose them.

    Args:
        cell: of several strategies, or several models.
        split: what was allocated, in the order of the cell's problems.
        engine: the models' engine, started; or the one model's.
        judge: as for the single models.

    Raises:
        TtcError: the split says of no problem whose it is.
    """
    ids = cell.subject.problem_ids
    if not isinstance(engine, Joint):
        shares = [cell.shares[i].solver.instance for i in _members(cell, split)]
        return Arranged(engine, judge, dict(zip(ids, shares, strict=True)))
    view: MixedEngine | RoutedEngine
    if split.counts is not None:
        view = MixedEngine(engine.members, split.counts.tolist())
    else:
        view = RoutedEngine(engine.members, dict(zip(ids, _members(cell, split), strict=True)))
    # A bank's judge looks a sample up where it was dealt.
    own = BankJudge(view) if isinstance(judge, BankJudge) else judge
    return Arranged(view, own, dict.fromkeys(ids, cell.strategy.instance))


def _members(cell: Cell, split: Allocation) -> list[int]:
    found: list[int] = [] if split.member is None else split.member.tolist()
    if len(found) != len(cell.subject.problem_ids) or not all(0 <= i < len(cell.shares) for i in found):
        raise TtcError(f"allocator {cell.allocator.name} does not say which of {', '.join(cell.names)} is whose")
    return found


class Once:
    """Grants every problem so many whole calls, and no more: a policy of `ttc.run.granting.Rounds`."""

    def __init__(self, calls: Mapping[str, int], told: Mapping[str, Told]) -> None:
        self._calls, self._told = calls, told

    def turn(self, waiting: Sequence[Purse], free_tokens: int) -> Turn:
        """Grant the calls of those that come for the first time."""
        fresh = [p for p in waiting if not p.started]
        for purse in fresh:
            purse.told = self._told[purse.problem.id]
        calls = {p.problem.id: self._calls[p.problem.id] for p in fresh if self._calls[p.problem.id]}
        return Turn(calls=calls, refused=frozenset(p.problem.id for p in waiting if p.problem.id not in calls))


def described(cell: Cell, split: Allocation, parts: Sequence[Part], samples: int | None) -> list[dict[str, Any]]:
    """Return what the tables say of each problem: whose it is, with which option, and what is expected of it.

    Args:
        cell: of several strategies, or several models.
        split: what was allocated.
        parts: what the allocator was told of each strategy or model.
        samples: whole calls that were granted to each problem, None where grants are tokens.
    """
    names, n = cell.names, len(cell.subject.problem_ids)
    options: list[str | None]
    if split.counts is not None:
        options = [", ".join(f"{name}: {c}" for name, c in zip(names, split.counts.tolist(), strict=True) if c)] * n
    else:
        amounts = _amounts(split, parts, samples)
        each = zip(_members(cell, split), amounts, strict=True)
        options = [f"{names[i]}: {amount}" if amount else None for i, amount in each]
    values, tokens = ([x if math.isfinite(x) else None for x in each.tolist()] for each in
                      (split.predicted_values, split.predicted_tokens))  # fmt: skip
    return [
        {"option": option, "predicted_value": value, "predicted_tokens": spend, "price": split.price}
        for option, value, spend in zip(options, values, tokens, strict=True)
    ]


def _amounts(split: Allocation, parts: Sequence[Part], samples: int | None) -> list[str | None]:
    """Return each problem's option without its part's name, None for abstained."""
    if samples is not None:
        word = "call" if samples == 1 else "calls"
        return [f"{samples} {word}" if taken else None for taken in (split.choice >= 0).tolist()]
    curves = [part.curves for part in parts if part.curves is not None]
    if len(curves) < len(parts):
        return [f"{grant} tokens" for grant in split.grants.tolist()]
    from ttc.core.curves import joined

    every = joined(curves)
    costs = every.costs[every.offsets[:-1] + split.choice.clip(0)].tolist()
    return [f"{cost} tokens" if c >= 0 else None for cost, c in zip(costs, split.choice.tolist(), strict=True)]
