"""Make `.venv`: this project, the vLLM build that fits this machine, and the developers' tools.

Run by `make setup`. Uses the standard library only, and runs on any Python from 3.6 on, so that an old one can
still look for a new one and say what is missing.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Dict, List, NamedTuple, Optional, Sequence, Tuple

LEAST_PYTHON = (3, 11)
PYTHON_NAMES = ("python3.13", "python3.12", "python3.11", "python3.14", "python3")
GPU_TIMEOUT_S = 20
PULSE_S = 30
"""Seconds of silence after which a long step says that it is still alive."""

NEEDS_TORCHVISION_TO_MATCH = ("torchvision", "torchaudio", "torchcodec")
"""vLLM runs without these, and dies at import where their wheels were built for another torch."""

UV_NAMES = {
    "PIP_INDEX_URL": "UV_DEFAULT_INDEX",
    "PIP_EXTRA_INDEX_URL": "UV_INDEX",
    "PIP_FIND_LINKS": "UV_FIND_LINKS",
    "PIP_CONSTRAINT": "UV_CONSTRAINT",
    "PIP_CERT": "SSL_CERT_FILE",
    "PIP_DEFAULT_TIMEOUT": "UV_HTTP_TIMEOUT",
    "PIP_PROXY": "ALL_PROXY",
}
"""uv does not read pip's settings: it is handed those that say where packages are and how to reach them."""

NO_CPU_TORCH = re.compile(r"(?:satisfies the requirement|No matching distribution found for) torch\S*==\S+\+cpu")
NO_SPACE = re.compile(r"No space left on device|Disk quota exceeded", re.IGNORECASE)
NO_WRITE = re.compile(r"Permission denied|Read-only file system", re.IGNORECASE)
NO_NETWORK = re.compile(
    r"NewConnectionError|NameResolutionError|ConnectTimeout|ReadTimeout|Max retries exceeded|ProxyError|SSLError"
    r"|connection broken by|Connection (?:refused|reset)|Network is unreachable|dns error|error sending request"
    r"|Temporary failure in name resolution",
    re.IGNORECASE,
)


class SetupError(Exception):
    """A set-up that cannot go on, told in one line, with what to do about it."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Done(NamedTuple):
    """A finished command."""

    code: int
    output: str


class Stamp(NamedTuple):
    """What an environment was made for."""

    root: str
    extra: str
    python: Optional[str]
    pyproject: Optional[str] = None
    """Hash of the file that was installed; empty after a failure, None while an installation runs or was killed."""


def say(text: str) -> None:
    """Tell progress on stderr."""
    print("setup: " + text, file=sys.stderr, flush=True)


def run(
    command: Sequence[str], what: str = "", env: Optional[Dict[str, str]] = None, hold: Tuple[int, ...] = ()
) -> Done:
    """Run a command to its end and return its code and output; code 127 where it cannot be started.

    `what` is told every PULSE_S seconds; `hold` are file descriptors that the command keeps open.
    """
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            env=env,
            pass_fds=hold,
        )
    except OSError as error:
        return Done(127, str(error))
    started = time.monotonic()
    with process:
        while True:
            try:
                output, _ = process.communicate(timeout=PULSE_S)
            except subprocess.TimeoutExpired:  # noqa: PERF203 - once in half a minute
                if what:
                    say(f"still {what} ({time.monotonic() - started:.0f} s)")
            else:
                return Done(process.returncode, output)


def has_gpu() -> bool:
    """Say whether nvidia-smi lists a GPU."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return False
    try:
        listed = subprocess.run(
            [program, "-L"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=GPU_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return listed.returncode == 0 and b"GPU " in listed.stdout


def find_python(candidates: Sequence[str]) -> str:
    """Return the first Python that is new enough and can make virtual environments.

    Raises:
        SetupError: there is none.
    """
    probe = "import sys; print('%d.%d' % sys.version_info[:2]); import ensurepip, venv"
    found: List[str] = []
    bare: List[str] = []
    for python in candidates:
        done = run([python, "-c", probe])
        match = re.match(r"(\d+)\.(\d+)\n", done.output)
        if match is None:
            continue
        version = match[0].strip()
        if (int(match[1]), int(match[2])) < LEAST_PYTHON:
            found.append(version)
        elif done.code != 0:
            bare.append(version)
        else:
            return python
    if bare:
        raise SetupError(
            f"Python {bare[0]} cannot make virtual environments: it comes without ensurepip",
            f"on Debian or Ubuntu: apt install python{bare[0]}-venv; then run make setup again",
        )
    least, others = ".".join(map(str, LEAST_PYTHON)), ", ".join(sorted(set(found))) or "none"
    raise SetupError(
        f"Python {least} or newer is needed, found {others}",
        "install one and name it: make setup PYTHON=/path/to/python3.12",
    )


def explain(output: str, what: str) -> SetupError:
    """Return the error that a failed command's output stands for."""
    if NO_SPACE.search(output):
        return SetupError("the disk is full while " + what, "free about 6 GB (20 GB with a GPU), run make setup again")
    if NO_WRITE.search(output):
        return SetupError("may not write while " + what, "run make setup in a folder that is yours")
    if NO_NETWORK.search(output):
        return SetupError(
            "the package registry cannot be reached while " + what,
            "check the connection, or name a mirror in PIP_INDEX_URL or PIP_FIND_LINKS; then run make setup again",
        )
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    mark = re.compile(r"(?:error:|fatal:|\u00d7)\s*", re.IGNORECASE)  # the multiplication sign is uv's
    told = [line for line in lines if mark.match(line)] or lines[-1:] or ["no output"]
    reason = mark.sub("", told[0], count=1)
    return SetupError(f"{what} failed: {reason[:300]}", "the whole output is in .venv/setup.log")


class Environment:
    """One project's `.venv`, and the stamp in it that says what it was made for."""

    def __init__(self, root: Path, hold: Tuple[int, ...] = ()) -> None:
        self.root = root
        self.folder = root / ".venv"
        self.python = str(self.folder / "bin" / "python")
        self.stamp = self.folder / "setup.json"
        self.hold = hold

    def version(self) -> Optional[str]:
        """Return the environment's Python version, None where it is missing, broken or too old."""
        done = run([self.python, "-c", "import sys, pip; print('%d.%d' % sys.version_info[:2])"])
        match = re.fullmatch(r"(\d+)\.(\d+)\n", done.output)
        if done.code != 0 or match is None or (int(match[1]), int(match[2])) < LEAST_PYTHON:
            return None
        return match[0].strip()

    def wanted(self, extra: str) -> Stamp:
        """Return the stamp of an environment that is complete."""
        content = hashlib.sha256((self.root / "pyproject.toml").read_bytes()).hexdigest()
        return Stamp(str(self.root), extra, self.version(), content)

    def recorded(self) -> Optional[Stamp]:
        """Return the stamp; None where there is none that can be read."""
        try:
            return Stamp(**json.loads(self.stamp.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def record(self, stamp: Stamp) -> None:
        """Write the stamp, whole or not at all."""
        new = self.stamp.with_suffix(".new")
        new.write_text(json.dumps(stamp._asdict()), encoding="utf-8")
        new.replace(self.stamp)

    def make(self, python: str, extra: str) -> None:
        """Make it anew, with pip and nothing else."""
        # pip comes in a step of its own, so that the stamp stands before anything is installed.
        self._must([python, "-m", "venv", "--clear", "--without-pip", str(self.folder)], "making .venv")
        self.record(Stamp(str(self.root), extra, None))
        self._must([self.python, "-m", "ensurepip", "--default-pip"], "installing pip")

    def install(self, extra: str) -> None:
        """Install the project editable, by pip; by uv where pip does not find the CPU build of torch."""
        what = "installing with pip"
        project = ["-e", f"{self.root}[{extra},dev]"]
        done = self._pip(["install", *project], what)
        if done.code == 0:
            return
        if extra != "cpu" or not NO_CPU_TORCH.search(done.output):
            raise self._failed(done, what)
        say("pip does not find the CPU build of torch: trying with uv")
        self._must([*self._pip_command(), "install", "uv"], "installing uv")
        env = dict(os.environ)
        for pip_name, uv_name in UV_NAMES.items():
            if pip_name in env:
                env.setdefault(uv_name, env[pip_name])
        uv = [self.python, "-m", "uv", "pip", "install", "--quiet", "--python", self.python, "--torch-backend=cpu"]
        self._must([*uv, *project], "installing with uv", env)

    def drop_unfit_torchvision(self) -> None:
        """Uninstall torchvision and its kin where torchvision is installed but does not load."""
        done = run([self.python, "-c", "import torchvision"], hold=self.hold)
        if done.code == 0 or "No module named 'torchvision'" in done.output:
            return
        say("torchvision does not fit this torch: removing it, vLLM runs without")
        self._must([*self._pip_command(), "uninstall", "--yes", *NEEDS_TORCHVISION_TO_MATCH], "removing torchvision")

    def _pip_command(self) -> List[str]:
        return [self.python, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input"]

    def _pip(self, arguments: Sequence[str], what: str) -> Done:
        return run([*self._pip_command(), *arguments], what, hold=self.hold)

    def _must(self, command: Sequence[str], what: str, env: Optional[Dict[str, str]] = None) -> None:
        done = run(command, what, env, self.hold)
        if done.code != 0:
            raise self._failed(done, what)

    def _failed(self, done: Done, what: str) -> SetupError:
        try:
            (self.folder / "setup.log").write_text(done.output, encoding="utf-8")
        except OSError as error:
            return explain(f"{error}\n{done.output}", what)
        return explain(done.output, what)


def set_up(environment: Environment, candidates: Sequence[str]) -> None:
    """Bring an environment to what `pyproject.toml` and this machine ask for; return at once where it is.

    Raises:
        SetupError: it cannot be done.
    """
    extra = "gpu" if has_gpu() else "cpu"
    wanted, found = environment.wanted(extra), environment.recorded()
    if wanted.python is not None and wanted == found:
        say("up to date")
        return
    started = time.monotonic()
    if not reusable(found, wanted):
        python = find_python(candidates)
        say("making .venv")
        environment.make(python, extra)
        wanted = environment.wanted(extra)
    environment.record(wanted._replace(pyproject=None))
    size = "about 4 GB" if extra == "cpu" else "about 10 GB"
    say(f"installing with the extra {extra!r} ({size}, some minutes the first time)")
    try:
        environment.install(extra)
        environment.drop_unfit_torchvision()
    except SetupError:
        # pip undoes what it could not finish: the next run may go on from here, as it may not after a kill.
        environment.record(wanted._replace(pyproject=""))
        raise
    environment.record(wanted)
    say(f"done in {time.monotonic() - started:.0f} s")


def reusable(found: Optional[Stamp], wanted: Stamp) -> bool:
    """Say whether an environment can be installed into as it is.

    Not where a set-up was killed in it (packages may be half there), and not where it was made for another
    folder (its scripts name that), Python, or extra (both vLLM builds own the same files).
    """
    if wanted.python is None:
        return False
    if found is None:
        return True
    return found.pyproject is not None and found[:3] == wanted[:3]


def lock(file: IO[bytes]) -> None:
    """Wait until no other set-up works here. The lock outlives a killed set-up for as long as its pip does."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("waiting for another set-up to end")
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError:
        pass  # a file system without locks


def main(root: Path, candidates: Sequence[str]) -> int:
    """Set up a project and return the exit code."""
    try:
        # Opened for writing, which it never is: network file systems lock no other way.
        with (root / "pyproject.toml").open("r+b") as file:
            lock(file)
            set_up(Environment(root, (file.fileno(),)), candidates)
    except SetupError as error:
        message, hint, code = error.message, error.hint, 1
    except OSError as error:
        failure = explain(str(error), "setting up .venv")
        message, hint, code = str(error), failure.hint, 1
    except KeyboardInterrupt:
        message, hint, code = "interrupted", "run make setup again: it starts the installation anew", 130
    else:
        return 0
    print(f"error: {message}\nhint: {hint}", file=sys.stderr)
    return code


if __name__ == "__main__":
    others = [path for path in map(shutil.which, PYTHON_NAMES) if path is not None]
    sys.exit(main(Path(__file__).resolve().parent.parent, [sys.executable, *others]))
