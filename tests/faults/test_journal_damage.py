"""Flipped bits and torn lines in a finished run's journal: the same command brings the same tables."""

import json
import random
import shutil

import pytest
from run_folder import check_complete, manifest, sweep

from ttc.store.journal import read_journal
from ttc.testing.breaking import records, tables


def unfinished(out):
    """As a crash would have left it."""
    (out / "manifest.json").write_text(json.dumps({**manifest(out), "state": "running"}))


@pytest.mark.parametrize("seed", range(2))
def test_flipped_bits(folder, whole, capsys, seed):
    """Eight lines of any kind, one bit each, anywhere in the line: numbers, names and punctuation alike."""
    out = folder / "run"
    shutil.copytree(whole, out)
    unfinished(out)
    journal, dice = out / "journal" / "main.jsonl", random.Random(seed)
    lines = journal.read_bytes().splitlines(keepends=True)
    kept = {n: json.loads(line) for n, line in enumerate(lines)}
    for n in dice.sample(range(len(lines) - 1), 8):
        flipped = bytearray(lines[n])
        flipped[dice.randrange(len(flipped))] ^= 1 << dice.randrange(8)
        lines[n] = bytes(flipped)
        del kept[n]
        if not flipped.endswith(b"\n"):
            kept.pop(n + 1, None)  # glued to it
    journal.write_bytes(b"".join(lines))
    assert sweep(out, "--display", "plain") == 0
    assert "is damaged and was left out; its problem runs again" in capsys.readouterr().err
    assert tables(out) == tables(whole)
    now = read_journal(out / "journal").records
    for row in kept.values():
        if "problem_id" in row:
            row.pop("crc")
            assert now[row["cell"], row["problem_id"]] == row
    assert len(now) == len(records(whole))


@pytest.mark.parametrize("share", [0.4, 0.999])
def test_torn_anywhere(folder, whole, share):
    out = folder / "run"
    shutil.copytree(whole, out)
    unfinished(out)
    journal = out / "journal" / "main.jsonl"
    data = journal.read_bytes()
    journal.write_bytes(data[: int(share * len(data))])
    kept = records(out)
    assert sweep(out) == 0
    check_complete(out, whole, kept)
