"""What the README shows works as it is written there."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from ttc.cli.main import run
from ttc.core import registry

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    rows = [{"id": f"p{i}", "question": f"What is {i} + 4?", "answer": str(i + 4)} for i in range(6)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_strategy_of_the_readme_runs(folder, capsys):
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (folder / "mine.py").write_text(block)
    command = (
        "sweep --task local --data rows.jsonl --model fake --strategies mine.py:FirstThree --budgets 1000 --out out"
    )
    assert run(shlex.split(command)) == 0
    assert "FirstThree" in capsys.readouterr().out
    records = [json.loads(line) for line in (folder / "out" / "journal" / "main.jsonl").read_text().splitlines()]
    assert all(len(row["candidates"]) == 3 for row in records if "problem_id" in row)


def test_the_sweep_of_the_readme_is_a_valid_command(folder, capsys):
    (block,) = (b for b in re.findall(r"```\n(.*?)```", README, re.DOTALL) if b.startswith("ttc sweep"))
    words = shlex.split(block.replace("\\\n", " "))[1:]
    words[words.index("--model") + 1] = "fake"
    (folder / "gsm8k.jsonl").write_text(
        json.dumps({"question": "What is 3 + 4?", "answer": "3 + 4 = 7\n#### 7"}) + "\n"
    )
    assert run([*words, "--data", "gsm8k.jsonl", "--dry-run"]) == 0
    assert "12 cells on 1 problems" in capsys.readouterr().out


def test_the_readme_lists_every_strategy():
    named = set(re.findall(r"^\| `([a-z-]+)` \|", README, re.MULTILINE))
    assert named == set(registry.names("strategies"))
