r"""Countdown: combine all numbers, each once, into the target. Problems are generated, labels are exact.

The question `3 5 7 8 -> 24` has, among others, the solution

    8-5=3, left 3 3 7
    3*7=21, left 3 21
    21+3=24, left 24
    \boxed{24}

A move takes two numbers that are there: their sum, their product, the larger minus the smaller, or a quotient
without remainder. A solution is right where every move is, its result and the numbers left included, and the
last number is the target. Task after Pan et al. 2025 (arXiv 2504.15466), in smaller numbers.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import combinations

from ttc.core.errors import DataError
from ttc.core.protocols import Checker, Dataset, LoadOptions
from ttc.core.types import Example
from ttc_evals.extraction import last_boxed
from ttc_evals.generated import (
    NATURAL,
    TEMPLATE,
    Drawn,
    Expression,
    Generator,
    canonical_form,
    parse_expression,
    split_solution,
)

LEVELS = {
    1: (3, 29, 0.25, 1.0),
    2: (3, 29, 0.0, 0.25),
    3: (4, 19, 0.25, 1.0),
    4: (4, 19, 0.1, 0.25),
    5: (4, 19, 0.0, 0.1),
}
"""Difficulty: how many numbers, the largest of them, and bounds of the share of first moves that keep the target
reachable: above the first and at most the second."""

_TARGETS = range(10, 100)
_MOST_NUMBERS = 5
_LARGEST = 999
_OPERATIONS = "+-*/"
_QUESTION = re.compile(rf"({NATURAL}(?: {NATURAL}){{0,{_MOST_NUMBERS - 1}}}) -> ({NATURAL})")
_LINE = re.compile(
    rf"(?P<left>{NATURAL})(?P<operation>[-+*/])(?P<right>{NATURAL})="
    rf"(?:(?P<result>{NATURAL}), left (?P<rest>{NATURAL}(?: {NATURAL}){{0,{_MOST_NUMBERS - 2}}}))?"
)

Numbers = tuple[int, ...]
"""The numbers that are there, sorted."""


def generate(split: str, count: int, seed: int, difficulty: int | None = None) -> list[Example]:
    """Return different problems of a split, of one difficulty (1 to 5) or of all in turn. Raises ConfigError."""
    return _GENERATOR.generate(split, count, seed, difficulty)


def reference_solution(question: str, rng: random.Random) -> str:
    """Return one of the solutions, without a newline after its box.

    Every move is drawn from all those that keep the target reachable. Raises DataError where the question is not
    one of this task, or has no solution.
    """
    numbers, target = read_question(question)
    if not is_reachable(numbers, target):
        raise DataError(f"the target cannot be reached: {question!r}")
    lines = []
    while len(numbers) > 1:
        plan, result, numbers = rng.choice([move for move in moves(numbers) if is_reachable(move[2], target)])
        lines.append(f"{plan}={result}, left {_spell(numbers)}")
    return "\n".join([*lines, rf"\boxed{{{target}}}"])


def prefix_is_right(question: str, text: str) -> bool:
    """Say whether every line of an unfinished or finished solution is right, and the target still reachable.

    The numbers left may stand in any order. `text` is whole lines, but the last may be a plan alone, without a
    newline: it is right where its move is one, and the target reachable after it. No text makes it raise; a
    question that is not one of this task raises DataError.
    """
    numbers, target = read_question(question)
    solution = split_solution(text)
    for line in solution.lines:
        after = _play(numbers, line, whole=True)
        if after is None:
            return False
        numbers = after
    if solution.plan is not None:
        after = _play(numbers, solution.plan, whole=False)
        return after is not None and is_reachable(after, target)
    if solution.box is not None:
        return numbers == (target,) and solution.box == target
    return is_reachable(numbers, target)


class CountdownChecker:
    r"""Solutions of countdown problems, compared by the expression they amount to.

    The answer of a solution whose moves are all right is the canonical form of its expression, so that solutions
    that add or multiply the same in another order vote together. Where two equal numbers are there, the one
    that was there first is taken. Any other text with a box answers with itself: it votes, and is wrong.
    """

    isolated: bool = False
    executes_code: bool = False
    version: str = "countdown-1"

    def extract(self, text: str) -> str | None:
        """Return the canonical expression, the text on one line where a move is wrong, None without a box."""
        text = text.strip()
        if not last_boxed(text):
            return None
        expression = _read_solution(text)
        return ";".join(text.split("\n")) if expression is None else canonical_form(expression)

    def equivalent(self, a: str, b: str) -> bool:
        """Say whether two answers are the same canonical expression."""
        return a == b

    def grade(self, answer: str, gold: str) -> bool:
        """Say whether the expression takes each number of the problem once and is worth the target."""
        numbers, target = read_question(gold)
        try:
            expression = parse_expression(answer, _OPERATIONS)
        except DataError:
            return False
        return tuple(sorted(_operands(expression))) == numbers and _value(expression) == target


class Countdown:
    """Problems of 3 or 4 numbers in five difficulties; `meta` holds `difficulty` and `steps`."""

    name: str = "countdown"
    prompt_template: str = TEMPLATE
    checker: Checker = CountdownChecker()

    def load(self, options: LoadOptions) -> Dataset:
        """Generate the examples. Raises ConfigError."""
        return _GENERATOR.load(options)


def _draw(rng: random.Random, level: int) -> Drawn | None:
    count, most, _, _ = LEVELS[level]
    numbers = tuple(sorted(rng.randint(1, most) for _ in range(count)))
    targets = _targets(numbers, level)
    if not targets:
        return None
    question = f"{_spell(numbers)} -> {rng.choice(targets)}"
    return Drawn(question, question, question, {"steps": count - 1})


@lru_cache(maxsize=1 << 15)
def _targets(numbers: Numbers, level: int) -> Numbers:
    """Return the targets that make a problem of this level."""
    _, _, above, most = LEVELS[level]
    after = [_reachable(left) for _, _, left in moves(numbers)]
    shares = {target: sum(values >> target & 1 for values in after) / len(after) for target in _TARGETS}
    return tuple(target for target, share in shares.items() if above < share <= most)


def _combine(left: int, operation: str, right: int) -> int | None:
    """Return the result of a move, None where it is not allowed."""
    if operation == "+":
        return left + right
    if operation == "*":
        return left * right
    if operation == "-":
        return left - right if left >= right else None
    return left // right if right and left % right == 0 else None


def moves(numbers: Numbers) -> Iterator[tuple[str, int, Numbers]]:
    """Yield every different move: its plan, the larger number first, its result, and the numbers left."""
    seen: set[Numbers] = set()
    for small, large in combinations(range(len(numbers)), 2):
        pair = left, right = numbers[large], numbers[small]
        if pair in seen:
            continue
        seen.add(pair)
        rest = numbers[:small] + numbers[small + 1 : large] + numbers[large + 1 :]
        for operation in _OPERATIONS:
            result = _combine(left, operation, right)
            if result is not None:
                yield f"{left}{operation}{right}", result, tuple(sorted((*rest, result)))


@lru_cache(maxsize=1 << 17)
def _reachable(numbers: Numbers) -> int:
    """Return the last numbers that moves can lead to, up to the largest target allowed, as the bits of an integer."""
    if len(numbers) == 1:
        return 1 << numbers[0] if numbers[0] <= _LARGEST else 0
    values = 0
    for _, _, left in moves(numbers):
        values |= _reachable(left)
    return values


def is_reachable(numbers: Numbers, target: int) -> bool:
    """Say whether moves can lead from these numbers to the target alone."""
    return bool(_reachable(numbers) >> target & 1)


def read_question(question: str) -> tuple[Numbers, int]:
    """Return the numbers and the target. Raises DataError where the question is not one of this task."""
    match = _QUESTION.fullmatch(question)
    numbers, target = (_read_numbers(match[1]), int(match[2])) if match else ((), 0)
    if not numbers or max(*numbers, target) > _LARGEST:
        raise DataError(
            f"not a countdown problem: {question[:80]!r}",
            f"at most {_MOST_NUMBERS} numbers and a target, none above {_LARGEST}, as in '3 5 7 8 -> 24'",
        )
    return numbers, target


def _read_numbers(text: str) -> Numbers:
    return tuple(sorted(map(int, text.split(" "))))


def _spell(numbers: Numbers) -> str:
    return " ".join(map(str, numbers))


def _play(numbers: Numbers, line: str, *, whole: bool) -> Numbers | None:
    """Return the numbers left after a line, whole or a plan, None where it is wrong."""
    match = _LINE.fullmatch(line)
    if match is None or (match["rest"] is not None) != whole:
        return None
    left, right = int(match["left"]), int(match["right"])
    result = _combine(left, match["operation"], right)
    after = list(numbers)
    try:
        after.remove(left)
        after.remove(right)
    except ValueError:  # a number that is not there
        return None
    if result is None:
        return None
    rest = tuple(sorted([*after, result]))
    return None if whole and (int(match["result"]), _read_numbers(match["rest"])) != (result, rest) else rest


def _read_solution(text: str) -> Expression | None:
    """Return the expression that a finished solution amounts to, None where a line or the box is wrong.

    The numbers it starts from are read from its own first line.
    """
    solution = split_solution(text)
    first = _LINE.fullmatch(solution.lines[0]) if solution.lines else None
    if first is None or first["rest"] is None or solution.box is None:
        return None
    start = list(_read_numbers(first["rest"]))
    if int(first["result"]) not in start:
        return None
    start.remove(int(first["result"]))
    numbers: Numbers = tuple(sorted([*start, int(first["left"]), int(first["right"])]))
    there: list[tuple[int, Expression]] = [(number, number) for number in numbers]
    for line in solution.lines:
        after = _play(numbers, line, whole=True)
        match = _LINE.fullmatch(line)
        if after is None or match is None:
            return None
        numbers = after
        operands = [_take(there, int(match[side])) for side in ("left", "right")]
        there.append((int(match["result"]), (operands[0], match["operation"], operands[1])))
    return there[0][1] if numbers == (solution.box,) else None


def _take(there: list[tuple[int, Expression]], value: int) -> Expression:
    """Remove the first number of this value and return how it was made."""
    place = next(i for i, (number, _) in enumerate(there) if number == value)
    return there.pop(place)[1]


def _operands(expression: Expression) -> Iterator[int]:
    if isinstance(expression, int):
        yield expression
        return
    yield from _operands(expression[0])
    yield from _operands(expression[2])


def _value(expression: Expression) -> int | None:
    """Return what moves in this order give, None where one is not allowed.

    Every canonical form of allowed moves can be played as it is written: sums come before differences, products
    before quotients.
    """
    if isinstance(expression, int):
        return expression
    left, right = _value(expression[0]), _value(expression[2])
    return None if left is None or right is None else _combine(left, expression[1], right)


_GENERATOR = Generator("countdown", "countdown-1", len(LEVELS), _draw)
