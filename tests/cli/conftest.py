"""A folder to run the command line in: rows, strategies, a bank and a finished run."""

import json
import shutil

import pytest

from ttc.cli.main import run

STRATEGIES = """
import asyncio
import os
import signal
from dataclasses import dataclass
from pathlib import Path

from ttc.core.types import Answer


class Plain:
    async def solve(self, problem, ctx): ...


@dataclass(frozen=True)
class NoSolve:
    n: int = 1


@dataclass(frozen=True)
class Raises:
    async def solve(self, problem, ctx):
        raise RuntimeError("out of ideas")


@dataclass(frozen=True)
class Text:
    async def solve(self, problem, ctx):
        return "42"


@dataclass(frozen=True)
class OddReason:
    async def solve(self, problem, ctx):
        return Answer((), None, {"tired"})


@dataclass(frozen=True)
class Sleeps:
    async def solve(self, problem, ctx):
        await asyncio.sleep(999)


@dataclass(frozen=True)
class Fussy:
    async def solve(self, problem, ctx):
        if problem.id == "p1" and not Path("go").exists():
            raise RuntimeError("not today")
        drawn = await ctx.sample(problem.prompt, 2, ctx.sampling)
        return Answer(tuple(drawn), 0)


@dataclass(frozen=True)
class CtrlC:
    async def solve(self, problem, ctx):
        if problem.id == "p1" and not Path("go").exists():
            await asyncio.sleep(0.5)
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(99)
        drawn = await ctx.sample(problem.prompt, 2, ctx.sampling)
        return Answer(tuple(drawn), 0)


@dataclass(frozen=True)
class Blocks:
    # Never gives the event loop back for the first problem, in four ways.

    how: str = "spin"

    async def solve(self, problem, ctx):
        while problem.id == "p0":
            if self.how == "catch":
                try:
                    sum(range(1000))
                except Exception:  # catches all it can: the watchdog must end it all the same
                    pass
            elif self.how == "calls":
                await ctx.sample(problem.prompt, 1, ctx.sampling)
            elif self.how == "group":
                async with asyncio.TaskGroup() as group:
                    group.create_task(self.spin())
        drawn = await ctx.sample(problem.prompt, 2, ctx.sampling)
        return Answer(tuple(drawn), 0)

    async def spin(self):
        while True:
            pass
"""


def problem_rows(n):
    """Return rows that the fake engine can solve."""
    return [{"id": f"p{i}", "question": f"What is {i + 3} + {i * 7 % 13}?", "answer": str(i + 3 + i * 7 % 13)}
            for i in range(n)]  # fmt: skip


def bank_rows():
    """Return two configurations of four problems with five samples each, without scores."""
    return [
        {"problem_id": f"b{i}", "config": config, "sample": s, "answer": str(i * s % 3), "correct": i * s % 3 == 1,
         "completion_tokens": 40 + 7 * s + i, "prompt_tokens": 9, "finish": "stop", "logprob": -1.0 * s}
        for i in range(4) for config in ("tiny T=0.7", "tiny T=1") for s in range(5)
    ]  # fmt: skip


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    write_lines(folder / "problems.jsonl", problem_rows(3))
    write_lines(folder / "rows.jsonl", bank_rows())
    (folder / "strategies.py").write_text(STRATEGIES)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run(["import", "rows.jsonl", "--out", "bank"]) == 0
        words = "sweep --task local --data problems.jsonl --model fake --strategies self-consistency --budgets 256"
        assert run([*words.split(), "--out", "run", "--display", "none"]) == 0
    return folder


@pytest.fixture
def folder(prepared, tmp_path, monkeypatch):
    """The prepared folder, a copy for each test, as the working directory."""
    place = tmp_path / "work"
    shutil.copytree(prepared, place)
    monkeypatch.chdir(place)
    return place
