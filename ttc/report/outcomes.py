"""The records of one task and model as arrays: a row a problem, a column a cell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ttc.report.aggregate import Tables
from ttc.store.tables import rows_of

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

Cell = Mapping[str, Any]
STATUSES = ("ok", "budget", "unparsed", "timeout", "error")


@dataclass(frozen=True)
class Outcomes:
    """What every cell did with every problem. Arrays have shape (problems, cells); missing records are NaN or ''."""

    cells: tuple[Cell, ...]
    problems: tuple[str, ...]
    score: NDArray[np.float64]
    """In [0, 1]; 0 where there was no answer to grade, NaN where the problem failed or has no record."""
    tokens: NDArray[np.float64]
    grant: NDArray[np.float64]
    wall_s: NDArray[np.float64]
    status: NDArray[np.str_]

    def column(self, cell: str) -> int:
        """Return a cell's column."""
        return next(i for i, described in enumerate(self.cells) if described["cell"] == cell)


def by_subject(tables: Tables) -> dict[tuple[str, str], Outcomes]:
    """Return the outcomes of every (task, model), in the run's order."""
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in rows_of(tables.cells):
        groups.setdefault((cell["task"], cell["model"]), []).append(cell)
    columns = _columns(tables.records)
    return {subject: outcomes_of(cells, columns) for subject, cells in groups.items()}


def _columns(records: pa.Table) -> dict[str, Any]:
    """Return the record columns that the arrays are made of, as numpy arrays."""
    import numpy as np

    found = {name: np.asarray(records[name].to_pylist(), dtype=object) for name in ("cell", "problem_id", "status")}
    for name in ("score", "completion_tokens", "grant_tokens", "wall_s"):
        found[name] = records[name].to_numpy(zero_copy_only=False).astype(np.float64)
    return found


def outcomes_of(cells: Sequence[Cell], columns: Mapping[str, Any]) -> Outcomes:
    """Arrange the records of some cells; problems are sorted by id."""
    import numpy as np

    position = {cell["cell"]: i for i, cell in enumerate(cells)}
    at = np.asarray([position.get(name, -1) for name in columns["cell"]], dtype=np.int64)
    kept = np.flatnonzero(at >= 0)
    ids = columns["problem_id"][kept]
    problems = _sorted(ids)
    row_of = {problem: i for i, problem in enumerate(problems)}
    rows, cols = np.asarray([row_of[p] for p in ids], dtype=np.int64), at[kept]
    shape = (len(problems), len(cells))

    def placed(name: str) -> NDArray[np.float64]:
        array = np.full(shape, np.nan)
        array[rows, cols] = columns[name][kept]
        return array

    status = np.full(shape, "", dtype="<U8")
    status[rows, cols] = columns["status"][kept].astype("<U8")
    score = placed("score")
    score[np.isnan(score) & (status != "") & (status != "error")] = 0.0
    score[status == "error"] = np.nan
    return Outcomes(tuple(cells), problems, score, placed("completion_tokens"), placed("grant_tokens"),
                    placed("wall_s"), status)  # fmt: skip


def _sorted(ids: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(ids)))
