"""Starting up is cheap: heavy libraries are loaded by what uses them, and by nothing else."""

import json
import resource
import subprocess
import sys
from importlib.metadata import version

import pytest

HEAVY = [
    "vllm", "torch", "transformers", "lightgbm", "sklearn", "datasets", "matplotlib", "pyarrow", "pandas", "math_verify",
    "sympy", "scipy", "numpy", "openai", "pebble", "jinja2",
]  # fmt: skip
LIMIT_S = 0.4


def loaded_by(code):
    """Run code in a process of its own and return which heavy modules it loaded."""
    tail = f"\nimport sys, json\nprint(json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code + tail], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def least_of_5(*command):
    """Return the least processor time of five runs: on a busy machine the clock says little."""

    def spent():
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    times = []
    for _ in range(5):
        before = spent()
        done = subprocess.run(command, capture_output=True, timeout=60)
        times.append(spent() - before)
        assert done.returncode == 0, done.stderr
    return min(times)


def test_importing_the_package_loads_nothing_heavy():
    assert loaded_by("import ttc") == []


def helps():
    """Return the words that ask for help, of the program and of each of its commands."""
    from ttc.cli.main import app

    names = [command.name or command.callback.__name__ for command in app.registered_commands]
    return ["--help", *(f"{name} --help" for name in names)]


@pytest.mark.parametrize("arguments", helps())
def test_help_loads_nothing_heavy(arguments):
    assert loaded_by(f"from ttc.cli.main import run\nassert run({arguments.split()!r}) == 0") == []


@pytest.mark.parametrize("kind", ["strategies", "allocators", "tasks", "engines", "runs"])
def test_listing_loads_nothing_heavy(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    heavy = loaded_by(f"from ttc.cli.main import run\nassert run(['ls', '{kind}']) == 0")
    assert not set(heavy) & {"vllm", "torch", "datasets", "matplotlib", "math_verify", "sympy", "sklearn", "lightgbm"}


def test_planning_a_sweep_on_the_fake_engine_loads_no_model_library(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"id": "p", "question": "What is 1 + 1?", "answer": "2"}\n')
    asked = {
        "task": {"name": "local", "data": "rows.jsonl"},
        "model": "fake",
        "strategies": ["greedy"],
        "budgets": [64],
    }
    heavy = loaded_by(f"import ttc\nttc.make_plan({asked!r})")
    assert not set(heavy) & {"vllm", "torch", "transformers", "datasets", "matplotlib", "sklearn", "lightgbm"}


def test_importing_the_package_is_quick():
    assert least_of_5(sys.executable, "-c", "import ttc") < LIMIT_S


def test_help_is_quick():
    assert least_of_5(sys.executable, "-m", "ttc", "--help") < LIMIT_S


def test_every_public_name_is_there_and_no_other():
    import ttc

    for name in ttc.__all__:
        assert getattr(ttc, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'swep'"):
        ttc.swep  # noqa: B018
    assert version("ttc-toolkit")
