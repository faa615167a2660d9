"""From a configuration to cells: what will be run, under which names, and what it may cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttc.core.errors import ConfigError, did_you_mean
from ttc.core.identity import canonical_json, file_sha256, identity
from ttc.core.protocols import Joins, is_oracle, joins, needs, needs_predictor, requirements
from ttc.core.specs import ChoiceSpec, GridSpec, SweepConfig, grids
from ttc.run.choices import Choice, Several, Subject, choices, resolve

if TYPE_CHECKING:  # numpy comes with it
    from ttc.core.forecast import Predictor

DEFAULT_MAX_TOKENS = 512
CHARACTERS_A_TOKEN = 4
"""English text in today's tokenizers, roughly; for estimates only."""
DEFAULT_MIN_CALL_TOKENS = 16
"""Smallest call worth starting where no sample's length is known (architecture, "Tokens are the one currency")."""


@dataclass(frozen=True, slots=True)
class Share:
    """One of the strategies or models that share a cell."""

    solver: Choice
    subject: Subject
    predictor: Predictor | None


Teller = Callable[[Choice, Choice, Subject], "Predictor | None"]
"""Finds what an allocator is told by, for a strategy and a subject."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One row of the table: a subject, a strategy, an allocator and a budget."""

    id: str
    subject: Subject
    strategy: Choice
    allocator: Choice
    budget: int
    seed: int
    price: Mapping[str, float]
    min_call_tokens: int
    predictor: Predictor | None = None
    """What the allocator is told by, where it must be told."""
    shares: tuple[Share, ...] = ()
    """The strategies or models that the allocator chooses from, each with its own predictor; none where it is one."""

    @property
    def told(self) -> list[tuple[Subject, Predictor]]:
        """Return the predictors, and which model each speaks of."""
        every = [*self.shares, Share(self.strategy, self.subject, self.predictor)]
        return [(share.subject, share.predictor) for share in every if share.predictor is not None]

    @property
    def names(self) -> list[str]:
        """Return what the shares are called, in order."""
        if self.subject.members:
            return [share.subject.model for share in self.shares]
        return [share.solver.name for share in self.shares]

    @property
    def total_tokens(self) -> int:
        """Return the run's total for this cell, a hard limit in every draw."""
        return self.budget * len(self.subject.problem_ids)

    def describe(self) -> dict[str, Any]:
        """Return the journal's `cell` line."""
        return {
            "kind": "cell",
            "cell": self.id,
            "task": self.subject.task,
            "model": self.subject.model,
            "strategy": self.strategy.name,
            "strategy_params": canonical_json(self.strategy.params),
            "allocator": self.allocator.name,
            "allocator_params": canonical_json(self.allocator.params),
            "budget": self.budget,
            "seed": self.seed,
            "draws": self.subject.draws,
            "price": dict(self.price),
            "n_problems": len(self.subject.problem_ids),
            "oracle": is_oracle(self.strategy.instance) or is_oracle(self.allocator.instance),
            "parameters": self.subject.parameters,
            "reward_parameters": self.subject.reward_parameters,
        }


def make_cells(
    config: SweepConfig, subjects: Sequence[Subject], min_call_tokens: int, tell: Teller = lambda *_: None
) -> list[Cell]:
    """Return the product of subjects, strategies, allocators and budgets, each with its identity.

    The identity leaves out what cannot change outputs: labels, display, folders, time limits. `tell` returns what an
    allocator is told by.

    Raises:
        ConfigError: no budgets, one thing under two names, or an allocator that cannot be told what it needs.
    """
    cells = [c for grid in grids(config) for c in _of_grid(config, grid, subjects, min_call_tokens, tell)]
    _check_distinct(cells)
    return cells


def _of_grid(
    config: SweepConfig, grid: GridSpec, subjects: Sequence[Subject], min_call_tokens: int, tell: Teller
) -> list[Cell]:
    if not grid.budgets:
        raise ConfigError("no budgets given", "for example --budgets 256,512,1024 (mean completion tokens a problem)")
    if len(set(grid.budgets)) < len(grid.budgets):
        raise ConfigError(f"a budget stands twice in {list(grid.budgets)}")
    strategies, allocators = choices("strategies", grid.strategies), choices("allocators", grid.allocators)
    if any(joins(choice.instance) == "models" for choice in allocators) and not any(s.members for s in subjects):
        raise _too_few("models", allocators, [subject.model for subject in subjects])
    cells = []
    for subject in subjects:
        own = [choice for choice in allocators if (joins(choice.instance) == "models") == bool(subject.members)]
        solvers = [resolve(choice, subject) for choice in strategies] if own else []
        for row in _rows(subject, solvers, own, tell):
            cells += [_cell(config, row, budget, min_call_tokens) for budget in grid.budgets]
    return cells


@dataclass(frozen=True, slots=True)
class _Row:
    """A cell without its budget."""

    subject: Subject
    strategy: Choice
    allocator: Choice
    predictor: Predictor | None = None
    shares: tuple[Share, ...] = ()


def _rows(subject: Subject, solvers: Sequence[Choice], allocators: Sequence[Choice], tell: Teller) -> Iterator[_Row]:
    """Yield each strategy under each allocator, and after them what joins all strategies."""
    for solver in solvers:
        for allocator in allocators:
            if joins(allocator.instance) == "models":
                members = _members(allocator, subject)
                shares = tuple(Share(solver, m, _told_by(allocator, solver, m, tell)) for m in members)
                yield _Row(subject, solver, allocator, shares=shares)
            elif joins(allocator.instance) is None:
                yield _Row(subject, solver, allocator, _told_by(allocator, solver, subject, tell))
    for allocator in allocators:
        if joins(allocator.instance) == "strategies":
            if len(solvers) < 2:
                raise _too_few("strategies", [allocator], [solver.name for solver in solvers])
            shares = tuple(Share(s, subject, _told_by(allocator, s, subject, tell)) for s in solvers)
            yield _Row(subject, _together(solvers), allocator, shares=shares)


def _together(solvers: Sequence[Choice]) -> Choice:
    """Return strategies as one: named by all, with the parameters of each under its name."""
    name = "+".join(solver.name for solver in solvers)
    params = {solver.name: solver.params for solver in solvers}
    return Choice(name, ChoiceSpec(name=name), params, Several(tuple(solver.instance for solver in solvers)))


def _members(allocator: Choice, subject: Subject) -> tuple[Subject, ...]:
    if getattr(allocator.instance, "pair", False) and len(subject.members) != 2:
        raise ConfigError(
            f"{allocator.name} is between two models, and {len(subject.members)} are given: {subject.model}",
            "name two of them: --model A --model B",
        )
    return subject.members


def _too_few(kind: Joins, allocators: Sequence[Choice], given: Sequence[str]) -> ConfigError:
    """Return the error that says that there is nothing to choose from."""
    hints: dict[Joins, str] = {
        "strategies": "name two or more: --strategies self-consistency,best-of-n",
        "models": "give two or more: --model once for each, or a bank with several configurations",
    }
    name = next(choice.name for choice in allocators if joins(choice.instance) == kind)
    only = ", ".join(dict.fromkeys(given))
    return ConfigError(f"{name} chooses among {kind}, and there is only {only}", hints[kind])


def _check_distinct(cells: Sequence[Cell]) -> None:
    seen: dict[str, Cell] = {}
    for cell in cells:
        first = seen.setdefault(cell.id, cell)
        if first is not cell:
            one, other = (f"{c.subject.model} with {c.strategy.name} and {c.allocator.name}" for c in (first, cell))
            raise ConfigError(
                f"{one} and {other} are the same thing under two labels",
                "leave one out, or give them other parameters (auto stands for one of the others)",
            )


def _told_by(allocator: Choice, solver: Choice, subject: Subject, tell: Teller) -> Predictor | None:
    """Return what an allocator is told by, and refuse what it cannot be told.

    Raises:
        ConfigError: an oracle without a bank, or whole calls or a pilot of a strategy that grows prefixes.
    """
    if "bank" in needs(allocator.instance) and "live" in subject.capabilities:
        raise ConfigError(
            f"{allocator.name} looks at recorded outcomes, and {subject.model} is live",
            "record a bank first (ttc collect), then --bank BANK",
        )
    if not needs_predictor(allocator.instance):
        return None
    grows = requirements(solver.instance) & {"extends", "temperature", "live"}
    if grows and getattr(allocator.instance, "unit", "tokens") == "calls":
        raise ConfigError(
            f"{allocator.name} hands out whole answers one by one, and {solver.name} does not draw such",
            "use knapsack, which grants tokens, or a strategy such as self-consistency",
        )
    if grows and joins(allocator.instance) is None and getattr(allocator.instance, "pilot", 0) > 0:
        raise ConfigError(
            f"the pilot of {allocator.name} is whole answers, and {solver.name} does not draw such",
            "leave the pilot out, or use a strategy such as self-consistency",
        )
    return tell(allocator, solver, subject)


def configuration(subject: Subject) -> str:
    """Return a bank's name for a model with its sampling; what is replayed has that name already."""
    if "live" not in subject.capabilities:
        return subject.model
    s = subject.sampling
    # A model that is given at several temperatures has its own in its label already.
    words = [subject.model.removesuffix(f"@{s.temperature:g}"), f"T={s.temperature:g}", f"cap={s.max_tokens}"]
    words += [f"{name}={value:g}" for name, value, off in
              (("top_p", s.top_p, 1), ("top_k", s.top_k, 0), ("min_p", s.min_p, 0)) if value != off]  # fmt: skip
    return " ".join(words)


def _cell(config: SweepConfig, row: _Row, budget: int, min_call_tokens: int) -> Cell:
    price = {str(kind): rate for kind, rate in config.price.items() if rate}
    subject, s = row.subject, row.subject.sampling
    predictors = [share.predictor for share in row.shares] or [row.predictor]
    together = isinstance(row.strategy.instance, Several)
    name = identity(
        {
            "task": [subject.task, subject.task_fingerprint],
            "engine": subject.engine_fingerprint,
            "reward": subject.reward_fingerprint,
            "sampling": [s.temperature, s.top_p, s.top_k, s.min_p, s.max_tokens, list(s.stop)],
            "strategy": [_named(share.solver) for share in row.shares] if together else _named(row.strategy),
            "allocator": [*_named(row.allocator), *(p.fingerprint for p in predictors if p is not None)],
            "budget": budget,
            "seed": config.seed,
            "draws": subject.draws,
            "price": price,
            "min_call_tokens": min_call_tokens,
        }
    )
    return Cell(
        name,
        subject,
        row.strategy,
        row.allocator,
        budget,
        config.seed,
        price,
        min_call_tokens,
        row.predictor,
        row.shares,
    )


def _named(choice: Choice) -> list[Any]:
    """Return what tells a choice from all others: its code and its parameters."""
    return [_code(choice), choice.params]


def _code(choice: Choice) -> str:
    """Return what names a choice's code: a registered name, or a class with its file's content, wherever it lies."""
    file, _, attribute = choice.spec.name.rpartition(":")
    return f"{attribute}@{file_sha256(Path(file))}" if file.endswith(".py") else choice.spec.name


def spec_id(cells: Sequence[Cell]) -> str:
    """Return the identity of a whole run."""
    return identity([cell.id for cell in cells])


def run_name(date: str, cells: Sequence[Cell], run_id: str) -> str:
    """Return the folder name `<date>-<task>-<model>-<hash>`."""
    tasks = sorted({cell.subject.task for cell in cells})
    models = sorted({cell.subject.model for cell in cells})
    words = ["+".join(tasks), models[0] if len(models) == 1 else f"{len(models)}-models"]
    safe = ["".join(c if c.isalnum() or c in "+._" else "-" for c in word).strip("-.")[:60] for word in words]
    return "-".join([date, *safe, run_id[:8]])


def check_bank_models(names: Sequence[str], configs: Sequence[str], bank: Path) -> list[str]:
    """Return the configurations a bank sweep runs on: all, or those named.

    Raises:
        ConfigError: a name is none of them.
    """
    for name in names:
        if name not in configs:
            raise ConfigError(f"the bank {bank.name} has no configuration {name!r}", did_you_mean(name, configs))
    return list(names) or list(configs)
