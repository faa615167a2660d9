"""What the README shows works as it is written there, on the fake engine and local rows."""

import json
import re
import shlex
import shutil
import subprocess
import tomllib
from dataclasses import fields

import pytest
from documented import ROOT, SWEEP, blocks, commands, records, section, swap, table, text

import ttc
from ttc.cli.main import run
from ttc.core import registry
from ttc.core.parameters import build
from ttc.core.protocols import needs

README = text("README.md")
WORDS = commands(README)


@pytest.fixture
def gsm8k(folder):
    """The folder with rows as GSM8K has them."""
    rows = [{"question": f"What is {i} + {4 + i * 3 % 7}?", "answer": f"#### {i + 4 + i * 3 % 7}"} for i in range(24)]
    (folder / "gsm8k.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def shown(command, **options):
    """Return the README's commands of this kind, for the fake engine and the local rows."""
    fake = {"model": "fake", "data": "gsm8k.jsonl", **options}
    return [swap(words[1:], **fake) for words in WORDS if words[:2] == ["ttc", command]]


def test_every_block_is_run_here():
    assert [words[:2] for words in WORDS] == [
        ["make", "demo"], ["make", "test"], ["ttc", "sweep"],
        ["ttc", "collect"], ["ttc", "fit"], ["ttc", "sweep"], ["ttc", "report"],
    ]  # fmt: skip
    assert len(blocks(README, "python")) == 2
    assert README.count("```") == 2 * (len(blocks(README)) + 2)


def test_make_has_the_two_commands():
    make = shutil.which("make")
    assert make is not None
    done = subprocess.run([make, "-n", "-C", str(ROOT), "demo", "test"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"setup\.py.*ttc demo.*pytest", done.stdout, re.DOTALL)


def test_the_sweep(gsm8k, capsys):
    assert run([*shown("sweep")[0], "--out", "out"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("self-consistency", "adaptive-consistency", "best-of-n"))
    assert len(records(gsm8k / "out")) == 12 * 24


def test_the_same_from_python(gsm8k, monkeypatch, capsys):
    wanted = shown("sweep")[0]
    sweep = ttc.sweep

    def local(config):
        said = {key: wanted[wanted.index(f"--{key}") + 1].split(",") for key in ("strategies", "budgets")}
        assert config["strategies"] == said["strategies"]
        assert [str(budget) for budget in config["budgets"]] == said["budgets"]
        return sweep({**config, "model": "fake", "task": {"name": config["task"], "data": "gsm8k.jsonl"}})

    monkeypatch.setattr(ttc, "sweep", local)
    block = blocks(README, "python")[0]
    assert len(block.splitlines()) <= 12
    exec(block, {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 12
    assert all(re.search(r"^[a-z-]+ \d+ [\d.]+% \[[\d.]+%, [\d.]+%\]$", line) for line in lines)
    assert (gsm8k / "pareto.png").read_bytes().startswith(b"\x89PNG")


def test_predict_and_allocate(gsm8k, capsys):
    (collect,) = shown("collect", split=None)  # the rows have none
    (fit,), (report,) = shown("fit", model=None, data=None, draws=4), shown("report", model=None, data=None)
    for words in (collect, fit, shown("sweep")[1], report):
        assert run(words) == 0, shlex.join(words)
    grants = {}
    for row in records(gsm8k / "results" / "allocated"):
        grants.setdefault(row["cell"], []).append(row["grant_tokens"])
    assert len(grants) == 9
    assert "self-consistency" in capsys.readouterr().out


def test_the_strategy_votes_over_three_samples(folder, capsys):
    (folder / "mine.py").write_text(blocks(README, "python")[1])
    assert run([*SWEEP, "--strategies", "mine.py:FirstThree", "--budgets", "1000", "--out", "out"]) == 0
    assert "FirstThree" in capsys.readouterr().out
    assert {len(row["candidates"]) for row in records(folder / "out")} == {3}


@pytest.mark.parametrize("kind", ["strategies", "allocators"])
def test_the_tables_list_what_is_registered(kind):
    named = table(README, kind.capitalize())
    assert sorted(named) == registry.names(kind)
    assert len(named) == len(set(named))


def test_the_tasks_are_listed():
    first = re.findall(r"^\| (`[^|]*) \|", section(README, "Tasks"), re.MULTILINE)
    assert sorted(re.findall(r"`([^`]+)`", " ".join(first))) == registry.names("tasks")


def test_the_parameters_of_an_allocator_are_listed():
    document = text("docs/allocators.md")
    for name in registry.names("allocators"):
        listed = dict(re.findall(r"^- `([a-z_]+)` \(`([^`]+)`\)", section(document, f"`{name}`"), re.MULTILINE))
        assert listed == {f.name: str(f.default) for f in fields(build("allocators", name, {}))}, name


def test_what_an_allocator_needs_is_said():
    said = dict(re.findall(r"^\| `([a-z-]+)` \|[^|]*\| ([^|]*)\|", section(README, "Allocators"), re.MULTILINE))
    for name in registry.names("allocators"):
        wanted = needs(build("allocators", name, {}))
        word = (
            "`--predictor`" if "training" in wanted else "bank" if "bank" in wanted else "predictor" if wanted else ""
        )
        assert said[name].strip() == word, name


def test_the_extras_are_those_there_are():
    there = tomllib.loads(text("pyproject.toml"))["project"]["optional-dependencies"]
    part = section(README, "Install")
    named = re.findall(r"`([a-z]+)`", part.partition("Extras:")[2].partition(". ")[0])
    named += re.findall(r"'\.\[([a-z]+)\]'", part)
    assert sorted([*named, "dev", "fuzz"]) == sorted(there)  # two for those who change it


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
