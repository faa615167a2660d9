import json
import shutil

import numpy as np
import pytest
from made_up_problems import after, outcomes

from ttc.core.errors import DataError, StorageError
from ttc.core.forecast import load_predictor
from ttc.predictors import BudgetPredictor


@pytest.fixture(scope="module")
def stored(fitted, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stored") / "p"
    fitted.save(folder)
    return folder


@pytest.fixture
def copy(stored, tmp_path):
    return shutil.copytree(stored, tmp_path / "copy")


def test_a_stored_predictor_says_the_same(fitted, fresh, stored):
    again = load_predictor(stored)
    assert again.fingerprint == fitted.fingerprint
    assert again.wants_vectors
    problems = after(outcomes(fresh, draws=1), 2)
    for key in fitted.known():
        for asked in (fresh.problems, problems):
            ours, theirs = fitted.curves(*key, asked), again.curves(*key, asked)
            assert np.array_equal(ours.values, theirs.values)
            assert np.array_equal(ours.costs, theirs.costs)
        assert np.array_equal(fitted.training(*key).scores, again.training(*key).scores)
        assert again.training(*key).problem_ids == fitted.training(*key).problem_ids
    assert np.array_equal(fitted.success("toy", fresh.problems), again.success("toy", fresh.problems))
    ours, theirs = (p.sample_tokens("toy", fresh.problems) for p in (fitted, again))
    assert np.array_equal(ours, theirs)


def test_the_folder_is_text_and_a_picture(stored):
    assert {file.suffix for file in stored.iterdir()} == {".json", ".txt", ".png"}
    for file in stored.glob("*.txt"):
        assert file.read_text().startswith("tree\n")


def test_quality_is_told_and_kept(fitted, stored):
    report = json.loads((stored / "report.json").read_text())
    assert report == fitted.report_ == load_predictor(stored).report_
    (row,) = report["success"]
    assert row["problems"] == 150
    assert row["brier"] < row["base_brier"]
    assert row["spearman"] > 0.5
    assert row["cost_ratio"] == pytest.approx(1, abs=0.03)
    assert sum(b["share"] for b in row["reliability"]) == pytest.approx(1, abs=0.01)
    assert [p["drawn"] for p in row["pilots"]] == [0, 1, 2, 4, 8]
    assert row["pilots"][4]["brier"] < row["pilots"][0]["brier"]
    assert {(v["strategy"], v["unit"]) for v in report["values"]} == {(s, u) for _, s, u in fitted.known()}


def test_saving_again_leaves_nothing_stale(fitted, copy):
    (copy / "value-99-gain.txt").write_text("tree")
    fitted.save(copy)
    assert not (copy / "value-99-gain.txt").exists()
    assert load_predictor(copy).fingerprint == fitted.fingerprint


def test_a_folder_of_something_else_is_not_written_into(fitted, tmp_path):
    (tmp_path / "notes.md").write_text("mine")
    with pytest.raises(StorageError, match="holds no predictor"):
        fitted.save(tmp_path)


def edited(**changes):
    def edit(folder):
        file = folder / "predictor.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return edit


def cut(name, share=0.5):
    def edit(folder):
        file = next(folder.glob(name))
        text = file.read_text()
        file.write_text(text[: int(len(text) * share)])

    return edit


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (shutil.rmtree, "holds no predictor"),
        (cut("predictor.json"), "not whole JSON"),
        (cut("*.txt"), "SHA-256"),
        (lambda folder: next(folder.glob("*.txt")).unlink(), "cannot read"),
        (edited(version=99), "version 99"),
        (edited(format="other"), "not a predictor"),
        (edited(models=[]), "fingerprint"),
        (edited(kind="evil.py:Class"), "unknown kind"),
        (edited(kind=None), "unknown kind"),
        (lambda folder: (folder / "predictor.json").write_text("[]"), "unknown kind"),
        (lambda folder: (folder / "predictor.json").write_bytes(b"\xff\xfe"), "holds no predictor|not whole JSON"),
    ],
)
def test_damage_is_found_and_told(copy, damage, said):
    damage(copy)
    with pytest.raises(DataError, match=said):
        load_predictor(copy)


def test_another_class_does_not_take_it(copy):
    class Other(BudgetPredictor):
        kind = "other"

    with pytest.raises(DataError, match="not 'other'"):
        Other.load(copy)
