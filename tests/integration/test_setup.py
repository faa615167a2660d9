"""`make setup`, on a private PATH with a Python that only pretends: no network, nothing installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tools" / "setup.py"

# Answers as a Python would, logs its arguments, and fails where a file in $STUB says so.
PYTHON = """#!/bin/sh
echo "$*" >> "$STUB/log"
case "$*" in
  *"import ensurepip"*) echo "${STUB_VERSION:-3.11}"; [ ! -e "$STUB/no-ensurepip" ] ;;
  "-m venv "*)
    for target; do :; done
    rm -rf "$target"; mkdir -p "$target/bin"; cp "$0" "$target/bin/python" ;;
  "-m ensurepip"*) touch "$(dirname "$0")/../pip" ;;
  *"import sys, pip"*) [ -e "$(dirname "$0")/../pip" ] && echo "${STUB_VERSION:-3.11}" ;;
  *"import torchvision"*) if [ -e "$STUB/torchvision" ]; then cat "$STUB/torchvision"; exit 1; fi ;;
  *"uv pip install"*)
    env | grep "^UV_" >> "$STUB/uv-env"
    if [ -e "$STUB/uv-fails" ]; then cat "$STUB/uv-fails"; exit 1; fi ;;
  *" install uv") ;;
  *" install "*)
    if [ -e "$STUB/pip-slow" ]; then touch "$STUB/pip-started"; sleep 1; fi
    if [ -e "$STUB/pip-fails" ]; then cat "$STUB/pip-fails" >&2; exit 1; fi ;;
esac
"""
RUN = """
import runpy, sys
from pathlib import Path
script, root, *candidates = sys.argv[1:]
sys.exit(runpy.run_path(script)["main"](Path(root), candidates))
"""
NO_CPU_TORCH = """ERROR: Could not find a version that satisfies the requirement torch==2.13.0+cpu (from versions: 2.13.0)
ERROR: No matching distribution found for torch==2.13.0+cpu
"""
NO_NETWORK = """WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError('failed')': /simple/hatchling/
ERROR: Could not find a version that satisfies the requirement hatchling (from versions: none)
ERROR: No matching distribution found for hatchling
"""


@dataclass(frozen=True)
class Machine:
    """A project folder, and a PATH that holds a pretended Python and what little a shell script needs."""

    root: Path
    bin: Path
    stub: Path

    @property
    def venv(self) -> Path:
        return self.root / ".venv"

    def program(self, name: str, text: str) -> Path:
        path = self.bin / name
        path.write_text(text)
        path.chmod(0o755)
        return path

    def start(self, **env: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", RUN, str(SCRIPT), str(self.root), str(self.bin / "python3")]
        return subprocess.Popen(
            command,
            env={"PATH": str(self.bin), "STUB": str(self.stub), **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def setup(self, **env: str) -> tuple[int, str]:
        """Run it to its end; return the exit code and stderr. Nothing may be on stdout."""
        process = self.start(**env)
        out, err = process.communicate(timeout=30)
        assert out == ""
        return process.returncode, err

    def log(self) -> list[str]:
        """Return what the pretended Python was asked since the last look, without its probes."""
        path = self.stub / "log"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return [line for line in lines if "print(" not in line]

    def say(self, name: str, text: str = "") -> None:
        (self.stub / name).write_text(text)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path / "project", tmp_path / "bin", tmp_path / "stub")
    for folder in (made.root, made.bin, made.stub):
        folder.mkdir()
    (made.root / "pyproject.toml").write_text("[project]\n")
    for name in ("sh", "rm", "mkdir", "cp", "cat", "touch", "dirname", "env", "grep", "sleep"):
        (made.bin / name).symlink_to(shutil.which(name) or name)
    made.program("python3", PYTHON)
    yield made


def error_and_hint(err: str) -> tuple[str, str]:
    """Return the two last lines, which must be the only error and the only hint."""
    lines = err.splitlines()
    assert [line.split(":")[0] for line in lines if line.startswith(("error", "hint"))] == ["error", "hint"]
    assert lines[-2].startswith("error: ")
    assert lines[-1].startswith("hint: ")
    return lines[-2], lines[-1]


def test_first_run_makes_an_environment_and_installs_the_cpu_extra(machine: Machine) -> None:
    code, err = machine.setup()
    assert code == 0, err
    venv, ensurepip, install, torchvision = machine.log()
    assert venv == f"-m venv --clear --without-pip {machine.venv}"
    assert ensurepip == "-m ensurepip --default-pip"
    assert install.startswith("-m pip ")
    assert install.endswith(f" install -e {machine.root}[cpu,dev]")
    assert torchvision == "-c import torchvision"


def test_nothing_changed_does_nothing(machine: Machine) -> None:
    machine.setup()
    machine.log()
    code, err = machine.setup()
    assert code == 0
    assert machine.log() == []
    assert err == "setup: up to date\n"


def test_a_changed_pyproject_is_installed_into_the_same_environment(machine: Machine) -> None:
    machine.setup()
    machine.log()
    (machine.root / "pyproject.toml").write_text("[project]\nname = 'other'\n")
    assert machine.setup()[0] == 0
    log = machine.log()
    assert not any("venv" in line.split()[:2] for line in log)
    assert any(line.endswith("[cpu,dev]") for line in log)
    machine.setup()
    assert machine.log() == []


def test_a_gpu_chooses_the_gpu_extra_in_an_environment_of_its_own(machine: Machine) -> None:
    machine.setup()
    machine.log()
    machine.program("nvidia-smi", "#!/bin/sh\n[ \"$1\" = -L ] && echo 'GPU 0: NVIDIA H100 (UUID: GPU-1)'\n")
    assert machine.setup()[0] == 0
    log = machine.log()
    assert log[0].startswith("-m venv --clear")  # both vLLM builds own the same files
    assert any(line.endswith("[gpu,dev]") for line in log)


@pytest.mark.parametrize("program", ["#!/bin/sh\necho 'No devices were found'\n", "#!/bin/sh\necho GPU; exit 9\n"])
def test_a_driver_without_a_gpu_is_a_cpu_machine(machine: Machine, program: str) -> None:
    machine.program("nvidia-smi", program)
    assert machine.setup()[0] == 0
    assert any(line.endswith("[cpu,dev]") for line in machine.log())


def test_uv_installs_where_pip_does_not_find_the_cpu_torch(machine: Machine) -> None:
    machine.say("pip-fails", NO_CPU_TORCH)
    code, err = machine.setup(PIP_FIND_LINKS="/wheels", PIP_DEFAULT_TIMEOUT="99", UV_HTTP_TIMEOUT="7")
    assert code == 0, err
    log = machine.log()
    assert [line for line in log if line.endswith("install uv")]
    (uv,) = [line for line in log if line.startswith("-m uv pip install")]
    assert "--torch-backend=cpu" in uv.split()
    assert uv.endswith(f"-e {machine.root}[cpu,dev]")
    told = (machine.stub / "uv-env").read_text().splitlines()
    assert "UV_FIND_LINKS=/wheels" in told
    assert "UV_HTTP_TIMEOUT=7" in told  # the user's own setting for uv goes first
    machine.setup()
    assert machine.log() == []


def test_a_gpu_machine_never_takes_the_cpu_torch(machine: Machine) -> None:
    machine.say("pip-fails", NO_CPU_TORCH)
    machine.program("nvidia-smi", "#!/bin/sh\necho 'GPU 0: NVIDIA H100'\n")
    code, err = machine.setup()
    assert code != 0
    error_and_hint(err)
    assert not any("uv" in line.split() for line in machine.log())


def test_an_unfit_torchvision_is_removed(machine: Machine) -> None:
    machine.say("torchvision", "RuntimeError: operator torchvision::nms does not exist\n")
    assert machine.setup()[0] == 0
    assert machine.log()[-1].endswith("uninstall --yes torchvision torchaudio torchcodec")


def test_a_missing_torchvision_is_left_missing(machine: Machine) -> None:
    machine.say("torchvision", "ModuleNotFoundError: No module named 'torchvision'\n")
    assert machine.setup()[0] == 0
    assert not any("uninstall" in line for line in machine.log())


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (NO_NETWORK, "the package registry cannot be reached"),
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n", "disk is full"),
        ("ERROR: Could not install packages: [Errno 13] Permission denied: '/x'\n", "may not write"),
        ("Collecting a\nERROR: Cannot install a because of b\nmore\n", "installing with pip failed: Cannot install a"),
        ("", "installing with pip failed"),
    ],
)
def test_a_failed_installation_tells_why_and_can_be_run_again(machine: Machine, output: str, expected: str) -> None:
    machine.say("pip-fails", output)
    code, err = machine.setup()
    assert code != 0
    assert expected in error_and_hint(err)[0]
    assert (machine.venv / "setup.log").read_text() == output
    machine.log()
    (machine.stub / "pip-fails").unlink()
    assert machine.setup()[0] == 0
    log = machine.log()
    assert not any(line.startswith("-m venv") for line in log)  # pip undid it: nothing to start anew for
    assert any(line.endswith("[cpu,dev]") for line in log)


def test_a_failed_uv_tells_its_own_reason(machine: Machine) -> None:
    machine.say("pip-fails", NO_CPU_TORCH)
    machine.say("uv-fails", "  \u00d7 No solution found when resolving dependencies:\n  because of this\n")
    code, err = machine.setup()
    assert code != 0
    assert error_and_hint(err)[0] == "error: installing with uv failed: No solution found when resolving dependencies:"


def test_a_killed_installation_is_waited_for_and_started_anew(machine: Machine) -> None:
    machine.say("pip-slow")
    first = machine.start()
    while not (machine.stub / "pip-started").exists():
        assert first.poll() is None
        time.sleep(0.01)
    first.kill()  # its pip goes on
    first.communicate(timeout=30)
    (machine.stub / "pip-slow").unlink()
    machine.log()
    code, err = machine.setup()
    assert code == 0, err
    assert "waiting for another set-up" in err
    log = machine.log()
    assert log[0].startswith("-m venv --clear")
    assert any(line.endswith("[cpu,dev]") for line in log)
    machine.setup()
    assert machine.log() == []


@pytest.mark.parametrize("damage", ["python", "pip", "stamp", "folder"])
def test_a_damaged_environment_is_mended(machine: Machine, damage: str) -> None:
    machine.setup()
    machine.log()
    stamp = machine.venv / "setup.json"
    if damage == "python":
        (machine.venv / "bin" / "python").unlink()
    elif damage == "pip":
        (machine.venv / "pip").unlink()
    elif damage == "stamp":
        stamp.write_text('{"root": ')
    else:
        stamp.write_text(json.dumps({**json.loads(stamp.read_text()), "root": "/elsewhere"}))
    assert machine.setup()[0] == 0
    log = machine.log()
    assert log[0].startswith("-m venv --clear") == (damage != "stamp")
    assert any(line.endswith("[cpu,dev]") for line in log)


def test_another_python_version_gets_another_environment(machine: Machine) -> None:
    machine.setup()
    machine.log()
    assert machine.setup(STUB_VERSION="3.12")[0] == 0
    assert machine.log()[0].startswith("-m venv --clear")


def test_an_old_python_is_refused(machine: Machine) -> None:
    code, err = machine.setup(STUB_VERSION="3.10")
    assert code != 0
    error, hint = error_and_hint(err)
    assert error == "error: Python 3.11 or newer is needed, found 3.10"
    assert "PYTHON=" in hint
    assert not machine.venv.exists()


def test_a_python_without_ensurepip_is_refused(machine: Machine) -> None:
    machine.say("no-ensurepip")
    code, err = machine.setup()
    assert code != 0
    error, hint = error_and_hint(err)
    assert "ensurepip" in error
    assert "apt install python3.11-venv" in hint


def test_a_folder_without_a_project_is_refused(machine: Machine) -> None:
    (machine.root / "pyproject.toml").unlink()
    code, err = machine.setup()
    assert code != 0
    assert "pyproject.toml" in error_and_hint(err)[0]


def test_make_without_python_says_so(machine: Machine) -> None:
    make = shutil.which("make")
    if make is None:
        pytest.fail("make is needed to run these tests")
    done = subprocess.run(
        [make, "-C", str(ROOT), "setup", "PYTHON=no-such-python"], capture_output=True, text=True, timeout=30,
        env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if line.startswith(("error:", "hint:"))]
    assert len(lines) == 2
    assert lines[0] == "error: no no-such-python on this machine"
