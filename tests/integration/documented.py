"""The blocks of a document, and a folder in which what they say is run as it is written."""

import json
import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[2]


def text(name):
    """Return a document of the project."""
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(document, language=""):
    """Return the fenced blocks of a language, in order; without one, what is typed into a shell."""
    # Pairs: the end of one block would else be taken for the beginning of one without a language.
    found = re.findall(r"^```([a-z]*)\n(.*?)^```$", document, re.DOTALL | re.MULTILINE)
    return [text for name, text in found if name == language]


def section(document, title):
    """Return what stands below a heading, up to the next one of its level or above."""
    _, level, body = re.split(rf"^(#+) {re.escape(title)}$", document, maxsplit=1, flags=re.MULTILINE)
    return re.split(rf"^#{{1,{len(level)}}} ", body, maxsplit=1, flags=re.MULTILINE)[0]


def commands(document):
    """Return the shell commands of a document as lists of words, comments and continued lines resolved."""
    lines = "".join(blocks(document)).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def swap(words, **options):
    """Return a command with other values for some options; those it does not have are added, None leaves one out."""
    words = list(words)
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        if flag in words:
            at = words.index(flag)
            words[at : at + 2] = []
        if value is not None:
            words += [flag, str(value)]
    return words


def table(document, title):
    """Return the first words in backticks of a table's rows: a section's names."""
    return re.findall(r"^\| `([a-z0-9-]+)` \|", section(document, title), re.MULTILINE)


def write_rows(folder, n=6):
    """Write problems that the fake engine can solve."""
    rows = [{"id": f"p{i}", "question": f"What is {i} + 4?", "answer": str(i + 4)} for i in range(n)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def records(run_folder):
    """Return the finished problems of a run."""
    lines = (run_folder / "journal" / "main.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if "problem_id" in row]


SWEEP = ["sweep", "--task", "local", "--data", "rows.jsonl", "--model", "fake", "--display", "none"]
"""A sweep on the rows; strategies and budgets are still to be given."""
