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
    1: (2, 1, 9),
    2: (3, 1, 9),
    3: (3, 10, 19),
    4: (4, 10, 19),
    5: (5, 10, 19),
    6: (6, 10, 19),
    7: (7, 20, 99),
    8: (8, 20, 99),
}
"""Difficulty: operations, and the bounds of the largest operand. The other operands go from 1 to the same bound."""

_LARGEST_VALUE = 999
_LARGEST_FACTOR = 12
_PRECEDENCE = {"+": 1, "-": 1, "*": 2}
_LINE = re.compile(rf"({INTEGER})([-+*])({INTEGER})=({INTEGER})?")


def generate(split: str, count: int, seed: int, difficulty: int | None = None) -> list[Example]:
    """Return different problems of a split, of one difficulty (1 to 8) or of all in turn. Raises ConfigError."""
    return _GENERATOR.generate(split, count, seed, difficulty)


def reference_solution(question: str) -> str:
    """Return the solution, without a newline after its box. Raises DataError where the question is no expression."""
    steps = list(_steps(parse_expression(question)))
    lines = [f"{left}{operation}{right}={result}" for left, operation, right, result in steps]
    return "\n".join([*lines, rf"\boxed{{{_value(parse_expression(question))}}}"])


def prefix_is_right(question: str, text: str) -> bool:
    """Say whether every line of an unfinished or finished solution is right.

    A line is right where its operation stands in the expression as reduced so far, with both operands numbers
    and in this order, and its result is right; the box where one number is left and it is that. Any such
    operation may come next. `text` is whole lines, but the last may be a plan alone, without a newline: it is
    right where the operation is. No text makes it raise; a question that is no expression raises DataError.
    """
    solution = split_solution(text)
    # Equal operations can stand in two places: all expressions that the lines can have left are followed.
    expressions = {parse_expression(question)}
    for line in solution.lines:
        match = _LINE.fullmatch(line)
        if match is None or match[4] is None:
            return False
        operation, result = _operation(match), int(match[4])
        if result != _value(operation):
            return False
        expressions = {after for before in expressions for after in _reduced(before, operation, result)}
    if solution.plan is not None:
        match = _LINE.fullmatch(solution.plan)
        return match is not None and any(any(_reduced(e, _operation(match), 0)) for e in expressions)
    if solution.box is not None:
        return solution.box in expressions
    return bool(expressions)


class Arithmetic:
    """Expressions of 2 to 8 operations in eight difficulties; `meta` holds `difficulty` and `steps`."""

    name: str = "arithmetic"
    prompt_template: str = TEMPLATE
    checker: Checker = NumericChecker()

    def load(self, options: LoadOptions) -> Dataset:
        """Generate the examples. Raises ConfigError."""
        return _GENERATOR.load(options)


def _draw(rng: random.Random, level: int) -> Drawn | None:
    operations, least, most = LEVELS[level]
    draw = _chain if rng.random() < 0.5 else _nested  # noqa: PLR2004 - half of each
    expression = draw(rng, operations, most)
    if not least <= _largest_operand(expression) <= most or not _is_easy_by_line(expression):
        return None
    return Drawn(_spell(expression), str(_value(expression)), canonical_form(expression), {"steps": operations})


def _chain(rng: random.Random, operations: int, most: int) -> Expression:
    """Draw an expression without parentheses."""
    parts = [str(rng.randint(1, most))]
    for _ in range(operations):
        operation = rng.choice("+-*")
        parts += [operation, str(rng.randint(1, min(most, _LARGEST_FACTOR) if operation == "*" else most))]
    return parse_expression("".join(parts))


def _nested(rng: random.Random, operations: int, most: int) -> Expression:
    """Draw an expression of any shape."""
    if not operations:
        return rng.randint(1, most)
    before = rng.randrange(operations)
    left, right = _nested(rng, before, most), _nested(rng, operations - 1 - before, most)
    small = min(abs(_value(left)), abs(_value(right))) <= _LARGEST_FACTOR
    return left, rng.choice("+-*" if small else "+-"), right


def _is_easy_by_line(expression: Expression) -> bool:
    return all(
        abs(result) <= _LARGEST_VALUE and (operation != "*" or min(abs(left), abs(right)) <= _LARGEST_FACTOR)
        for left, operation, right, result in _steps(expression)
    )


def _largest_operand(expression: Expression) -> int:
    if isinstance(expression, int):
        return expression
    return max(_largest_operand(expression[0]), _largest_operand(expression[2]))


def _spell(expression: Expression) -> str:
    """Write an expression with no more parentheses than it needs to be read back as it is."""
    if isinstance(expression, int):
        return str(expression)
    left, operation, right = expression
    own = _PRECEDENCE[operation]
    before, after = _spell(left), _spell(right)
    if not isinstance(left, int) and _PRECEDENCE[left[1]] < own:
        before = f"({before})"
    if not isinstance(right, int) and _PRECEDENCE[right[1]] <= own:
        after = f"({after})"
    return before + operation + after


def _steps(expression: Expression) -> Iterator[tuple[int, str, int, int]]:
    """Yield every operation with its operands and result, the leftmost possible first."""
    if isinstance(expression, int):
        return
    yield from _steps(expression[0])
    yield from _steps(expression[2])
    yield _value(expression[0]), expression[1], _value(expression[2]), _value(expression)


def _value(expression: Expression) -> int:
    if isinstance(expression, int):
        return expression
    left, right = _value(expression[0]), _value(expression[2])
    if expression[1] == "+":
        return left + right
    return left - right if expression[1] == "-" else left * right


def _operation(match: re.Match[str]) -> Expression:
    return int(match[1]), match[2], int(match[3])


def _reduced(expression: Expression, operation: Expression, result: int) -> Iterator[Expression]:
    """Yield the expression with the operation replaced by its result, once for each place where it stands."""
    if expression == operation:
        yield result
    elif not isinstance(expression, int):
        left, sign, right = expression
        yield from ((reduced, sign, right) for reduced in _reduced(left, operation, result))
        yield from ((left, sign, reduced) for reduced in _reduced(right, operation, result))


_GENERATOR = Generator("arithmetic", "arithmetic-1", len(LEVELS), _draw)
