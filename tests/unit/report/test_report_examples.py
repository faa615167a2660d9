"""Which problems are shown in full, and how much of them."""

import json

from made_up_runs import cell, end, failed, record, run_of

from ttc.report.aggregate import compact
from ttc.report.chart import script_json
from ttc.report.examples import MOST_CANDIDATES, MOST_CHARACTERS, cut, select, views
from ttc.report.leaderboard import leaderboard
from ttc.report.outcomes import by_subject
from ttc.store.tables import to_table, write_table


def two_cells(path, rows, problems=()):
    """Cells a and b; `rows`: problem -> (record of a, record of b)."""
    lines = []
    for at, name in enumerate(("a", "b")):
        lines += [cell(name, ("self-consistency", "best-of-n")[at], n_problems=len(rows))]
        lines += [made(name, problem) for problem, pair in rows.items() for made in [pair[at]]]
        lines += [end(name)]
    run = run_of(path, lines)
    if problems:
        write_table(to_table("problems", problems), run.table("problems"))
    tables = compact(run)
    (section,) = leaderboard(tables)
    (outcomes,) = by_subject(tables).values()
    return section, outcomes, tables


def right(name, problem):
    return record(name, problem, 1.0)


def wrong(name, problem):
    return record(name, problem, 0.0)


def unparsed(name, problem):
    return record(name, problem, 0.0, status="unparsed", candidates=[])


def test_disagreement_then_failures_then_a_seeded_draw(tmp_path):
    rows = {f"p{i:02}": (right, right) for i in range(50)}
    rows |= {f"q{i}": (right, wrong) for i in range(5)}
    rows |= {"z0": (wrong, unparsed), "z1": (failed, right)}
    _, outcomes, _ = two_cells(tmp_path, rows)
    chosen = select(outcomes, 10, seed=0)
    assert [p for p, why in chosen if "disagree" in why] == ["q0", "q1", "q2", "q3"]
    assert [p for p, why in chosen if "failure" in why] == ["z1", "z0"]  # the run's own fault first
    drawn = [p for p, why in chosen if "random" in why]
    assert len(chosen) == len({p for p, _ in chosen}) == 10
    assert len(drawn) == 4
    assert select(outcomes, 10, seed=0) == chosen
    assert [p for p, why in select(outcomes, 10, seed=1) if "random" in why] != drawn
    assert len(select(outcomes, 100, seed=0)) == 57


def test_a_problem_shows_its_texts_and_few_samples(tmp_path):
    samples = [{"index": i, "answer": str(i), "correct": i == 9, "score": None, "logprob": None,
                "completion_tokens": 50, "finish": "length" if i else "stop", "text": "word " * 500}
               for i in range(12)]  # fmt: skip

    def sampled(name, problem):
        return record(name, problem, 1.0, candidates=samples)

    described = [{"task": "gsm8k", "problem_id": "p", "difficulty": 3.0, "question": "How many?", "reference": "9"},
                 {"task": "other", "problem_id": "p", "difficulty": 1.0, "question": "no", "reference": "no"}]  # fmt: skip
    section, outcomes, tables = two_cells(tmp_path, {"p": (sampled, wrong)}, described)
    (view,) = views(section, outcomes, tables, 40)
    assert (view.question, view.reference, view.difficulty, view.right) == ("How many?", "9", "3", 1)
    shown = [c.index for c in view.candidates]
    assert len(shown) == MOST_CANDIDATES
    assert 9 in shown  # the only right one
    assert view.more == 13 - MOST_CANDIDATES  # both cells' first samples differ in text
    assert all(len(c.text) <= MOST_CHARACTERS for c in view.candidates)
    assert [line.values[2] for line in view.grid.lines] == ["right", "wrong"]


def test_cut_texts_are_short_and_visible():
    assert cut("a" * 600) == "a" * 600
    assert cut("a" * 601) == "a" * 599 + "\N{HORIZONTAL ELLIPSIS}"
    assert cut("\x1b[31m\u202ered\n") == "\N{REPLACEMENT CHARACTER}[31m\N{REPLACEMENT CHARACTER}red\n"
    assert cut(None) == ""


def test_json_in_the_page_reads_back_and_ends_no_element():
    value = {"</script>": ["<!--", "&amp;", "\u2028\u2029", "\N{GREEK SMALL LETTER ALPHA}", 'quote " and \\']}
    text = script_json(value)
    assert json.loads(text) == value
    assert not set("<>&\u2028\u2029") & set(text)
