"""Mathematical answers, against math-verify used directly and against known equalities."""

from __future__ import annotations

import time

import pytest
from math_verify import parse, verify

from ttc_evals.symbolic import MathChecker, normalise

CHECKER = MathChecker()

EQUAL = [
    (r"\frac{1}{2}", "0.5"), (r"\dfrac{1}{2}", r"\frac{1}{2}"), (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\pi/2)"),
    ("x^2+2x+1", "(x+1)^2"), (r"\sqrt{8}", r"2\sqrt{2}"), (r"\{1,2\}", r"\{2,1\}"), ("5", "x=5"), ("10,000", "10000"),
    (r"\text{Evelyn}", "Evelyn"), (r"\text{(A)}", "(A)"), (r"[0,1)", r"\left[0,1\right)"), ("p - q", "-q+p"),
]  # fmt: skip
DIFFERENT = [
    ("1", "2"), (r"\frac{1}{2}", "0.51"), ("x^2", "x^3"), ("(1,2)", "(2,1)"), (r"\{1,2\}", r"\{1,3\}"), ("[0,1)", "[0,1]"),
    ("Evelyn", "Angela"),
]  # fmt: skip


@pytest.mark.parametrize(("gold", "answer"), EQUAL)
def test_equal_answers(gold, answer):
    read = CHECKER.extract(f"So it is $\\boxed{{{answer}}}$.")
    assert read is not None
    assert CHECKER.grade(read, gold)
    assert CHECKER.equivalent(read, str(normalise(gold)))
    assert CHECKER.equivalent(str(normalise(gold)), read)


@pytest.mark.parametrize(("gold", "answer"), DIFFERENT)
def test_different_answers(gold, answer):
    assert not CHECKER.grade(answer, gold)
    assert not CHECKER.equivalent(answer, gold)


@pytest.mark.parametrize(("gold", "answer"), [pair for pair in EQUAL + DIFFERENT if "Evelyn" not in pair[0]])
def test_grades_agree_with_math_verify_itself(gold, answer):
    direct = verify(parse(f"\\boxed{{{gold}}}"), parse(f"\\boxed{{{answer}}}"))
    assert CHECKER.grade(answer, gold) == direct


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\boxed{\dfrac{1}{2}} and more text 3", r"\frac{1}{2}"),
        (r"$\boxed{\{x \mid x > \frac{1}{2}\}}$", r"\{x \mid x > \frac{1}{2}\}"),
        (r"\boxed{1}, no: \boxed{\left(2, 3\right)}", "(2, 3)"),
        (r"\boxed{\text{even}}", "even"),
        (r"\boxed{5.}", "5"),
        (r"\boxed{\$32}", "32"),
        (r"\boxed{5", None),
        (r"\boxed{}", None),
        (r"\boxed{\ }", None),
        (r"a \boxed{\frac{1}{2} unclosed", None),
        ("The answer is $x+1$. Indeed.", "x+1"),
        ("The final answer is 12. Done.", "12"),
        (r"so the answer is \(\frac{3}{4}\)", r"\frac{3}{4}"),
        ("we get 12", None),
        ("\\boxed{\u2212 7}", "- 7"),
        ("\\boxed{π/2}", "π/2"),
    ],
)
def test_extraction(text, expected):
    assert CHECKER.extract(text) == expected


def test_equivalence_is_symmetric_where_math_verify_is_not():
    for a, b in EQUAL + DIFFERENT:
        assert CHECKER.equivalent(a, b) == CHECKER.equivalent(b, a)


def test_rationals_are_compared_exactly():
    assert CHECKER.equivalent(r"\frac{2}{4}", r"\frac{1}{2}")
    assert CHECKER.equivalent(r"-\frac{4}{2}", "-2")
    assert not CHECKER.equivalent("1000000", "1000001")
    assert not CHECKER.equivalent(r"\frac{333333}{1000000}", r"\frac{1}{3}")


def test_long_and_deep_answers_do_not_hang():
    started = time.perf_counter()
    for text in ("{" * 10**6, "\\boxed{" + "{" * 400_000 + "}" * 400_000 + "}", "\\boxed{" + "x+" * 500_000 + "1}"):
        answer = CHECKER.extract(text)
        if answer is not None:
            assert not CHECKER.grade(answer, "1")
            assert CHECKER.grade(answer, answer)
    assert time.perf_counter() - started < 20
