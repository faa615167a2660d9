"""What examples/ and the tutorial show runs as it is written there."""

import csv
import dataclasses
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from documented import ROOT, SWEEP, blocks, records, text

from ttc.cli.main import run
from ttc.core import registry
from ttc.core.parameters import build
from ttc.core.protocols import Ask

TUTORIAL = text("docs/tutorial-strategy.md")
STRATEGIES = text("docs/strategies.md")
REFERENCE = ROOT / "results" / "reference" / "gsm8k-qwen2.5-coder-0.5b"


def example(name, *arguments, capsys):
    """Run an example as a program and return what it prints."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [name, *map(str, arguments)])
        capsys.readouterr()
        runpy.run_path(str(ROOT / "examples" / name))
        return capsys.readouterr().out


def test_each_example_is_run():
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert [path.name for path in (ROOT / "examples").glob("*.py") if path.name not in tests] == []


def test_the_strategy_draws_each_last_step_again(folder):
    name = f"{ROOT}/examples/verify_last_step.py:VerifyLastStep"
    assert run([*SWEEP, "--strategies", name, "--budgets", "4000", "--out", "out"]) == 0
    solved = records(folder / "out")
    assert len(solved) == 6
    for row in solved:
        assert row["status"] == "ok"
        assert len(row["candidates"]) == 12
        assert row["completion_tokens"] <= 4000


def test_the_allocator_gives_most_where_the_predictor_is_least_sure():
    allocator = build("allocators", f"{ROOT}/examples/most_uncertain.py:MostUncertain", {"even": 0.25})
    scores = np.array([0.0, 0.5, 0.9, 0.5, 1.0])
    split = allocator.allocate(Ask(tuple("abcde"), 10_000, 512, scores=scores))
    # A quarter is 500 each; p (1 - p) is 0, 25, 9, 25 and 0 hundredths of the rest.
    wanted = [500 + 7500 * part / 59 for part in (0, 25, 9, 25, 0)]
    assert split.grants.tolist() == pytest.approx(wanted, abs=1)
    assert split.grants.sum() <= 10_000


def test_the_split_from_python(capsys):
    out = example("split_a_budget.py", capsys=capsys)
    rows = [line.split() for line in out.splitlines()[1:-1]]
    rates, even, best = (np.array([float(row[i]) for row in rows]) for i in range(3))
    assert best.sum() <= 3000
    even_value, best_value, bound = map(float, re.findall(r"\d\.\d\d", out.splitlines()[-1]))
    for grants, value in ((even, even_value), (best, best_value)):
        assert (1 - (1 - rates) ** (grants // 120)).sum() == pytest.approx(value, abs=0.006)
    assert even_value < best_value <= bound


def test_the_reader_prints_the_leaderboard_s_numbers(capsys):
    out = example("read_a_run.py", REFERENCE, capsys=capsys)
    with open(REFERENCE / "report" / "leaderboard.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 24
    for row in rows:
        strategy = row["strategy"].partition(" (")[0]
        shown = f"{strategy}/{row['allocator']}@{row['budget']}: {100 * float(row['accuracy']):.1f} % ["
        assert shown in out
    assert "greedy: the largest budget solves 11 problems more than the smallest, and 0 no longer" in out


def test_the_tutorial_shows_the_example_as_it_is():
    whole = text("examples/verify_last_step.py")
    assert any(block in whole for block in blocks(TUTORIAL, "python") if "class VerifyLastStep" in block)


def test_the_strategies_of_the_tutorial_run(folder):
    whole = [block for block in blocks(TUTORIAL, "python") if block.startswith("from")]
    assert whole
    for i, block in enumerate(whole):
        (folder / f"mine{i}.py").write_text(block)
        name = re.findall(r"^class (\w+)", block, re.MULTILINE)[-1]
        assert run([*SWEEP, "--strategies", f"mine{i}.py:{name}", "--budgets", "4000", "--out", f"o{i}"]) == 0


def test_every_strategy_is_described():
    described = set(re.findall(r"^### `([a-z-]+)`", STRATEGIES, re.MULTILINE))
    assert described == set(registry.names("strategies"))


def test_every_parameter_is_described():
    sections = re.split(r"^### ", STRATEGIES, flags=re.MULTILINE)[1:]
    for section in sections:
        name = section.split("`")[1]
        for field in dataclasses.fields(registry.load("strategies", name)):
            assert f"`{field.name}`" in section, f"{name}: {field.name}"
