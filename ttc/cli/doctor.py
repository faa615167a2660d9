"""`ttc doctor`: can the main job run here?"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from ttc.core.errors import EngineError

IMPORT_TIMEOUT_S = 120
LEAST_FREE_GIB = 2
_REINSTALL = "install the build that fits this machine: pip install 'ttc-toolkit[cpu]' or 'ttc-toolkit[gpu]'"


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command("doctor")(doctor)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at."""

    name: str
    state: Literal["ok", "warning", "failed"]
    found: str
    hint: str = ""


def doctor(as_json: Annotated[bool, typer.Option("--json", help="A list of objects.")] = False) -> None:
    """Check that sweeps can run on this machine; exits 0 when they can."""
    checks = [_python(), _memory(), _disk(), _gpu(), _vllm(), _sandbox()]
    if as_json:
        typer.echo(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        for check in checks:
            typer.echo(f"{check.state:8} {check.name}: {check.found}" + (f" ({check.hint})" if check.hint else ""))
    failed = [check for check in checks if check.state == "failed"]
    if failed:
        raise EngineError(f"{failed[0].name}: {failed[0].found}", failed[0].hint)


def _python() -> Check:
    return Check(
        "python",
        "ok",
        f"{platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    )


def _memory() -> Check:
    import psutil

    memory = psutil.virtual_memory()
    found = f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free"
    enough = memory.available > LEAST_FREE_GIB * 2**30
    return Check("memory", "ok" if enough else "warning", found, "" if enough else "a model may not fit")


def _disk() -> Check:
    folder = Path("results") if Path("results").is_dir() else Path()
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return Check(
            "run folders",
            "failed",
            f"cannot write {folder.resolve().name}: {error.strerror}",
            "run in a folder you may write",
        )
    free = shutil.disk_usage(folder).free / 2**30
    enough = free > LEAST_FREE_GIB
    return Check(
        "run folders", "ok" if enough else "warning", f"{free:.1f} GiB free", "" if enough else "free some space"
    )


def _gpu() -> Check:
    from ttc.store.env import gpus

    found = gpus()
    if found:
        return Check("gpu", "ok", ", ".join(found))
    return Check("gpu", "warning", "none", "models run on the CPU: small ones only")


def _vllm() -> Check:
    if importlib.util.find_spec("vllm") is None:
        hint = "endpoints and banks need none; for models on this machine: pip install 'ttc-toolkit[cpu]' or 'ttc-toolkit[gpu]'"
        return Check("vllm", "warning", "not installed", hint)
    # In a process of its own: a broken vLLM may take the interpreter with it.
    try:
        done = subprocess.run(
            [sys.executable, "-c", "import vllm; print(vllm.__version__)"],
            capture_output=True, text=True, timeout=IMPORT_TIMEOUT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Check("vllm", "failed", f"import did not end within {IMPORT_TIMEOUT_S} s", _REINSTALL)
    if done.returncode == 0:
        return Check("vllm", "ok", done.stdout.strip().splitlines()[-1])
    last = (done.stderr.strip().splitlines() or ["import failed"])[-1]
    hint = _REINSTALL
    if "torchvision" in done.stderr:
        hint = "torchvision does not match torch: pip uninstall torchvision torchaudio torchcodec (make setup does it)"
    return Check("vllm", "failed", last, hint)


def _sandbox() -> Check:
    from ttc_evals.sandbox import LEVELS, isolation_level, tried

    try:
        level = isolation_level()
    except OSError as error:
        return Check("code sandbox", "warning", str(error), "tasks that run code cannot be graded here")
    if level == LEVELS[0]:
        return Check("code sandbox", "ok", level)
    stronger = LEVELS[LEVELS.index(level) - 1]
    return Check("code sandbox", "warning", level, f"no {stronger}: {tried(stronger)[1]}; see docs/sandbox.md")
