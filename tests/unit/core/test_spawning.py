"""What the processes that we start know of the program that starts them."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import spawn

import pytest

from ttc.core.spawning import without_main

LIBRARY = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Asking:
    inner: object
    isolated = True

    def equivalent(self, a, b):
        return a == b

    def grade(self, answer, gold):
        return self.inner.grade(answer, gold)
"""
SCRIPT = """
import asyncio
from dataclasses import dataclass
from library import Asking
from ttc.run.grading import CheckerGrader

@dataclass(frozen=True)
class Backwards:
    isolated = True

    def equivalent(self, a, b):
        return a == b

    def grade(self, answer, gold):
        return answer == gold[::-1]

if __name__ == "__main__":
    grader = CheckerGrader(MINE, {"p": "abc"}, 1, 60.0)
    print(asyncio.run(grader.grade("p", ["cba", "abc"])))
    grader.close()
"""


@pytest.mark.parametrize("checker", ["Backwards()", "Asking(Backwards())"])
def test_a_checker_of_the_users_script_is_known_where_it_works(checker, tmp_path):
    (tmp_path / "library.py").write_text(LIBRARY)
    (tmp_path / "script.py").write_text(SCRIPT.replace("MINE", checker))
    ended = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True, timeout=120)
    assert ended.stdout == "[True, False]\n", ended.stderr


def test_only_the_thread_that_asks_leaves_the_main_program_out():
    def told():
        return {key for key in spawn.get_preparation_data("x") if key.startswith("init_main")}

    with ThreadPoolExecutor(1) as other:
        before = other.submit(told).result()
        assert before
        with without_main():
            assert (told(), other.submit(told).result()) == (set(), before)
            with without_main():
                assert told() == set()
            assert told() == set()
        assert told() == before


def test_somebody_elses_wrapper_is_not_taken_for_ours(monkeypatch):
    def theirs(name):
        return {"init_main_from_path": name}

    theirs.__wrapped__ = spawn.get_preparation_data
    monkeypatch.setattr(spawn, "get_preparation_data", theirs)
    with without_main():
        assert spawn.get_preparation_data("x") == {}
