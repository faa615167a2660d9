"""Solutions of somebody who knows how and slips: labels are exact, errors scatter as those of a large model do.

A network of a million parameters that errs because it has not learnt enough errs in the same place each time, and then
no vote mends anything. So the policy learns from a teacher who knows arithmetic and slips, the more the larger the
numbers are; the reward model learns to see slips, and bad moves in countdown.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

from ttc_evals import arithmetic, countdown
from ttc_evals.generated import Expression, parse_expression

SLIPS = ((20, 0.03), (50, 0.12), (150, 0.3), (1000, 0.55))
"""Chance that a line slips where no number of it is as large as the first figure. Sampled at temperature 0.7 the policy
slips several times less often than its teacher, as the right result stays the likeliest by far."""
_OFFSETS = (-20, -10, -2, -1, 1, 2, 10, 20)
_BAD_MOVE = 0.25
_BAD_RESULT = 0.15


class Careless(NamedTuple):
    """A solution, and where it goes wrong."""

    text: str
    wrong_from: int | None
    """Index in `text` of the first character that no right solution has there; None where it is right to its end.
    A countdown move that loses the target is wrong from its `=` on."""


def arithmetic_solution(question: str, rng: random.Random) -> Careless:
    """Return a solution by the leftmost possible operation, as the reference, some lines with a wrong result.

    What follows a slip is worked out from the wrong result. Raises DataError where the question is no expression.
    """
    value, lines = _work_out(parse_expression(question, arithmetic.OPERATIONS), rng)
    return _careless(lines, value)


def countdown_solution(question: str, rng: random.Random) -> Careless:
    """Return a solution, some of whose moves lose the target, and some of whose results are wrong.

    Raises DataError where the question is not one of the task.
    """
    numbers, target = countdown.read_question(question)
    lines = []
    while len(numbers) > 1:
        moves = list(countdown.moves(numbers))
        good = [move for move in moves if countdown.is_reachable(move[2], target)]
        move = rng.choice(good if good and rng.random() > _BAD_MOVE else moves)
        plan, result, numbers = move
        due = _countdown_line(plan, result, numbers)
        if rng.random() < _BAD_RESULT:
            wrong = max(0, result + rng.choice(_OFFSETS))
            rest = list(numbers)
            rest.remove(result)
            result, numbers = wrong, tuple(sorted([*rest, wrong]))
        lines.append(_Line(_countdown_line(plan, result, numbers), due if move in good else plan))
    return _careless(lines, rng.choice([target, numbers[0]]))


class _Line(NamedTuple):
    written: str
    due: str
    """The same, or what is right of it and its right continuation."""


def _careless(lines: Sequence[_Line], value: int) -> Careless:
    text = "\n".join([*(line.written for line in lines), rf"\boxed{{{value}}}"])
    start = 0
    for written, due in lines:
        if written != due:
            pairs = zip(f"{written}\n", f"{due}\n", strict=False)
            return Careless(text, start + next(i for i, (one, other) in enumerate(pairs) if one != other))
        start += len(written) + 1
    return Careless(text, None)


def _countdown_line(plan: str, result: int, left: Sequence[int]) -> str:
    return f"{plan}={result}, left {' '.join(map(str, left))}"


def _work_out(expression: Expression, rng: random.Random) -> tuple[int, list[_Line]]:
    if isinstance(expression, int):
        return expression, []
    left, before = _work_out(expression[0], rng)
    right, between = _work_out(expression[2], rng)
    operation = expression[1]
    due = result = left + right if operation == "+" else left - right if operation == "-" else left * right
    largest = max(abs(left), abs(right), abs(result))
    if rng.random() < next((chance for bound, chance in SLIPS if largest < bound), SLIPS[-1][1]):
        result += rng.choice(_OFFSETS)
    plan = f"{left}{operation}{right}="
    return result, [*before, *between, _Line(f"{plan}{result}", f"{plan}{due}")]
