"""Splits that look at no curve: what every allocator is measured against."""

from __future__ import annotations

import numpy as np

from ttc.core.allocation import total
from ttc.core.curves import IntArray
from ttc.core.errors import ConfigError


def equal_grants(prompts: int, total_tokens: int) -> IntArray:
    """Return total / prompts for each prompt, rounded down, (n,)."""
    return np.full(prompts, total(total_tokens) // max(1, prompts), dtype=np.int64)


def random_grants(prompts: int, total_tokens: int, cap_tokens: int, rng: np.random.Generator) -> IntArray:
    """Return grants of one cap's worth at a time, each to a prompt drawn uniformly, (n,); the last may be less.

    Everyone gets one before anyone gets two; where the total pays for fewer, those who do are drawn as well.

    Raises:
        ConfigError: a cap below 1, a negative total.
    """
    if cap_tokens < 1:
        raise ConfigError(f"a cap is at least 1 token, found {cap_tokens}")
    caps, rest = divmod(total(total_tokens), cap_tokens)
    grants = np.zeros(prompts, dtype=np.int64)
    if not prompts:
        return grants
    drawn = rng.permutation(prompts)
    grants[drawn[:caps]] = cap_tokens
    if caps < prompts:
        grants[drawn[caps]] = rest
        return grants
    grants += cap_tokens * rng.multinomial(caps - prompts, np.full(prompts, 1 / prompts))
    grants[rng.integers(prompts)] += rest
    return grants
