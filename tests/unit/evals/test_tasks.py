"""Loading: every built-in task on rows of its own shape, and every way in which rows can be wrong."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ttc.core import registry
from ttc.core.errors import ConfigError, DataError
from ttc.core.protocols import Dataset, LoadOptions
from ttc_evals.code import CodeChecker
from ttc_evals.numeric import NumericChecker
from ttc_evals.symbolic import MathChecker

ROWS: dict[str, list[dict[str, object]]] = {
    "gsm8k": [
        {"question": "Ann has 2 pens and buys 3. How many?", "answer": "2 + 3 = <<2+3=5>>5\n#### 5"},
        {"question": "A car costs 1000 and twice that. Total?", "answer": "So 3000.\n#### 3,000"},
    ],
    "math500": [
        {"problem": "Halve $1$.", "answer": "\\frac{1}{2}", "subject": "Algebra", "level": 2, "unique_id": "t/a/1.json"},
        {"problem": "Add $1$ and $1$.", "answer": "2", "subject": "Prealgebra", "level": 1, "unique_id": "t/p/2.json"},
    ],
    "aime24": [{"id": 60, "problem": "Find $7 \\cdot 11$.", "solution": "It is 77.", "answer": "077"}],
    "aime25": [{"problem": "Find $7 + 11$.", "answer": "18", "id": "0"}],
    "amc23": [{"question": "Find $54/2$.", "answer": 27.0, "id": 3}],
    "gpqa-diamond": [
        {"Question": f"Which one is {i}?", "Correct Answer": f"{i}", "Incorrect Answer 1": "red",
         "Incorrect Answer 2": "green", "Incorrect Answer 3": "blue", "Record ID": f"rec{i}"}
        for i in range(40)
    ],
    "humaneval": [
        {"task_id": "X/0", "prompt": "def inc(x):\n    \"\"\"Add one.\"\"\"\n", "entry_point": "inc",
         "test": "def check(candidate):\n    assert candidate(1) == 2\n", "canonical_solution": "    return x + 1\n"},
    ],
    "mbpp": [
        {"text": "Write a function to add one.", "code": "def inc(x): return x + 1", "task_id": 11,
         "test_list": ["assert inc(1) == 2", "assert inc(2) == 3"], "test_setup_code": ""},
    ],
    "local": [{"question": "1 + 1?", "answer": 2}, {"question": "2 + 2?", "answer": "4.0", "id": "mine"}],
}  # fmt: skip


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def load(task: str, tmp_path: Path, rows: list[dict[str, object]] | None = None, **options: object) -> Dataset:
    data = write(tmp_path / f"{task}.jsonl", ROWS[task] if rows is None else rows)
    return registry.load("tasks", task)().load(LoadOptions(data=data, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("task", ROWS)
def test_every_task_loads_rows_of_its_shape(task, tmp_path):
    dataset = load(task, tmp_path)
    loaded = registry.load("tasks", task)()
    assert loaded.name == task
    assert len(dataset.examples) == len(ROWS[task])
    for example in dataset.examples:
        assert [message.role for message in example.messages] == ["user"]
        assert example.messages[0].content == loaded.prompt_template.replace("{question}", example.question)
    data = (tmp_path / f"{task}.jsonl").read_bytes()
    assert dataset.source == {"name": f"{task}.jsonl", "sha256": hashlib.sha256(data).hexdigest()}


def test_the_entry_points_name_all_tasks():
    assert set(registry.names("tasks")) >= set(ROWS)


@pytest.mark.parametrize(
    ("task", "ids", "golds"),
    [
        ("gsm8k", ["gsm8k-00000", "gsm8k-00001"], ["5", "3000"]),
        ("math500", ["t/a/1.json", "t/p/2.json"], ["\\frac{1}{2}", "2"]),
        ("aime24", ["60"], ["77"]),
        ("aime25", ["0"], ["18"]),
        ("amc23", ["3"], ["27"]),
        ("local", ["local-00000", "mine"], ["2", "4.0"]),
    ],
)
def test_ids_and_references(task, ids, golds, tmp_path):
    examples = load(task, tmp_path).examples
    assert [example.id for example in examples] == ids
    assert [example.gold for example in examples] == golds


def test_math_rows_keep_level_and_subject(tmp_path):
    assert load("math500", tmp_path).examples[0].meta == {"level": 2, "subject": "Algebra"}
    with pytest.raises(DataError, match=r"math500.jsonl line 1: field 'level' must be a level"):
        load("math500", tmp_path, [{**ROWS["math500"][0], "level": "hard"}])


def test_gpqa_options_are_shuffled_by_seed_and_stay_private(tmp_path):
    first, again, other = (load("gpqa-diamond", tmp_path, seed=seed).examples for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert {example.gold for example in first} == set("ABCD")
    for i, example in enumerate(first):
        lines = example.question.splitlines()
        assert f"{example.gold}) {i}" in lines
        assert sorted(line[3:] for line in lines[2:]) == sorted([str(i), "red", "green", "blue"])
        assert example.meta == {"private": 1}


@pytest.mark.parametrize("task", ["humaneval", "mbpp"])
def test_code_references_accept_the_solution_and_refuse_another(task, tmp_path):
    example = load(task, tmp_path).examples[0]
    assert CodeChecker().grade("def inc(x):\n    return x + 1", example.gold)
    assert not CodeChecker().grade("def inc(x):\n    return x", example.gold)


def test_local_checks_numbers_as_numbers_and_all_else_as_mathematics(tmp_path):
    task = registry.load("tasks", "local")()
    task.load(LoadOptions(data=write(tmp_path / "a.jsonl", ROWS["local"])))
    assert isinstance(task.checker, NumericChecker)
    rows = [*ROWS["local"], {"q": "x?", "answer": "x + 1", "question": "no"}]
    task.load(LoadOptions(data=write(tmp_path / "b.jsonl", rows)))
    assert isinstance(task.checker, MathChecker)


def test_fields_can_be_renamed(tmp_path):
    rows: list[dict[str, object]] = [{"q": "1 + 1?", "a": "2", "n": 7}]
    example = load("local", tmp_path, rows, fields={"question": "q", "answer": "a", "id": "n"}).examples[0]
    assert (example.id, example.question, example.gold) == ("7", "1 + 1?", "2")
    with pytest.raises(ConfigError) as caught:
        load("local", tmp_path, fields={"questoin": "q"})
    assert caught.value.hint == "did you mean 'question'?"


def test_limit_reads_the_first_rows_and_the_fingerprint_is_of_content(tmp_path):
    whole, first = load("gsm8k", tmp_path), load("gsm8k", tmp_path, limit=1)
    assert first.examples == whole.examples[:1]
    assert first.fingerprint != whole.fingerprint
    renamed = [
        {"question": r["question"], "answer": f"#### {str(r['answer']).rpartition(' ')[2]}"} for r in ROWS["gsm8k"]
    ]
    assert load("gsm8k", tmp_path, renamed).fingerprint == whole.fingerprint
    renamed[0]["question"] = "Other?"
    assert load("gsm8k", tmp_path, renamed).fingerprint != whole.fingerprint
    with pytest.raises(ConfigError, match="limit is 0"):
        load("gsm8k", tmp_path, limit=0)


def test_parquet_and_json_lines_are_the_same_data(tmp_path):
    pq.write_table(pa.Table.from_pylist(ROWS["mbpp"]), tmp_path / "rows.parquet")
    loaded = registry.load("tasks", "mbpp")().load(LoadOptions(data=tmp_path / "rows.parquet"))
    assert loaded.examples == load("mbpp", tmp_path).examples


GOOD = '{"question": "q", "answer": "1"}\n'


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        (GOOD * 6 + '{"question": "q",\n', "rows.jsonl line 7: not JSON", "one JSON object a line"),
        (GOOD + "\n\n[1]\n", "rows.jsonl line 4: must be a JSON object, not list", "one JSON object a line"),
        (GOOD + '{"questoin": "q", "answer": "1"}', "rows.jsonl line 2: no field 'question'", "did you mean 'questoin'?"),
        ('{"question": ["q"], "answer": "1"}', "line 1: field 'question' must be text, not list", ""),
        ('{"question": "q", "answer": null}', "line 1: field 'answer' must be text or a number, not NoneType", ""),
        ('{"question": "q", "answer": true}', "line 1: field 'answer' must be text or a number, not bool", ""),
        ('{"question": "q", "answer": " "}', "line 1: field 'answer' is empty", ""),
        ("", "rows.jsonl holds no rows", ""),
        ("\n \n", "rows.jsonl holds no rows", ""),
        ('{"question": "q", "answer": 1, "id": 5}\n' * 2, "line 2: id '5' was already used at rows.jsonl line 1", "unique"),
        (b"\xff\xfe\x00", "rows.jsonl line 1: not UTF-8", "JSON Lines or Parquet"),
        ("[" * 100_000, "rows.jsonl line 1: not JSON", "one JSON object a line"),
    ],
    ids=lambda value: repr(value)[:24],
)  # fmt: skip
def test_wrong_rows_are_told_with_file_line_and_field(text, message, hint, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError) as caught:
        registry.load("tasks", "local")().load(LoadOptions(data=path))
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("task", "row", "message"),
    [
        ("gsm8k", {"question": "q", "answer": "#### many"}, "line 1: field 'answer' has no number after '####'"),
        ("aime24", {"problem": "q", "answer": "x"}, "line 1: field 'answer' is not a number: 'x'"),
        (
            "mbpp",
            {"text": "q", "test_list": "assert f()"},
            "line 1: field 'test_list' must be a list of texts, not str",
        ),
        ("humaneval", {"prompt": "q", "test": "t", "task_id": 1}, "line 1: no field 'entry_point'"),
    ],
)
def test_wrong_rows_of_one_task(task, row, message, tmp_path):
    with pytest.raises(DataError) as caught:
        load(task, tmp_path, [row])
    assert message in caught.value.message


def test_a_byte_order_mark_is_no_error(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert len(registry.load("tasks", "local")().load(LoadOptions(data=path)).examples) == 1


def test_missing_and_unreadable_files(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        registry.load("tasks", "gsm8k")().load(LoadOptions(data=tmp_path / "none.jsonl"))
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(DataError, match=r"bad.parquet: not a readable Parquet file"):
        registry.load("tasks", "gsm8k")().load(LoadOptions(data=tmp_path / "bad.parquet"))
    with pytest.raises(DataError) as caught:
        registry.load("tasks", "local")().load(LoadOptions())
    assert "--data" in caught.value.hint


@pytest.fixture
def hub(monkeypatch):
    """Stand in for the hub: real `datasets` tables, and a record of what was asked."""
    asked: list[tuple[object, ...]] = []
    commit = "0123456789abcdef0123456789abcdef01234567"

    def load_dataset(name, config=None, *, split, revision):
        asked.append((name, config, split, revision))
        if split not in {"test", "train"}:
            raise ValueError(f"Unknown split \"{split}\". Should be one of ['train', 'test'].")
        table = datasets.Dataset.from_list(ROWS["gsm8k"])
        if revision != "old":
            table.info.download_checksums = {f"hf://datasets/{name}@{commit}/main/test.parquet": {"num_bytes": 1}}
        return table

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def test_the_hub_is_asked_by_name_and_the_commit_recorded(hub, tmp_path):
    dataset = registry.load("tasks", "gsm8k")().load(LoadOptions())
    assert hub == [("openai/gsm8k", "main", "test", None)]
    assert dataset.source == {
        "name": "openai/gsm8k",
        "config": "main",
        "split": "test",
        "revision": "0123456789abcdef0123456789abcdef01234567",
    }
    assert dataset.examples == load("gsm8k", tmp_path).examples


def test_the_hub_name_config_split_and_revision_can_be_overridden(hub):
    options = LoadOptions(hub="me/mine", hub_config="c", split="train", revision="old", limit=1)
    dataset = registry.load("tasks", "gsm8k")().load(options)
    assert hub == [("me/mine", "c", "train", "old")]
    assert dataset.source["revision"] == "unknown"
    assert len(dataset.examples) == 1


def test_an_unknown_split_names_those_there_are(hub):
    with pytest.raises(DataError, match=r"split 'tset'.*train.*test"):
        registry.load("tasks", "gsm8k")().load(LoadOptions(split="tset"))


def test_a_wrong_row_of_the_hub_is_told_with_its_number(hub):
    with pytest.raises(DataError, match=r"openai/gsm8k test row 1: no field 'q'"):
        registry.load("tasks", "gsm8k")().load(LoadOptions(fields={"question": "q"}))


def test_offline_mode_is_respected_and_says_what_to_do(tmp_path):
    program = (
        "from ttc.core.errors import DataError\nfrom ttc.core.protocols import LoadOptions\n"
        "from ttc_evals.gsm8k import GSM8K\n"
        "try: GSM8K().load(LoadOptions())\n"
        "except DataError as error: print(error.message, '|', error.hint)"
    )
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=120)
    assert "cannot load openai/gsm8k" in run.stdout, run.stderr
    assert "--data FILE" in run.stdout


def test_importing_the_tasks_loads_nothing_heavy():
    program = (
        "import sys\nfrom ttc.core import registry\n"
        "for name in registry.names('tasks'): registry.load('tasks', name)()\n"
        "print({'datasets', 'math_verify', 'sympy', 'pyarrow', 'torch', 'pandas'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert run.stdout.strip() == "set()", run.stderr
