"""The demo, with fewer problems: all that is registered is on one page, and the same command has nothing left to do."""

import json
from pathlib import Path

import pytest

from ttc.cli import demo
from ttc.cli.main import run
from ttc.core import registry
from ttc.testing.breaking import records


@pytest.mark.engine
@pytest.mark.timeout(1500)
def test_every_strategy_live_and_every_allocator_on_a_bank_recorded_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    sizes = {"PROBLEMS": 2, "BUDGETS": (64,), "BANK_PROBLEMS": 12, "BANK_SAMPLES": 4, "BANK_BUDGETS": (100,)}
    for name, value in sizes.items():
        monkeypatch.setattr(demo, name, value)
    assert run(["demo", "--display", "none"]) == 0
    told = capsys.readouterr().out
    page = tmp_path / told.splitlines()[-1].removeprefix("report: ")
    for name in (*registry.names("strategies"), *registry.names("allocators")):
        assert name in page.read_text()
        assert name in told
    before = {path: path.read_bytes() for path in (tmp_path / "results").rglob("*.jsonl")}
    assert run(["demo", "--display", "none"]) == 0
    assert told.endswith(capsys.readouterr().out)
    assert {path: path.read_bytes() for path in (tmp_path / "results").rglob("*.jsonl")} == before
    check_joined(tmp_path)


def check_joined(folder: Path) -> None:
    """The allocators that choose between models and strategies, live, told by the predictor that the demo fitted."""
    config = {
        "tasks": ["arithmetic"],
        "models": [{"path": "embedded", "temperature": temperature} for temperature in demo.TEMPERATURES],
        "predictor": "results/demo/predictor",
        "strategies": ["self-consistency"],
        "allocators": ["route", "mixed"],
        "also": [{"strategies": list(demo.CHOSEN_FROM), "allocators": ["compute-optimal"]}],
        "budgets": [100],
        "limit": 12,
    }
    (folder / "joined.yaml").write_text(json.dumps(config))
    assert run(["sweep", "joined.yaml", "--display", "none", "--out", "joined"]) == 0
    rows = records(folder / "joined")
    assert {row["status"] for row in rows} == {"ok"}
    cells = {row["cell"] for row in rows}
    assert len(rows) == 12 * len(cells) >= 12 * 3
    for cell in cells:
        assert sum(row["completion_tokens"] for row in rows if row["cell"] == cell) <= 100 * 12


def test_without_vllm_a_shipped_bank_is_replayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    monkeypatch.setattr(demo, "RECORDED_BUDGETS", (256,))
    assert run(["demo", "--display", "none"]) == 0
    told = capsys.readouterr()
    assert "vLLM is not installed: replaying" in told.err
    assert "self-consistency" in told.out
    assert (tmp_path / told.out.splitlines()[-1].removeprefix("report: ")).is_file()
