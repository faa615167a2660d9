"""One thing that a user can get wrong, and the words that describe a run of the command line."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Case:
    """One run of the command line in a folder with problems.jsonl, strategies.py, a bank `bank` and a run `run`."""

    name: str
    arguments: str
    exit_code: int
    error: str | None = None
    """The one line after `error:`, or None where there is none; see `normal`."""
    hint: str | None = None
    make: Callable[[Path], object] = lambda folder: None
    """Prepares the folder; may be a context manager."""
    says: str | None = None
    """A line on stderr where there is no error."""


def normal(line: str) -> str:
    """Replace what differs from run to run: identities, and which problem was the last to fail."""
    # The system's word where this user may not mount a small disk, and the same is done by a limit.
    line = line.replace("File too large", "No space left on device")
    line = re.sub(r"\b[0-9a-f]{12}\b", "ID", line)
    line = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:PORT", line)
    line = re.sub(r"\bp\d+\b", "pN", line)
    line = re.sub(r"^\d+ problems failed", "N problems failed", line)
    line = re.sub(r", \d+\.\d s$", "", line)
    return re.sub(r"the prompt has \d+ tokens", "the prompt has N tokens", line)


def sweep(more="", *, task="local", data="problems.jsonl", model="fake", strategies="self-consistency", budgets="256"):
    """Return a sweep's arguments, right unless something is replaced or left out."""
    parts = {"task": task, "data": data, "model": model, "strategies": strategies, "budgets": budgets}
    words = [f"--{key} {value}" for key, value in parts.items() if value is not None]
    return " ".join(["sweep", *words, more]).strip()


def bank_sweep(more="", *, bank="bank", strategies="self-consistency"):
    return f"sweep --bank {bank} --strategies {strategies} --budgets 200 --draws 4 {more}".strip()


def file(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


def lines_of(folder: Path) -> list[str]:
    return (folder / "problems.jsonl").read_text().splitlines()


def edited(name: str, edit: Callable[[list[str]], list[str]]) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text("".join(line + "\n" for line in edit(lines_of(folder))))
