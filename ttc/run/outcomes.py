"""What strategies make of recorded samples under each option: the labels of predictors, and an oracle's curves.

The ordinary strategies run on the ordinary replay, so whatever runs on a bank has outcomes. Those that need more than
recorded samples are learned from the records of finished uniform runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ttc.core.curves import Curves, IntArray
from ttc.core.errors import DataError
from ttc.core.forecast import Outcomes, Sample, Seen, Unit
from ttc.core.protocols import Strategy
from ttc.core.types import Problem, Prompt, Sampling
from ttc.engines.replay import ReplayEngine
from ttc.run.bench import BankJudge
from ttc.run.context import MeteredContext, World
from ttc.run.ledger import Ledger
from ttc.run.solve import judged
from ttc.store.bank import Bank, Row

SHARES = (0.5, 0.75, 1, 1.25, 1.5, 1.75, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 64)
"""Grants on offer, in mean samples: closer where one sample more or less matters."""
CALLS = (*range(1, 9), 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 64)
"""Whole calls on offer; with more, the recorded samples are the last one."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A configuration of a bank, as outcomes are read from it."""

    bank: Bank
    config: str
    seed: int
    cap_tokens: int
    min_call_tokens: int
    vectors: Mapping[str, Any] | None = None
    """The hidden state of each problem's prompt."""

    @property
    def samples(self) -> int:
        """Return the samples that every problem has at least."""
        return min(len(rows) for rows in self.bank.pools[self.config].values())

    @property
    def mean_tokens(self) -> float:
        """Return the mean completion tokens of a sample."""
        lengths = [row.completion_tokens for rows in self.bank.pools[self.config].values() for row in rows]
        return sum(lengths) / len(lengths)

    def options(self, unit: Unit) -> IntArray:
        """Return the options on offer: none beyond the samples there are."""
        most = self.samples
        if unit == "calls":
            return np.array([n for n in CALLS if n < most] + [most], dtype=np.int64)
        return np.array([round(s * self.mean_tokens) for s in SHARES if s <= most], dtype=np.int64)

    def seen(self, problem_id: str, drawn: Sequence[Row] = ()) -> Seen:
        """Return what may be known of a problem."""
        text = self.bank.pools[self.config][problem_id][0].prompt
        vector = None if self.vectors is None else self.vectors.get(problem_id)
        return Seen(problem_id, text, vector, tuple(map(sample_of, drawn)))


def sample_of(row: Row) -> Sample:
    """Return a recorded sample without its grade."""
    ended = row.finish == "stop"
    return Sample(row.answer if ended else None, row.completion_tokens, ended, row.logprob, row.score)


def outcomes(
    recorded: Recorded, strategy: Strategy, label: str, unit: Unit, draws: int, problem_ids: Sequence[str] | None = None
) -> Outcomes:
    """Run a strategy on recorded samples, `draws` times a problem, under every option.

    Raises:
        DataError: no samples. ConfigError: the strategy needs more than recorded samples.
    """
    engine = ReplayEngine(recorded.bank, recorded.config, recorded.seed)
    ids = list(problem_ids) if problem_ids is not None else recorded.bank.problem_ids(recorded.config)
    if not ids:
        raise DataError("there are no problems to learn from")
    options = recorded.options(unit)
    scores, tokens = (np.zeros((len(ids), draws, options.size)) for _ in range(2))
    orders = [[_order(engine, pid, draw) for draw in range(draws)] for pid in ids]
    runner = _Runner(engine, recorded, strategy, unit)

    async def fill() -> None:
        for i, pid in enumerate(ids):
            for draw in range(draws):
                scores[i, draw], tokens[i, draw] = await runner.curve(pid, draw, options)

    # A loop of its own, in a thread: a sweep that asks has one running.
    with ThreadPoolExecutor(1) as apart:
        apart.submit(asyncio.run, fill()).result()
    return Outcomes(
        recorded.config,
        label,
        unit,
        options,
        tuple(recorded.seen(pid) for pid in ids),
        tuple(tuple(tuple(map(sample_of, rows)) for rows in each) for each in orders),
        tuple(tuple(tuple(row.correct and row.finish == "stop" for row in rows) for rows in each) for each in orders),
        scores,
        tokens,
    )


def mean_curves(found: Outcomes) -> Curves:
    """Return the means over draws: what an oracle knows of each problem."""
    costs: Any = found.options if found.unit == "tokens" else found.tokens.mean(axis=1)
    return Curves.from_table(costs, found.scores.mean(axis=1), found.tokens.mean(axis=1))


def half(recorded: Recorded, draw: int) -> Recorded:
    """Return the second half of each problem's samples in the order of a draw: what `first_half` does not deal."""
    engine = ReplayEngine(recorded.bank, recorded.config, recorded.seed)
    pool = recorded.bank.pools[recorded.config]
    rows = {pid: tuple(_order(engine, pid, draw)[len(samples) // 2 :]) for pid, samples in pool.items()}
    bank = Bank(recorded.bank.name, recorded.bank.fingerprint, {recorded.config: rows})
    return replace(recorded, bank=bank)


def _order(engine: ReplayEngine, problem_id: str, draw: int) -> list[Row]:
    return [engine.row(problem_id, draw, i) for i in range(engine.samples(problem_id))]


class _Runner:
    """Runs one strategy under one option after another."""

    def __init__(self, engine: ReplayEngine, recorded: Recorded, strategy: Strategy, unit: Unit) -> None:
        self._strategy, self._unit, self._cap = strategy, unit, recorded.cap_tokens
        self._judge = BankJudge(engine)
        sampling = Sampling(max_tokens=recorded.cap_tokens)
        self._world = World(engine, self._judge, sampling, recorded.seed, recorded.min_call_tokens)
        firsts = {pid: rows[0] for pid, rows in recorded.bank.pools[recorded.config].items()}
        self._problems = {
            pid: Problem(pid, row.prompt or "", Prompt((), (0,) * row.prompt_tokens)) for pid, row in firsts.items()
        }

    async def curve(self, problem_id: str, draw: int, options: IntArray) -> tuple[list[float], list[float]]:
        """Return the score and the tokens spent under each option."""
        scores: list[float] = []
        tokens: list[float] = []
        enough = False
        for option in options.tolist():
            if not enough:
                score, spent, enough = await self._run(problem_id, draw, option)
            scores.append(score)
            tokens.append(spent)
        return scores, tokens

    async def _run(self, problem_id: str, draw: int, option: int) -> tuple[float, float, bool]:
        """Return the score, the tokens, and whether a larger option would change nothing."""
        calls = self._unit == "calls"
        ledger = Ledger(option * self._cap if calls else option, rolling=calls)
        ctx = MeteredContext(self._world, self._problems[problem_id], ledger, draw=draw)
        answer = await self._strategy.solve(ctx.problem, ctx)
        _, score = judged(answer, await self._judge.verdicts(problem_id, draw, answer.candidates))
        return score or 0.0, ctx.meter.usage.completion, answer.stop_reason != "budget"


def recorded_runs(rows: Iterator[Mapping[str, Any]], questions: Mapping[str, str | None]) -> list[Outcomes]:
    """Return what finished uniform runs tell: one option a budget, one draw a seed, no samples.

    `rows` join records with their cells: model, strategy, budget, seed, problem_id, score, completion_tokens.

    Raises:
        DataError: a strategy whose budgets were not run on the same problems.
    """
    table: dict[tuple[str, str], dict[tuple[str, int, int], tuple[float, float]]] = {}
    for row in rows:
        key = (str(row["problem_id"]), int(row["seed"]), int(row["budget"]))
        value = (float(row["score"] or 0.0), float(row["completion_tokens"]))
        table.setdefault((str(row["model"]), str(row["strategy"])), {})[key] = value
    return [_of_runs(model, strategy, cells, questions) for (model, strategy), cells in table.items()]


def _of_runs(
    model: str,
    strategy: str,
    cells: Mapping[tuple[str, int, int], tuple[float, float]],
    questions: Mapping[str, str | None],
) -> Outcomes:
    ids = sorted({problem_id for problem_id, _, _ in cells})
    seeds, budgets = sorted({seed for _, seed, _ in cells}), sorted({budget for _, _, budget in cells})
    try:
        values = np.array([[[cells[i, s, b] for b in budgets] for s in seeds] for i in ids], dtype=np.float64)
    except KeyError as missing:
        raise DataError(
            f"{strategy} on {model}: problem, seed and budget {missing} were not run",
            "learn from runs of the same problems at every budget",
        ) from missing
    return Outcomes(
        model,
        strategy,
        "tokens",
        np.array(budgets, dtype=np.int64),
        tuple(Seen(i, questions.get(i)) for i in ids),
        tuple(() for _ in ids),
        tuple(() for _ in ids),
        values[..., 0],
        values[..., 1],
    )
