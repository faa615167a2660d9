"""An audit that could ask nobody is never told as a clean one."""

import importlib.util
import json
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def audit():
    spec = importlib.util.spec_from_file_location("tools_audit", ROOT / "tools" / "audit.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CLEAN = {"name": "jinja2", "version": "3", "vulns": []}
FLAWED = {"name": "jinja2", "version": "3", "vulns": [{"id": "X-1", "fix_versions": ["4"]}]}
UNKNOWN = {"name": "jinja2", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("said", "code", "told"),
    [
        (
            json.dumps({"dependencies": [CLEAN, UNKNOWN]}),
            0,
            "audited: 1 packages looked up, 1 unknown there, 0 known flaws",
        ),
        (json.dumps({"dependencies": [FLAWED]}), 1, "jinja2 3: X-1, mended in 4"),
        (
            json.dumps({"dependencies": [UNKNOWN]}),
            0,
            "NOT AUDITED: whom pip-audit reaches here knows nothing of jinja2",
        ),
        ("", 0, "NOT AUDITED: no such host"),
        ("<html>", 0, "NOT AUDITED: no such host"),
    ],
)
def test_what_is_told(audit, monkeypatch, capsys, said, code, told):
    monkeypatch.setattr(
        audit.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 0, said, "no such host")
    )
    assert audit.audit() == code
    assert told in capsys.readouterr().out


def test_the_lock_names_every_dependency_of_the_project(audit):
    import tomllib

    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert {word.split(">")[0].split("=")[0] for word in wanted} <= set(audit.locked())
