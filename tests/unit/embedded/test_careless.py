"""Careless solutions: slips as often as they should be, everything else as a right solution has it."""

import random
import re
from collections import Counter

import pytest

from ttc.embedded import careless
from ttc.embedded.corpus import questions
from ttc_evals import arithmetic, countdown

LINE = re.compile(r"(-?\d+)([-+*/])(-?\d+)=(-?\d+)")


def result(left, operation, right):
    return {"+": left + right, "-": left - right, "*": left * right, "/": left // right if right else None}[operation]


def lines_of(text):
    """Return (largest number, whether the result is wrong, offset) of each line of arithmetic."""
    for match in LINE.finditer(text):
        left, right, found = int(match[1]), int(match[3]), int(match[4])
        due = result(left, match[2], right)
        yield max(abs(left), abs(right), abs(due)), found - due


@pytest.fixture(scope="module")
def pool():
    return questions("test", 40, 0)


def test_without_slips_it_is_the_reference(pool, monkeypatch):
    monkeypatch.setattr(careless, "SLIPS", ((1000, 0.0),))
    for question in pool:
        if question.family == "arithmetic":
            found = careless.arithmetic_solution(question.text, random.Random(0))
            assert found == (arithmetic.reference_solution(question.text), None)


def test_slips_grow_with_the_numbers_as_stated(pool):
    rng = random.Random(0)
    seen, wrong = Counter(), Counter()
    for question in pool:
        if question.family != "arithmetic":
            continue
        for _ in range(20):
            for largest, offset in lines_of(careless.arithmetic_solution(question.text, rng).text):
                band = next(i for i, (bound, _) in enumerate(careless.SLIPS) if largest < bound or bound == 1000)
                seen[band] += 1
                wrong[band] += offset != 0
                assert abs(offset) in (0, 1, 2, 10, 20)
    for band, (_, chance) in enumerate(careless.SLIPS):
        assert wrong[band] / seen[band] == pytest.approx(chance, abs=4 * (chance / seen[band]) ** 0.5)


def test_what_follows_a_slip_uses_the_wrong_result():
    rng = random.Random(1)
    for _ in range(200):
        text = careless.arithmetic_solution("81+38-48", rng).text
        first, second, box = text.split("\n")
        assert second.startswith(first.split("=")[1] + "-48=")
        assert box == f"\\boxed{{{second.split('=')[1]}}}"


def test_careless_countdown_has_every_kind_of_line(pool):
    rng = random.Random(0)
    kinds = Counter()
    for question in pool:
        if question.family != "countdown":
            continue
        for _ in range(10):
            text = careless.countdown_solution(question.text, rng).text
            numbers, _ = countdown.read_question(question.text)
            assert len(text.split("\n")) == len(numbers)
            wrong = any(offset for _, offset in lines_of(text))
            right = countdown.prefix_is_right(question.text, text)
            assert not (right and wrong)
            kinds["right" if right else "slip" if wrong else "bad move"] += 1
    assert min(kinds.values()) > sum(kinds.values()) / 10 and len(kinds) == 3


def test_it_is_wrong_from_where_no_right_solution_has_the_character(pool):
    rng = random.Random(0)
    for question in pool:
        text, wrong_from = question.careless_solution(rng)
        for end in (m.end() for m in re.finditer("\n|=|$", text)):
            assert question.is_right(text[:end]) == (wrong_from is None or end <= wrong_from), (text[:end], wrong_from)
        if wrong_from is not None and text[wrong_from] not in "=\n":
            start = text.rindex("=", 0, wrong_from) + 1
            left, operation, right = re.search(r"(-?\d+)([-+*/])(-?\d+)=$", text[:start]).groups()
            due = f"{result(int(left), operation, int(right))}"
            assert f"{due}\n".startswith(text[start:wrong_from]) or question.family == "countdown"
            assert not f"{due}\n".startswith(text[start : wrong_from + 1])
