"""Several runs side by side: joined where they may be compared, kept apart, with the reason, where they may not."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ttc.core.errors import DataError
from ttc.core.identity import canonical_json, identity
from ttc.report.aggregate import Tables, aggregate_cell, load_tables, score_of
from ttc.report.build import Content, notes_of
from ttc.report.costs import joined_rates
from ttc.report.labels import plain, series_of
from ttc.report.samples import Samples
from ttc.store.rundir import RunDir
from ttc.store.tables import rows_of, to_table

if TYPE_CHECKING:
    import pyarrow as pa

Row = dict[str, Any]
ALIKE = ("task", "split", "problems", "rows", "prompt", "grader", "model")
"""What two groups of cells must have in common to stand in one table."""


@dataclass(frozen=True, slots=True)
class Group:
    """The cells of one run that share task and model, and what they were measured with."""

    run: str
    task: str
    model: str
    alike: Mapping[str, str]
    problems: frozenset[str]
    cells: tuple[Row, ...]
    settings: Mapping[str, Any]
    """What may differ within a table, but must then be told: sampling, prices, the smallest call."""
    tables: Tables
    """All tables of the run."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """One run: its name, its tables and its manifest."""

    name: str
    tables: Tables
    manifest: Mapping[str, Any]


def load(runs: Sequence[RunDir]) -> list[Loaded]:
    """Read the tables of several runs.

    Raises:
        DataError: a run has no finished problem.
        StorageError: something cannot be read.
    """
    loaded = []
    for run in runs:
        tables = load_tables(run)
        if tables.cells.num_rows == 0:
            raise DataError(f"{run.path} holds no finished problem", "run it first: ttc sweep")
        loaded.append(Loaded(run.path.name or str(run.path), tables, run.read_manifest()))
    return loaded


def groups_of(loaded: Loaded) -> list[Group]:
    """Return a run's cells by task and model."""
    ids: dict[str, set[str]] = {}
    for row in rows_of(loaded.tables.records.select(["cell", "problem_id"])):
        ids.setdefault(row["cell"], set()).add(row["problem_id"])
    members: dict[tuple[str, str], list[Row]] = {}
    for cell in rows_of(loaded.tables.cells):
        members.setdefault((cell["task"], cell["model"]), []).append(cell)
    found = []
    for (task, model), cells in members.items():
        problems = frozenset[str]().union(*(ids.get(cell["cell"], set()) for cell in cells))
        manifest = loaded.manifest
        settings = {**_sampling(manifest, task, model), "price": manifest.get("price") or {},
                    "min_call_tokens": manifest.get("min_call_tokens")}  # fmt: skip
        alike = _measured(manifest, task, model, problems)
        found.append(Group(loaded.name, task, model, alike, problems, tuple(cells), settings, loaded.tables))
    return found


def _sampling(manifest: Mapping[str, Any], task: str, model: str) -> dict[str, Any]:
    """Return how a model was sampled; manifests once said it of all models of a task."""
    every = _part(manifest, "sampling", task)
    own = every.get(model)
    return dict(own) if isinstance(own, Mapping) else every


def _part(manifest: Mapping[str, Any], key: str, name: str) -> dict[str, Any]:
    value = (manifest.get(key) or {}).get(name)
    return dict(value) if isinstance(value, Mapping) else {}


def _content_of_model(manifest: Mapping[str, Any], model: str) -> str | None:
    """Return what tells a model from its namesakes; of several, joined by `+`, what tells each."""
    weights, models = manifest.get("weights") or {}, manifest.get("models") or {}
    known = weights.get(model) or models.get(model)
    if known is not None or "+" not in model:
        return None if known is None else str(known)
    parts = [weights.get(part) or models.get(part) for part in model.split("+")]
    return "+".join(map(str, parts)) if all(parts) else None


def _measured(manifest: Mapping[str, Any], task: str, model: str, problems: frozenset[str]) -> dict[str, str]:
    source = _part(manifest, "sources", task)
    known = _content_of_model(manifest, model)
    rows = {key: value for key, value in source.items() if key not in ("prompt_template", "checker", "split")}
    return {
        "task": task,
        "split": str(source.get("split", "")),
        "problems": identity(sorted(problems)),
        "rows": canonical_json({key: str(value) for key, value in rows.items()}),
        "prompt": str(source.get("prompt_template", "")),
        "grader": str(source.get("checker", "")),
        "model": f"{model} {known or ''}",
    }


def reasons(a: Group, b: Group) -> list[str]:
    """Return why two groups may not stand in one table, in words; nothing where they may."""
    found = []
    for key in ALIKE:
        if a.alike[key] == b.alike[key]:
            continue
        if key == "problems":
            shared = len(a.problems & b.problems)
            found.append(f"other problems ({len(a.problems):,} and {len(b.problems):,}, {shared:,} in both)")
        elif key == "model" and a.model == b.model:
            found.append("other weights under the same model name")
        elif key in ("rows", "prompt"):
            found.append({"rows": "other rows of the data set", "prompt": "another wording of the question"}[key])
        else:
            first, second = (plain(group.alike[key]) or "unknown" for group in (a, b))
            found.append(f"another {key} ({first} and {second})" if key != "model" else "another model")
    return found


def merge(loaded: Sequence[Loaded]) -> Content:
    """Return the runs as one report's content, with a note on whatever was kept apart, dropped or averaged.

    Groups that share everything in ALIKE are joined. Two that share task and model names only get numbered names.
    A cell that stands in several runs is taken once: its name says that it is the same computation. Where every
    strategy ran with the same several seeds, they are averaged problem by problem.
    """
    joined: list[list[Group]] = []
    for group in (g for run in loaded for g in groups_of(run)):
        home = next((members for members in joined if not reasons(members[0], group)), None)
        if home is None:
            joined.append([group])
        else:
            home.append(group)
    notes = [f"{run.name}: {note}" for run in loaded for note in notes_of(run.manifest, run.tables)]
    tables = []
    for place, members in enumerate(joined):
        rivals = [other for other in joined[:place]
                  if (other[0].task, other[0].model) == (members[0].task, members[0].model)]  # fmt: skip
        task = members[0].task
        if rivals:
            task = f"{task} [{len(rivals) + 1}]"
            why = "; ".join(reasons(rivals[0][0], members[0]))
            notes.append(f"{', '.join(g.run for g in members)} is kept apart as {plain(task)}: {why}.")
        tables += _joined(members, task, notes)
    merged, averaged = _pooled(_concatenated(tables))
    if averaged:
        notes.append(f"{averaged} seeds are averaged problem by problem before any interval is taken.")
    facts = [("Run", plain(f"{run.name}: {run.manifest.get('spec_id')}, {run.manifest.get('command') or ''}"))
             for run in loaded]  # fmt: skip
    limited = any(run.manifest.get("limit") is not None for run in loaded)
    models = [(run.manifest, {str(cell["model"]) for cell in rows_of(run.tables.cells)}) for run in loaded]
    rates = replace(joined_rates(models), attention=merged.attention)
    return Content(merged, tuple(notes), facts, None, limited, rates)


def _joined(members: Sequence[Group], task: str, notes: list[str]) -> list[Tables]:
    """Return each group's own part of the tables, every cell once; appends to the notes what was dropped."""
    varying = sorted(key for key in members[0].settings
                     if len({canonical_json(group.settings.get(key)) for group in members}) > 1)  # fmt: skip
    taken: dict[str, str] = {}
    parts = []
    for group in members:
        fresh = [cell for cell in group.cells if cell["cell"] not in taken]
        if len(fresh) < len(group.cells):
            twice = len(group.cells) - len(fresh)
            notes.append(f"{twice} of the cells of {group.run} are in {taken[_first_taken(group, taken)]} as well:"
                         " taken once.")  # fmt: skip
        taken.update({cell["cell"]: group.run for cell in fresh})
        parts.append(_picked(group.tables, fresh, task, {key: group.settings.get(key) for key in varying}))
    return parts


def _first_taken(group: Group, taken: Mapping[str, str]) -> str:
    return next(str(cell["cell"]) for cell in group.cells if cell["cell"] in taken)


def _picked(tables: Tables, cells: Sequence[Row], task: str, told: Mapping[str, Any]) -> Tables:
    import pyarrow as pa
    import pyarrow.compute as pc

    names = [cell["cell"] for cell in cells]
    wanted = pa.array(names, pa.string())

    def kept(table: pa.Table) -> pa.Table:
        return table.filter(pc.is_in(table["cell"], value_set=wanted))

    described = []
    for cell in cells:
        params = json.loads(cell["strategy_params"] or "{}")
        described.append({**cell, "task": task, "strategy_params": canonical_json({**params, **told})})
    problems = [{**row, "task": task} for row in rows_of(tables.problems)
                if row["task"] == cells[0]["task"]] if cells else []  # fmt: skip
    return replace(
        tables, cells=to_table("cells", described), records=kept(tables.records), candidates=tables.candidates.only(names),
        allocation=kept(tables.allocation), problems=to_table("problems", problems),
        incomplete=tables.incomplete & frozenset(names),
        attention={name: tables.attention[name] for name in names if name in tables.attention},
    )  # fmt: skip


def _concatenated(parts: Sequence[Tables]) -> Tables:
    import pyarrow as pa

    def joined(name: str) -> pa.Table:
        return pa.concat_tables([getattr(part, name).replace_schema_metadata(None) for part in parts])

    samples = Samples(tuple(piece for part in parts for piece in part.candidates.parts))
    return Tables(
        joined("cells"), joined("records"), samples, joined("allocation"), joined("problems"),
        frozenset[str]().union(*(part.incomplete for part in parts)),
        attention={cell: counts for part in parts for cell, counts in part.attention.items()},
    )  # fmt: skip


def _pooled(tables: Tables) -> tuple[Tables, int]:
    """Average the seeds of every setting, where all settings have the same several seeds.

    Returns:
        The tables, and how many seeds were averaged (0 where the tables are unchanged).
    """
    cells = rows_of(tables.cells)
    settings: dict[tuple[Any, ...], dict[int, Row]] = {}
    for cell in cells:
        settings.setdefault((cell["task"], cell["model"], *series_of(cell), cell["budget"]), {})[cell["seed"]] = cell
    seeds = {frozenset(by_seed) for by_seed in settings.values()}
    if len(seeds) != 1 or len(next(iter(seeds))) < 2 or tables.incomplete:
        return tables, 0
    of_cell: dict[str, list[Row]] = {}
    for record in rows_of(tables.records):
        of_cell.setdefault(record["cell"], []).append(record)
    described, records, attention = [], [], {}
    for by_seed in settings.values():
        first = by_seed[min(by_seed)]
        rows = _averaged([of_cell[cell["cell"]] for cell in by_seed.values()])
        known = all(cell["flops"] is not None for cell in by_seed.values())
        row = aggregate_cell({**first, "draws": len(by_seed), "parameters": None}, rows, None)
        # From the cells: they hold what failed attempts spent, too, which no record does.
        row |= {key: sum(cell[key] for cell in by_seed.values()) / len(by_seed) for key in _TOTALS}
        row["tokens_max"] = max(row["tokens_max"], row["tokens_total"])
        row["flops"] = sum(cell["flops"] for cell in by_seed.values()) / len(by_seed) if known else None
        described.append(row)
        records += rows
        counts = [tables.attention[cell["cell"]] for cell in by_seed.values() if cell["cell"] in tables.attention]
        if len(counts) == len(by_seed):
            attended, read = (sum(parts) / len(counts) for parts in zip(*counts, strict=True))
            attention[first["cell"]] = (attended, read)
    pooled = replace(
        tables, cells=to_table("cells", described), records=to_table("records", records), attention=attention
    )
    return pooled, len(next(iter(seeds)))


_TOTALS = ("tokens_total", "tokens_per_problem", "prompt_tokens", "cached_tokens", "reward_tokens")
_MEANS = ("grant_tokens", "completion_tokens", "probe_tokens", "prompt_tokens", "cached_tokens", "reward_tokens",
          "sequential_tokens", "kv_token_steps", "calls")  # fmt: skip


def _averaged(by_seed: Sequence[Sequence[Row]]) -> list[Row]:
    """Return one record a problem: means over seeds, an error where any seed failed."""
    problems: dict[str, list[Row]] = {}
    for rows in by_seed:
        for row in rows:
            problems.setdefault(row["problem_id"], []).append(row)
    found = []
    for rows in problems.values():
        failed = any(row["status"] == "error" for row in rows)
        worst = next((row["status"] for row in rows if row["status"] != "ok"), "ok")
        score = None if failed else sum(map(score_of, rows)) / len(rows)
        means = {key: None if any(row[key] is None for row in rows) else sum(row[key] for row in rows) / len(rows)
                 for key in _MEANS}  # fmt: skip
        status = "error" if failed else "ok" if score else worst
        found.append({**rows[0], **means, "grant_tokens": round(means["grant_tokens"] or 0), "cell": by_seed[0][0]["cell"],
                      "status": status, "score": score, "correct": None, "answer": None, "wall_s": None})  # fmt: skip
    return found
