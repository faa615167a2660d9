"""A sweep through a pool of servers, one of which dies in the middle, beside the same sweep without servers."""

import json
import threading
import time

from ttc.api import sweep
from ttc.store.journal import read_journal
from ttc.testing.stub_server import Stub, serving_stub

KEPT = ("problem_id", "answer", "score", "status", "grant_tokens", "completion_tokens", "calls")


class Observer:
    """Keeps the warnings."""

    def __init__(self):
        self.warnings = []

    def warn(self, text):
        self.warnings.append(text)

    def __getattr__(self, name):
        return lambda *_: None


def rows_of(run):
    rows = sorted(run.records.to_pylist(), key=lambda row: (row["problem_id"], row["grant_tokens"]))
    return [{key: row[key] for key in KEPT} for row in rows]


def test_a_dead_server_changes_no_row_and_no_token(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"question": f"What is {n} * {n + 3}?", "answer": str(n * (n + 3)), "id": f"p{n}"} for n in range(24)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    asked = {
        "tasks": [{"name": "local", "data": "rows.jsonl"}],
        "strategies": ["self-consistency"],
        "budgets": [300],
        "sampling": {"max_tokens": 120},
    }
    observer = Observer()
    with serving_stub(Stub(delay_s=0.02, slots=2)) as first, serving_stub(Stub(delay_s=0.02, slots=2)) as second:
        ended = threading.Event()

        def die():
            while second.answered < 6 and not ended.is_set():
                time.sleep(0.005)
            second.mood = "dead"

        killer = threading.Thread(target=die)
        killer.start()
        try:
            model = {"path": f"{first.address},{second.address}#fake", "options": {"timeout_s": 300}}
            pooled = sweep({**asked, "models": [model]}, tmp_path / "pooled", observer)
        finally:
            ended.set()
            killer.join()
    alone = sweep({**asked, "models": ["fake"]}, tmp_path / "alone")
    assert rows_of(pooled) == rows_of(alone)
    (cell,) = pooled.cells.to_pylist()
    assert cell["tokens_total"] <= 24 * 300
    assert any("is lost" in said for said in observer.warnings)
    replay = read_journal(pooled.path / "journal")
    (event,) = [event for event in replay.events if event["kind"] == "endpoints"]
    assert sum(row["completion"] for row in event["endpoints"]) == cell["tokens_total"]
    assert [row["losses"] for row in event["endpoints"]] == [0, 1]
    assert event["endpoints"][1]["moved"] > 0
