"""What may stand in one table, and what one side of a comparison is."""

import json

import numpy as np
import pytest
from made_up_runs import cell, end, failed, record, run_of, sweep

from ttc.core.errors import ConfigError, DataError
from ttc.report.build import write_report
from ttc.report.leaderboard import leaderboard
from ttc.report.merge import load, merge
from ttc.report.verdict import Selector, compare, paired_sides, parse_selector, sides, verdicts

PLAIN = {("self-consistency", "uniform"): 0.0}
SOURCES = {"gsm8k": {"name": "rows.jsonl", "sha256": "1", "prompt_template": "{question}", "checker": "numeric-1"}}


def loaded(*runs):
    return load(runs)


def one_run(
    path, strategies=PLAIN, *, problems=20, sources=SOURCES, seed=0, budgets=(256, 512), model="tiny", **manifest
):
    lines = sweep(strategies, budgets, problems=problems, model=model)
    for line in lines:
        if line["kind"] == "cell" if "kind" in line else False:
            line["seed"] = seed
        if "cell" in line:
            line["cell"] = f"{line['cell']}-{path.name}"
    return run_of(path, lines, sources=sources, **manifest)


def test_comparable_runs_share_a_table(tmp_path):
    a = one_run(tmp_path / "a")
    b = one_run(tmp_path / "b", {("best-of-n", "uniform"): 0.2})
    content = merge(loaded(a, b))
    (section,) = leaderboard(content.tables)
    assert {row.label for row in section.rows} == {"self-consistency", "best-of-n"}
    assert any(row.difference is not None for row in section.rows)
    assert content.notes == ()


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"problems": 30}, "other problems (20 and 30, 20 in both)"),
        (
            {"sources": {"gsm8k": {**SOURCES["gsm8k"], "checker": "numeric-2"}}},
            "another grader (numeric-1 and numeric-2)",
        ),
        ({"sources": {"gsm8k": {**SOURCES["gsm8k"], "sha256": "2"}}}, "other rows of the data set"),
        ({"sources": {"gsm8k": {**SOURCES["gsm8k"], "split": "train"}}}, "another split (unknown and train)"),
        ({"sources": {"gsm8k": {**SOURCES["gsm8k"], "prompt_template": "Q: {question}"}}}, "another wording"),
        ({"weights": {"tiny": "abc"}}, "other weights under the same model name"),
    ],
)
def test_what_may_not_be_compared_is_kept_apart_with_the_reason(tmp_path, other, reason):
    content = merge(loaded(one_run(tmp_path / "a"), one_run(tmp_path / "b", {("best-of-n", "uniform"): 0.2}, **other)))
    sections = leaderboard(content.tables)
    assert [section.task for section in sections] == ["gsm8k", "gsm8k [2]"]
    (note,) = content.notes
    assert reason in note
    assert note.startswith("b is kept apart as gsm8k [2]: ")


def test_other_models_are_other_tables_without_a_word(tmp_path):
    content = merge(loaded(one_run(tmp_path / "a"), one_run(tmp_path / "b", model="small")))
    assert [(s.task, s.model) for s in leaderboard(content.tables)] == [("gsm8k", "tiny"), ("gsm8k", "small")]
    assert content.notes == ()


def test_several_models_in_one_cell_are_told_by_the_weights_of_each(tmp_path):
    def joined(name, **weights):
        return one_run(tmp_path / name, {(f"{name}-of-n", "uniform"): 0.1}, model="m+n", weights=weights)

    same = merge(loaded(joined("best", m="1", n="2"), joined("worst", m="1", n="2")))
    assert len(leaderboard(same.tables)) == 1
    other = merge(loaded(joined("first", m="1", n="2"), joined("last", m="1", n="3")))
    assert len(leaderboard(other.tables)) == 2
    assert "other weights under the same model name" in other.notes[0]


def test_a_cell_of_two_runs_counts_once(tmp_path):
    a = one_run(tmp_path / "a" / "same")
    b = one_run(tmp_path / "b" / "same")
    content = merge(loaded(a, b))
    assert content.tables.cells.num_rows == 2
    assert content.tables.records.num_rows == 40
    assert any("taken once" in note for note in content.notes)


def test_other_sampling_is_told_in_the_label(tmp_path):
    a = one_run(tmp_path / "a", sampling={"gsm8k": {"temperature": 0.7}})
    b = one_run(tmp_path / "b", sampling={"gsm8k": {"temperature": 1.0}})
    (section,) = leaderboard(merge(loaded(a, b)).tables)
    assert {row.label for row in section.rows} == {
        "self-consistency (temperature=0.7)",
        "self-consistency (temperature=1.0)",
    }


def test_seeds_of_the_same_problems_are_averaged_not_pooled(tmp_path):
    def run(name, seed, scores):
        rows = [record(name, str(i), s, 100 + 100 * seed) for i, s in enumerate(scores)]
        return run_of(tmp_path / name, [cell(name, n_problems=len(scores), seed=seed), *rows, end(name)])

    a, b = run("a", 0, [1.0, 1.0, 0.0, 0.0]), run("b", 1, [1.0, 0.0, 0.0, 1.0])
    content = merge(loaded(a, b))
    (row,) = content.tables.cells.to_pylist()
    assert (row["n_problems"], row["accuracy"], row["tokens_per_problem"], row["draws"]) == (4, 0.5, 150, 2)
    assert row["ci_method"] == "bootstrap"
    assert [r["score"] for r in content.tables.records.to_pylist()] == [1.0, 0.5, 0.0, 0.5]
    assert "2 seeds are averaged" in content.notes[0]


def test_a_joint_report_is_a_report(tmp_path):
    a, b = one_run(tmp_path / "a"), one_run(tmp_path / "b", {("best-of-n", "uniform"): 0.2}, limit=20)
    report = write_report(merge(loaded(a, b)), tmp_path / "joint")
    text = report.html.read_text()
    assert "LIMITED RUN" in text
    assert "b: Limited run" in report.markdown.read_text()


def test_selectors():
    assert parse_selector("runs/a", is_run=True) == Selector("runs/a")
    assert parse_selector("odd:name@1", is_run=True) == Selector("odd:name@1")
    assert parse_selector("a:best-of-n", is_run=False) == Selector("a", "best-of-n")
    assert parse_selector("a:best-of-n/knapsack@512", is_run=False) == Selector("a", "best-of-n", "knapsack", 512)
    assert parse_selector("a@512", is_run=False) == Selector("a", budget=512)


def facing(a, b, selector_a, selector_b):
    (run_a,), (run_b,) = loaded(a), loaded(b)
    return paired_sides((run_a, sides(run_a, selector_a)), (run_b, sides(run_b, selector_b)))


def two_scores(path, mine, theirs, **tokens):
    lines = []
    for name, strategy, scores in (("a", "best-of-n", mine), ("b", "self-consistency", theirs)):
        rows = [record(name, f"{i:03}", s, tokens.get(name, 100)) for i, s in enumerate(scores)]
        lines += [cell(name, strategy, n_problems=len(scores)), *rows, end(name)]
    return run_of(path, lines, sources=SOURCES)


def verdict_of(run):
    ((one, other),) = facing(run, run, Selector("", "best-of-n"), Selector("", "self-consistency"))
    (verdict,) = compare(one, other)
    return verdict


def test_verdicts_say_who_is_better_and_how_sure(tmp_path):
    better = verdict_of(two_scores(tmp_path / "1", [1.0] * 40 + [0.0] * 60, [0.0] * 20 + [1.0] * 20 + [0.0] * 60))
    assert better.lines[-1] == "verdict: A is better"
    # Twenty wins, no loss: exactly 2 * 0.5**20.
    assert any(f"exact McNemar p = {2 * 0.5**20:.3g}" in line for line in better.lines)
    same = verdict_of(two_scores(tmp_path / "2", [1.0, 0.0] * 20, [0.0, 1.0] * 20))
    assert same.lines[-1] == "verdict: not significant"
    assert any("likely to show differences of about 43.0 points" in line for line in same.lines)
    few = verdict_of(two_scores(tmp_path / "3", [1.0] * 6 + [0.0] * 34, [0.0] * 40))
    assert any("fewer than 10 problems differ" in line for line in few.lines)
    assert few.p_value == pytest.approx(2 * 0.5**6)


def test_unequal_tokens_are_said_to_be_so(tmp_path):
    run = two_scores(tmp_path, [1.0] * 9, [0.0] * 9, a=300, b=100)
    assert any("not at equal tokens: A spent 3.00 times" in line for line in verdict_of(run).lines)


def test_problems_that_failed_on_one_side_are_left_out(tmp_path):
    lines = [cell("a", "best-of-n", n_problems=3), record("a", "1"), failed("a", "2"), record("a", "3"), end("a"),
             cell("b", n_problems=3), record("b", "1"), record("b", "2"), failed("b", "3"), end("b")]  # fmt: skip
    verdict = verdict_of(run_of(tmp_path, lines, sources=SOURCES))
    assert any(line.startswith("1 problems in both") for line in verdict.lines)


def test_a_curve_is_read_at_equal_tokens_and_never_beyond(tmp_path):
    run = one_run(tmp_path, {("self-consistency", "uniform"): 0.0, ("best-of-n", "uniform"): 0.2}, budgets=(256, 512, 1024),
                  problems=200)  # fmt: skip
    pairs = facing(run, run, Selector("", "best-of-n", budget=512), Selector("", "self-consistency"))
    (verdict,) = verdicts(pairs)
    assert any("at the same tokens, interpolated between budgets" in line for line in verdict.lines)
    pairs = facing(run, run, Selector("", "best-of-n"), Selector("", "self-consistency"))
    found = verdicts(pairs)
    assert len(found) == 3
    lone = [v for v in found if np.isnan(v.p_value)]
    assert all("no claim" in v.lines[-1] for v in lone)
    made = [v for v in found if not np.isnan(v.p_value)]
    assert all(f"over {len(made)} comparisons" in v.lines[-1] for v in made)


def test_runs_face_each_other_series_by_series(tmp_path):
    both = {("self-consistency", "uniform"): 0.0, ("best-of-n", "uniform"): 0.2}
    a, b = one_run(tmp_path / "a", both), one_run(tmp_path / "b", both, model="small")
    faced = facing(a, b, Selector("a"), Selector("b"))
    assert [(one.name, other.name) for one, other in faced] == [(name, name) for name in (
        "self-consistency under uniform", "best-of-n under uniform")]  # fmt: skip


def test_incomparable_sides_are_refused(tmp_path):
    a = one_run(tmp_path / "a")
    other = {"gsm8k": {**SOURCES["gsm8k"], "checker": "numeric-2"}}
    b = one_run(tmp_path / "b", sources=other)
    with pytest.raises(DataError, match="another grader"):
        facing(a, b, Selector("a"), Selector("b"))
    with pytest.raises(ConfigError, match="no strategy in common"):
        facing(a, a, Selector("a"), Selector("a"))
    with pytest.raises(ConfigError, match="no strategy 'greed'"):
        facing(a, a, Selector("a", "greed"), Selector("a"))
    with pytest.raises(ConfigError) as caught:
        facing(a, a, Selector("a", budget=7), Selector("a"))
    assert caught.value.hint == "budgets: 256, 512"


def test_manifest_without_sources_still_merges(tmp_path):
    run = one_run(tmp_path / "a")
    manifest = json.loads((run.path / "manifest.json").read_text())
    del manifest["sources"]
    (run.path / "manifest.json").write_text(json.dumps(manifest))
    assert merge(loaded(run)).tables.cells.num_rows == 2
