"""What others script against: commands, tables, folders, what goes to stdout and what to stderr."""

import json
import re
import shlex
import statistics

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from error_case import bank_sweep, sweep

from ttc.cli.main import run
from ttc.cli.sweep import command_line
from ttc.engines.replay import ReplayEngine
from ttc.store.bank import read_bank
from ttc.store.features import read_features
from ttc_evals.sandbox import isolation_level

# The contract, word for word: a column more, less or of another type breaks somebody's script.
COLUMNS = {
    "cells": """cell task model strategy strategy_params allocator allocator_params budget seed draws n_problems
        tokens_total tokens_max tokens_per_problem accuracy ci_low ci_high ci_method prompt_tokens cached_tokens
        reward_tokens kv_token_steps flops wall_s latency_p50_s latency_p95_s n_errors n_unanswered oracle""",
    "records": """cell problem_id grant_tokens answer correct score status stop_reason completion_tokens probe_tokens
        prompt_tokens cached_tokens reward_tokens sequential_tokens kv_token_steps calls wall_s""",
    "candidates": "cell problem_id index answer correct score logprob completion_tokens finish text",
    "allocation": "cell problem_id grant_tokens option predicted_value predicted_tokens price",
}
WORDS = {"cell", "task", "model", "strategy", "strategy_params", "allocator", "allocator_params", "ci_method", "option",
         "problem_id", "answer", "status", "stop_reason", "finish", "text"}  # fmt: skip
COUNTS = {"budget", "seed", "draws", "n_problems", "n_errors", "n_unanswered", "grant_tokens", "index"}
FLAGS = {"oracle", "correct"}


def ttc(line):
    return run(shlex.split(line))


def rows_of(run_folder, table):
    return pq.read_table(run_folder / f"{table}.parquet").to_pylist()


def only_run(folder):
    (found,) = (folder / "results").iterdir()
    return found


@pytest.mark.parametrize("table", COLUMNS)
def test_table_schemas(folder, table):
    schema = pq.read_schema(folder / "run" / f"{table}.parquet")
    assert schema.names == COLUMNS[table].split()
    for name, kind in zip(schema.names, schema.types, strict=True):
        whole = name in COUNTS or (table == "candidates" and name == "completion_tokens")
        wanted = (
            pa.string() if name in WORDS else pa.bool_() if name in FLAGS else pa.int64() if whole else pa.float64()
        )
        assert kind == wanted, name


def test_run_folder_holds_what_is_promised(folder):
    found = {str(path.relative_to(folder / "run")) for path in (folder / "run").rglob("*") if path.is_file()}
    report = {
        f"report/{name}" for name in ("index.html", "pareto.svg", "pareto.png", "leaderboard.md", "leaderboard.csv")
    }
    assert found >= {"config.yaml", "manifest.json", "env.json", "journal/main.jsonl", *report}
    # Names and hashes, never paths: nothing tells where it was made.
    for name in found - {"cache.sqlite"}:
        assert str(folder.parent).encode() not in (folder / "run" / name).read_bytes()


def test_live_cells_are_sums_of_their_records(folder):
    ttc(
        sweep(
            "--out new --display none --max-tokens 100", strategies="self-consistency,greedy,coverage", budgets="64,300"
        )
    )
    cells, records = rows_of(folder / "new", "cells"), rows_of(folder / "new", "records")
    candidates = rows_of(folder / "new", "candidates")
    assert len(cells) == 6
    for cell in cells:
        own = [r for r in records if r["cell"] == cell["cell"]]
        drawn = [c for c in candidates if c["cell"] == cell["cell"]]
        assert len(own) == cell["n_problems"] == 3
        assert cell["tokens_total"] == cell["tokens_max"] == sum(c["completion_tokens"] for c in drawn)
        assert cell["tokens_total"] <= cell["budget"] * 3
        assert cell["tokens_per_problem"] == pytest.approx(cell["tokens_total"] / 3)
        assert cell["accuracy"] == pytest.approx(sum(r["score"] for r in own) / 3)
        assert cell["prompt_tokens"] == sum(r["prompt_tokens"] for r in own)
        assert cell["n_unanswered"] == sum(r["status"] in ("budget", "unparsed", "timeout") for r in own)
        assert cell["oracle"] == (cell["strategy"] == "coverage")
        assert cell["ci_method"] == "wilson"
        assert cell["ci_low"] <= cell["accuracy"] <= cell["ci_high"]
        for record in own:
            mine = [c for c in drawn if c["problem_id"] == record["problem_id"]]
            assert record["completion_tokens"] == sum(c["completion_tokens"] for c in mine) <= record["grant_tokens"]
            assert record["calls"] == len(mine)


def vote_by_hand(engine, bank, problem, draw, budget):
    """Deal, meter and vote as the documents say. Returns the score and the tokens spent."""
    longest = bank.longest("tiny T=0.7")
    least = min(64, max(1, round(statistics.mean(row.completion_tokens for row in bank.rows()) / 4)))
    left, votes, right = budget, {}, {}
    for index in range(len(bank.pools["tiny T=0.7"][problem])):
        cap = min(longest, left)
        if cap < longest and cap < least:
            break
        row = engine.row(problem, draw, index)
        left -= min(row.completion_tokens, cap)
        if row.completion_tokens <= cap and row.answer is not None:
            votes[row.answer] = votes.get(row.answer, 0) + 1
            right.setdefault(row.answer, row.correct)
    score = float(right[max(votes, key=votes.get)]) if votes else 0.0
    return score, budget - left


@pytest.mark.parametrize("budget", [30, 110, 170, 1000])
def test_bank_cells_against_a_vote_by_hand(folder, budget):
    """Accuracy, tokens_total and tokens_max again, from the bank alone and from the records."""
    assert ttc(f"sweep --bank bank --model 'tiny T=0.7' --strategies self-consistency --budgets {budget} --draws 16"
               " --seed 5 --out new --display none") == 0  # fmt: skip
    (cell,) = rows_of(folder / "new", "cells")
    records = {r["problem_id"]: r for r in rows_of(folder / "new", "records")}
    bank = read_bank(folder / "bank")
    engine = ReplayEngine(bank, "tiny T=0.7", 5)
    by_hand = {
        problem: [vote_by_hand(engine, bank, problem, draw, budget) for draw in range(16)] for problem in records
    }
    assert len(records) == 4
    for problem, draws in by_hand.items():
        assert records[problem]["score"] == pytest.approx(statistics.mean(score for score, _ in draws))
        assert records[problem]["completion_tokens"] == pytest.approx(statistics.mean(spent for _, spent in draws))
        assert records[problem]["correct"] is None
    totals = [sum(by_hand[problem][draw][1] for problem in records) for draw in range(16)]
    assert cell["tokens_total"] == pytest.approx(statistics.mean(totals))
    assert cell["tokens_max"] == max(totals) <= 4 * budget
    assert cell["accuracy"] == pytest.approx(statistics.mean(r["score"] for r in records.values()))
    assert (cell["draws"], cell["seed"], cell["budget"], cell["n_problems"]) == (16, 5, budget, 4)
    assert (cell["ci_method"], cell["wall_s"] is None) == ("bootstrap", True)


def test_every_configuration_of_a_bank_is_a_model(folder):
    assert ttc(bank_sweep("--out new --display none")) == 0
    cells = rows_of(folder / "new", "cells")
    assert [(c["task"], c["model"]) for c in cells] == [("bank", "tiny T=0.7"), ("bank", "tiny T=1")]


@pytest.mark.parametrize("kind", ["strategies", "allocators", "tasks", "engines", "runs"])
def test_ls(folder, capsys, kind):
    if kind == "runs":
        assert ttc(sweep("--display none")) == 0
        capsys.readouterr()
    assert ttc(f"ls {kind} --json") == 0
    out, err = capsys.readouterr()
    rows = json.loads(out)
    names = [row["name"] for row in rows]
    assert err == ""
    assert names == sorted(names)
    expected = {"strategies": "best-of-n", "allocators": "uniform", "tasks": "gsm8k", "engines": "fake"}
    assert expected[kind] in names if kind in expected else names == [only_run(folder).name]
    assert ttc(f"ls {kind}") == 0
    assert all(name in capsys.readouterr().out for name in names[:1])


def test_solve(folder, capsys):
    assert ttc("solve 'What is 20 + 22?' --model fake:p=1 --strategy self-consistency --budget 300") == 0
    out, err = capsys.readouterr()
    assert out == "42\n"
    spent = int(re.search(r"(\d+) of 300 tokens", err)[1])
    assert 0 < spent <= 300
    assert not list(folder.glob("results/*"))


def test_solve_without_room_has_no_answer(folder, capsys):
    assert ttc("solve 'What is 20 + 22?' --model fake --budget 5") == 0
    out, err = capsys.readouterr()
    assert out == "no answer\n"
    assert err.startswith("budget, stopped: budget, 0 of 5 tokens")


def test_import(folder, capsys):
    assert ttc("import rows.jsonl --task nine --out new") == 0
    out, _ = capsys.readouterr()
    assert out.splitlines() == ["bank nine: 40 samples in new", "  tiny T=0.7: 4 problems", "  tiny T=1: 4 problems"]
    given = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    stored = pq.read_table(folder / "new" / "bank.parquet").to_pylist()
    wanted = [{"prompt": None, "score": None, **row} for row in given]
    order = lambda row: (row["config"], row["problem_id"], row["sample"])  # noqa: E731
    assert sorted(stored, key=order) == sorted(wanted, key=order)


COLLECT = "collect --task local --data problems.jsonl --model fake:p=0.4 --n 5 --max-tokens 120 --out new"


def test_collect_resumes_and_takes_in_another_temperature(folder, capsys):
    assert ttc(COLLECT) == 0
    first = read_bank(folder / "new")
    (name,) = first.pools
    assert {p: [row.sample for row in rows] for p, rows in first.pools[name].items()} == {
        p: [0, 1, 2, 3, 4] for p in ("p0", "p1", "p2")
    }
    asked = {
        row["id"]: row["question"] for row in map(json.loads, (folder / "problems.jsonl").read_text().splitlines())
    }
    assert all(row.prompt == asked[row.problem_id] for row in first.rows())
    capsys.readouterr()
    assert ttc(COLLECT) == 0
    assert "nothing is left to run" in capsys.readouterr().err
    assert list(read_bank(folder / "new").rows()) == list(first.rows())
    assert ttc(f"{COLLECT} --temperature 1.2") == 0
    both = read_bank(folder / "new")
    assert len(both.pools) == 2
    assert both.pools[name] == first.pools[name]
    assert sum(1 for _ in both.rows()) == 30


def test_collect_adds_hidden_states_to_a_bank_that_has_its_samples(folder, capsys):
    assert ttc(f"{COLLECT} --limit 2") == 0
    assert ttc(f"{COLLECT} --limit 2 --features hidden") == 0
    (config,) = read_bank(folder / "new").pools
    first = read_features(folder / "new")
    assert {name: sorted(vectors) for name, vectors in first.items()} == {config: ["p0", "p1"]}
    assert "starting fake to read 2 prompts" in capsys.readouterr().err
    assert ttc(f"{COLLECT} --features hidden") == 0
    assert "starting fake to read 1 prompts" in capsys.readouterr().err
    more = read_features(folder / "new")[config]
    assert sorted(more) == ["p0", "p1", "p2"]
    assert all((more[problem] == vector).all() for problem, vector in first[config].items())
    rows = pq.read_table(folder / "new" / "features.parquet").to_pylist()
    asked = [json.loads(line)["question"] for line in (folder / "problems.jsonl").read_text().splitlines()]
    assert all(row["prompt_tokens"] > len(question) for row, question in zip(rows, asked, strict=True))


def test_wrong_features_are_told_before_a_sample_is_drawn(folder, capsys):
    assert ttc(f"{COLLECT} --features hiden") == 2
    assert "did you mean 'hidden'?" in capsys.readouterr().err
    assert not (folder / "new").exists()


def test_a_smaller_collection_never_replaces_a_larger_one(folder, capsys):
    assert ttc(COLLECT) == 0
    before = list(read_bank(folder / "new").rows())
    assert ttc(COLLECT.replace("--n 5", "--n 3")) == 6
    assert ttc(f"{COLLECT} --limit 2") == 6
    assert "leaves out" in capsys.readouterr().err
    assert list(read_bank(folder / "new").rows()) == before
    assert ttc(COLLECT.replace("--n 5", "--n 7")) == 0
    more = {(row.problem_id, row.sample): row for row in read_bank(folder / "new").rows()}
    assert len(more) == 21
    assert all(more[row.problem_id, row.sample].completion_tokens == row.completion_tokens for row in before)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (["sweep", "/a/b/c.yaml", "--out", "run"], "ttc sweep c.yaml --out run"),
        (["sweep", "--data=/a/b.jsonl"], "ttc sweep --data=b.jsonl"),
        (["sweep", "--strategies", "/a/x.py:X,~/y.py:Y"], "ttc sweep --strategies x.py:X,y.py:Y"),
        (["sweep", "--model", "http://localhost:8000/v1#a/b"], "ttc sweep --model 'http://localhost:8000/v1#a/b'"),
        (["sweep", "--model", "org/name", "--out", "results/run"], "ttc sweep --model org/name --out results/run"),
    ],
)
def test_the_recorded_command_names_no_folder_outside(monkeypatch, given, kept):
    monkeypatch.setattr("sys.argv", ["ttc", *given])
    assert command_line() == kept


def test_collected_samples_replay_what_ran_live(folder):
    """The same seeds: best-of-5 on the bank has the candidates, the cost and the answers of best-of-5 on the model."""
    assert ttc(COLLECT) == 0
    choice = {"name": "best-of-n", "params": {"n": 5, "select": "logprob"}}
    (folder / "c.yaml").write_text(
        json.dumps({"strategies": [choice], "budgets": [600], "sampling": {"max_tokens": 120}})
    )
    assert ttc("sweep c.yaml --task local --data problems.jsonl --model fake:p=0.4 --out live --display none") == 0
    assert ttc("sweep c.yaml --bank new --draws 1 --out replayed --display none") == 0
    live, replayed = rows_of(folder / "live", "candidates"), rows_of(folder / "replayed", "candidates")
    assert len(live) == len(replayed) == 15
    by = lambda rows: sorted((c["problem_id"], c["completion_tokens"], c["answer"] or "", c["logprob"]) for c in rows)  # noqa: E731
    assert by(live) == by(replayed)
    answers = [{r["problem_id"]: (r["answer"], r["score"], r["completion_tokens"]) for r in rows_of(folder / name, "records")}
               for name in ("live", "replayed")]  # fmt: skip
    assert answers[0] == answers[1]


def test_dry_run_writes_and_starts_nothing(folder, capsys, monkeypatch):
    monkeypatch.setattr("ttc.engines.fake.FakeEngine.start", lambda self: pytest.fail("the engine was started"))
    before = sorted(folder.rglob("*"))
    assert ttc(sweep("--dry-run --price-per-mtok 1,2", budgets="100,1000")) == 0
    out, err = capsys.readouterr()
    assert sorted(folder.rglob("*")) == before
    assert err == ""
    # 3 problems x (100 + 1000) at most; equal samples are drawn once, so about 3 x 1000 are generated.
    assert "2 cells on 3 problems; at most 3,300 completion tokens charged" in out
    assert "expected to generate about 3,000, if" in out
    assert [line.split("budget ")[1].split() for line in out.splitlines() if "  budget " in line] == [
        ["100", "total", "300"],
        ["1000", "total", "3,000"],
    ]


def test_no_text(folder):
    assert ttc(sweep("--no-text --out new --display none")) == 0
    candidates = rows_of(folder / "new", "candidates")
    assert candidates
    assert {c["text"] for c in candidates} == {None}
    assert "Step 1" not in (folder / "new" / "journal" / "main.jsonl").read_text()
    assert any("Step 1" in c["text"] for c in rows_of(folder / "run", "candidates"))


def test_limit_brands_the_report(folder):
    assert ttc(sweep("--limit 2 --out new --display none")) == 0
    brand = "Limited run: only 2 problems were asked for. Not a benchmark result."
    for name in ("index.html", "leaderboard.md"):
        assert brand in (folder / "new" / "report" / name).read_text()
        assert brand not in (folder / "run" / "report" / name).read_text()
    assert len(rows_of(folder / "new", "records")) == 2


@pytest.mark.parametrize("display", ["plain", "none", "json"])
def test_results_on_stdout_progress_on_stderr(folder, capsys, display):
    assert ttc(sweep(f"--out new --display {display}")) == 0
    out, err = capsys.readouterr()
    if display == "json":
        assert json.loads(out) == {"run": "new", "report": "new/report/index.html"}
        notes = [json.loads(line) for line in err.splitlines() if line.startswith("{")]
        assert any("accuracy" in note.get("note", "") for note in notes)
    else:
        assert out.splitlines()[0] == "local, fake"
        assert out.splitlines()[-1] == "report: new/report/index.html"
        assert "starting" not in out
        assert ("starting fake" in err) == (display == "plain")


def test_flags_override_the_file(folder):
    (folder / "c.yaml").write_text(
        "task: {name: local, data: problems.jsonl}\nmodel: fake\nstrategies: [greedy]\nbudgets: [50, 60]\n"
        "seed: 3\nsampling: {temperature: 0.3, max_tokens: 99}\n"
    )
    assert ttc("sweep c.yaml --strategies best-of-n --budgets 120 --temperature 1 --out new --display none") == 0
    (cell,) = rows_of(folder / "new", "cells")
    assert (cell["strategy"], cell["budget"], cell["seed"], cell["task"]) == ("best-of-n", 120, 3, "local")
    sampling = json.loads((folder / "new" / "manifest.json").read_text())["sampling"]["local"]["fake"]
    assert (sampling["temperature"], sampling["max_tokens"]) == (1.0, 99)
    # A bank takes the place of the file's task, and a task that of the file's bank.
    (folder / "c.yaml").write_text("task: {name: local, data: problems.jsonl}\nmodel: fake\nbudgets: [120]\n")
    assert ttc("sweep c.yaml --bank bank --model 'tiny T=1' --strategies coverage --out banked --display none") == 0
    assert {c["task"] for c in rows_of(folder / "banked", "cells")} == {"bank"}
    (folder / "c.yaml").write_text("bank: bank\nbudgets: [120]\n")
    assert ttc(sweep("c.yaml --out live --display none", budgets=None)) == 0
    assert {c["task"] for c in rows_of(folder / "live", "cells")} == {"local"}


def test_default_folder_and_its_resumption(folder, capsys):
    """`results/<date>-<task>-<model>-<hash>`; an unfinished run is taken up at any later date, a finished one is not."""
    words = sweep("--display plain")
    assert ttc(words) == 0
    made = only_run(folder)
    spec = json.loads((made / "manifest.json").read_text())["spec_id"]
    assert re.fullmatch(rf"\d{{4}}-\d\d-\d\d-local-fake-{spec[:8]}", made.name)
    old = made.rename(made.with_name(f"2001-02-03-local-fake-{spec[:8]}"))
    manifest = json.loads((old / "manifest.json").read_text())
    (old / "manifest.json").write_text(json.dumps({**manifest, "state": "running"}))
    journal = (old / "journal" / "main.jsonl").read_bytes()
    assert ttc(words) == 0
    assert only_run(folder) == old
    assert (old / "journal" / "main.jsonl").read_bytes() == journal
    manifest = json.loads((old / "manifest.json").read_text())
    assert (manifest["state"], len(manifest["restarts"])) == ("finished", 1)
    assert ttc(words) == 0
    assert len(list((folder / "results").iterdir())) == 2
    assert ttc(sweep("--display none", budgets="300")) == 0
    assert len(list((folder / "results").iterdir())) == 3


def test_show_and_report(folder, capsys):
    assert ttc("show run --problem p1") == 0
    out = capsys.readouterr().out
    (record,) = (r for r in rows_of(folder / "run", "records") if r["problem_id"] == "p1")
    assert f"answer {record['answer']!r}" in out
    assert out.count(" tokens, ") == sum(c["problem_id"] == "p1" for c in rows_of(folder / "run", "candidates"))
    before = {name: rows_of(folder / "run", name) for name in COLUMNS}
    for name in COLUMNS:
        (folder / "run" / f"{name}.parquet").unlink()
    assert ttc("report run --rebuild --out elsewhere") == 0
    assert {name: rows_of(folder / "run", name) for name in COLUMNS} == before
    assert (folder / "elsewhere" / "index.html").is_file()


def test_a_dry_run_says_which_sandbox_code_will_run_in(tmp_path, monkeypatch, capsys):
    row = {
        "task_id": "H/0",
        "prompt": "def f(x):\n",
        "test": "def check(f):\n    assert f(1) == 1\n",
        "entry_point": "f",
    }
    (tmp_path / "code.jsonl").write_text(json.dumps(row) + "\n")
    monkeypatch.chdir(tmp_path)
    words = "sweep --task humaneval --data code.jsonl --model fake --strategies greedy --budgets 100 --dry-run"
    assert run([*words.split(), "--allow-code-execution"]) == 0
    told = f"code that models write for humaneval runs in the sandbox {isolation_level()!r}"
    assert told in capsys.readouterr().out
