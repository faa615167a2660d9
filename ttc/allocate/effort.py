"""One dial for a whole run: every prompt gets the same multiple of its own expected length."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ttc.core.allocation import total
from ttc.core.curves import IntArray
from ttc.core.errors import ConfigError


def effort_grants(expected_tokens: ArrayLike, effort: float, low: int, high: int) -> IntArray:
    """Return clip(effort * expected length, low, high) in whole tokens, (n,).

    Relative effort follows e1 (Kleinman et al. 2025, arXiv 2510.27042), which trains a model to it; a cap only
    imitates it.
    """
    scaled = np.floor(effort * np.asarray(expected_tokens, dtype=np.float64))
    return np.clip(scaled, low, high).astype(np.int64)


def shared_effort(expected_tokens: ArrayLike, total_tokens: int, low: int, high: int) -> IntArray:
    """Return the grants of the largest effort whose sum is at most the total, (n,).

    Where not everyone can have `low`, the first ones do and the others abstain.

    Raises:
        ConfigError: bounds that are not 1 <= low <= high, an expected length of 0 or below, a negative total.
    """
    expected, left = np.asarray(expected_tokens, dtype=np.float64), total(total_tokens)
    if not 1 <= low <= high or (expected <= 0).any():
        raise ConfigError(f"effort needs 1 <= low <= high, found {low} and {high}, and positive expected lengths")
    if not expected.size or low * expected.size > left:
        return np.where(np.arange(expected.size) < left // low, low, 0).astype(np.int64)
    least, most = 0.0, (high + 1) / float(expected.min())
    if effort_grants(expected, most, low, high).sum() <= left:
        return effort_grants(expected, most, low, high)
    for _ in range(64):  # halving until two efforts are the same number
        middle = (least + most) / 2
        if effort_grants(expected, middle, low, high).sum() <= left:
            least = middle
        else:
            most = middle
    return effort_grants(expected, least, low, high)
