"""An allocator of one's own: more tokens where a predictor is least sure, in one file.

Run it with `ttc sweep --bank BANK --allocators uniform,examples/most_uncertain.py:MostUncertain ...`: what it needs to
be told, `scores`, is predicted from the bank's other problems, or by the predictor that `--predictor` names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from ttc.core.allocation import Allocation, blind
from ttc.core.protocols import Ask, Need


@dataclass(frozen=True)
class MostUncertain:
    """Split one part evenly, and the rest in proportion to p (1 - p), p being the chance that a sample is right.

    Attributes:
        even: the share that is split evenly, so that no problem goes without.
    """

    even: Annotated[float, Field(ge=0, le=1)] = 0.5

    needs: ClassVar[frozenset[Need]] = frozenset({"scores"})

    def allocate(self, ask: Ask) -> Allocation:
        """Return the grants, rounded down: their sum is at most the total."""
        p = ask.difficulty()
        doubt = p * (1 - p) + 1e-9
        share = self.even / p.size + (1 - self.even) * doubt / doubt.sum()
        return blind(np.floor(share * ask.total_tokens).astype(np.int64), ask.total_tokens)
