"""docs/cli.md and docs/config.md are what tools/cli_docs.py writes; the first says of each command what its --help says."""

import re
import runpy
from pathlib import Path

import pytest
import yaml

from ttc.cli.main import app, run
from ttc.core.specs import parse_config

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
NAMES = [command.name for command in app.registered_commands]


@pytest.mark.parametrize(("name", "function"), [("cli.md", "document"), ("config.md", "config_document")])
def test_the_documents_are_up_to_date(name, function):
    written = runpy.run_path(str(ROOT / "tools" / "cli_docs.py"))[function]()
    assert written == (ROOT / "docs" / name).read_text(encoding="utf-8"), "run .venv/bin/python tools/cli_docs.py"


def test_the_file_that_is_shown_is_one():
    shown = (ROOT / "docs" / "config.md").read_text(encoding="utf-8").split("```")[1].removeprefix("yaml\n")
    assert parse_config(yaml.safe_load(shown), "config.md").budgets == (512, 1024)


@pytest.mark.parametrize("name", NAMES)
def test_every_option_of_the_help_is_there_and_no_other(name, capsys):
    assert run([name, "--help"]) == 0
    # Where a line of the help begins: elsewhere an option is only mentioned.
    shown = set(re.findall(r"^[\s│*|]*(--[a-z-]+)", capsys.readouterr().out, re.MULTILINE)) - {"--help"}
    part = DOCUMENT.partition(f"\n## ttc {name}\n")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(--[a-z-]+)", part, re.MULTILINE)) == shown


def test_each_exit_code_is_that_of_the_list_of_errors():
    """docs/errors.md is written from real failures."""
    codes = r"^\| (\d+) \| "
    errors = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    assert re.findall(codes, DOCUMENT, re.MULTILINE) == re.findall(codes, errors, re.MULTILINE)
