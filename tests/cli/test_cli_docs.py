"""docs/cli.md is what tools/cli_docs.py writes, and says of each command what its own --help says."""

import re
import runpy
from pathlib import Path

import pytest

from ttc.cli.main import app, run

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
NAMES = [command.name for command in app.registered_commands]


def test_the_document_is_up_to_date():
    written = runpy.run_path(str(ROOT / "tools" / "cli_docs.py"))["document"]()
    assert written == DOCUMENT, "run .venv/bin/python tools/cli_docs.py"


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
