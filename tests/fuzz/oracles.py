"""What must hold of anything that is read, whoever wrote it: used by the random tests and by the guided ones."""

import json
import tempfile
from pathlib import Path

from ttc.store.journal import JournalWriter, read_journal
from ttc_evals.choice import ChoiceChecker
from ttc_evals.code import CodeChecker
from ttc_evals.countdown import Countdown
from ttc_evals.extraction import last_boxed, last_phrase
from ttc_evals.numeric import NumericChecker
from ttc_evals.symbolic import MathChecker

CHECKERS = (ChoiceChecker(), NumericChecker(), MathChecker(), CodeChecker(), Countdown().checker)

_MEMORY = "/dev/shm"
"""Every line is flushed to where it is kept, which for a random one need not be a disk."""


def check_answer(text):
    """Every checker says an answer or None, the same each time, and an answer is UTF-8 text equal to itself."""
    boxed, phrase = last_boxed(text), last_phrase(text)
    assert boxed is None or (boxed in text and boxed.count("{") - boxed.count("\\{") >= 0)
    assert phrase is None or phrase in text
    for checker in CHECKERS:
        answer = checker.extract(text)
        assert answer == checker.extract(text)
        assert answer is None or isinstance(answer, str)
        if answer is not None and not checker.isolated:
            assert checker.equivalent(answer, answer)


def check_journal(content):
    """Whatever the bytes are, reading ends well, and what is appended afterwards is read beside what was there."""
    with tempfile.TemporaryDirectory(dir=_MEMORY if Path(_MEMORY).is_dir() else None) as name:
        folder = Path(name)
        (folder / "w.jsonl").write_bytes(content)
        before = read_journal(folder)
        for records in (before.records.values(), before.events, before.retried):
            assert all(isinstance(row, dict) for row in records)
        row = {"cell": "c", "problem_id": "\N{SNOWMAN} appended", "status": "ok"}
        with JournalWriter(folder, "w") as writer:
            writer.append(row)
        after = read_journal(folder)
        key = ("c", row["problem_id"])
        if key not in before.records:
            assert after.records.pop(key) == row
            assert after.records == before.records
            assert json.dumps(after.events) == json.dumps(before.events)
