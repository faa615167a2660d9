"""Vote and select: pure functions on pools of finished answers.

Conventions (methods F.2): None never votes, ties go to the lowest index, and equal strings mean
equivalent answers, because `Completion.answer` is spelled as the first of its equivalence class.
"""

from __future__ import annotations

from collections.abc import Sequence


def tally(answers: Sequence[str | None], weights: Sequence[float] | None = None) -> dict[str, float]:
    """Return the summed weight of each answer, in order of first appearance; None is left out."""
    totals: dict[str, float] = {}
    for i, answer in enumerate(answers):
        if answer is not None:
            totals[answer] = totals.get(answer, 0.0) + (1.0 if weights is None else weights[i])
    return totals


def majority(answers: Sequence[str | None], weights: Sequence[float] | None = None) -> int | None:
    """Return the lowest index whose answer has the largest summed weight, None where nobody votes.

    Without weights this is self-consistency's vote (Wang et al. 2022), with scores the weighted
    best-of-N of Snell et al. 2024, section 2.2.
    """
    totals = tally(answers, weights)
    if not totals:
        return None
    winner = max(totals, key=totals.__getitem__)  # `max` keeps the first of equals: the lowest index
    return answers.index(winner)


def best(values: Sequence[float | None], answers: Sequence[str | None]) -> int | None:
    """Return the lowest index with the largest value among those that have an answer."""
    chosen: int | None = None
    top = float("-inf")
    for i, (value, answer) in enumerate(zip(values, answers, strict=True)):
        if value is not None and answer is not None and value > top:
            chosen, top = i, value
    return chosen
