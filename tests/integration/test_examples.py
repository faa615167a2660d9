"""What examples/ and the tutorial show runs as it is written there."""

import json
import re
import shlex
from pathlib import Path

import pytest

from ttc.cli.main import run
from ttc.core import registry

ROOT = Path(__file__).parents[2]
TUTORIAL = (ROOT / "docs" / "tutorial-strategy.md").read_text(encoding="utf-8")
STRATEGIES = (ROOT / "docs" / "strategies.md").read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    rows = [{"id": f"p{i}", "question": f"What is {i} + 4?", "answer": str(i + 4)} for i in range(6)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def swept(folder, strategy):
    command = f"sweep --task local --data rows.jsonl --model fake --strategies {strategy} --budgets 4000 --out out"
    assert run(shlex.split(command)) == 0
    lines = (folder / "out" / "journal" / "main.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if "problem_id" in row]


def test_the_example_draws_each_last_step_again(folder):
    records = swept(folder, f"{ROOT}/examples/verify_last_step.py:VerifyLastStep")
    assert len(records) == 6
    for row in records:
        assert row["status"] == "ok"
        assert len(row["candidates"]) == 12
        assert row["completion_tokens"] <= 4000


def test_the_tutorial_shows_the_example_as_it_is():
    shown = re.findall(r"```python\n(.*?)```", TUTORIAL, re.DOTALL)
    example = (ROOT / "examples" / "verify_last_step.py").read_text(encoding="utf-8")
    assert any(block in example for block in shown if "class VerifyLastStep" in block)


def test_the_strategies_of_the_tutorial_run(folder):
    blocks = [b for b in re.findall(r"```python\n(.*?)```", TUTORIAL, re.DOTALL) if b.startswith("from")]
    assert blocks
    for i, block in enumerate(blocks):
        (folder / f"mine{i}.py").write_text(block)
        name = re.findall(r"^class (\w+)", block, re.MULTILINE)[-1]
        command = f"sweep --task local --data rows.jsonl --model fake --strategies mine{i}.py:{name} --budgets 4000 --out o{i}"
        assert run(shlex.split(command)) == 0


def test_every_strategy_is_described():
    described = set(re.findall(r"^### `([a-z-]+)`", STRATEGIES, re.MULTILINE))
    assert described == set(registry.names("strategies"))


def test_every_parameter_is_described():
    import dataclasses

    sections = re.split(r"^### ", STRATEGIES, flags=re.MULTILINE)[1:]
    for section in sections:
        name = section.split("`")[1]
        for field in dataclasses.fields(registry.load("strategies", name)):
            assert f"`{field.name}`" in section, f"{name}: {field.name}"
