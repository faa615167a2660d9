"""Folds by problem, in which near-duplicates stay together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ttc.core.curves import IntArray
from ttc.core.forecast import Seen
from ttc_predictors.text import masked

TEMPLATE_SHARE = 0.1
"""A text that so many problems share but for their numbers is a template, and its problems are as different as any."""


def groups(problems: Sequence[Seen]) -> IntArray:
    """Return a group number a problem, (n,): those whose questions differ in numbers alone are in one.

    Problems without a text, and those of a template, are groups of their own.
    """
    texts = [None if seen.text is None else masked(seen.text) for seen in problems]
    counts: dict[str, int] = {}
    for text in texts:
        if text is not None:
            counts[text] = counts.get(text, 0) + 1
    limit = max(2, TEMPLATE_SHARE * len(problems))
    numbers: dict[tuple[str, str], int] = {}
    keys = [
        ("text", text) if text is not None and counts[text] <= limit else ("problem", seen.problem_id)
        for seen, text in zip(problems, texts, strict=True)
    ]
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)


def folds(members: IntArray, count: int, seed: int) -> IntArray:
    """Return a fold a problem, (n,), from 0 to count - 1: groups stay whole, folds are of about equal size."""
    sizes = np.bincount(members)
    shuffled = np.random.default_rng(seed).permutation(sizes.size)
    order = shuffled[np.argsort(-sizes[shuffled], kind="stable")]
    filled, fold = np.zeros(count, dtype=np.int64), np.zeros(sizes.size, dtype=np.int64)
    for group in order:
        fold[group] = int(filled.argmin())
        filled[fold[group]] += sizes[group]
    return fold[members]
