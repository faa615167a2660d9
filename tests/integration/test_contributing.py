"""What CONTRIBUTING.md shows works as it is written there: a strategy, a task, an allocator, an engine, a tracker."""

import ast
import asyncio
import json
import re
import tomllib

import pytest
from documented import ROOT, SWEEP, blocks, commands, records, section, swap, text

from ttc.cli.main import run
from ttc.core.parameters import build
from ttc.core.protocols import Ask
from ttc.core.specs import ModelSpec
from ttc.core.types import GenRequest, Message, Sampling
from ttc.engines import opening

DOCUMENT = text("CONTRIBUTING.md")
FILES = {"strategy": "agreement", "task": "sums", "allocator": "capped", "engine": "canned", "tracker": "lines"}
TITLES = [f"Add a{'n' if kind[0] in 'aeiou' else ''} {kind}" for kind in FILES]


@pytest.fixture
def shown(folder):
    """The folder with the files that the document shows."""
    for title, name in zip(TITLES, FILES.values(), strict=True):
        (folder / f"{name}.py").write_text(blocks(section(DOCUMENT, title), "python")[0])
    return folder


def test_every_section_with_a_file_is_run_here():
    assert re.findall(r"^## (Add an? .*)$", DOCUMENT, re.MULTILINE) == TITLES


@pytest.mark.parametrize(("title", "name"), list(zip(TITLES, FILES.values(), strict=True)))
def test_each_names_its_file_and_registers_its_class(title, name):
    part = section(DOCUMENT, title)
    assert f"`{name}.py`" in part
    (group,) = tomllib.loads(blocks(part, "toml")[0])["project"]["entry-points"].values()
    (target,) = group.values()
    module, _, attribute = target.partition(":")
    assert module.endswith(f".{name}")
    assert f"class {attribute}" in blocks(part, "python")[0]


def test_the_strategy_stops_at_the_first_agreement(shown, capsys):
    (words,) = [words for words in commands(section(DOCUMENT, "Add a strategy")) if words[0].endswith("ttc")]
    assert run(words[1:]) == 0
    assert "stopped: confident" in capsys.readouterr().err
    assert run([*SWEEP, "--strategies", "agreement.py:FirstAgreement", "--budgets", "4000", "--out", "out"]) == 0
    for row in records(shown / "out"):
        *earlier, last = [c["answer"] for c in row["candidates"]]
        assert row["answer"] == last
        assert last in earlier
        assert len(set(earlier)) == len(earlier)


def test_the_task_loads_and_grades(shown):
    rows = [{"id": "a", "expression": "12 + 30", "total": 42}, {"id": "b", "expression": "1 + 1", "total": 3}]
    (shown / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (words,) = [words for words in commands(section(DOCUMENT, "Add a task")) if words[0].endswith("ttc")]
    assert run([*words[1:], "--out", "out"]) == 0
    graded = {(row["problem_id"], row["answer"], row["correct"]) for row in records(shown / "out")}
    assert ("a", "42", True) in graded
    assert ("b", "2", False) in graded


def test_the_allocator_caps_the_grants(shown):
    allocator = build("allocators", "capped.py:Capped", {"most": 100})
    for total, wanted in ((250, [83, 83, 83]), (900, [100, 100, 100]), (2, [0, 0, 0])):
        assert allocator.allocate(Ask(("a", "b", "c"), total, 512)).grants.tolist() == wanted
    words = [*SWEEP, "--strategies", "self-consistency", "--budgets", "4000", "--allocators", "capped.py:Capped"]
    assert run([*words, "--out", "out"]) == 0
    assert {row["grant_tokens"] for row in records(shown / "out")} == {2048}


def test_the_engine_says_the_same_to_everyone(shown, monkeypatch):
    engine_file, opened = blocks(section(DOCUMENT, "Add an engine"), "python")
    names = {}
    exec(engine_file, names)
    engine = names["CannedEngine"](names["CannedOptions"]())
    prompt = engine.render([Message("user", "How many?")])
    requests = [GenRequest("p", prompt, Sampling(max_tokens=n), n, 0, i) for i, n in enumerate((40, 3))]
    whole, cut = asyncio.run(engine.generate(requests))
    assert (whole.text, whole.finish, whole.usage.completion) == ("\\boxed{42}", "stop", 10)
    assert (cut.text, cut.finish, cut.usage.completion) == ("\\bo", "length", 3)
    # The lines for `open_engine`, put where they belong.
    (shown / "ttc_engines_canned.py").write_text(engine_file)
    monkeypatch.syspath_prepend(str(shown))
    source = (ROOT / "ttc" / "engines" / "opening.py").read_text()
    lines = opened.replace("ttc.engines.canned", "ttc_engines_canned")
    at = next(
        node.body[1].lineno - 1  # after the docstring
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef) and node.name == "open_engine"
    )
    parts = source.splitlines(keepends=True)
    changed = vars(opening).copy()
    exec(compile("".join([*parts[:at], lines, *parts[at:]]), "opening.py", "exec"), changed)
    assert changed["open_engine"](ModelSpec(path="canned")).label == "canned"
    monkeypatch.setattr("ttc.api.open_engine", changed["open_engine"])
    words = swap([*SWEEP, "--strategies", "self-consistency", "--budgets", "40", "--out", "out"], model="canned")
    assert run(words) == 0
    assert {(row["answer"], len(row["candidates"])) for row in records(shown / "out")} == {("42", 3)}


def test_the_tracker_writes_a_line_a_cell(shown, capsys):
    words = [*SWEEP, "--strategies", "greedy,self-consistency", "--budgets", "64", "--out", "out"]
    assert run([*words, "--track", "lines.py:Lines:runs.jsonl"]) == 0
    rows = [json.loads(line) for line in (shown / "runs.jsonl").read_text().splitlines()]
    assert [(row["run"], row["strategy"]) for row in rows] == [("out", "greedy"), ("out", "self-consistency")]
    assert all(0 <= row["accuracy"] <= 1 for row in rows)
    assert "warning" not in capsys.readouterr().err
