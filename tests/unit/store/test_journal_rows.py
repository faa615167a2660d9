"""Records without what is large in them, and the whole ones back from where they stand."""

import json

import pytest

from ttc.core.errors import StorageError
from ttc.store.journal import read_journal, read_rows


def write(folder, name, rows):
    folder.mkdir(exist_ok=True)
    with (folder / name).open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n\n")


def row(problem, status="ok", text="\N{GREEK SMALL LETTER ALPHA}\u2028" * 3):
    return {
        "cell": "c",
        "problem_id": problem,
        "status": status,
        "candidates": [{"text": text}],
        "trace": {"step": [1]},
    }


def test_what_is_left_out_is_found_again_in_any_order(tmp_path):
    write(tmp_path, "a.jsonl", [{"kind": "cell", "cell": "c"}, row("1"), row("2", "error", "first"), row("3")])
    write(tmp_path, "b.jsonl", [row("2", "ok", "second"), row("1", "ok", "late")])
    lean = read_journal(tmp_path, without=("candidates", "trace", "not there"))
    assert list(lean.records) == [("c", "1"), ("c", "2"), ("c", "3")]
    assert all(set(record) == {"cell", "problem_id", "status"} for record in [*lean.records.values(), *lean.retried])
    whole = read_journal(tmp_path)
    for order in (["1", "2", "3"], ["3", "2", "1", "3"]):
        assert list(read_rows(lean.places["c", p] for p in order)) == [whole.records["c", p] for p in order]
    assert whole.records["c", "2"]["candidates"][0]["text"] == "second"


def test_a_journal_that_has_changed_meanwhile_is_told(tmp_path):
    write(tmp_path, "a.jsonl", [row("1"), row("2")])
    places = read_journal(tmp_path).places
    (tmp_path / "a.jsonl").write_text("short\n")
    with pytest.raises(StorageError, match=r"a\.jsonl"):
        list(read_rows(places.values()))
    (tmp_path / "a.jsonl").unlink()
    with pytest.raises(StorageError, match=r"a\.jsonl"):
        list(read_rows(places.values()))
