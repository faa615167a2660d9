"""A checker in a user's own file is run by worker processes, which cannot import the file by any name."""

import asyncio
import os

import pytest

from ttc.core import registry
from ttc.core.types import Completion, Usage
from ttc.run.grading import CheckerGrader

TEXT = """
from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    modulus: int


class Checker:
    isolated = True
    executes_code = False
    version = "mine-1"

    def __init__(self):
        self.rule = Rule(10)

    def extract(self, text):
        return text.removeprefix("answer ")

    def equivalent(self, a, b):
        return a.isdigit() and b.isdigit() and int(a) % self.rule.modulus == int(b) % self.rule.modulus

    def grade(self, answer, gold):
        return str(os.getpid()) != answer and self.equivalent(answer, gold)


class One:
    name = "one"
    checker = Checker()


class Two(One):
    name = "two"
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "mine.py").write_text(TEXT)
    return tmp_path / "mine.py"


def graded(checker, texts):
    grader = CheckerGrader(checker, {"p": "7"}, workers=1, time_limit_s=30)
    completions = [Completion(i, text, (1,), "stop", Usage(completion=1)) for i, text in enumerate(texts)]

    async def work():
        read = [c.answer for c in await grader.read("p", completions)]
        return read, await grader.grade("p", [answer for answer in read if answer is not None])

    try:
        return asyncio.run(work())
    finally:
        grader.close()


def test_it_reads_and_grades_in_a_process_of_its_own(file):
    checker = registry.load("tasks", f"{file}:One").checker
    assert graded(checker, ["answer 17", "answer 8", "answer 27", str(os.getpid() // 10 * 10 + 7)]) == (
        ["17", "8", "17", "17"], [True, False, True, True],
    )  # fmt: skip


def test_it_does_so_after_the_file_was_loaded_again(file):
    one = registry.load("tasks", f"{file}:One")
    two = registry.load("tasks", f"{file}:Two")
    assert issubclass(two, one)
    assert graded(one.checker, ["answer 7"]) == (["7"], [True])


def test_a_file_that_changed_is_loaded_anew_and_the_old_class_stays(file):
    one = registry.load("tasks", f"{file}:One")
    file.write_text(TEXT.replace("Rule(10)", "Rule(7)"))
    other = registry.load("tasks", f"{file}:One")
    assert other is not one
    assert other.checker.equivalent("14", "7")
    assert not one.checker.equivalent("14", "7")


def test_what_can_be_imported_needs_no_file(file):
    from ttc_evals.symbolic import MathChecker

    assert registry.user_module(MathChecker()) is None
    mine = registry.user_module(registry.load("tasks", f"{file}:One").checker)
    assert mine is not None
    assert mine.path == str(file)
