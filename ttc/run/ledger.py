"""Reserve, clamp, settle: the hard limit behind every grant and every run total.

A ledger counts budget tokens (completion tokens, plus whatever an exchange rate prices in). It never holds
`spent + reserved > limit`, so no order of events can overspend.
"""

from __future__ import annotations

import asyncio
from collections import deque


class Ledger:
    """One budget: a problem's grant, or a run's total with the grants as its children.

    A call waits while what it needs is held by calls in flight. When nothing is in flight and less than its
    cap remains, it gets what remains, if that is at least the floor. Which calls start therefore depends on
    what earlier calls cost, never on timing.
    """

    def __init__(self, limit: int, parent: Ledger | None = None, *, rolling: bool = False) -> None:
        self.limit = limit
        self.rolling = rolling
        """What a call leaves of its reservation goes back to the parent: the limit falls by it."""
        self.spent = 0
        self.reserved = 0
        self.overdrawn = 0
        """Budget tokens that calls cost beyond their reservations: 0 unless a server ignores max_tokens."""
        self._parent = parent
        self._in_flight = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def remaining(self) -> int:
        """Return the tokens neither spent nor reserved, here or above."""
        own = self.limit - self.spent - self.reserved
        return max(0, own if self._parent is None else min(own, self._parent.remaining))

    async def reserve(self, cap: int, floor: int) -> int | None:
        """Hold `cap` tokens, or what remains when that is at least `floor`; None when it is less.

        Waits while other calls in flight may still return tokens.
        """
        while True:
            free = self.remaining
            if free >= cap:
                self._hold(cap)
                return cap
            blocker = self._blocker(cap)
            if blocker is None:
                if free < max(1, floor):
                    return None
                self._hold(free)
                return free
            await blocker._settled()

    def _blocker(self, cap: int) -> Ledger | None:
        """Return the ledger whose calls in flight may still make room, if any does."""
        own = self.limit - self.spent - self.reserved
        if own < cap and self._in_flight:
            return self
        return None if self._parent is None else self._parent._blocker(min(cap, own))

    def _hold(self, amount: int) -> None:
        self.reserved += amount
        self._in_flight += 1
        if self._parent is not None:
            self._parent._hold(amount)

    def settle(self, reserved: int, spent: int) -> None:
        """Give back a reservation and book what was really spent (at most the reservation)."""
        booked = min(reserved, max(spent, 0))
        self.overdrawn += max(0, spent - reserved)
        self.reserved -= reserved
        self.spent += booked
        if self.rolling:
            self.limit -= reserved - booked
        self._in_flight -= 1
        # Everyone looks again: the first in line may now fit, and the last call in flight frees the rest.
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(None)
        if self._parent is not None:
            self._parent.settle(reserved, spent)

    async def _settled(self) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future
