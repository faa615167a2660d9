"""Numbers in answers, against fractions and the decimal module."""

from __future__ import annotations

import time
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttc_evals.numeric import NumericChecker, last_number, parse_number, spell_number

CHECKER = NumericChecker()


@given(st.fractions())
def test_spelling_is_exact_and_read_back(number):
    assert parse_number(spell_number(number)) == number


@given(st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=-(10**9), max_value=10**9))
def test_decimals_with_and_without_separators(number: Decimal):
    assert parse_number(f"{number:f}") == parse_number(f"{number:,f}") == Fraction(number)
    assert CHECKER.extract(f"\\boxed{{{number:,f}}}") == CHECKER.extract(f"The answer is {number:f}.")


@given(st.integers(-999, 999), st.integers(1, 999))
def test_fractions_in_three_spellings(top, below):
    assert parse_number(f"{top}/{below}") == Fraction(top, below)
    assert parse_number(rf"\dfrac{{{top}}}{{{below}}}") == Fraction(top, below)
    assert parse_number(rf"\frac{{{top}}}{{ {below} }}") == Fraction(top, below)


@given(st.integers(-99, 99), st.integers(-20, 20))
def test_scientific_notation(mantissa, power):
    expected = mantissa * Fraction(10) ** power
    assert parse_number(f"{mantissa}e{power}") == expected
    assert parse_number(rf"{mantissa} \times 10^{{{power}}}") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1,000", 1000), ("1000.00", 1000), ("1{,}000{,}000", 1_000_000), (r"1\,000", 1000), (r"1\!000", 1000),
        ("50%", 50), (r"50\%", 50), (r"\$18", 18), ("$18.50$", Fraction(37, 2)), ("-$5", -5), ("$-5", -5), ("€7", 7),
        ("18 dollars", 18), (r"18\text{ km/h}", 18), ("5 m^2", 5), (r"5\text{ cm}^2", 5), (r"90^\circ", 90),
        ("x = 5", 5), ("5 + 3 = 8", 8), (r"1\frac{1}{2}", Fraction(3, 2)), ("1 1/2", Fraction(3, 2)),
        (r"-\frac12", Fraction(-1, 2)), (r"\dfrac{-3}{4}", Fraction(-3, 4)), ("\u22127", -7), ("\uff11\uff12", 12), ("007", 7),
        (".5", Fraction(1, 2)), ("5.", 5), ("+5", 5), ("27.0", 27), (r"\left(18\right)", 18), ("about 18", 18),
        (r"\approx 3.14", Fraction(157, 50)), ("**18**", 18), ("18 (eighteen)", 18), ("0.0", 0), ("-0", 0),
    ],
)  # fmt: skip
def test_statements_of_a_number(text, expected):
    assert parse_number(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", " ", "abc", "5x", "2^{10}", r"3\sqrt{2}", r"10\pi", "7 pi", "3 - 4", "3, 4", "10-15", "(3,4)", "1/0", r"\frac{1}{0}",
     "12:30", "1.2.3", "1,00", "--5", "5²", "½", "1e999999999", "9" * 1000, "18 and 5", "None", "inf", "nan"],
)  # fmt: skip
def test_what_is_not_one_number(text):
    assert parse_number(text) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"so \boxed{18} dollars, not 19", "18"),
        (r"\boxed{18}. The answer is 20", "18"),
        (r"\boxed{1} and then \boxed{2}", "2"),
        (r"\boxed{\frac{1}{3}}", "1/3"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed {5}", "5"),
        (r"\fbox{5}", "5"),
        (r"\boxed{1} \boxed{", "1"),
        (r"\boxed{42", None),
        (r"\boxed{} 5", None),
        (r"5 \boxed{ }", None),
        (r"\boxed{\text{unknown}} 5", None),
        ("The answer is 18.", "18"),
        ("So the answer is **18**. She has 5 left.", "18"),
        (r"The final answer is: $\$1,020$", "1020"),
        ("answer is 5 + 3 = 8.", "8"),
        ("Some steps\n#### 1,234", "1234"),
        ("it costs 3 and then $5.", "5"),
        ("no number here", None),
        ("", None),
    ],
)
def test_extraction(text, expected):
    assert CHECKER.extract(text) == expected


def test_equality_is_exact():
    assert CHECKER.equivalent("1000", "1,000.00")
    assert CHECKER.grade("0.5", "1/2")
    assert not CHECKER.grade("0.3333", "1/3")
    assert not CHECKER.equivalent("x", "y")
    assert last_number("3 then 4^2") == 3


@pytest.mark.parametrize(
    "text",
    ["1" * 10**6, "1," * 500_000, "\\boxed{" * 140_000, "{" * 10**6, "\\boxed{" + "1" * 10**6 + "}", "answer is " * 100_000,
     "\\boxed{" + "a " * 500_000 + "}", "\\boxed{5" + " m" * 500_000 + "1}", " " * 10**6 + "1", "answer" + " " * 10**6,
     "\\boxed{" + "1/" * 500_000 + "}", "\\boxed{5" + "a" * 10**6 + "1}", "\\boxed" + " " * 10**6, "-" * 10**6,
     "\\boxed{1" + " " * 10**6 + "}1", "answer is" + "*" * 10**6, "\\text{" * 150_000, "\\frac{" * 150_000],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_a_megabyte_is_read_in_linear_time(text):
    started = time.perf_counter()
    CHECKER.extract(text)
    assert time.perf_counter() - started < 5  # measured below 0.7 s; quadratic time would be hours
