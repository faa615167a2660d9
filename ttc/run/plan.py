"""From a configuration to cells: what will be run, under which names, and what it may cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttc.core.errors import ConfigError, did_you_mean
from ttc.core.identity import canonical_json, file_sha256, identity
from ttc.core.parameters import build, parameters
from ttc.core.protocols import Capability, Resolvable, Strategy, is_oracle, needs, needs_predictor, requirements
from ttc.core.specs import ChoiceSpec, SweepConfig
from ttc.core.types import Sampling

if TYPE_CHECKING:  # numpy comes with it
    from ttc.core.forecast import Predictor

DEFAULT_MAX_TOKENS = 512
CHARACTERS_A_TOKEN = 4
"""English text in today's tokenizers, roughly; for estimates only."""
DEFAULT_MIN_CALL_TOKENS = 16
"""Smallest call worth starting where no sample's length is known (architecture, section 2)."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A strategy or allocator, built, with the name and parameters that the tables show."""

    name: str
    spec: ChoiceSpec
    params: Mapping[str, Any]
    instance: Any


@dataclass(frozen=True, slots=True)
class Subject:
    """What is asked of whom: one task on one model, described without loading the model."""

    task: str
    model: str
    task_fingerprint: str
    engine_fingerprint: str
    capabilities: frozenset[Capability]
    problem_ids: tuple[str, ...]
    sampling: Sampling
    draws: int
    reward_fingerprint: str | None = None
    parameters: int | None = None
    reward_parameters: int | None = None
    prompt_characters: float = 0.0
    """Mean length of a question with its wording, for the estimate."""


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

    @property
    def total_tokens(self) -> int:
        """Return the run's total for this cell, a hard limit in every draw."""
        return self.budget * len(self.subject.problem_ids)

    def describe(self) -> dict[str, Any]:
        """Return the journal's `cell` line."""
        solver: Strategy = self.strategy.instance
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
            "oracle": is_oracle(solver) or is_oracle(self.allocator.instance),
            "parameters": self.subject.parameters,
            "reward_parameters": self.subject.reward_parameters,
        }


def choices(kind: str, specs: Sequence[ChoiceSpec]) -> list[Choice]:
    """Build strategies or allocators and give each a name of its own.

    Raises:
        ConfigError: unknown name or parameter, or one name twice without labels.
    """
    if not specs:
        hint = "ttc ls strategies names them" if kind == "strategies" else ""
        raise ConfigError(f"no {kind} given", hint)
    built: list[Choice] = []
    for spec in specs:
        instance = build("strategies" if kind == "strategies" else "allocators", spec.name, spec.params)
        name = spec.label or (spec.name.rpartition(":")[2] if ".py:" in spec.name else spec.name)
        if any(other.name == name for other in built):
            raise ConfigError(f"{kind}: {name!r} stands twice", "give each a label of its own in the YAML file")
        method = "solve" if kind == "strategies" else "allocate"
        if not callable(getattr(instance, method, None)):
            raise ConfigError(f"{name} is none of the {kind}: it has no method {method}")
        built.append(Choice(name, spec, parameters(instance), instance))
    return built


def resolve(choice: Choice, subject: Subject) -> Choice:
    """Make `auto` parameters definite, and refuse what this subject cannot give.

    Raises:
        ConfigError: the strategy needs something that the model or bank does not offer.
    """
    instance = choice.instance
    if isinstance(instance, Resolvable):
        instance = instance.resolve(subject.capabilities)
    missing = sorted(requirements(instance) - subject.capabilities)
    if missing:
        raise lacking(choice, subject, missing[0])
    return Choice(choice.name, choice.spec, parameters(instance), instance)


def lacking(choice: Choice, subject: Subject, missing: Capability) -> ConfigError:
    """Return the error that says what a strategy needs and a subject lacks."""
    return ConfigError(f"{choice.name} cannot run on {subject.model}: {_LACKS[missing]}", _HINTS[missing])


_LACKS: dict[Capability, str] = {
    "live": "it needs a live model, not recorded samples",
    "extends": "this engine cannot continue a prefix",
    "temperature": "it needs its own temperature, and recorded samples have theirs",
    "top_logprobs": "this engine tells no log-probabilities of other tokens",
    "reward": "there is no reward model",
    "score": "its samples have no reward scores",
}
_HINTS: dict[Capability, str] = {
    "live": "give --model instead of --bank, or another strategy",
    "extends": "use a vLLM engine or server, or a strategy that only draws whole answers",
    "temperature": "give --model instead of --bank, or another strategy",
    "top_logprobs": "give a vLLM model, or best-of-n with select: logprob",
    "reward": "give --prm MODEL",
    "score": "give --prm MODEL, a bank with the field 'score', or a strategy such as self-consistency",
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
    if not config.budgets:
        raise ConfigError("no budgets given", "for example --budgets 256,512,1024 (mean completion tokens a problem)")
    if len(set(config.budgets)) < len(config.budgets):
        raise ConfigError(f"a budget stands twice in {list(config.budgets)}")
    strategies, allocators = choices("strategies", config.strategies), choices("allocators", config.allocators)
    cells = []
    for subject in subjects:
        for choice in strategies:
            solver = resolve(choice, subject)
            for allocator in allocators:
                predictor = _told_by(allocator, solver, subject, tell)
                for budget in config.budgets:
                    cell = _cell(config, subject, solver, allocator, budget, min_call_tokens, predictor)
                    cells.append(cell)
    _check_distinct(cells)
    return cells


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
        ConfigError: an oracle without a bank, or whole calls of a strategy that grows prefixes.
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
    return tell(allocator, solver, subject)


def configuration(subject: Subject) -> str:
    """Return a bank's name for a model with its sampling; what is replayed has that name already."""
    if "live" not in subject.capabilities:
        return subject.model
    s = subject.sampling
    words = [subject.model, f"T={s.temperature:g}", f"cap={s.max_tokens}"]
    words += [f"{name}={value:g}" for name, value, off in
              (("top_p", s.top_p, 1), ("top_k", s.top_k, 0), ("min_p", s.min_p, 0)) if value != off]  # fmt: skip
    return " ".join(words)


def _cell(
    config: SweepConfig,
    subject: Subject,
    solver: Choice,
    allocator: Choice,
    budget: int,
    min_call_tokens: int,
    predictor: Predictor | None,
) -> Cell:
    price = {str(kind): rate for kind, rate in config.price.items() if rate}
    s = subject.sampling
    name = identity(
        {
            "task": [subject.task, subject.task_fingerprint],
            "engine": subject.engine_fingerprint,
            "reward": subject.reward_fingerprint,
            "sampling": [s.temperature, s.top_p, s.top_k, s.min_p, s.max_tokens, list(s.stop)],
            "strategy": [_code(solver), solver.params],
            "allocator": [_code(allocator), allocator.params, *([predictor.fingerprint] if predictor else [])],
            "budget": budget,
            "seed": config.seed,
            "draws": subject.draws,
            "price": price,
            "min_call_tokens": min_call_tokens,
        }
    )
    return Cell(name, subject, solver, allocator, budget, config.seed, price, min_call_tokens, predictor)


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


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a sweep may cost, in completion tokens."""

    cells: int
    problems: int
    ceiling: int
    """The sum of all cells' totals: no run can charge more."""
    expected: int
    """What an engine is likely asked for at most: cells share samples by seed, so the largest cell of each subject."""
    expected_prompt: int
    """Prompt tokens of those calls, at 4 characters a token and half a cap a completion; a server prices each call's."""


def estimate(cells: Sequence[Cell], cached: bool) -> Estimate:
    """Bound a sweep's cost before anything is generated; `cached` says whether equal samples are drawn once."""
    subjects = {id(cell.subject): cell.subject for cell in cells}
    asked: dict[int, list[int]] = {key: [] for key in subjects}
    for cell in cells:
        asked[id(cell.subject)].append(_most_tokens(cell))
    expected = {key: max(counts) if cached else sum(counts) for key, counts in asked.items()}
    prompts = (
        expected[key] / max(1, subject.sampling.max_tokens / 2) * subject.prompt_characters / CHARACTERS_A_TOKEN
        for key, subject in subjects.items()
    )
    return Estimate(
        cells=len(cells),
        problems=sum(len(subject.problem_ids) for subject in subjects.values()),
        ceiling=sum(cell.total_tokens for cell in cells),
        expected=sum(expected.values()),
        expected_prompt=round(sum(prompts)),
    )


def _most_tokens(cell: Cell) -> int:
    """Return the tokens a cell can ask for: its total, or less where the strategy draws few samples."""
    n = cell.strategy.params.get("n")
    a_problem = min(cell.budget, n * cell.subject.sampling.max_tokens) if isinstance(n, int) else cell.budget
    return a_problem * len(cell.subject.problem_ids)


def check_bank_models(names: Sequence[str], configs: Sequence[str], bank: Path) -> list[str]:
    """Return the configurations a bank sweep runs on: all, or those named.

    Raises:
        ConfigError: a name is none of them.
    """
    for name in names:
        if name not in configs:
            raise ConfigError(f"the bank {bank.name} has no configuration {name!r}", did_you_mean(name, configs))
    return list(names) or list(configs)
