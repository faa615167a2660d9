"""The grader: spelling, verdicts, caching, and what a hanging or hungry answer may cost."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import psutil
import pytest

from ttc.core.types import Completion, Usage
from ttc.run.grading import CheckerGrader
from ttc_evals.numeric import NumericChecker
from ttc_evals.symbolic import MathChecker

TOWER = "9^{9^{9^{9^{9}}}}"


class OddChecker:
    """Says what a text tells it to do; numbers are equal modulo 10."""

    executes_code = False
    version = "odd-1"

    def __init__(self, isolated: bool, hung: Path | None = None) -> None:
        self.isolated, self.hung = isolated, hung
        """Gets a line for each comparison that hangs."""

    def extract(self, text: str) -> str | None:
        act(text)
        return text or None

    def equivalent(self, a: str, b: str) -> bool:
        if "slow-pair" in a + b:
            if self.hung is not None:
                with self.hung.open("a") as file:
                    file.write(f"{a} {b}\n")
            time.sleep(60)
        return a == b or (a.isdigit() and b.isdigit() and int(a) % 10 == int(b) % 10)

    def grade(self, answer: str, gold: str) -> bool:
        if answer == "never ends":
            raise TimeoutError
        if answer == "broken":
            raise ZeroDivisionError
        if answer == "hang-grade":
            time.sleep(60)
        if answer == "eat-grade":
            return len(bytearray(1 << 36)) > 0
        return self.equivalent(gold, answer)


def act(text: str) -> None:
    if text == "hang":
        time.sleep(60)
    if text == "die":
        os._exit(3)
    if text == "eat":
        bytearray(1 << 36)


class CountingChecker(NumericChecker):
    def __init__(self) -> None:
        self.compared: list[tuple[str, str]] = []
        self.graded: list[str] = []

    def equivalent(self, a: str, b: str) -> bool:
        self.compared.append((a, b))
        return Fraction(a) % 2 == Fraction(b) % 2

    def grade(self, answer: str, gold: str) -> bool:
        self.graded.append(answer)
        return answer == gold


def completion(index: int, text: str, finish: str = "stop", answer: str | None = None) -> Completion:
    return Completion(index, text, (1, 2), finish, Usage(completion=2), answer=answer)  # type: ignore[arg-type]


def read(grader: CheckerGrader, texts: list[str], problem: str = "p") -> list[str | None]:
    completions = [completion(i, text) for i, text in enumerate(texts)]
    return [c.answer for c in asyncio.run(grader.read(problem, completions))]


@pytest.fixture(params=[False, True], ids=["inline", "isolated"])
def odd(request):
    grader = CheckerGrader(OddChecker(request.param), {"p": "7", "q": "7"}, workers=2, time_limit_s=20)
    yield grader
    grader.close()


def test_answers_are_spelled_as_the_first_of_their_class_by_index(odd):
    pool = [completion(4, "18"), completion(0, "8"), completion(2, "27"), completion(1, "28"), completion(3, "7")]
    answers = asyncio.run(odd.read("p", pool))
    assert [c.answer for c in answers] == ["8", "8", "27", "8", "27"]
    assert [c.index for c in answers] == [4, 0, 2, 1, 3]


def test_the_first_spelling_holds_across_calls_and_not_across_problems(odd):
    assert read(odd, ["31"]) == ["31"]
    assert read(odd, ["1", "31", "41"]) == ["31", "31", "31"]
    assert read(odd, ["1", "31", "41"], "q") == ["1", "1", "1"]


def test_cut_completions_have_no_answer_even_if_they_came_with_one(odd):
    pool = [completion(0, "5", "length", answer="5"), completion(1, "15"), completion(2, "")]
    assert [c.answer for c in asyncio.run(odd.read("p", pool))] == [None, "15", None]


def test_concurrent_reads_of_one_problem_found_one_class(odd):
    async def both() -> set[str | None]:
        readings = [odd.read("p", [completion(i, f"{i}3")]) for i in range(1, 9)]
        return {c.answer for found in await asyncio.gather(*readings) for c in found}

    assert len(asyncio.run(both())) == 1


def test_verdicts(odd):
    answers = ["7", "17", "8", "never ends", "broken", "7"]
    assert asyncio.run(odd.grade("p", answers)) == [True, True, False, "timeout", "error", True]


def test_unknown_problem_is_an_error(odd):
    with pytest.raises(KeyError):
        asyncio.run(odd.grade("nobody", ["1"]))


def test_equal_strings_and_known_verdicts_ask_nobody():
    checker = CountingChecker()
    grader = CheckerGrader(checker, {"p": "1"}, workers=1, time_limit_s=1)
    assert read(grader, ["\\boxed{2}"] * 50 + ["\\boxed{4}"] * 50 + ["\\boxed{5}"]) == ["2"] * 100 + ["5"]
    assert checker.compared == [("2", "4"), ("2", "5")]
    asyncio.run(grader.grade("p", ["2", "5", "2"]))
    asyncio.run(grader.grade("p", ["5"]))
    assert checker.graded == ["2", "5"]


def test_inline_checkers_start_no_process():
    before = set(psutil.Process().children(recursive=True))
    grader = CheckerGrader(NumericChecker(), {"p": "1"}, workers=2, time_limit_s=1)
    read(grader, ["\\boxed{2}"])
    assert set(psutil.Process().children(recursive=True)) == before
    grader.close()


def test_the_inline_path_costs_little_beyond_extraction():
    """Counted in function calls: time would say little on a busy machine."""
    checker = NumericChecker()
    texts = [f"So it is {i} and therefore \\boxed{{{i % 3}}}." for i in range(64)]
    pool = [completion(i, text) for i, text in enumerate(texts)]
    grader = CheckerGrader(checker, {}, workers=1, time_limit_s=1)

    def calls(work):
        count = 0

        def profile(frame, event, argument):
            nonlocal count
            count += event == "call"

        sys.setprofile(profile)
        try:
            work()
        finally:
            sys.setprofile(None)
        return count

    async def read_all():
        for problem in ("p", "q", "r", "s"):
            await grader.read(problem, pool)

    def extract_all():
        for text in texts * 4:
            checker.extract(text)

    extract_all()  # what is made once is made
    reading, extracting = calls(lambda: asyncio.run(read_all())), calls(extract_all)
    around = calls(lambda: asyncio.run(asyncio.sleep(0)))
    assert (reading - around - extracting) / (4 * len(pool)) < 10


def test_one_hanging_hungry_or_dying_extraction_costs_only_its_own_answer():
    grader = CheckerGrader(OddChecker(True), {"p": "7"}, workers=2, time_limit_s=1.5)
    try:
        assert read(grader, ["7", "hang", "17", "eat", "die", "8"]) == ["7", None, "7", None, None, "8"]
    finally:
        grader.close()


@pytest.mark.parametrize("first", [True, False], ids=["hanging-first", "hanging-last"])
def test_a_hanging_comparison_is_a_difference_and_is_not_tried_for_ever(first, tmp_path):
    words, hanging = ["1", *[f"word{i}" for i in range(24)]], ["slow-pair", "slow-pair2"]
    texts = [*hanging, *words] if first else [*words, *hanging]
    hung = tmp_path / "hung"
    grader = CheckerGrader(OddChecker(True, hung), {"p": "7"}, workers=1, time_limit_s=1)
    try:
        found = read(grader, [*texts, "11"])
    finally:
        grader.close()
    assert found == [*texts, "1"]
    assert len(hung.read_text().splitlines()) <= 6  # of 51


def test_grades_at_the_limits_do_not_stop_the_others():
    grader = CheckerGrader(OddChecker(True), {"p": "7"}, workers=2, time_limit_s=1.5)
    try:
        answers = ["hang-grade", "7", "eat-grade", "8", "27"]
        assert asyncio.run(grader.grade("p", answers)) == ["timeout", True, "timeout", False, True]
    finally:
        grader.close()


def test_the_loop_is_free_while_workers_work():
    async def ticks_during_a_hang() -> int:
        task = asyncio.ensure_future(grader.read("p", [completion(0, "hang")]))
        count = 0
        while not task.done():
            await asyncio.sleep(0.01)
            count += 1
        return count

    grader = CheckerGrader(OddChecker(True), {}, workers=1, time_limit_s=0.5)
    try:
        assert asyncio.run(ticks_during_a_hang()) > 30
    finally:
        grader.close()


def test_close_leaves_no_worker_even_while_one_hangs():
    async def close_early() -> list[psutil.Process]:
        task = asyncio.ensure_future(grader.grade("p", ["hang-grade"]))
        while not grader_workers():
            await asyncio.sleep(0.05)
        found = grader_workers()
        grader.close()
        await asyncio.gather(task, return_exceptions=True)
        return found

    grader = CheckerGrader(OddChecker(True), {"p": "7"}, workers=1, time_limit_s=30)
    started = time.monotonic()
    found = asyncio.run(close_early())
    _, alive = psutil.wait_procs(found, timeout=5)
    assert found
    assert not alive
    assert time.monotonic() - started < 20
    grader.close()


def test_real_mathematics_through_workers():
    grader = CheckerGrader(MathChecker(), {"p": r"\frac{1}{2}"}, workers=2, time_limit_s=300)  # none comes near it
    boxes = [r"\boxed{\dfrac{2}{4}}", r"\boxed{0.5}", r"\boxed{\frac12}", r"\boxed{2}"]
    try:
        found = read(grader, boxes)
        verdicts = asyncio.run(grader.grade("p", [str(a) for a in found]))
    finally:
        grader.close()
    assert found[:3] == [r"\frac{2}{4}"] * 3
    assert verdicts == [True, True, True, False]


def test_a_tower_of_powers_is_not_waited_for():
    grader = CheckerGrader(MathChecker(), {"p": r"\frac{1}{2}"}, workers=1, time_limit_s=1)
    try:
        assert asyncio.run(grader.grade("p", [TOWER])) in ([False], ["timeout"])
    finally:
        grader.close()


ORPHAN = """
import asyncio, os, sys
sys.path.insert(0, {folder!r})
from test_grading import CheckerGrader, OddChecker, grader_workers

async def main():
    grader = CheckerGrader(OddChecker(True), {{"p": "7"}}, workers=1, time_limit_s=0.5)
    asyncio.ensure_future(grader.grade("p", ["hang-grade"]))
    while not grader_workers():
        await asyncio.sleep(0.02)
    print(*[process.pid for process in grader_workers()], flush=True)
    os.kill(os.getpid(), 9)

if __name__ == "__main__":
    asyncio.run(main())
"""


def test_workers_do_not_outlive_a_killed_parent_for_long(tmp_path):
    script = tmp_path / "main.py"
    script.write_text(ORPHAN.format(folder=str(Path(__file__).parent)))
    with (tmp_path / "out").open("w+") as out:
        subprocess.run([sys.executable, str(script)], stdout=out, stderr=subprocess.DEVNULL, timeout=60)
        out.seek(0)
        pids = [int(pid) for pid in out.read().split()]
    assert pids
    deadline = time.monotonic() + 20
    while any(running(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(running(pid) for pid in pids)


UNGUARDED = """
import asyncio
from ttc.run.grading import CheckerGrader
from ttc_evals.symbolic import MathChecker

print("begins", flush=True)
grader = CheckerGrader(MathChecker(), {"p": "0.5"}, workers=1, time_limit_s=20)
print(asyncio.run(grader.grade("p", [r"\\frac{1}{2}", "2"])))
grader.close()
"""


def test_workers_do_not_run_the_script_that_starts_them(tmp_path):
    script = tmp_path / "main.py"
    script.write_text(UNGUARDED)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("begins\n[True, False]\n", "")


def running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def grader_workers() -> list[psutil.Process]:
    """Return the fork server's children; an engine of other tests may have children of its own."""
    servers = [child for child in psutil.Process().children() if "forkserver" in " ".join(child.cmdline())]
    return [worker for server in servers for worker in server.children(recursive=True)]
