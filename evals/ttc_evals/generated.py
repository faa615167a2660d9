r"""What the generated tasks share: expressions, written solutions, and problems that are drawn instead of loaded.

A solution is lines ended by a newline. In a line, what stands up to and including `=` is the plan (which
operation), the rest is its execution (its result). The last line is `\boxed{N}`, with nothing after it.

The split of a problem is decided by a hash of its canonical form alone, so that no seed can put one problem, or
two spellings of it, into two splits.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import cycle, islice
from typing import NamedTuple, TypeAlias, Union

from ttc.core.errors import ConfigError, DataError, did_you_mean
from ttc.core.identity import identity
from ttc.core.protocols import Dataset, LoadOptions
from ttc.core.types import Example
from ttc_evals.loading import ask

TEMPLATE = "{question}"
"""The question alone: a small model that is trained on these tasks reads nothing else."""

NATURAL = "(?:0|[1-9][0-9]{0,299})"
"""A number of a written solution that cannot be negative, as a regular expression: no leading zeros."""

INTEGER = "(?:0|-?[1-9][0-9]{0,299})"
"""A number of a written solution, as a regular expression: no leading zeros, no plus, no minus zero."""

# A recursive alias: only typing.Union takes the forward reference while the module is loaded.
Expression: TypeAlias = Union[int, tuple["Expression", str, "Expression"]]  # noqa: UP007
"""A number, or left operand, operation, right operand."""

_SPLITS = {"test": range(8), "validation": range(8, 16), "train": range(16, 100)}
_DEFAULT_LIMIT = 300
_MOST_FRUITLESS_DRAWS = 20_000
_LONGEST_EXPRESSION = 200
_TOKEN = re.compile(r"[0-9]+|[-+*/()]")
_BOX = re.compile(rf"\\boxed\{{({INTEGER})\}}")


class Solution(NamedTuple):
    """A written solution taken apart. Lines are not judged yet."""

    lines: list[str]
    plan: str | None
    """A last line that stops after its `=`, without a newline."""
    box: int | None


def split_solution(text: str) -> Solution:
    """Take a solution apart, finished or not; the newline after its last line may be missing."""
    lines = text.split("\n")
    ended = not lines[-1]
    if ended:
        lines.pop()
    if lines and (match := _BOX.fullmatch(lines[-1])):
        return Solution(lines[:-1], None, int(match[1]))
    if lines and not ended and lines[-1].endswith("="):
        return Solution(lines[:-1], lines[-1], None)
    return Solution(lines, None, None)


def parse_expression(text: str, operations: str) -> Expression:
    """Read integers, the given operations of `+-*/`, and parentheses, with the usual precedence. Raises DataError."""
    tokens = _TOKEN.findall(text) if len(text) <= _LONGEST_EXPRESSION else []
    if not tokens or "".join(tokens) != text or not set("+-*/").intersection(text) <= set(operations):
        allowed = f"integers, {' '.join(operations)} and parentheses, without spaces"
        raise DataError(f"not an expression: {text[:80]!r}", allowed)
    tokens.reverse()
    try:
        expression = _sum(tokens)
    except (IndexError, ValueError) as error:
        raise DataError(f"not an expression: {text[:80]!r}", "an operand or a parenthesis is missing") from error
    if tokens:
        raise DataError(f"not an expression: {text[:80]!r}", f"{tokens[-1]!r} is too much")
    return expression


def canonical_form(expression: Expression) -> str:
    """Return one spelling for all orders of the same sums and products.

    Sums and differences are flattened to sorted terms, first those added, then those subtracted; products and
    quotients likewise. So `2*(4+3)`, `(3+4)*2` are one, and `5-(3-1)`, `1+5-3` are one; nothing is calculated.
    """
    if isinstance(expression, int):
        return str(expression)
    additive = expression[1] in "+-"
    same, inverse = ("+", "-") if additive else ("*", "/")
    parts: dict[bool, list[str]] = {False: [], True: []}
    for part, inverted in _flattened(expression, same + inverse, inverted=False):
        form = canonical_form(part)
        parts[inverted].append(form if additive or isinstance(part, int) else f"({form})")
    kept, taken = (sorted(parts[key], key=lambda form: (len(form), form)) for key in (False, True))
    return same.join(kept) + "".join(inverse + form for form in taken)


def split_of(task: str, canonical: str) -> str:
    """Return the split that a problem belongs to: 8 % test, 8 % validation, the rest train."""
    place = int(identity([task, canonical]), 16) % 100
    return next(name for name, places in _SPLITS.items() if place in places)


@dataclass(frozen=True, slots=True)
class Drawn:
    """A problem as drawn. Equal `canonical` means the same problem."""

    question: str
    gold: str
    canonical: str
    meta: Mapping[str, str | int | float]


@dataclass(frozen=True, slots=True)
class Generator:
    """Draws the problems of one task.

    `draw` makes one problem of a level from a random generator, or None where this attempt gave none; it must
    give no problem on two levels. `version` changes whenever a seed gives other problems.
    """

    task: str
    version: str
    levels: int
    draw: Callable[[random.Random, int], Drawn | None]

    def generate(self, split: str, count: int, seed: int, difficulty: int | None = None) -> list[Example]:
        """Return `count` different problems of a split, of one difficulty or of all in turn.

        A smaller count gives the first of the same problems, and one difficulty those that the mixture has of it.

        Raises:
            ConfigError: an unknown split or difficulty, a count below 1 or above what the split holds.
        """
        if split not in _SPLITS:
            raise ConfigError(f"task {self.task} has no split {split!r}", did_you_mean(split, _SPLITS))
        if difficulty is not None and not 1 <= difficulty <= self.levels:
            raise ConfigError(f"task {self.task} has no difficulty {difficulty}", f"allowed: 1 to {self.levels}")
        if count < 1:
            raise ConfigError(f"limit is {count}, it must be at least 1")
        levels = range(1, self.levels + 1) if difficulty is None else [difficulty]
        streams = [self._distinct(split, seed, level) for level in levels]
        return [next(stream) for stream in islice(cycle(streams), count)]

    def load(self, options: LoadOptions) -> Dataset:
        """Generate what a run asks for: by default 300 test problems of all difficulties in turn.

        Raises:
            ConfigError: an option that says where rows are, as there are none; or what `generate` raises.
        """
        for name in ("data", "hub", "hub_config", "revision", "fields"):
            if getattr(options, name) is not None:
                raise ConfigError(
                    f"task {self.task} generates its problems: it takes no {name}", "choose a split, a limit, a seed"
                )
        split = "test" if options.split is None else options.split
        count = _DEFAULT_LIMIT if options.limit is None else options.limit
        examples = self.generate(split, count, options.seed)
        content = [[e.question, e.gold, [[m.role, m.content] for m in e.messages]] for e in examples]
        source = {
            "name": self.task,
            "generator": self.version,
            "split": split,
            "seed": str(options.seed),
            "count": str(count),
        }
        return Dataset(tuple(examples), identity(content), source)

    def _distinct(self, split: str, seed: int, level: int) -> Iterator[Example]:
        rng = random.Random(int(identity([self.version, split, seed, level], 16), 16))  # noqa: S311 - not a secret
        seen: set[str] = set()
        fruitless = 0
        while fruitless < _MOST_FRUITLESS_DRAWS:
            fruitless += 1
            drawn = self.draw(rng, level)
            if drawn is None or drawn.canonical in seen or split_of(self.task, drawn.canonical) != split:
                continue
            seen.add(drawn.canonical)
            fruitless = 0
            name = f"{self.task}-{identity([self.task, drawn.canonical])}"
            meta = {"difficulty": level, **drawn.meta}
            yield Example(name, drawn.question, drawn.gold, ask(TEMPLATE, drawn.question), meta)
        raise ConfigError(
            f"task {self.task} has only about {len(seen)} problems of difficulty {level} in split {split!r}",
            "set a smaller limit",
        )


def _flattened(expression: Expression, operations: str, *, inverted: bool) -> Iterator[tuple[Expression, bool]]:
    if isinstance(expression, int) or expression[1] not in operations:
        yield expression, inverted
        return
    left, operation, right = expression
    yield from _flattened(left, operations, inverted=inverted)
    yield from _flattened(right, operations, inverted=inverted != (operation in "-/"))


def _sum(tokens: list[str]) -> Expression:
    expression = _product(tokens)
    while tokens and tokens[-1] in "+-":
        expression = (expression, tokens.pop(), _product(tokens))
    return expression


def _product(tokens: list[str]) -> Expression:
    expression = _operand(tokens)
    while tokens and tokens[-1] in "*/":
        expression = (expression, tokens.pop(), _operand(tokens))
    return expression


def _operand(tokens: list[str]) -> Expression:
    first = tokens.pop()
    if first != "(":
        return int(first)
    expression = _sum(tokens)
    if tokens.pop() != ")":
        raise ValueError("an open parenthesis")
    return expression
