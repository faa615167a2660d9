"""What a run writes down of how it was asked for: no key, and no path out of the working directory."""

import json

import pytest

from ttc.api import make_plan
from ttc.core.specs import parse_config
from ttc.run.manifest import begin, portable, portable_word
from ttc.run.shards import Shard
from ttc.store.journal import JournalWriter
from ttc.store.rundir import RunDir


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("/home/me/prm;tensor_parallel_size=2", "prm;tensor_parallel_size=2"),
        ("plan=/home/me/a,execution=/home/me/b;dtype=half", "plan=a,execution=b;dtype=half"),
        ("plan=/home/me/a,execution=http://u:pw@h/v1?t=1#m", "plan=a,execution=http://h/v1?***#m"),
        ("http://u:pw@h/v1?token=a=b#m;max_retries=1", "http://h/v1?***#m;max_retries=1"),
        ("http://u:pw@h/v1,http://u:pw@i/v1#m;api_key=sk", "http://h/v1,http://i/v1#m;api_key=***"),
        ("O/M;tokenizer=/home/me/t", "O/M;tokenizer=t"),
        ("/home/me/a.py:X,greedy,../b.py:Y", "a.py:X,greedy,b.py:Y"),
        ("fake:p=0.5;fail=1", "fake:p=0.5;fail=1"),
        ("prompt=0.1,reward=0.2", "prompt=0.1,reward=0.2"),
        ("data/rows.jsonl", "data/rows.jsonl"),
    ],
)
def test_a_word_as_others_may_read_it(word, shown):
    assert portable_word(word) == shown


def test_options_of_a_model_keep_no_key():
    model = {"path": "http://h/v1#m", "options": {"api_key": "sk", "max_retries": 2}}
    config = parse_config({"models": [model], "prm": "/home/me/prm;api_key=sk"}, "test")
    values = portable(config)
    assert values["models"] == [{"path": "http://h/v1#m", "options": {"api_key": "***", "max_retries": 2}}]
    assert values["prm"] == "prm;api_key=***"


def plan(folder, models=("fake",)):
    row = {"question": "What is 1 + 1?", "answer": "2", "id": "p"}
    (folder / "rows.jsonl").write_text(json.dumps(row))
    task = {"name": "local", "data": str(folder / "rows.jsonl")}
    return make_plan({"task": task, "models": list(models), "strategies": "greedy", "budgets": [50]})


def test_what_an_interrupted_process_had_reserved_is_told_once(tmp_path):
    """By the first process of the whole run after it, or by its own shard's next one, whichever comes first."""
    asked = plan(tmp_path)
    run, second = RunDir(tmp_path / "run"), Shard(2, 4)
    run.open_for_writing(portable(asked.config), "id")

    def journal(hour, reserved=0, shard=None):
        of = {} if shard is None else {"shard": str(shard)}
        with JournalWriter(run.journal, "main" if shard is None else shard.name) as writer:
            writer.append({"kind": "start", "at": f"2025-01-01T{hour:02}:00:00+00:00", **of})
            if reserved:
                writer.append({"kind": "in_flight", "cell": "c", "reserved_tokens": reserved, **of})

    def told(shard=None):
        begin(run, asked, "", shard)
        return run.read_manifest()["restarts"][-1]["reserved_tokens"]

    begin(run, asked, "", second)
    journal(1, 1000, second)
    assert told() == 1000
    journal(2)
    assert told() == 0
    journal(3, 70)
    assert told() == 70
    journal(4)
    assert told(second) == 0  # it was told by the process of the whole run
    journal(5, 300, second)
    assert told(second) == 300
    journal(6, 0, second)
    assert told() == 0


def test_how_each_model_was_sampled(tmp_path):
    models = [{"path": "fake", "temperature": heat, "label": f"at {heat}"} for heat in (0.5, 0.9)]
    asked = plan(tmp_path, models)
    run = RunDir(tmp_path / "run")
    run.open_for_writing(portable(asked.config), "id")
    begin(run, asked, "", None)
    sampling = run.read_manifest()["sampling"]["local"]
    assert {name: row["temperature"] for name, row in sampling.items()} == {"at 0.5": 0.5, "at 0.9": 0.9}
