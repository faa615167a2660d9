"""`--track`: what a tracker is given, and that one that fails, hangs or is missing stops and changes nothing."""

import json
import os
import shlex
import signal
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from error_case import sweep

import ttc
from ttc import trackers
from ttc.cli.main import run
from ttc.core import registry
from ttc.store.tables import SCHEMAS

TRACKERS = """
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
import json

@dataclass(frozen=True)
class Recorder:
    target: str

    def log(self, run):
        print("noise")
        said = {**asdict(run), "target": self.target, "pid": os.getpid()}
        Path("recorded.json").write_text(json.dumps(said, default=str))
        return "recorded.json"

@dataclass(frozen=True)
class Raises:
    target: str

    def log(self, run):
        print("a lot of noise")
        raise RuntimeError("no\\nroute to host")

@dataclass(frozen=True)
class Hangs:
    target: str

    def log(self, run):
        service = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(99)"])
        Path("service.pid").write_text(str(service.pid))
        time.sleep(99)

@dataclass(frozen=True)
class Leaves:
    target: str

    def log(self, run):
        print("license expired", file=sys.stderr)
        sys.exit(3)

@dataclass(frozen=True)
class Lingers:
    # Leaves a service that holds its standard output, as W&B does.
    target: str

    def log(self, run):
        service = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(99)"])
        Path("service.pid").write_text(str(service.pid))

@dataclass(frozen=True)
class Needs:
    target: str

    def log(self, run):
        import left_by_a_tracker
"""

WANDB = """
import json, os
from pathlib import Path
said = {}
class api:
    api_key = os.environ.get("WANDB_API_KEY")
class Settings:
    sync_dir = "wandb/offline-run-1"
class Run:
    settings = Settings()
    def __init__(self, mode): self.url = "https://wandb.example/1" if mode == "online" else None
    def __enter__(self): return self
    def __exit__(self, *exc): Path("said.json").write_text(json.dumps(said))
    def log(self, values): said["log"] = values
def init(*, project, entity, name, config, mode):
    said.update(project=project, entity=entity, name=name, config=config, mode=mode)
    return Run(mode)
def Table(*, columns, data): return {"columns": columns, "data": data}
def Image(path): return Path(path).read_bytes()[:8].hex()
"""

MLFLOW = """
import json
from pathlib import Path
runs, stack = [], []
class Run:
    class info: run_id = "r0"
    def __enter__(self): stack.append(runs[-1]); return self
    def __exit__(self, *exc): stack.pop(); Path("said.json").write_text(json.dumps(runs))
def set_experiment(name): runs.append({"experiment": name})
def start_run(run_name, nested=False):
    assert nested == bool(stack)
    runs.append({"name": run_name, "params": {}, "metrics": {}})
    return Run()
def log_params(values): stack[-1]["params"].update({key: str(value) for key, value in values.items()})
def log_metrics(values):
    assert all(type(value) is float for value in values.values())
    stack[-1]["metrics"].update(values)
def log_artifacts(folder, path): stack[-1][path] = sorted(p.name for p in Path(folder).iterdir())
def get_tracking_uri(): return "sqlite:///mlflow.db"
"""

TRACKIO = """
import json
from pathlib import Path
said = {"log": []}
def init(*, project, name, config): said.update(project=project, name=name, config=config)
def log(values): said["log"].append(values)
def Image(path): return Path(path).read_bytes()[:8].hex()
def finish(): Path("said.json").write_text(json.dumps(said))
"""
PNG = b"\x89PNG\r\n\x1a\n".hex()
NOT_THERE = "raise ModuleNotFoundError(\"No module named '{0}'\", name='{0}')"


@pytest.fixture
def work(folder):
    (folder / "mine.py").write_text(TRACKERS)
    return folder


@pytest.fixture
def library(work, monkeypatch):
    """Return a function that makes a module of the tracker's name, found before an installed one."""
    (work / "libraries").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(work / "libraries"))
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)

    def make(name, text):
        (work / "libraries" / f"{name}.py").write_text(text)

    return make


def ttc_(line):
    return run(shlex.split(line))


def logged(*words):
    """Send the finished run to trackers; return the line that a user is told of each."""
    return [sent.line for sent in trackers.send(words, Path("run"), Path("run/report"))]


def said(work):
    return json.loads((work / "said.json").read_text())


def cells(work):
    return pq.read_table(work / "run" / "cells.parquet").to_pylist()


def test_a_tracker_is_given_the_configuration_the_cells_and_the_picture(work, capsys):
    assert ttc_(sweep("--out new --display none --track mine.py:Recorder:there", strategies="greedy,coverage")) == 0
    given = json.loads((work / "recorded.json").read_text())
    assert (given["name"], given["target"]) == ("new", "there")
    assert given["pid"] != os.getpid()
    assert [s["name"] for s in given["config"]["strategies"]] == ["greedy", "coverage"]
    assert given["config"]["n_problems"] == {"local": 3}
    assert given["config"]["command"]
    assert given["cells"] == pq.read_table(work / "new" / "cells.parquet").to_pylist()
    assert set(given["cells"][0]) == set(SCHEMAS["cells"])
    with open(given["pictures"]["pareto"], "rb") as picture:
        assert picture.read(8).hex() == PNG
    assert "index.html" in os.listdir(given["report"])
    assert "noise" not in "".join(capsys.readouterr())


def test_a_report_tells_where_the_run_can_be_seen_and_what_failed(work, capsys):
    assert ttc_("report run --out again --track mine.py:Recorder --track mine.py:Raises") == 0
    out, err = capsys.readouterr()
    assert "report: again/index.html" in out
    seen, warning = err.splitlines()
    assert seen == "mine.py:Recorder: recorded.json"
    assert warning.startswith("warning: mine.py:Raises has not logged the run: RuntimeError")
    given = json.loads((work / "recorded.json").read_text())
    assert (given["target"], given["report"]) == ("", "again")


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("mine.py:Raises", "RuntimeError: no route to host"),
        ("mine.py:Leaves", "its process ended with code 3: license expired"),
        ("mine.py:Needs", "No module named 'left_by_a_tracker'"),
    ],
)
def test_one_that_fails_is_told_in_one_line(work, word, reason):
    (work / "left_by_a_tracker").mkdir()  # a folder in the working directory is no package
    (line,) = logged(word)
    assert line == f"{word} has not logged the run: {reason} (ttc report RUN --track {word} tries again)"


@pytest.mark.parametrize("name", trackers.EXTRAS)
def test_a_missing_package_is_named_with_its_extra(work, library, name):
    library(name, NOT_THERE.format(name))
    (line,) = logged(f"{name}:p")
    assert f"No module named '{name}': pip install 'ttc-toolkit[{name}]'" in line


def test_one_that_hangs_is_ended_with_all_that_it_started_and_holds_up_no_other(work, monkeypatch):
    monkeypatch.setattr(trackers, "LIMIT_S", 8.0)
    began = time.monotonic()
    hung, other = logged("mine.py:Hangs", "mine.py:Recorder")
    assert time.monotonic() - began < 30
    assert hung.startswith("mine.py:Hangs has not logged the run: it did not end within 8 s")
    assert other == "mine.py:Recorder: recorded.json"
    service = int((work / "service.pid").read_text())
    while alive(service):
        assert time.monotonic() - began < 60
        time.sleep(0.01)


def alive(pid):
    """Say whether a process runs; one that ended and waits to be collected does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_service_that_is_left_behind_is_not_waited_for(work):
    assert logged("mine.py:Lingers") == ["mine.py:Lingers: logged"]
    os.kill(int((work / "service.pid").read_text()), signal.SIGKILL)


def test_a_sweep_ends_as_without_a_tracker(work, capsys):
    assert ttc_(sweep("--out new --display none --track mine.py:Raises")) == 0
    out, err = capsys.readouterr()
    assert "report: new/report/index.html" in out
    assert [line for line in err.splitlines() if "warning" in line and "Raises" in line] == err.splitlines()[-1:]
    assert json.loads((work / "new" / "manifest.json").read_text())["state"] == "finished"


def test_a_run_with_too_many_failures_is_logged_as_well(work):
    assert ttc_(sweep("--out new --display none --track mine.py:Recorder", strategies="strategies.py:Raises")) == 4
    (cell,) = json.loads((work / "recorded.json").read_text())["cells"]
    assert cell["n_errors"] == 3


def test_the_configuration_of_a_sweep_from_python_names_trackers(work):
    config = {
        "task": {"name": "local", "data": "problems.jsonl"}, "model": "fake", "strategies": "greedy", "budgets": 64,
        "track": [str(work / "mine.py:Raises"), "mine.py:Recorder"],
    }  # fmt: skip
    with pytest.warns(UserWarning, match="has not logged the run: RuntimeError: no route") as heard:
        ttc.sweep(config, work / "new")
    assert len([w for w in heard if "logged the run" in str(w.message)]) == 1
    assert json.loads((work / "recorded.json").read_text())["name"] == "new"
    assert str(work) not in (work / "new" / "config.yaml").read_text()


def test_trackers_are_registered():
    assert registry.names("trackers") == sorted(trackers.EXTRAS)


@pytest.mark.parametrize(
    ("variables", "mode", "seen"),
    [
        ({}, "offline", "offline; to send it: wandb sync wandb/offline-run-1"),
        ({"WANDB_API_KEY": "x"}, "online", "https://wandb.example/1"),
        ({"WANDB_API_KEY": "x", "WANDB_MODE": "offline"}, "offline", "wandb sync"),
    ],
)
def test_wandb(work, library, monkeypatch, variables, mode, seen):
    library("wandb", WANDB)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    (line,) = logged("wandb:team/sums")
    assert line.startswith("wandb:team/sums: ")
    assert seen in line
    told, rows = said(work), cells(work)
    assert (told["mode"], told["entity"], told["project"], told["name"]) == (mode, "team", "sums", "run")
    assert told["config"]["budgets"] == [256]
    table = told["log"]["cells"]
    assert [dict(zip(table["columns"], row, strict=True)) for row in table["data"]] == rows
    assert told["log"]["pareto"] == PNG


def test_wandb_without_an_entity(work, library):
    library("wandb", WANDB)
    logged("wandb:sums")
    assert (said(work)["entity"], said(work)["project"]) == (None, "sums")


def test_mlflow(work, library):
    library("mlflow", MLFLOW)
    assert logged("mlflow:sums") == ["mlflow:sums: sqlite:///mlflow.db, run r0"]
    (experiment, whole, *parts), rows = said(work), cells(work)
    assert experiment == {"experiment": "sums"}
    assert json.loads(whole["params"]["n_problems"]) == {"local": 3}
    assert {"index.html", "pareto.png", "leaderboard.csv"} <= set(whole["report"])
    for part, row in zip(parts, rows, strict=True):
        numbers = {k: v for k, v in row.items() if isinstance(v, int | float) and not isinstance(v, bool)}
        assert part["metrics"] == numbers
        assert {"accuracy", "ci_low", "ci_high", "tokens_per_problem", "budget"} <= set(numbers)
        assert part["params"] == {key: str(value) for key, value in row.items() if key not in numbers}
        assert "self-consistency/uniform@256" in part["name"]


def test_trackio(work, library):
    library("trackio", TRACKIO)
    assert logged("trackio:sums") == ["trackio:sums: trackio show --project sums"]
    told = said(work)
    assert (told["project"], told["name"]) == ("sums", "run")
    assert all(isinstance(value, str | int | float) for value in told["config"].values())
    *steps, pictures = told["log"]
    assert steps == [{key: value for key, value in row.items() if value is not None} for row in cells(work)]
    assert pictures == {"pareto": PNG}
