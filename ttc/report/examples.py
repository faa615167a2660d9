"""A few problems in full: where the cells disagree, what failed first, and a seeded sample."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ttc.core.identity import sample_seed
from ttc.report.aggregate import Tables
from ttc.report.breakdown import named, series_order
from ttc.report.grid import Column, Grid, Line
from ttc.report.labels import plain
from ttc.report.leaderboard import Section
from ttc.report.outcomes import Outcomes
from ttc.store.tables import rows_of

if TYPE_CHECKING:
    import pyarrow as pa

MOST_PROBLEMS = 40
MOST_CANDIDATES = 6
MOST_CHARACTERS = 600
SHARES = (("the cells disagree most", 0.4), ("a first failure", 0.3), ("drawn at random", 0.3))
"""Why a problem is shown, and its part of the places."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One sample as it is shown."""

    index: int
    verdict: str
    answer: str
    tokens: int
    finish: str
    text: str


@dataclass(frozen=True, slots=True)
class ProblemView:
    """One problem as it is shown: its texts where they are stored, every cell's outcome, a few candidates."""

    id: str
    reason: str
    difficulty: str
    question: str
    reference: str
    right: int
    grid: Grid
    candidates: tuple[Candidate, ...]
    more: int
    """Stored candidates that are not shown."""


def select(outcomes: Outcomes, places: int, seed: int) -> list[tuple[str, str]]:
    """Return at most `places` problems as (problem id, why), each once.

    Disagreement is the variance of the scores over cells, oracles left out, ties in order of ids; first failures
    are problems without an answer in any such cell, in order of ids; the rest is drawn without replacement.
    """
    import numpy as np

    judged = [i for i, cell in enumerate(outcomes.cells) if not cell["oracle"]] or list(range(len(outcomes.cells)))
    score = outcomes.score[:, judged]
    counts = (~np.isnan(score)).sum(axis=1)
    mean = np.nansum(score, axis=1) / np.maximum(counts, 1)
    spread = np.where(counts > 1, np.nansum((score - mean[:, None]) ** 2, axis=1) / np.maximum(counts, 1), 0.0)
    status = outcomes.status[:, judged]
    failing = ((status != "ok") & (status != "")).any(axis=1)
    everywhere = ((status != "ok") & (status != "")).sum(axis=1)
    orders = (
        [i for i in np.argsort(-spread, kind="stable") if spread[i] > 0],
        # Failures of the engine or the grader first: they are the run's own fault.
        [i for i in np.lexsort((-everywhere, ~(status == "error").any(axis=1))) if failing[i]],
        list(np.random.default_rng(sample_seed(seed, "", "examples", 0)).permutation(len(outcomes.problems))),
    )
    chosen: dict[str, str] = {}
    for (reason, share), order in zip(SHARES, orders, strict=True):
        room = places - len(chosen) if order is orders[-1] else round(places * share)
        for i in order:
            if room <= 0:
                break
            if (problem := outcomes.problems[int(i)]) not in chosen:
                chosen[problem] = reason
                room -= 1
    return list(chosen.items())


def views(section: Section, outcomes: Outcomes, tables: Tables, places: int) -> list[ProblemView]:
    """Return the selected problems of a section with what every cell did and a few candidates."""
    chosen = select(outcomes, places, int(outcomes.cells[0]["seed"]))
    ids = [problem for problem, _ in chosen]
    records = _picked(tables.records, ids, outcomes)
    answers = {(r["cell"], r["problem_id"]): r for r in rows_of(records)}
    samples: dict[str, list[dict[str, Any]]] = {}
    for row in rows_of(tables.candidates.of(ids, [cell["cell"] for cell in outcomes.cells])):
        samples.setdefault(row["problem_id"], []).append(row)
    described = {row["problem_id"]: row for row in rows_of(tables.problems) if row["task"] == section.task}
    found = []
    for problem, reason in chosen:
        known: Mapping[str, Any] = described.get(problem, {})
        distinct = _distinct(samples.get(problem, ()))
        shown = _shown(distinct)
        lines = _lines(section, answers, problem)
        level = known.get("difficulty")
        found.append(
            ProblemView(
                problem, reason, "" if level is None else f"{level:g}", cut(known.get("question")),
                cut(known.get("reference")), sum(line.values[2] == "right" for line in lines),
                Grid("problem", f"{section.title}, {plain(problem)}", COLUMNS, lines),
                tuple(_candidate(row) for row in shown), len(distinct) - len(shown),
            )
        )  # fmt: skip
    return found


COLUMNS = (
    Column("series", "Strategy"), Column("budget", "Budget", "count"), Column("outcome", "Outcome"),
    Column("score", "Score %", "percent"), Column("answer", "Answer"), Column("tokens", "Tokens", "count"),
    Column("grant", "Grant", "count"),
)  # fmt: skip


def _lines(section: Section, answers: Mapping[tuple[str, str], Mapping[str, Any]], problem: str) -> tuple[Line, ...]:
    lines = []
    for row in series_order(section):
        record = answers.get((row.cell, problem))
        if record is not None:
            lines.append(
                Line(row.cell, (named(row, section), row.budget, _outcome(record), record["score"],
                                cut(record["answer"], 60) or None, record["completion_tokens"],
                                record["grant_tokens"]))
            )  # fmt: skip
    return tuple(lines)


_WORDS = {"budget": "grant too small", "unparsed": "no answer found", "timeout": "timed out", "error": "failed"}
OUTCOMES = ("right", "wrong", "right in part of the draws", *_WORDS.values())
"""What may become of a problem, in words."""


def _outcome(record: Mapping[str, Any]) -> str:
    if record["status"] != "ok":
        return _WORDS.get(record["status"], "failed")
    score = record["score"]
    return {1.0: OUTCOMES[0], 0.0: OUTCOMES[1]}.get(score, OUTCOMES[2])


def _picked(table: pa.Table, ids: Sequence[str], outcomes: Outcomes) -> pa.Table:
    import pyarrow as pa
    import pyarrow.compute as pc

    cells = pa.array([cell["cell"] for cell in outcomes.cells], pa.string())
    wanted = pc.and_(
        pc.is_in(table["problem_id"], value_set=pa.array(ids, pa.string())), pc.is_in(table["cell"], value_set=cells)
    )
    return table.filter(wanted)


def _distinct(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return each sample once: cells of one seed share theirs."""
    seen: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for row in rows:
        seen.setdefault((row["index"], row["answer"], row["completion_tokens"], row["text"]), row)
    return sorted(seen.values(), key=lambda row: row["index"])


def _shown(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the first samples, a right and a wrong one among them where there are any."""
    kept = list(rows[:MOST_CANDIDATES])
    for wanted in (True, False):
        if not any(row["correct"] is wanted for row in kept):
            other = next((row for row in rows if row["correct"] is wanted), None)
            if other is not None:
                kept[-1] = other
    return kept


def _candidate(row: Mapping[str, Any]) -> Candidate:
    verdict = {True: "right", False: "wrong"}.get(row["correct"], "not graded")
    return Candidate(row["index"], verdict, cut(row["answer"], 60), row["completion_tokens"], row["finish"],
                     cut(row["text"]))  # fmt: skip


def cut(text: str | None, most: int = MOST_CHARACTERS) -> str:
    """Return a text of at most `most` characters, its controls and direction marks made visible."""
    if not text:
        return ""
    whole = "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text[: most + 1])
    return whole if len(whole) <= most else whole[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"
