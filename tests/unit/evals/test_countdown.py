"""Generated countdown against a search over all expression trees, written another way."""

from __future__ import annotations

import random
import re
from fractions import Fraction
from functools import cache
from itertools import combinations, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttc.core.errors import DataError
from ttc_evals.countdown import CountdownChecker, generate, prefix_is_right, reference_solution

CHECKER = CountdownChecker()
EXAMPLES = generate("train", 200, seed=4)
GOOD = "8-5=3, left 3 3 7\n3*7=21, left 3 21\n21+3=24, left 24\n\\boxed{24}"
PROBLEM = "3 5 7 8 -> 24"


def results(a, b):
    """What two numbers can become, by exact fractions."""
    both = {Fraction(a + b): "+", Fraction(a * b): "*", Fraction(abs(a - b)): "-"}
    found = {value.numerator for value in both}
    found |= {Fraction(x, y).numerator for x, y in ((a, b), (b, a)) if y and Fraction(x, y).denominator == 1 and x >= y}
    return found | ({0} if (not a) != (not b) else set())


@cache
def outcomes(numbers):
    """Every value of every expression tree over all the numbers: halves first, not pairs."""
    if len(numbers) == 1:
        return frozenset(numbers)
    found = set()
    for size in range(1, len(numbers) // 2 + 1):
        for chosen in combinations(range(len(numbers)), size):
            left = tuple(sorted(numbers[i] for i in chosen))
            right = tuple(sorted(numbers[i] for i in range(len(numbers)) if i not in chosen))
            for a in outcomes(left):
                for b in outcomes(right):
                    found |= results(a, b)
    return frozenset(found)


def moves(numbers):
    """Every different line that can be written, as (line, numbers left)."""
    found = {}
    for a, b in set(permutations(numbers, 2)):
        if a < b:
            continue
        rest = list(numbers)
        rest.remove(a)
        rest.remove(b)
        for sign, value in (("+", a + b), ("-", a - b), ("*", a * b), ("/", Fraction(a, b) if b else Fraction(1, 2))):
            if Fraction(value).denominator == 1:
                left = tuple(sorted([*rest, int(value)]))
                found[f"{a}{sign}{b}={int(value)}, left {' '.join(map(str, left))}"] = left
    return found


def read(question):
    numbers, target = question.split(" -> ")
    return tuple(int(number) for number in numbers.split()), int(target)


def test_reachability_is_that_of_a_search_over_trees():
    rng = random.Random(0)
    for _ in range(40):
        numbers = tuple(sorted(rng.randint(1, 20) for _ in range(rng.randint(2, 4))))
        found = outcomes(numbers)
        for target in range(10, 100):
            question = f"{' '.join(map(str, numbers))} -> {target}"
            assert prefix_is_right(question, "") is (target in found), question


def test_a_move_is_right_where_the_target_stays_reachable():
    for example in EXAMPLES:
        numbers, target = read(example.question)
        kept = 0
        for line, left in moves(numbers).items():
            expected = target in outcomes(left)
            kept += expected
            assert prefix_is_right(example.question, line + "\n") is expected, (example.question, line)
            assert prefix_is_right(example.question, line.partition("=")[0] + "=") is expected
            swapped = re.sub(r"^(\d+)[+](\d+)", r"\2+\1", line)
            assert prefix_is_right(example.question, swapped) is expected
        share = kept / len(moves(numbers))
        level = {3: (2, 2, 1), 4: (5, 4, 3)}[len(numbers)][(share > 0.1) + (share > 0.25)]
        assert share > 0
        assert example.meta == {"difficulty": level, "steps": len(numbers) - 1}


def test_problems_are_as_promised():
    for example in EXAMPLES:
        numbers, target = read(example.question)
        assert numbers == tuple(sorted(numbers))
        assert 10 <= target <= 99
        assert target in outcomes(numbers)
        assert min(numbers) >= 1
        assert max(numbers) <= {3: 29, 4: 19}[len(numbers)]
        assert [message.content for message in example.messages] == [example.question]


@cache
def chance(numbers, target):
    """How often moves drawn blindly end at the target."""
    if len(numbers) == 1:
        return float(numbers[0] == target)
    after = moves(numbers).values()
    return sum(chance(left, target) for left in after) / len(after)


def test_blind_play_succeeds_less_at_each_level():
    means = []
    for level in range(1, 6):
        examples = [e for e in EXAMPLES if e.meta["difficulty"] == level]
        assert len(examples) == 40
        means.append(sum(chance(*read(e.question)) for e in examples) / 40)
    assert means == sorted(means, reverse=True)
    assert means[0] > 5 * means[-1]


def test_references_are_right_at_every_line_and_for_the_checker():
    rng = random.Random(2)
    for example in EXAMPLES:
        numbers, target = read(example.question)
        solution = reference_solution(example.question, rng)
        for end in [match.end() for match in re.finditer(r"[\n=]", solution)] + [len(solution)]:
            assert prefix_is_right(example.question, solution[:end])
        *lines, box = solution.split("\n")
        assert box == f"\\boxed{{{target}}}"
        for line in lines:
            assert line in moves(numbers)
            numbers = moves(numbers)[line]
        assert numbers == (target,)
        answer = CHECKER.extract(solution)
        assert answer is not None
        assert eval(answer) == target
        assert sorted(map(int, re.findall(r"\d+", answer))) == list(read(example.question)[0])
        assert CHECKER.grade(answer, example.gold)
        assert CHECKER.extract(solution + "\n") == answer


def all_solutions(numbers, target):
    if len(numbers) == 1:
        return [[]] if numbers[0] == target else []
    return [[line, *rest] for line, left in moves(numbers).items() for rest in all_solutions(left, target)]


def test_references_are_drawn_from_all_solutions():
    expected = {"\n".join([*lines, "\\boxed{24}"]) for lines in all_solutions((3, 5, 7, 8), 24)}
    rng = random.Random(3)
    found = {reference_solution(PROBLEM, rng) for _ in range(1500)}
    assert found == expected
    assert reference_solution(PROBLEM, random.Random(7)) == reference_solution(PROBLEM, random.Random(7))


def test_every_solution_is_graded_right_and_orders_vote_together():
    answers = set()
    solutions = [(example, lines) for example in EXAMPLES[:60] for lines in all_solutions(*read(example.question))]
    for example, lines in solutions:
        answer = CHECKER.extract("\n".join([*lines, f"\\boxed{{{read(example.question)[1]}}}"]))
        assert answer is not None
        assert CHECKER.grade(answer, example.gold), (example.question, lines, answer)
        answers.add((example.id, answer))
    assert len(answers) < 0.7 * len(solutions)


def test_sums_and_products_in_another_order_are_one_answer():
    first = CHECKER.extract("5+3=8, left 2 8 9\n8*2=16, left 9 16\n16+9=25, left 25\n\\boxed{25}")
    again = CHECKER.extract("3+5=8, left 9 8 2\n2*8=16, left 16 9\n9+16=25, left 25\n\\boxed{25}")
    other = CHECKER.extract("9*3=27, left 2 5 27\n27-2=25, left 5 25\n25*5=125, left 125\n\\boxed{125}")
    assert first == again == "9+2*(3+5)"
    assert CHECKER.equivalent(first, again)
    assert other == "5*(3*9-2)"
    assert not CHECKER.equivalent(first, other)
    assert CHECKER.grade(first, "2 3 5 9 -> 25")
    assert not CHECKER.grade(other, "2 3 5 9 -> 25")
    flat = [CHECKER.extract(text) for text in ("5-3=2, left 2 4\n4+2=6, left 6\n\\boxed{6}",
                                               "5+4=9, left 3 9\n9-3=6, left 6\n\\boxed{6}")]  # fmt: skip
    assert flat == ["4+5-3", "4+5-3"]


def test_every_wrong_digit_after_a_plan_is_detected():
    rng = random.Random(5)
    for example in EXAMPLES[:40]:
        solution = reference_solution(example.question, rng)
        for match in re.finditer(r"(?:=|boxed)(.*)(?:\n|$)", solution):
            for place in (i for i in range(match.start(1), match.end(1)) if solution[i].isdigit()):
                for digit in set("0123456789") - {solution[place]}:
                    wrong = solution[:place] + digit + solution[place + 1 :]
                    assert not prefix_is_right(example.question, wrong[: match.end()]), wrong
                    assert not prefix_is_right(example.question, wrong), wrong
                    answer = CHECKER.extract(wrong)
                    assert answer is not None
                    assert not CHECKER.grade(answer, example.gold), wrong


@pytest.mark.parametrize(
    "text",
    [
        GOOD.replace("8-5=3", "8-5=4", 1),  # a wrong result
        "8-5=4, left 3 4 7\n4*7=21, left 3 21\n21+3=24, left 24\n\\boxed{24}",  # two errors that cancel
        GOOD.replace("left 3 3 7", "left 3 7"),
        GOOD.replace("left 3 3 7", "left 3 3 7 7"),
        GOOD.replace("\n21+3=24, left 24", ""),  # numbers left over
        GOOD.replace("{24}", "{25}"),
        GOOD + "\n24+0=24, left 24",
        "3*(8-5)+7+8\n\\boxed{24}",
        "3+5-7+8*3-8\\boxed{24}",
        "\\boxed{24}",
        "5-8=3, left 3 3 7\n3*7=21, left 3 21\n21+3=24, left 24\n\\boxed{24}",  # a negative difference
        "8/5=1, left 1 3 7\n7+1=8, left 3 8\n8*3=24, left 24\n\\boxed{24}",  # a quotient with a remainder
        "8/0=0, left 0 24\n24+0=24, left 24\n\\boxed{24}",
        "12*2=24, left 24\n\\boxed{24}",  # right in itself, but not these numbers
    ],
)
def test_wrong_solutions_vote_but_are_never_right(text):
    answer = CHECKER.extract(text)
    assert answer
    assert not CHECKER.grade(answer, PROBLEM)
    assert not prefix_is_right(PROBLEM, text)


def test_a_target_that_is_missed_is_wrong_though_every_line_is_valid():
    text = "8-5=3, left 3 3 7\n3*7=21, left 3 21\n21-3=18, left 18\n\\boxed{18}"
    answer = CHECKER.extract(text)
    assert answer == "5+3*7-8"  # the first of two equal numbers is the one taken: 21-(8-5)
    assert not CHECKER.grade(answer, PROBLEM)
    assert CHECKER.grade(answer, "3 5 7 8 -> 18")
    assert not prefix_is_right(PROBLEM, text)


@pytest.mark.parametrize("text", ["", GOOD.partition("\\")[0], GOOD[:-1], GOOD.replace("{24}", "{}"), "24"])
def test_without_a_box_there_is_no_answer(text):
    assert CHECKER.extract(text) is None


@pytest.mark.parametrize(
    "line", ["8-5=3", "8-5=3, left", "8-5=3,left 3 3 7", "8-5=3, left 3 3 7 ", "08-5=3, left 3 3 7", "8-5=3, left 3  3 7",
             "8-5=3, left 3 3 7\r", "8 - 5=3, left 3 3 7", "8-5=\u0663, left 3 3 7", "", "=", "9-1=8, left 3 5 8",
             "8-8=0, left 0 3 5 7", "8-5=3, left " + "9" * 5000]
)  # fmt: skip
def test_malformed_and_impossible_lines_are_wrong(line):
    assert not prefix_is_right(PROBLEM, line + "\n")


def test_the_order_of_the_numbers_left_is_free():
    assert prefix_is_right(PROBLEM, "8-5=3, left 7 3 3\n")


WRITTEN = st.text("0123456789+-*/()=, left\\boxed{}\n")


@given(st.text() | WRITTEN | WRITTEN.map(lambda text: GOOD + text) | WRITTEN.map(lambda text: text + "\\boxed{24}"))
def test_no_text_makes_anything_raise(text):
    assert prefix_is_right(PROBLEM, text) in {True, False}
    answer = CHECKER.extract(text)
    assert answer is None or CHECKER.grade(answer, PROBLEM) is prefix_is_right(PROBLEM, text.strip())


@given(st.text() | st.text("0123456789+-*/()"))
def test_no_answer_makes_grading_raise(answer):
    assert not CHECKER.grade("x" + answer, PROBLEM)
    right = CHECKER.grade(answer, PROBLEM)
    assert not right or eval(answer) == 24


@pytest.mark.parametrize(
    "question", ["", "3 5 7 8", "3 5 -> 1000", "3  5 -> 8", "1 1 1 1 1 1 -> 2", "-3 5 -> 2", "a -> b"]
)
def test_what_is_no_problem(question):
    with pytest.raises(DataError):
        prefix_is_right(question, "")


def test_a_problem_without_a_solution():
    assert not prefix_is_right("1 1 1 -> 99", "")
    with pytest.raises(DataError, match="cannot be reached"):
        reference_solution("1 1 1 -> 99", random.Random(0))


def test_no_difference_is_negative():
    assert prefix_is_right("3 5 12 -> 10", "5-3=")
    assert not prefix_is_right("3 5 12 -> 10", "3-5=")
    assert CHECKER.grade("3+12-5", "3 5 12 -> 10")
    assert not CHECKER.grade("3-5+12", "3 5 12 -> 10")
