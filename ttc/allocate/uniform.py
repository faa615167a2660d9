"""The baseline: everyone gets the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Uniform:
    """Give every problem the same grant. What a problem does not spend stays unspent."""

    def allocate(self, problem_ids: Sequence[str], total_tokens: int) -> dict[str, int]:
        """Return total / problems, rounded down, for each problem."""
        return dict.fromkeys(problem_ids, total_tokens // len(problem_ids)) if problem_ids else {}
