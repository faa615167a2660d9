"""A checker that hangs, eats memory or dies on some problems, in a whole run: it costs those problems alone."""

import json
import os
import subprocess
import sys

from ttc.testing.breaking import FATAL_TASK, left_running, records


def test_each_costs_its_own_problem_and_no_process_is_left(folder):
    (folder / "risky.py").write_text(FATAL_TASK)
    config = {"tasks": [{"name": "risky.py:Risky", "data": "rows.jsonl"}], "models": ["fake"], "budgets": [400],
              "strategies": ["self-consistency"], "grade_timeout_s": 3, "max_errors": "1"}  # fmt: skip
    (folder / "c.yaml").write_text(json.dumps(config))
    words = [sys.executable, "-m", "ttc", "sweep", "c.yaml", "--trust-config", "--out", "run", "--display", "none"]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "TTC_FATAL": json.dumps({"4": "hangs", "26": "eats", "48": "dies"})},
    ) as run:  # fmt: skip
        told = run.communicate(timeout=300)[1]
    assert run.returncode == 0, told
    assert left_running(run.pid, within_s=30) == []
    found = {row["problem_id"]: (row["status"], row["score"]) for row in records(folder / "run")}
    assert found["p0"] == found["p1"] == ("timeout", 0.0)
    assert found["p2"] == ("error", None)
    assert [found[p][0] for p in ("p3", "p4", "p5")] == ["ok"] * 3
