"""Solutions of somebody who knows how and slips: labels are exact, errors scatter as those of a large model do.

A network of a million parameters that errs because it has not learnt enough errs in the same place each time, and then
no vote mends anything. So the policy learns from a teacher who knows arithmetic and slips, the more the larger the
numbers are; the reward model learns to see slips, and bad moves in countdown.
"""

from __future__ import annotations

import random

from ttc_evals import arithmetic, countdown
from ttc_evals.generated import Expression, parse_expression

SLIPS = ((20, 0.03), (50, 0.12), (150, 0.3), (1000, 0.55))
"""Chance that a line slips where no number of it is as large as the first figure. Sampled at temperature 0.7 the policy
slips several times less often than its teacher, as the right result stays the likeliest by far."""
_OFFSETS = (-20, -10, -2, -1, 1, 2, 10, 20)
_BAD_MOVE = 0.25
_BAD_RESULT = 0.15


def arithmetic_solution(question: str, rng: random.Random) -> str:
    """Return a solution by the leftmost possible operation, as the reference, some lines with a wrong result.

    What follows a slip is worked out from the wrong result. Raises DataError where the question is no expression.
    """
    value, lines = _work_out(parse_expression(question, arithmetic.OPERATIONS), rng)
    return "\n".join([*lines, rf"\boxed{{{value}}}"])


def countdown_solution(question: str, rng: random.Random) -> str:
    """Return a solution, some of whose moves lose the target, and some of whose results are wrong.

    Raises DataError where the question is not one of the task.
    """
    numbers, target = countdown.read_question(question)
    lines = []
    while len(numbers) > 1:
        moves = list(countdown.moves(numbers))
        good = [move for move in moves if countdown.is_reachable(move[2], target)]
        plan, result, after = rng.choice(good if good and rng.random() > _BAD_MOVE else moves)
        if rng.random() < _BAD_RESULT:
            wrong = max(0, result + rng.choice(_OFFSETS))
            rest = list(after)
            rest.remove(result)
            result, after = wrong, tuple(sorted([*rest, wrong]))
        numbers = after
        lines.append(f"{plan}={result}, left {' '.join(map(str, numbers))}")
    return "\n".join([*lines, rf"\boxed{{{rng.choice([target, numbers[0]])}}}"])


def _work_out(expression: Expression, rng: random.Random) -> tuple[int, list[str]]:
    if isinstance(expression, int):
        return expression, []
    left, before = _work_out(expression[0], rng)
    right, between = _work_out(expression[2], rng)
    operation = expression[1]
    result = left + right if operation == "+" else left - right if operation == "-" else left * right
    largest = max(abs(left), abs(right), abs(result))
    if rng.random() < next((chance for bound, chance in SLIPS if largest < bound), SLIPS[-1][1]):
        result += rng.choice(_OFFSETS)
    return result, [*before, *between, f"{left}{operation}{right}={result}"]
