"""The baseline: everyone gets the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ttc.core.protocols import Ask

if TYPE_CHECKING:
    from ttc.core.allocation import Allocation


@dataclass(frozen=True, slots=True)
class Uniform:
    """Give every problem the same grant. What a problem does not spend stays unspent."""

    def allocate(self, ask: Ask) -> Allocation:
        """Return total / problems, rounded down, for each problem."""
        from ttc.allocate.baselines import equal_grants
        from ttc.core.allocation import blind

        return blind(equal_grants(len(ask.problem_ids), ask.total_tokens), ask.total_tokens)
