"""Several models, or several strategies, in one cell: from the command line to tables and report."""

import json
from collections import defaultdict

import numpy as np
import pyarrow.parquet as pq
import pytest

from ttc.cli.main import run
from ttc.core.curves import Curves
from ttc.core.forecast import Training
from ttc.testing.foreseen import Foreseen

ALLOCATORS = "uniform,route,mixed,compute-optimal"
FILE = """
task: {name: local, data: problems.jsonl}
models:
  - {path: "fake:p=0.3;label=small"}
  - {path: "fake:p=0.9;label=large", weight: 2.5}
"""


class Guessing(Foreseen):
    """Takes every second problem for one that only the second model solves."""

    def __init__(self, models):
        super().__init__({}, sample_tokens=50, most=4)
        self.models = models

    def known(self):
        return [(m, s, u) for m in self.models for s in ("self-consistency", "coverage") for u in ("tokens", "calls")]

    def success(self, model, problems):
        last = [int(seen.problem_id[-1]) % 2 for seen in problems]
        return np.where(np.array(last) == self.models.index(model), 0.9, 0.2)

    def training(self, model, strategy, unit):
        found = super().training(model, strategy, unit)
        if strategy != "coverage":
            return found
        half = Curves(found.curves.costs, found.curves.values / 2, found.curves.offsets)
        return Training(found.scores, half)


@pytest.fixture
def predictor(monkeypatch):
    def told(models):
        monkeypatch.setattr("ttc.core.forecast.load_predictor", lambda folder: Guessing(models))

    return told


def cells_of(folder):
    cells = {row["cell"]: row for row in pq.read_table(folder / "cells.parquet").to_pylist()}
    options = defaultdict(set)
    for row in pq.read_table(folder / "allocation.parquet").to_pylist():
        options[cells[row["cell"]]["allocator"]].add(row["option"])
    return list(cells.values()), options


def sweep(*words):
    common = ["--strategies", "self-consistency,coverage", "--allocators", ALLOCATORS, "--predictor", "told"]
    return run(["sweep", *words, *common, "--display", "none", "--out", "out"])


def test_two_configurations_of_a_bank(folder, predictor, capsys):
    predictor(["tiny T=0.7", "tiny T=1"])
    assert sweep("--bank", "bank", "--budgets", "160", "--draws", "3") == 0
    assert "tiny T=0.7+tiny T=1" in capsys.readouterr().out
    cells, options = cells_of(folder / "out")
    found = sorted((row["model"], row["strategy"], row["allocator"]) for row in cells)
    both = "tiny T=0.7+tiny T=1"
    assert found == sorted(
        [(m, s, "uniform") for m in ("tiny T=0.7", "tiny T=1") for s in ("self-consistency", "coverage")]
        + [(m, "self-consistency+coverage", "compute-optimal") for m in ("tiny T=0.7", "tiny T=1")]
        + [(both, s, a) for s in ("self-consistency", "coverage") for a in ("route", "mixed")]
    )
    assert options["route"] == {"tiny T=0.7: 1 call", "tiny T=1: 1 call"}
    assert options["compute-optimal"] == {"self-consistency: 150 tokens"}
    assert all(row["tokens_max"] <= 160 * 4 for row in cells)
    assert (folder / "out" / "report" / "index.html").is_file()


def test_two_live_models_and_the_same_command_again(folder, predictor, capsys):
    predictor(["small", "large"])
    (folder / "two.yaml").write_text(FILE)
    words = ("two.yaml", "--budgets", "400", "--max-tokens", "120")
    assert sweep(*words) == 0
    cells, options = cells_of(folder / "out")
    assert len(cells) == 2 * 2 + 2 + 2 * 2
    assert options["route"] == {"small: 1 call", "large: 1 call"}
    before = (folder / "out" / "journal" / "main.jsonl").read_bytes()
    manifest = json.loads((folder / "out" / "manifest.json").read_text())
    assert {"small", "large", "small+large"} == set(manifest["models"])
    capsys.readouterr()
    assert sweep(*words) == 0
    assert (folder / "out" / "journal" / "main.jsonl").read_bytes() == before


def test_a_dry_run_names_the_joint_cells(folder, predictor, capsys):
    predictor(["small", "large"])
    (folder / "two.yaml").write_text(FILE)
    assert sweep("two.yaml", "--budgets", "400", "--dry-run") == 0
    told = capsys.readouterr().out
    assert "small+large  coverage  route  budget 400  total 1,200" in told
    assert "large  self-consistency+coverage  compute-optimal" in told
