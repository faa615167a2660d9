"""Configurations, banks, predictors and rows that somebody else made: nothing runs, nothing is written elsewhere."""

import contextlib
import hashlib
import json
import os
import pickle
import shutil
from importlib.resources import files
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ttc.api import sweep
from ttc.cli.main import run
from ttc.core.errors import ConfigError, DataError, StorageError, TtcError
from ttc.core.forecast import Seen
from ttc.core.identity import identity
from ttc.core.specs import ModelSpec, parse_config, read_config
from ttc.core.trust import check_trust
from ttc.engines.opening import open_engine, open_reward
from ttc.store.bank import Row, import_rows, read_bank, write_bank
from ttc.store.rundir import RunDir
from ttc_predictors.budget import BudgetPredictor

SHIPPED = Path(str(files("ttc.embedded") / "predictor"))
ROWS = [{"id": f"p{i}", "question": f"What is {i} + 2?", "answer": str(i + 2)} for i in range(3)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory inside another one, and a mark that no test may leave."""
    work = tmp_path / "work"
    work.mkdir()
    (work / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    monkeypatch.chdir(work)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    yield work
    assert [p.name for p in tmp_path.iterdir()] == ["work"]
    assert not (work / "mark").exists()


BASE = "task: {name: local, data: rows.jsonl}\nmodel: fake\nstrategies: [greedy]\nbudgets: [64]\n"
RUNS_CODE = "import pathlib\npathlib.Path('mark').write_text('x')\nclass Evil: pass\n"


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['touch mark']",
        "seed: !!python/object/apply:os.system ['touch mark']",
        "task: !!python/object/new:os.system ['touch mark']",
        "model: !!python/name:os.system ''",
        "model: !!python/module:os ''",
        "seed: !!python/object/apply:pathlib.Path.write_text [{}, x]",
        "seed: !<tag:yaml.org,2002:python/object/apply:os.system> ['touch mark']",
        "seed: !anything x",
        "budgets: &a [*a]",
        "budgets: &a {b: *a}",
        "x: &a [1,1,1,1,1,1,1,1,1,1]\n" + "\n".join(
            f"y{i}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 10)}]" for i in range(9)),
        "[" * 20_000,
        "seed: 2023-99-99",
        "seed: \x00",
        "\ufeff- a",
        "- a: *nowhere",
        "? [a]\n: b",
    ],
    ids=range(17),
)  # fmt: skip
def test_yaml_of_any_kind_is_plain_data_or_refused(text, folder):
    (folder / "c.yaml").write_text(text, encoding="utf-8")
    assert run(["sweep", "c.yaml", "--dry-run"]) == 2


@pytest.mark.parametrize(
    "text",
    [
        "strategies: ['evil.py:Evil']",
        "strategies: [{name: 'evil.py:Evil'}]",
        "allocators: ['./evil.py:Evil']",
        "also: [{strategies: ['evil.py:Evil']}]",
        "track: ['evil.py:Evil']",
        "track: ['wandb:somebody/project']",
        "track: mlflow:https://evil.example",
        "allow_code_execution: true",
        "cache: ../elsewhere",
        "cache: /tmp/elsewhere",
        "cache: ~/elsewhere",
    ],
)
def test_a_file_that_would_run_or_write_something_needs_trust(text, folder, capsys):
    (folder / "evil.py").write_text(RUNS_CODE)
    lines = [line for line in BASE.splitlines() if line.partition(":")[0] != text.partition(":")[0]]
    (folder / "c.yaml").write_text("\n".join([*lines, text]))
    for words in (["sweep", "c.yaml", "--dry-run"], ["plan", "c.yaml", "--throughput", "100"]):
        assert run(words) == 2
        assert "--trust-config" in capsys.readouterr().err


def test_trust_is_the_users_to_give(folder, tmp_path):
    (folder / "mine.py").write_text("from ttc_strategies.single import Greedy\nclass Mine(Greedy): pass\n")
    (folder / "c.yaml").write_text(BASE.replace("greedy", "'mine.py:Mine'"))
    assert run(["sweep", "c.yaml", "--dry-run", "--trust-config"]) == 0
    assert run(["plan", "c.yaml", "--throughput", "100", "--trust-config"]) == 0
    # Named on the command line it is the user's own choice.
    (folder / "c.yaml").write_text(BASE)
    assert run(["sweep", "c.yaml", "--strategies", "mine.py:Mine", "--dry-run"]) == 0


@pytest.mark.parametrize(
    ("model", "host"),
    [
        ("https://evil.example/v1#m", "evil.example"),
        ("http://localhost@evil.example/v1#m", "evil.example"),
        ("http://127.0.0.1:1/v1,http://evil.example/v1#m", "evil.example"),
        ("http://localhost:8000/v1#m", None),
        ("https://api.openai.com/v1#m", None),
        ("Qwen/Qwen2.5-0.5B", None),
    ],
)
def test_a_file_does_not_send_the_key_to_strangers(model, host, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    values = {"models": [{"path": model}]}
    if host is None:
        check_trust(values, "c.yaml")
        return
    with pytest.raises(ConfigError, match=host):
        check_trust(values, "c.yaml")
    with pytest.raises(ConfigError, match="evil"):
        check_trust({"prm": "plan=http://evil/v1#a,execution=embedded"}, "c.yaml")
    monkeypatch.delenv("OPENAI_API_KEY")
    check_trust(values, "c.yaml")


@pytest.mark.parametrize("address", ["HTTP://evil.example/v1", "http://localhost,@evil.example/v1"])
def test_options_lead_nowhere_else_than_the_name_does(address):
    name = "http://localhost:8000/v1#m"
    for wrong in (ModelSpec(path=name, options={"base_url": address}), ModelSpec(path=f"{name};base_url={address}")):
        for opened in (open_engine, open_reward):
            with pytest.raises(ConfigError, match="base_url is said by the model's name"):
                opened(wrong)
    with pytest.raises(ConfigError, match="is not a model of a server"):
        open_engine(ModelSpec(path=f"{name.partition('#')[0]},{address.rpartition(',')[2]}#m"))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('sampling: {stop: ["\\ud800"]}', "is not YAML: 'utf-8' codec can't encode character"),
        ("limit: 99999999999999999999999999", "limit: Input should be less than or equal to 1000000000000"),
        ("budgets: [9000000000000]", "budgets.0: Input should be less than or equal to 1000000000000"),
    ],
)
def test_values_that_no_run_can_hold_are_refused(line, told, folder):
    Path("c.yaml").write_text(line)
    with pytest.raises(ConfigError) as caught:
        parse_config(read_config(Path("c.yaml")), "c.yaml")
    assert told in caught.value.message


@pytest.mark.parametrize(
    "path",
    [
        "http://me:pa#ss@host/v1#m",
        "http://me:pa,ss@host/v1#m",
        "http://me:pass@host/v1",
        "me:pass@host/v1#m",
        "me:pa@h",
        "me:pa@h/v1/m",
    ],
)
def test_a_password_in_an_address_that_is_none_is_not_repeated(path):
    with pytest.raises(
        ConfigError, match=r"is not a model of a server|is neither a model folder|no such model folder"
    ) as caught:
        open_engine(ModelSpec(path=path))
    assert "pa" not in caught.value.message.replace(" path", "")


NAMES = [
    "../../escape",
    "/tmp/escape",
    "..",
    ".",
    "a/b",
    "a\\b",
    "\x1b]0;x\x07",
    "con",
    "-rf",
    "a\nb",
    "%2e%2e%2f",
    "x" * 300,
]


def written(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def test_names_in_a_sweep_never_become_paths_outside_the_run(folder):
    rows = [{"id": name, "question": "What is 1 + 2?", "answer": "3"} for name in NAMES]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for label in ("../../escape", "/tmp/escape-ttc", ".."):
        sweep(
            {
                "tasks": [{"name": "local", "data": "rows.jsonl"}],
                "models": [{"path": "fake", "label": label}],
                "strategies": [{"name": "greedy", "label": label}],
                "budgets": [64],
            }
        )
    top = {name.split("/")[0] for name in written(folder)}
    assert top == {"rows.jsonl", "results"}
    assert not Path("/tmp/escape-ttc").exists()


def test_names_in_a_bank_never_become_paths_outside_the_run(folder):
    rows = [Row(pid, None, config, 0, "1", True, 5, 5, "stop") for pid in NAMES for config in ("../../escape", "c")]
    write_bank(rows, folder / "bank", "../../escape")
    sweep(
        {
            "bank": "bank",
            "models": ["../../escape", "c"],
            "strategies": ["self-consistency"],
            "budgets": [16],
            "draws": 2,
        }
    )
    assert {name.split("/")[0] for name in written(folder)} == {"rows.jsonl", "results", "bank"}


@pytest.mark.parametrize("name", ["config.yaml", "log.txt", "cache.sqlite", ".lock", ".manifest.json.partial", "journal/w.jsonl",
                                  "report", ".records.parquet.partial"])  # fmt: skip
def test_a_run_folder_that_leads_out_of_itself_is_refused(name, folder):
    (folder / "precious").write_text("before")
    (folder / "run" / "journal").mkdir(parents=True)
    (folder / "run" / name).symlink_to(folder / "precious")
    config = {"tasks": [{"name": "local", "data": "rows.jsonl"}], "models": ["fake"], "strategies": ["greedy"], "budgets": [64]}  # fmt: skip
    with pytest.raises(StorageError, match="symbolic link"):
        sweep(config, folder / "run")
    (folder / "run" / "manifest.json").write_text("{}")
    with pytest.raises(StorageError, match="symbolic link"):
        RunDir.existing(folder / "run")
    assert (folder / "precious").read_text() == "before"


class Bomb:
    """Leaves a mark where it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch mark",)


def bank_table():
    rows = [Row(f"p{i}", "q", "c", k, "1", k == 0, 5, 5, "stop", -1.0, 0.5) for i in range(3) for k in range(2)]
    write_bank(rows, Path("plain"), "b")
    return pq.read_table("plain/bank.parquet")


def as_bank(table, name="bank"):
    Path(name).mkdir(exist_ok=True)
    pq.write_table(table, f"{name}/bank.parquet")
    return Path(name)


def test_pickles_in_a_parquet_file_stay_bytes(folder):
    table = bank_table()
    bomb = pickle.dumps(Bomb())
    odd = table.append_column("extra", pa.array([bomb] * len(table), pa.binary()))
    metadata = {b"pandas": bomb, b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": bomb}
    field = pa.field("pickled", pa.binary(), metadata=metadata)
    odd = odd.append_column(field, pa.array([bomb] * len(table), pa.binary())).replace_schema_metadata(metadata)
    bank = read_bank(as_bank(odd))
    assert bank.problem_ids("c") == ["p0", "p1", "p2"]


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("correct", ["yes"] * 6),
        ("completion_tokens", [1.5] * 6),
        ("completion_tokens", [-5] * 6),
        ("completion_tokens", [None] * 6),
        ("sample", [0] * 6),
        ("sample", ["0"] * 6),
        ("problem_id", [None] * 6),
        ("problem_id", [b"p"] * 6),
        ("problem_id", [["p"]] * 6),
        ("score", [2.0] * 6),
        ("score", [float("nan")] * 6),
        ("answer", [{"a": 1}] * 6),
        ("finish", ["never"] * 6),
        ("config", [1] * 6),
    ],
)
def test_odd_columns_of_a_bank_are_refused(column, values, folder):
    table = bank_table()
    at = table.column_names.index(column)
    with pytest.raises(DataError):
        read_bank(as_bank(table.set_column(at, column, pa.array(values))))


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + b"\xff" * 64 + b"PAR1", pickle.dumps(Bomb())])
def test_files_that_are_no_parquet_are_refused(content, folder):
    Path("bank").mkdir()
    Path("bank/bank.parquet").write_bytes(content)
    with pytest.raises(DataError):
        read_bank(Path("bank"))


@pytest.mark.parametrize("name", ['{"name": "../x"}', '{"name": ["x"]}', "[]", "null", '"x"', "[" * 100_000, "\xff"])
def test_the_name_of_a_bank_is_a_name_or_refused(name, folder):
    bank_table()
    Path("plain/bank.json").write_bytes(name.encode("latin-1"))
    with contextlib.suppress(DataError):
        assert isinstance(read_bank(Path("plain")).name, str)


@pytest.mark.parametrize("line", ["[" * 100_000, '{"a":' * 50_000, "1" * 10_000, "NaN", '"\\ud800"', "\x00", "{}" * 3])
def test_lines_that_are_no_samples_are_refused(line, folder):
    Path("lines.jsonl").write_text(line + "\n")
    with pytest.raises(DataError):
        import_rows(Path("lines.jsonl"), Path("made"), None)
    assert not Path("made").exists()


@pytest.fixture
def predictor(folder):
    """A copy of the shipped predictor, to be tampered with."""
    shutil.copytree(SHIPPED, "predictor")
    return Path("predictor")


def says(predictor):
    """Return what a predictor makes of a problem."""
    problems = [Seen(row["id"], row["question"]) for row in ROWS]
    return [predictor.curves(*key, problems).values.tolist() for key in predictor.known()]


def reseal(folder, content):
    """Give changed content a fitting seal, as somebody would who wants it to be read."""
    content["files"] = {
        name: hashlib.sha256((folder / Path(name).name).read_bytes()).hexdigest() for name in content["files"]
    }
    whole = {key: value for key, value in content.items() if key != "fingerprint"}
    (folder / "predictor.json").write_text(json.dumps({**whole, "fingerprint": identity(whole, 16)}))


def test_the_untampered_predictor_loads_whether_resealed_or_not(predictor):
    BudgetPredictor.load(predictor)
    reseal(predictor, json.loads((predictor / "predictor.json").read_text()))
    BudgetPredictor.load(predictor)


@pytest.mark.parametrize("change", [
    lambda c: c.update(models=[]), lambda c: c.update(models=None), lambda c: c.update(values={"a": 1}),
    lambda c: c.update(parameters={"seed": "x", "evil": 1}), lambda c: c.update(parameters=[1]),
    lambda c: c["models"][0].update(concentration="NaN"), lambda c: c["models"][0].update(prior={}),
    lambda c: c["models"][0]["success"].update(objective="__class__"),
    lambda c: c["models"][0]["success"].update(trees="../../../etc/passwd"),
    lambda c: c["models"][0]["success"].update(trees=["x"]),
    lambda c: c.update(kind="os.system"),
], ids=range(11))  # fmt: skip
def test_a_tampered_predictor_is_refused(change, predictor):
    content = json.loads((predictor / "predictor.json").read_text())
    change(content)
    reseal(predictor, content)
    with pytest.raises(DataError) as told:
        BudgetPredictor.load(predictor)
    assert "\n" not in told.value.message


def test_odd_notes_of_a_predictor_change_nothing_that_it_says(predictor):
    content = json.loads((predictor / "predictor.json").read_text())
    reseal(predictor, {**content, "notes": {"x": 1}})
    assert says(BudgetPredictor.load(predictor)) == says(BudgetPredictor.load(SHIPPED))


@pytest.mark.parametrize("text", [
    "", "tree\n", "tree\nversion=v4\nnum_class=1\n", pickle.dumps(Bomb(), 0).decode("latin-1"),
    "tree\nversion=v4\nnum_class=1\nnum_tree_per_iteration=1\nlabel_index=0\nmax_feature_idx=999999999\n"
    "objective=binary\nfeature_names=a\nfeature_infos=none\ntree_sizes=1\n\nTree=0\nnum_leaves=999999999\n",
], ids=range(5))  # fmt: skip
def test_trees_that_are_none_are_refused(text, predictor):
    for path in predictor.glob("*.txt"):
        path.write_text(text)
    content = json.loads((predictor / "predictor.json").read_text())
    reseal(predictor, content)
    with pytest.raises(TtcError):
        BudgetPredictor.load(predictor)


@pytest.mark.parametrize(("old", "new"), [
    ("\nTree=0\n", "\nend of trees\n\nTree=0\n"),
    ("num_tree_per_iteration=1\n", "num_tree_per_iteration=1\nnum_tree_per_iteration\n"),
    ("\nTree=0\n", "=tree_sizes=" + " ".join(["999999999"] * 8) + "\n\nTree=0\n"),
    ("objective=", "objective=="),
    ("max_feature_idx=", "max_feature_idx=0_"),
    ("\nnum_cat=0\n", "\nodd\nnum_cat=0\n"),
    ("\nnum_cat=0\n", "\n\nnum_cat=0\n"),
], ids=range(7))  # fmt: skip
def test_trees_that_lightgbm_would_read_in_another_way_are_refused(old, new, predictor):
    for path in predictor.glob("*.txt"):
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))
    reseal(predictor, json.loads((predictor / "predictor.json").read_text()))
    with pytest.raises(TtcError):
        BudgetPredictor.load(predictor)  # which reads no trees yet: to predict from these could end the process


def test_of_a_model_only_what_was_checked_is_read(predictor):
    for path in predictor.glob("*.txt"):
        head, end, _ = path.read_text().partition("\nend of trees")
        path.write_text(f"{head}{end}\n\nTree=9\n\npandas_categorical:" + "[" * 100_000 + "\n")
    reseal(predictor, json.loads((predictor / "predictor.json").read_text()))
    assert says(BudgetPredictor.load(predictor)) == says(BudgetPredictor.load(SHIPPED))


def test_read_config_follows_honest_references(folder):
    Path("c.yaml").write_text("strategies: [&a {name: greedy}, *a]\nbudgets: [1]\n")
    assert read_config(Path("c.yaml"))["strategies"] == [{"name": "greedy"}] * 2
