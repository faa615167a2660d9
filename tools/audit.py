"""Audit the installed packages for known flaws; `lock` writes down which versions those are.

    python tools/audit.py          compare with requirements.lock, and ask pip-audit about known flaws
    python tools/audit.py lock     write requirements.lock anew, from what is installed

Exits 1 where a package has a known flaw, and 0 where nobody could be asked: the last line says which it was.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from importlib.metadata import distributions
from pathlib import Path

LOCK = Path(__file__).parents[1] / "requirements.lock"
OWN = "ttc-toolkit"
TIMEOUT_S = 300
PROBE = "jinja2"
"""Where even this package is unknown, nobody is asked about the others."""
HEAD = "# The versions that the tests ran with. Written by `python tools/audit.py lock`; pip takes it by -r or -c.\n"


def installed() -> dict[str, str]:
    """Return the version of every installed package but this one, by its normal name."""
    found = {
        dist.metadata["Name"].lower().replace("_", "-").replace(".", "-"): dist.version for dist in distributions()
    }
    found.pop(OWN, None)
    return dict(sorted(found.items()))


def locked() -> dict[str, str]:
    """Return what requirements.lock says."""
    lines = [line.split("==") for line in LOCK.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return {name: version for name, version in lines}  # noqa: C416 - two words a line, or this raises


def write_lock() -> None:
    """Write requirements.lock."""
    LOCK.write_text(HEAD + "".join(f"{name}=={version}\n" for name, version in installed().items()), encoding="utf-8")
    print(f"{LOCK.name}: {len(installed())} packages")


def compare() -> None:
    """Say how what is installed differs from what was tested; a difference is no flaw."""
    here, tested = installed(), locked()
    other = [
        f"{name} {here[name]} (tested: {version})"
        for name, version in tested.items()
        if name in here and here[name] != version
    ]
    print(f"{len(here)} packages installed; {len(tested)} in {LOCK.name}, {len(other)} of them in another version here")
    for line in other:
        print(f"  {line}")


def told(output: str) -> tuple[int, int, list[str]]:
    """Return how many packages pip-audit looked up and left out, and what it knows of the others.

    A package that its data do not name is left out, and a run that leaves all of them out still ends well.
    """
    found = json.loads(output)["dependencies"]
    asked = [one for one in found if "skip_reason" not in one]
    flaws = [
        f"{one['name']} {one['version']}: {flaw['id']}, mended in {', '.join(flaw['fix_versions']) or 'no version yet'}"
        for one in asked
        for flaw in one["vulns"]
    ]
    return len(asked), len(found) - len(asked), flaws


def ask(lines: str) -> tuple[int, int, list[str]]:
    """Ask pip-audit about some requirements; raises ValueError with its reason where it cannot answer."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.write(lines)
        file.flush()
        command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off", "--requirement",
                   file.name, "--no-deps", "--disable-pip"]  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired as error:
            raise ValueError(f"pip-audit gave no answer within {TIMEOUT_S} s") from error
    try:
        return told(done.stdout)
    except (ValueError, KeyError) as error:  # no JSON: it could not reach anybody, or is not installed
        raise ValueError((done.stderr.strip().splitlines() or ["pip-audit said nothing"])[-1]) from error


def audit() -> int:
    """Ask about one package first, then about all, and return the exit code."""
    try:
        if not ask(f"{PROBE}=={locked()[PROBE]}\n")[0]:
            return _not_audited(f"whom pip-audit reaches here knows nothing of {PROBE}")
        asked, left_out, flaws = ask(LOCK.read_text(encoding="utf-8"))
    except ValueError as error:
        return _not_audited(str(error))
    for flaw in flaws:
        print(f"  {flaw}")
    print(f"audited: {asked} packages looked up, {left_out} unknown there, {len(flaws)} known flaws")
    return 1 if flaws else 0


def _not_audited(reason: str) -> int:
    print(f"NOT AUDITED: {reason[:300]}")
    print("hint: run `make audit` where the advisories can be reached; requirements.lock names what to look up")
    return 0


if __name__ == "__main__":
    if sys.argv[1:] == ["lock"]:
        write_lock()
    else:
        compare()
        sys.exit(audit())
