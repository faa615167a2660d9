"""Fit a predictor: from the samples of banks, and from the records of finished uniform runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ttc.allocate.greedy import knapsack
from ttc.core.curves import Curves, FloatArray
from ttc.core.errors import ConfigError, DataError
from ttc.core.forecast import Outcomes, Predictor
from ttc.core.identity import identity
from ttc.core.parameters import build
from ttc.core.protocols import Resolvable, Strategy, requirements
from ttc.core.registry import load
from ttc.engines.replay import ReplayEngine
from ttc.run.bench import MIN_CALL_MOST, MIN_CALL_SHARE
from ttc.run.crossfit import KIND
from ttc.run.outcomes import Recorded, outcomes, recorded_runs
from ttc.store.bank import Bank, Row, read_bank
from ttc.store.features import read_features
from ttc.store.rundir import RunDir
from ttc.store.tables import read_table, rows_of

STRATEGIES = ("coverage", "self-consistency")
"""What is learned from banks where nothing else is asked for; `weighted-vote` too where samples have scores."""
BUDGETS = (1, 2, 4, 8)
"""Samples' worth of tokens a problem at which allocation is compared."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be learned. No `strategies` are those of the runs, and STRATEGIES of the banks."""

    sources: tuple[Path, ...]
    strategies: tuple[str, ...] = ()
    features: str = "auto"
    draws: int = 16
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Allocated:
    """What splitting by predictions is worth on the problems learned from, each predicted by models that had not seen it."""

    model: str
    strategy: str
    tokens_per_problem: int
    uniform: float
    predicted: float
    oracle: float
    """The same knapsack on the recorded curves themselves: an upper bound, flattered by noise."""


def fit_predictor(asked: Asked, note: Callable[[str], None] = lambda _: None) -> tuple[Predictor, list[Allocated]]:
    """Learn from every source at once.

    Raises:
        ConfigError: an unknown strategy or one that a bank cannot feed, or parameters that do not fit.
        DataError: nothing to learn from, or problems that stand in two banks.
    """
    found = [*_of_banks(asked, note), *_of_runs(asked)]
    if not found:
        raise DataError("there is nothing to learn from", "give banks, or runs under the allocator uniform")
    note(f"fitting curves of {', '.join(sorted({o.strategy for o in found}))}")
    kind = load("predictors", KIND)(features=asked.features, seed=asked.seed)
    predictor: Predictor = kind.fit(found)
    return predictor, [row for each in found for row in _allocated(predictor, each)]


def _of_banks(asked: Asked, note: Callable[[str], None]) -> Iterator[Outcomes]:
    folders = [path for path in asked.sources if (path / "bank.parquet").is_file()]
    if not folders:
        return
    bank, vectors = joined_banks(folders)
    for config in sorted(bank.pools):
        least = min(MIN_CALL_MOST, max(1, round(bank.mean_tokens * MIN_CALL_SHARE)))
        recorded = Recorded(bank, config, asked.seed, bank.longest(config), least, vectors.get(config))
        default = (*STRATEGIES, *(("weighted-vote",) if bank.scored(config) else ()))
        for name in asked.strategies or default:
            solver = fed(name, ReplayEngine(bank, config, asked.seed))
            for unit in ("tokens", "calls"):
                note(f"{name} by {unit} on {config}: {len(bank.pools[config]):,} problems x {asked.draws} draws")
                yield outcomes(recorded, solver, name, unit, asked.draws)


def fed(name: str, engine: ReplayEngine) -> Strategy:
    """Return a strategy with its defaults that recorded samples can feed.

    Raises:
        ConfigError: unknown, or it needs more than recorded samples.
    """
    solver: Any = build("strategies", name, {})
    if isinstance(solver, Resolvable):
        solver = solver.resolve(engine.capabilities)
    missing = sorted(requirements(solver) - engine.capabilities)
    if missing:
        raise ConfigError(
            f"{name} cannot be learned from recorded samples: it needs {missing[0]}",
            "run it uniformly at several budgets, then give that run: ttc fit RUN --out PREDICTOR",
        )
    found: Strategy = solver
    return found


def joined_banks(folders: Sequence[Path]) -> tuple[Bank, dict[str, dict[str, Any]]]:
    """Return several banks as one, and the hidden states recorded with them.

    Raises:
        DataError: a problem stands in two of them.
    """
    pools: dict[str, dict[str, tuple[Row, ...]]] = {}
    vectors: dict[str, dict[str, Any]] = {}
    banks = [read_bank(folder) for folder in folders]
    for folder, bank in zip(folders, banks, strict=True):
        for config, pool in bank.pools.items():
            twice = sorted(set(pools.setdefault(config, {})) & set(pool))
            if twice:
                raise DataError(f"problem {twice[0]!r} of {config!r} stands in {folder.name} and in another bank")
            pools[config].update(pool)
        for config, known in read_features(folder).items():
            vectors.setdefault(config, {}).update(known)
    name = "+".join(dict.fromkeys(bank.name for bank in banks))
    return Bank(name, identity([bank.fingerprint for bank in banks]), pools), vectors


def _of_runs(asked: Asked) -> Iterator[Outcomes]:
    runs = [path for path in asked.sources if not (path / "bank.parquet").is_file()]
    questions: dict[str, str | None] = {}
    rows: list[dict[str, Any]] = []
    for path in runs:
        run = RunDir.existing(path)
        for name in ("cells", "records"):
            if not run.table(name).is_file():
                raise DataError(f"{path} is neither a bank nor a finished run: it has no {name}.parquet")
        cells = {
            c["cell"]: c for c in rows_of(read_table(run.table("cells"), "cells")) if _learnable(c, asked.strategies)
        }
        for record in rows_of(read_table(run.table("records"), "records")):
            cell = cells.get(record["cell"])
            if cell is not None and record["status"] != "error":
                rows.append({**cell, **record})
        if run.table("problems").is_file():
            questions |= {
                p["problem_id"]: p["question"] for p in rows_of(read_table(run.table("problems"), "problems"))
            }
    if runs and not rows:
        raise DataError(
            f"no uniform cell of one draw in {', '.join(path.name for path in runs)}",
            "predictors learn from runs under the allocator uniform, or from banks",
        )
    yield from recorded_runs(iter(rows), questions)


def _learnable(cell: Mapping[str, Any], strategies: Sequence[str]) -> bool:
    wanted = not strategies or cell["strategy"] in strategies
    return bool(wanted and cell["allocator"] == "uniform" and cell["draws"] == 1)


def _allocated(predictor: Predictor, found: Outcomes) -> Iterator[Allocated]:
    """Yield the score of the knapsack on predictions out of fold, at several budgets."""
    held_out: FloatArray | None = getattr(predictor, "held_out_", {}).get((found.model, found.strategy, found.unit))
    if held_out is None or found.unit != "tokens":
        return
    options, truth = found.options, found.scores.mean(axis=1)
    lengths = [s.completion_tokens for orders in found.orders for s in (orders[0] if orders else ())]
    each = float(np.mean(lengths)) if lengths else float(options[0])
    rows = np.arange(len(truth))
    for samples in BUDGETS:
        tokens = round(samples * each)
        if not options[0] <= tokens <= options[-1]:
            continue
        scores = []
        for table in (held_out, truth):
            choice = knapsack(Curves.from_table(options, table), tokens * len(truth)).choice
            scores.append(float(np.where(choice < 0, 0.0, truth[rows, np.maximum(choice, 0)]).mean()))
        even = int(np.searchsorted(options, tokens, side="right")) - 1
        yield Allocated(found.model, found.strategy, tokens, float(truth[:, even].mean()), scores[0], scores[1])
