r"""Arithmetic: an expression, worked out one operation a line. Problems are generated, labels are exact.

The question `(3+4)*2-5` has the reference solution

    3+4=7
    7*2=14
    14-5=9
    \boxed{9}

The leftmost operation whose operands are both numbers is done first. Every intermediate value is within
[-999, 999], and every product has a factor of at most 12 in size, so that each line is easy to learn while a
long chain of larger numbers stays hard.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from typing import NamedTuple

from ttc.core.protocols import Checker, Dataset, LoadOptions
from ttc.core.types import Example
from ttc_evals.generated import (
    INTEGER,
    TEMPLATE,
    Drawn,
    Expression,
    Generator,
    canonical_form,
    parse_expression,
    split_solution,
)
from ttc_evals.numeric import NumericChecker

LEVELS = {
    1: (2, 1, 19),
    2: (3, 1, 9),
    3: (3, 10, 19),
    4: (4, 10, 19),
    5: (5, 10, 19),
    6: (6, 10, 19),
    7: (7, 20, 99),
    8: (8, 20, 99),
}
"""Difficulty: operations, and the bounds of the largest operand. All operands go from 1 to the upper one."""

_LARGEST_VALUE = 999
_LARGEST_FACTOR = 12
OPERATIONS = "+-*"
_LINE = re.compile(rf"(?P<left>{INTEGER})(?P<operation>[-+*])(?P<right>{INTEGER})=(?P<result>{INTEGER})?")


def generate(split: str, count: int, seed: int, difficulty: int | None = None) -> list[Example]:
    """Return different problems of a split, of one difficulty (1 to 8) or of all in turn. Raises ConfigError."""
    return _GENERATOR.generate(split, count, seed, difficulty)


def reference_solution(question: str) -> str:
    """Return the solution, without a newline after its box. Raises DataError where the question is no expression."""
    value, steps = _work_out(parse_expression(question, OPERATIONS))
    lines = [f"{step.left}{step.operation}{step.right}={step.result}" for step in steps]
    return "\n".join([*lines, rf"\boxed{{{value}}}"])


def prefix_is_right(question: str, text: str) -> bool:
    """Say whether every line of an unfinished or finished solution is right.

    A line is right where its operation stands in the expression as reduced so far, with both operands numbers
    and in this order, and its result is right; the box where one number is left and it is that. Any such
    operation may come next. `text` is whole lines, but the last may be a plan alone, without a newline: it is
    right where the operation is. No text makes it raise; a question that is no expression raises DataError.
    """
    solution = split_solution(text)
    # Equal operations can stand in two places: all expressions that the lines can have left are followed.
    expressions = {parse_expression(question, OPERATIONS)}
    for line in solution.lines:
        match = _LINE.fullmatch(line)
        if match is None or match["result"] is None:
            return False
        operation, result = _operation(match), int(match["result"])
        if _work_out(operation)[0] != result:
            return False
        expressions = {after for before in expressions for after in _reduced(before, operation, result)}
    if solution.plan is not None:
        match = _LINE.fullmatch(solution.plan)
        return match is not None and any(_holds(expression, _operation(match)) for expression in expressions)
    return bool(expressions) if solution.box is None else solution.box in expressions


class Arithmetic:
    """Expressions of 2 to 8 operations in eight difficulties; `meta` holds `difficulty` and `steps`."""

    name: str = "arithmetic"
    prompt_template: str = TEMPLATE
    checker: Checker = NumericChecker()

    def load(self, options: LoadOptions) -> Dataset:
        """Generate the examples. Raises ConfigError."""
        return _GENERATOR.load(options)


class _Step(NamedTuple):
    left: int
    operation: str
    right: int
    result: int


def _draw(rng: random.Random, level: int) -> Drawn | None:
    operations, least, most = LEVELS[level]
    draw = rng.choice([_chain, _nested])
    expression = draw(rng, operations, most)
    value, steps = _work_out(expression)
    if not least <= _largest_operand(expression) <= most or not all(_is_easy(step) for step in steps):
        return None
    return Drawn(_spell(expression), str(value), canonical_form(expression), {"steps": operations})


def _chain(rng: random.Random, operations: int, most: int) -> Expression:
    """Draw an expression without parentheses."""
    parts = [str(rng.randint(1, most))]
    for _ in range(operations):
        operation = rng.choice(OPERATIONS)
        parts += [operation, str(rng.randint(1, min(most, _LARGEST_FACTOR) if operation == "*" else most))]
    return parse_expression("".join(parts), OPERATIONS)


def _nested(rng: random.Random, operations: int, most: int) -> Expression:
    """Draw an expression of any shape."""
    if not operations:
        return rng.randint(1, most)
    before = rng.randrange(operations)
    left, right = _nested(rng, before, most), _nested(rng, operations - 1 - before, most)
    expression = left, rng.choice(OPERATIONS), right
    # Left to rejection, hard products would leave large trees rare beside chains.
    return expression if _is_easy(_work_out(expression)[1][-1]) else (left, rng.choice("+-"), right)


def _is_easy(step: _Step) -> bool:
    if step.operation == "*" and min(abs(step.left), abs(step.right)) > _LARGEST_FACTOR:
        return False
    return abs(step.result) <= _LARGEST_VALUE


def _largest_operand(expression: Expression) -> int:
    if isinstance(expression, int):
        return expression
    return max(_largest_operand(expression[0]), _largest_operand(expression[2]))


def _spell(expression: Expression) -> str:
    """Write an expression with no more parentheses than it needs to be read back as it is."""
    if isinstance(expression, int):
        return str(expression)
    left, operation, right = expression
    before, after = _spell(left), _spell(right)
    if operation == "*" and not isinstance(left, int) and left[1] != "*":
        before = f"({before})"
    if not isinstance(right, int) and (operation == "*" or right[1] != "*"):
        after = f"({after})"
    return before + operation + after


def _work_out(expression: Expression) -> tuple[int, list[_Step]]:
    """Return the value and every operation, the leftmost possible first."""
    if isinstance(expression, int):
        return expression, []
    left, before = _work_out(expression[0])
    right, between = _work_out(expression[2])
    operation = expression[1]
    result = left + right if operation == "+" else left - right if operation == "-" else left * right
    return result, [*before, *between, _Step(left, operation, right, result)]


def _operation(match: re.Match[str]) -> Expression:
    return int(match["left"]), match["operation"], int(match["right"])


def _holds(expression: Expression, operation: Expression) -> bool:
    if expression == operation or isinstance(expression, int):
        return expression == operation
    return _holds(expression[0], operation) or _holds(expression[2], operation)


def _reduced(expression: Expression, operation: Expression, result: int) -> Iterator[Expression]:
    """Yield the expression with the operation replaced by its result, once for each place where it stands."""
    if expression == operation:
        yield result
    elif not isinstance(expression, int):
        left, sign, right = expression
        yield from ((reduced, sign, right) for reduced in _reduced(left, operation, result))
        yield from ((left, sign, reduced) for reduced in _reduced(right, operation, result))


_GENERATOR = Generator("arithmetic", "arithmetic-1", len(LEVELS), _draw)
