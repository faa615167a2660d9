"""An endpoint that misbehaves under a whole run: what passes is survived, what stays is told, nothing is lost."""

import json
from collections import Counter

import pytest
from run_folder import PROBLEMS, check_complete, write_rows

from ttc.cli.main import run
from ttc.testing.breaking import records
from ttc.testing.stub_server import MISBEHAVIOURS, Stub, serving_stub

STALLS = "stalls in an answer"
KEPT = "hint: what is finished is kept: mend the cause and run the command again, or raise --max-errors"


def sweep(endpoint, out, timeout_s=60.0, max_retries=3):
    # One request at a time: when one fails, no right answer is under way that stopping would throw away.
    options = {"max_retries": max_retries, "timeout_s": timeout_s, "max_concurrency": 1}
    config = out.parent / "c.yaml"
    config.write_text(json.dumps({"models": [{"path": f"{endpoint.address}#m", "options": options, "label": "bad"}]}))
    return run(["sweep", str(config), "--task", "local", "--data", "rows.jsonl", "--max-tokens", "120", "--strategies",
                "self-consistency", "--budgets", "500", "--display", "none", "--out", str(out)])  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Return an endpoint and the folder of a run at which nothing went wrong."""
    folder = tmp_path_factory.mktemp("smooth")
    write_rows(folder)
    with serving_stub(Stub(name="m", chats=True)) as endpoint, pytest.MonkeyPatch.context() as patch:
        patch.delenv("OPENAI_API_KEY", raising=False)
        patch.chdir(folder)
        assert sweep(endpoint, folder / "run") == 0
        yield endpoint, folder / "run"


@pytest.fixture
def endpoint(server):
    server[0].asked, server[0].chatted, server[0].faults = 0, [], {}
    return server[0]


@pytest.fixture
def smooth(server):
    return server[1]


@pytest.mark.parametrize("fault", [name for name in MISBEHAVIOURS if name != "wrong JSON"])
def test_what_passes_is_survived(folder, endpoint, smooth, fault):
    """Two answers go wrong and are asked for again: the same table, and no other answer is asked for twice."""
    endpoint.faults = dict.fromkeys([3, 9], MISBEHAVIOURS[fault])
    stalls = fault == STALLS
    assert sweep(endpoint, folder / "run", timeout_s=5.0 if stalls else 60.0, max_retries=20 if stalls else 3) == 0
    check_complete(folder / "run", smooth)
    if not stalls:  # a slow machine's right answers are given up and asked for again as well
        assert max(Counter(endpoint.chatted).values()) == 1
        assert endpoint.asked == len(endpoint.chatted) + 2


@pytest.mark.parametrize(
    ("fault", "code", "said"),
    [
        (STALLS, 4, "gave no answer within 1 s"),
        ("429 with Retry-After", 4, "is over its rate limit (429)"),
        ("500", 4, "failed (500)"),
        ("wrong JSON", 4, "answered with something else than JSON"),
        ("closes in an answer", 5, "cannot reach"),
    ],
)
def test_what_stays_is_told_and_the_same_command_goes_on(folder, endpoint, smooth, capsys, fault, code, said):
    endpoint.faults = dict.fromkeys(range(14, 500), MISBEHAVIOURS[fault])
    assert sweep(endpoint, folder / "run", timeout_s=1.0 if fault == STALLS else 60.0, max_retries=0) == code
    error, hint = capsys.readouterr().err.splitlines()[-2:]
    assert error.startswith("error: ")
    assert said in error
    assert hint == (KEPT if code == 4 else "hint: is the server running?")
    kept = [row for row in records(folder / "run") if row["status"] != "error"]
    assert len(kept) < PROBLEMS
    endpoint.faults = {}
    assert sweep(endpoint, folder / "run") == 0
    rows = [row for row in records(folder / "run") if row["status"] != "error"]
    assert rows[: len(kept)] == kept
    whole = {row["problem_id"]: row for row in records(smooth)}
    assert sorted(row["problem_id"] for row in rows) == sorted(whole)
    for row in rows:  # what failed is charged to the total, so the last problems may draw less; all else is the same
        least = whole[row["problem_id"]]
        assert row["calls"] <= least["calls"]
        assert row["calls"] < least["calls"] or row["answer"] == least["answer"]
    spent = sum(row["completion_tokens"] for row in records(folder / "run"))
    assert spent <= 500 * PROBLEMS
    if fault != STALLS:  # a slow machine's right answers are given up and asked for again as well
        assert max(Counter(endpoint.chatted).values()) == 1
