"""Letters and code: reading them, and grading code by tests."""

from __future__ import annotations

import ast
import json

import pytest

from ttc_evals.choice import ChoiceChecker
from ttc_evals.code import CodeChecker, CodeReference, last_code_block
from ttc_evals.sandbox import SandboxLimits


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\boxed{B}", "B"), (r"\boxed{\text{C}}", "C"), (r"\boxed{(d)}", "D"), (r"\boxed{A) 5 km}", "A"),
        (r"\boxed{\textbf{B}}", "B"), (r"\boxed{E}", None), (r"\boxed{}", None), (r"\boxed{B", None), (r"\boxed{Bismuth}", None),
        (r"\boxed{A}, or rather \boxed{B}", "B"), ("The answer is (C).", "C"), ("**Answer:** D", "D"),
        ("The answer is option B", "B"), ("Answer: Depends", None), ("I like A", None), ("", None), (r"\boxed{5}", None),
    ],
)  # fmt: skip
def test_letters(text, expected):
    assert ChoiceChecker().extract(text) == expected


def test_letters_are_those_of_the_task():
    assert ChoiceChecker("ABCDE").extract(r"\boxed{E}") == "E"
    assert ChoiceChecker().grade("B", "B")
    assert not ChoiceChecker().grade("B", "C")


FIRST = "```python\ndef f():\n    return 1\n```"
LAST = "~~~\ndef g():\n    return 2\n~~~"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"Text\n{FIRST}\nand then\n{LAST}\nbye", "def g():\n    return 2\n"),
        (f"{FIRST}\nprints\n```text\n1\n```", "def f():\n    return 1\n"),
        ("````python\ns = '''\n```\n'''\n````", "s = '''\n```\n'''\n"),
        ("```python\ndef f(): pass", None),
        ("no code", None),
        ("```\n```", ""),
    ],
)
def test_the_last_closed_python_block(text, expected):
    assert last_code_block(text) == expected


def test_code_is_normalised_and_keeps_its_meaning():
    messy = 'def f( x ):  # why\r\n\treturn "a"+x'
    code = CodeChecker().extract(f"```python\n{messy}\n```")
    assert code == CodeChecker().extract("```py\ndef f(x):\n    return 'a' + x\n```")
    assert ast.dump(ast.parse(str(code))) == ast.dump(ast.parse(messy))


@pytest.mark.parametrize(
    ("text", "has_answer"),
    [
        ("def f(x):\n    return x", True),
        ("x = 1", False),
        ("Hello there", False),
        ("```python\ndef f(:\n```", False),
        ("```python\n\n```", False),
        ("```python\n# nothing\n```", False),
        ("```python\n" + "(" * 5000 + ")" * 5000 + "\n```", False),
        ("```python\n" + "x = 1\n" * 200_000 + "```", False),
        ("```python\nx = '\0'\n```", False),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_what_counts_as_code(text, has_answer):
    assert (CodeChecker().extract(text) is not None) == has_answer


HELPER = 'def double(x):\n    return 2 * x\n\n\ndef quadruple(x):\n    """Return 4 x."""\n'
CHECKS = "def check(candidate):\n    assert candidate(3) == 12\n    assert double(candidate(1)) == 8\n"
REFERENCE = CodeReference(HELPER, CHECKS, "quadruple").to_json()


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("def quadruple(x):\n    return double(double(x))", True),
        ("def quadruple(x):\n    return 4 * x\nif __name__ == '__main__':\n    quadruple(input())", True),
        (
            "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\ndef quadruple(x):\n    return 4 * P(x).x",
            True,
        ),
        ("def quadruple(x):\n    return 3 * x", False),
        ("def other(x):\n    return 4 * x", False),
        ("def quadruple(x):\n    import os\n    os._exit(0)", False),
        ("def check(candidate):\n    pass\ndef quadruple(x):\n    return 0", False),
    ],
)
def test_grading_runs_the_tests(answer, right):
    code = CodeChecker().extract(f"```python\n{answer}\n```")
    assert code is not None
    assert CodeChecker().grade(code, REFERENCE) is right


def test_setup_may_use_what_the_answer_defines():
    gold = CodeReference("", "assert total(pair) == 3", setup="pair = Pair(1, 2)").to_json()
    answer = "class Pair:\n    def __init__(self, a, b):\n        self.s = a + b\ndef total(p):\n    return p.s"
    assert CodeChecker().grade(answer, gold)


def test_a_program_that_never_ends_is_a_timeout():
    checker = CodeChecker(SandboxLimits(wall_s=1, cpu_s=1))
    with pytest.raises(TimeoutError):
        checker.grade("def quadruple(x):\n    while True: pass", REFERENCE)


def test_references_survive_json():
    assert CodeReference.from_json(REFERENCE).entry_point == "quadruple"
    assert set(json.loads(REFERENCE)) == {"prompt", "tests", "entry_point", "setup"}
    with pytest.raises(TypeError):
        CodeReference.from_json('{"promt": ""}')
