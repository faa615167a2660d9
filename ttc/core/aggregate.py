"""From the scores of a response's steps to one score of the response."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

Aggregation = Literal["last", "min", "product", "mean"]
"""How step scores become one. `last` where scores are values (Snell et al. 2024, section 5.1, where it beat the
others); `min` and `product` where each is the chance that its own step is right (Lightman et al. 2023, section 2.6)."""


def aggregate(scores: Sequence[float], how: Aggregation = "last") -> float:
    """Return one score in [0, 1] from those of a response's steps, in order.

    Raises:
        ValueError: there are no scores.
    """
    if not scores:
        raise ValueError("a response without steps has no score")
    match how:
        case "last":
            return scores[-1]
        case "min":
            return min(scores)
        case "product":
            return math.prod(scores)
        case "mean":
            return math.fsum(scores) / len(scores)
