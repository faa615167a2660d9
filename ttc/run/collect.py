"""Record a bank: a sweep of one cell a configuration that draws n samples a problem, and its candidates as rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ttc.core.errors import StorageError
from ttc.run.plan import configuration
from ttc.run.sweep import Plan
from ttc.store.bank import Bank, Row, read_bank, write_bank
from ttc.store.rundir import RunDir


def collect_config(values: Mapping[str, Any], n: int, max_tokens: int) -> dict[str, Any]:
    """Return the sweep that draws `n` whole samples a problem, scored where there is a reward model."""
    strategy = "coverage" if values.get("prm") in (None, "off") else "weighted-vote"
    return {**values, "strategies": [{"name": strategy, "params": {"n": n}}], "budgets": [n * max_tokens]}


def check_room(plan: Plan, bank_folder: Path) -> None:
    """Refuse a collection that would replace more of a configuration's samples than it draws.

    Raises:
        StorageError: the bank holds samples of this configuration that the plan does not ask for.
    """
    if not (bank_folder / "bank.parquet").exists():
        return
    pools = read_bank(bank_folder).pools
    for cell in plan.cells:
        asked, name = set(cell.subject.problem_ids), configuration(cell.subject)
        n = int(cell.strategy.params["n"])
        held = (row for rows in pools.get(name, {}).values() for row in rows)
        lost = sum(1 for row in held if row.problem_id not in asked or row.sample >= n)
        if lost:
            raise StorageError(
                f"{bank_folder} holds {lost:,} samples of {name!r} that this collection leaves out",
                "ask for at least as many samples and problems, or give another --out",
            )


def save_rows(plan: Plan, run: RunDir, bank_folder: Path) -> Bank:
    """Turn a finished collection into rows and join them to the bank's other configurations."""
    names = {cell.id: configuration(cell.subject) for cell in plan.cells}
    rows = list(_rows(plan, run, names))
    if (bank_folder / "bank.parquet").exists():
        bank = read_bank(bank_folder)
        rows += [row for row in bank.rows() if row.config not in names.values()]
    write_bank(rows, bank_folder, plan.cells[0].subject.task, replace=True)
    return read_bank(bank_folder)


def _rows(plan: Plan, run: RunDir, names: Mapping[str, str]) -> Iterator[Row]:
    kept = plan.config.store_text
    questions = {e.id: e.question if kept and not e.meta.get("private") else None for e in plan.benches[0].examples}
    for (cell_id, problem_id), record in run.replay().records.items():
        if cell_id not in names:
            continue
        for c in record["candidates"]:
            yield Row(
                problem_id=problem_id,
                prompt=questions[problem_id],
                config=names[cell_id],
                sample=c["index"],
                answer=c["answer"],
                correct=c["correct"] is True,
                completion_tokens=c["completion_tokens"],
                prompt_tokens=c["prompt_tokens"],
                finish=c["finish"],
                logprob=c["logprob"],
                score=c["score"],
            )
