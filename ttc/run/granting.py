"""Who may spend what: grants fixed beforehand, or given out in rounds as samples come in.

A strategy never sees the difference. Where its grant ends, `Context.sample` asks here for more before it gives up; what
is asked for is answered when no problem has anything in flight any more, so that no decision depends on timing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ttc.core.errors import TtcError
from ttc.core.types import Completion, Problem
from ttc.run.ledger import Ledger

Told = Mapping[str, Any]
"""What the tables say of one problem's grant: option, predicted_value, predicted_tokens, price."""


class Granter(Protocol):
    """Gives out one cell's total in one draw."""

    async def admit(self, problem: Problem, call_tokens: int) -> Ledger:
        """Return a problem's ledger, once its turn has come; `call_tokens` is what one whole call reserves."""

    async def more(self, problem: Problem, drawn: Sequence[Completion]) -> bool:
        """Say whether the ledger holds more now; `drawn` is what the problem has drawn with its grant so far."""

    def leave(self, problem: Problem) -> None:
        """Hear that a problem spends nothing any more."""

    def granted(self, problem: Problem) -> int:
        """Return the tokens that a problem was allowed to spend, once it has left."""

    def told(self, problem: Problem) -> Told | None:
        """Return what was predicted of a problem, None where nothing was."""


class Fixed:
    """Grants that were made before the run."""

    def __init__(self, total: Ledger, grants: Mapping[str, int], told: Mapping[str, Told] | None = None) -> None:
        self.total, self._grants, self._told = total, grants, told or {}

    def only(self, problem_ids: Collection[str]) -> None:
        """Let the total be what these problems were granted: the others' is spent elsewhere."""
        self.total.limit = sum(self._grants[problem_id] for problem_id in problem_ids)

    async def admit(self, problem: Problem, call_tokens: int) -> Ledger:
        """Return a ledger with the whole grant."""
        return Ledger(self._grants[problem.id], self.total)

    async def more(self, problem: Problem, drawn: Sequence[Completion]) -> bool:
        """Refuse: what a problem does not spend stays unspent."""
        return False

    def leave(self, problem: Problem) -> None:
        """Do nothing."""

    def granted(self, problem: Problem) -> int:
        """Return the grant."""
        return self._grants[problem.id]

    def told(self, problem: Problem) -> Told | None:
        """Return what was predicted under the grant."""
        return self._told.get(problem.id)


@dataclass(slots=True)
class Purse:
    """What one problem has, as a policy sees it at a barrier: nothing of it is in flight."""

    problem: Problem
    ledger: Ledger
    call_tokens: int
    """What one whole call reserves."""
    drawn: Sequence[Completion] = ()
    started: bool = False
    """It was granted something before."""
    told: Told | None = None
    waiting: asyncio.Future[bool] | None = None

    @property
    def spent(self) -> int:
        """Return the budget tokens charged so far."""
        return self.ledger.spent


@dataclass(frozen=True, slots=True)
class Turn:
    """What a policy decides at a barrier. Who is in none of the three goes on waiting."""

    calls: Mapping[str, int] = field(default_factory=dict)
    """Whole calls, paid from the total at what they really cost."""
    grants: Mapping[str, int] = field(default_factory=dict)
    """Hard and final grants, in tokens, what was spent before included."""
    refused: frozenset[str] = frozenset()
    """No more, for good."""


class Policy(Protocol):
    """Decides at each barrier who may go on."""

    def turn(self, waiting: Sequence[Purse], free_tokens: int) -> Turn:
        """Decide, given who waits (in the problems' order) and what is left of the total. An empty turn ends the run."""


class Rounds:
    """Grants decided at barriers: when every unfinished problem waits, the policy is asked.

    What a whole call does not need goes back to the total at once (`Ledger.rolling`), so `spent + reserved` never exceeds
    it. Of two calls that the rest of the total cannot pay both, the earlier problem's goes first.

    Args:
        total: the cell's ledger in this draw.
        problems: those that will come, in the order in which ties are broken.
        policy: decides.
        floor: the smallest call worth starting; with less left, nobody is asked.
    """

    def __init__(self, total: Ledger, problems: Sequence[Problem], policy: Policy, floor: int) -> None:
        self._total, self._policy, self._floor = total, policy, max(1, floor)
        self._order = {problem.id: place for place, problem in enumerate(problems)}
        self._running = set(self._order)
        self._purses: dict[str, Purse] = {}
        self._spent_before: int | None = None
        """What was spent when the last turn granted something."""
        self._over = False

    async def admit(self, problem: Problem, call_tokens: int) -> Ledger:
        """Return the problem's ledger once the policy has granted it something, or everything is over."""
        self._purses[problem.id] = Purse(problem, Ledger(0, self._total, rolling=True), call_tokens)
        await self._wait(problem)
        return self._purses[problem.id].ledger

    async def more(self, problem: Problem, drawn: Sequence[Completion]) -> bool:
        """Wait for the barrier; False where the policy has nothing more for this problem."""
        purse = self._purses[problem.id]
        purse.drawn = tuple(drawn)
        return purse.ledger.rolling and await self._wait(problem)

    def leave(self, problem: Problem) -> None:
        """Let the others go on without this problem."""
        purse = self._purses.get(problem.id)
        if purse is not None:
            purse.waiting = None
        self._running.discard(problem.id)
        self._look()

    def granted(self, problem: Problem) -> int:
        """Return the final grant, or what was spent where whole calls were granted."""
        purse = self._purses.get(problem.id)
        return 0 if purse is None else max(purse.ledger.limit, purse.ledger.spent)

    def told(self, problem: Problem) -> Told | None:
        """Return what the policy predicted last."""
        purse = self._purses.get(problem.id)
        return None if purse is None else purse.told

    async def _wait(self, problem: Problem) -> bool:
        purse = self._purses[problem.id]
        if self._over:
            return False
        if purse.waiting is not None:
            raise TtcError(
                f"problem {problem.id}: two branches of the strategy ask for tokens at once",
                "grants in rounds serve strategies that draw from one place: use another allocator",
            )
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        purse.waiting = answer
        self._running.discard(problem.id)
        self._look()
        return await answer

    def _look(self) -> None:
        """Take a turn soon if everybody waits; not at once, or the last to come would go on before the first."""
        if not self._running:
            asyncio.get_running_loop().call_soon(self._turn_if_all_wait)

    def _turn_if_all_wait(self) -> None:
        if self._running:
            return
        waiting = sorted(
            (p for p in self._purses.values() if p.waiting is not None), key=lambda p: self._order[p.problem.id]
        )
        if not waiting or self._over:
            return
        for purse in waiting:  # what could not be used goes back
            purse.ledger.limit = purse.ledger.spent
        # What nobody could use would be granted for ever.
        stuck = self._spent_before == self._total.spent
        free = self._total.remaining
        try:
            turn = Turn() if stuck or free < self._floor else self._policy.turn(waiting, free)
        except Exception as error:  # noqa: BLE001 - handed to every problem that waits: nobody else would hear of it
            self._fail(error, waiting)
            return
        self._spent_before = self._total.spent if turn.calls or turn.grants else None
        self._apply(turn, waiting)

    def _fail(self, error: Exception, waiting: Sequence[Purse]) -> None:
        self._over = True
        for purse in waiting:
            waited, purse.waiting = purse.waiting, None
            purse.ledger.rolling = False
            if waited is not None and not waited.done():
                waited.set_exception(error)

    def _apply(self, turn: Turn, waiting: Sequence[Purse]) -> None:
        self._over = not (turn.calls or turn.grants or turn.refused)
        for purse in waiting:
            name = purse.problem.id
            if name in turn.grants:
                purse.ledger.rolling = False
                purse.ledger.limit = max(purse.ledger.spent, turn.grants[name])
            elif turn.calls.get(name):
                purse.ledger.limit = purse.ledger.spent + turn.calls[name] * purse.call_tokens
            elif not self._over and name not in turn.refused:
                continue
            else:
                purse.ledger.rolling = False
            purse.started = True
            waited, purse.waiting = purse.waiting, None
            self._running.add(name)
            if waited is not None and not waited.done():
                waited.set_result(name in turn.grants or bool(turn.calls.get(name)))
