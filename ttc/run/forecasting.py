"""What allocators are told about a cell's problems, and how their splits become grants."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ttc.core.errors import ConfigError, TtcError, did_you_mean
from ttc.core.protocols import Ask, Part, joins, needs, needs_predictor
from ttc.core.specs import SweepConfig
from ttc.core.types import Problem
from ttc.engines.opening import EMBEDDED
from ttc.run.bench import Bench
from ttc.run.choices import Choice, Subject
from ttc.run.granting import Fixed, Granter, Policy, Rounds
from ttc.run.joining import Once, described
from ttc.run.ledger import Ledger
from ttc.run.plan import Cell, Share, Teller, configuration

if TYPE_CHECKING:  # numpy comes with them
    from ttc.core.allocation import Allocation
    from ttc.core.curves import Curves
    from ttc.core.forecast import Outcomes, Predictor, Seen, Training, Unit
    from ttc.run.crossfit import CrossFitted
    from ttc.run.outcomes import Recorded

ORACLE_DRAWS = 32
"""Orders that an oracle's curves are means of."""
SPLIT_DRAWS = 4
"""Orders of the second half that the curves of one draw are means of, for `oracle-split`."""


def in_rounds(allocator: object) -> bool:
    """Say whether an allocator decides while a cell runs, on what was drawn so far."""
    return (
        needs_predictor(allocator)
        and joins(allocator) is None
        and (getattr(allocator, "pilot", 0) > 0 or unit_of(allocator) == "calls")
    )


def known_before(cell: Cell) -> bool:
    """Say whether a cell's grants are made before anything is drawn, and bind each problem alone."""
    allocator = cell.allocator.instance
    return unit_of(allocator) != "calls" if cell.shares else not in_rounds(allocator)


def dealt_in_halves(cell: Cell) -> bool:
    """Say whether a cell's allocator looks at one half of the samples, so that only the other half is dealt."""
    return bool(getattr(cell.allocator.instance, "split", False))


@dataclass(slots=True)
class Forecasts:
    """Everything that the allocators of one bench are told; each part is made once.

    Args:
        config: the sweep.
        bench: the task and the model.
        vectors: hidden states by problem, where a predictor wants them.
        members: the same of each model, where the bench joins several.
    """

    config: SweepConfig
    bench: Bench
    vectors: Mapping[str, Any] = field(default_factory=dict)
    members: tuple[Forecasts, ...] = ()
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by whoever asks: cells that run side by side share what is made."""
    _made: dict[Any, Any] = field(default_factory=dict)

    def granters(
        self, cell: Cell, problems: Sequence[Problem], left: Sequence[Problem], totals: Sequence[Ledger]
    ) -> list[Granter]:
        """Return one granter a draw: of all `problems`, those `left` are still to be run.

        Raises:
            ConfigError: something that the allocator needs is not there.
            TtcError: the allocator granted more than the total.
        """
        allocator = cell.allocator.instance
        if cell.shares:
            return self._joined(cell, problems, left, totals)
        if in_rounds(allocator):
            return [Rounds(t, left, self._policy(cell), cell.min_call_tokens) for t in totals]
        if dealt_in_halves(cell):
            return [self._fixed(cell, problems, t, self._half(cell, problems, d)) for d, t in enumerate(totals)]
        ask = self._ask(cell, problems)
        return [self._fixed(cell, problems, t, ask) for t in totals]

    def _joined(
        self, cell: Cell, problems: Sequence[Problem], left: Sequence[Problem], totals: Sequence[Ledger]
    ) -> list[Granter]:
        ids, (split, parts) = [p.id for p in problems], self._joint_split(cell, problems)
        in_calls = split.counts is None and unit_of(cell.allocator.instance) == "calls"
        samples: int | None = getattr(cell.allocator.instance, "samples", 1) if in_calls else None
        told = dict(zip(ids, described(cell, split, parts, samples), strict=True))
        if samples is not None:
            calls = {pid: samples if choice >= 0 else 0 for pid, choice in zip(ids, split.choice.tolist(), strict=True)}
            return [Rounds(t, left, Once(calls, told), cell.min_call_tokens) for t in totals]
        grants = self._checked(cell, split, ids)
        return [Fixed(t, grants, told) for t in totals]

    def joint_split(self, cell: Cell, problems: Sequence[Problem]) -> Allocation:
        """Return what the allocator of several strategies or models decided, before anything is drawn."""
        return self._joint_split(cell, problems)[0]

    def _joint_split(self, cell: Cell, problems: Sequence[Problem]) -> tuple[Allocation, tuple[Part, ...]]:
        key = ("joint", cell.id)
        if key not in self._made:
            of = {id(m.bench.subject): m for m in self.members}
            shares = zip(cell.names, cell.shares, strict=True)
            parts = tuple(of.get(id(s.subject), self)._part(cell, s, name, problems) for name, s in shares)
            ids, cap = tuple(p.id for p in problems), cell.subject.sampling.max_tokens
            ask = Ask(ids, cell.total_tokens, cap, cell.seed, parts=parts)
            self._made[key] = (cell.allocator.instance.allocate(ask), parts)
        return cast("tuple[Allocation, tuple[Part, ...]]", self._made[key])

    def _part(self, cell: Cell, share: Share, name: str, problems: Sequence[Problem]) -> Part:
        """Return what the allocator is told of one of several strategies or models."""
        wanted, unit, label = needs(cell.allocator.instance), unit_of(cell.allocator.instance), share.solver.name
        if share.predictor is None:
            return Part(name, weight=share.subject.weight, parameters=share.subject.parameters)
        predictor, model, seen = share.predictor, model_of(share.predictor, share.subject), self._seen(problems)
        check_known(predictor, model, label, unit)
        each = None
        if "samples" in wanted:
            import numpy as np

            each = predictor.curves(model, label, "calls", seen, np.array([1])).costs.astype(np.float64)
        return Part(
            name,
            predictor.curves(model, label, unit, seen) if "curves" in wanted else None,
            predictor.success(model, seen) if "scores" in wanted else None,
            each,
            predictor.training(model, label, unit) if "training" in wanted else None,
            share.subject.weight,
            share.subject.parameters,
            None if self.bench.bank is None else self.recorded().samples,
        )

    def _fixed(self, cell: Cell, problems: Sequence[Problem], total: Ledger, ask: Ask) -> Fixed:
        """Ask once, before anything is drawn."""
        key = ("split", cell.id, id(ask))
        if key not in self._made:
            self._made[key] = self._granted(cell, problems, ask)
        grants, said = self._made[key]
        return Fixed(total, grants, said)

    def _granted(
        self, cell: Cell, problems: Sequence[Problem], ask: Ask
    ) -> tuple[dict[str, int], dict[str, dict[str, Any]] | None]:
        ids = [p.id for p in problems]
        split: Allocation = cell.allocator.instance.allocate(ask)
        grants = self._checked(cell, split, ids)
        if ask.curves is None:
            return grants, None
        from ttc.run.waves import told

        return grants, dict(zip(ids, told(split, ask.curves, "tokens"), strict=True))

    @staticmethod
    def _checked(cell: Cell, split: Allocation, ids: Sequence[str]) -> dict[str, int]:
        """Return the grants by problem. Raises TtcError where they are not one each, or more than the total."""
        grants = dict(zip(ids, map(int, split.grants), strict=False))
        if (
            len(split.grants) != len(ids)
            or sum(grants.values()) > cell.total_tokens
            or min(grants.values(), default=0) < 0
        ):
            raise TtcError(
                f"allocator {cell.allocator.name} granted {sum(grants.values())} tokens to {len(grants)} problems;"
                f" the total is {cell.total_tokens}"
            )
        return grants

    def _ask(self, cell: Cell, problems: Sequence[Problem], curves: Curves | None = None) -> Ask:
        wanted = needs(cell.allocator.instance)
        ids = tuple(p.id for p in problems)
        cap = cell.subject.sampling.max_tokens
        if not wanted:
            return Ask(ids, cell.total_tokens, cap, cell.seed)
        if "bank" in wanted:
            return Ask(ids, cell.total_tokens, cap, cell.seed, curves or self._oracle(cell, ids))
        predictor, seen = self._predictor(cell), self._seen(problems)
        model = model_of(predictor, cell.subject)
        return Ask(
            ids,
            cell.total_tokens,
            cap,
            cell.seed,
            predictor.curves(model, cell.strategy.name, "tokens", seen) if "curves" in wanted else None,
            predictor.success(model, seen) if "scores" in wanted else None,
            predictor.training(model, cell.strategy.name, "tokens") if "training" in wanted else None,
        )

    def _seen(self, problems: Sequence[Problem]) -> list[Seen]:
        from ttc.core.forecast import Seen

        return [Seen(p.id, p.question or None, self.vectors.get(p.id)) for p in problems]

    def _predictor(self, cell: Cell) -> Predictor:
        if cell.predictor is None:
            raise ConfigError(f"{cell.allocator.name} needs a predictor", "give --predictor (ttc fit makes one)")
        unit = unit_of(cell.allocator.instance)
        check_known(cell.predictor, model_of(cell.predictor, cell.subject), cell.strategy.name, unit)
        return cell.predictor

    def _policy(self, cell: Cell) -> Policy:
        from ttc.run.crossfit import CrossFitted
        from ttc.run.waves import Arrivals, Informed, Waves

        allocator, predictor = cell.allocator.instance, self._predictor(cell)
        model = model_of(predictor, cell.subject)
        if isinstance(predictor, CrossFitted):
            predictor.prepare(cell.strategy.name)
        unit = unit_of(allocator)
        most = int(predictor.options(model, cell.strategy.name, "calls")[-1]) if unit == "calls" else 0
        if self.bench.bank is not None and most:
            most = min(most, self.recorded().samples)
        training: Training | None = None
        if "training" in needs(allocator):
            training = predictor.training(model, cell.strategy.name, unit)
        informed = Informed(
            allocator,
            predictor,
            model,
            cell.strategy.name,
            cell.subject.sampling.max_tokens,
            cell.seed,
            most,
            self.vectors,
            training,
        )
        return Arrivals(informed) if getattr(allocator, "window", 0) else Waves(informed)

    def recorded(self) -> Recorded:
        """Return the bench's bank as outcomes are read from it."""
        if "recorded" not in self._made:
            self._made["recorded"] = recorded(self.config, self.bench)
        return cast("Recorded", self._made["recorded"])

    def outcomes(self, cell: Cell, unit: Unit, draws: int, problem_ids: Sequence[str]) -> Outcomes:
        """Return what the cell's strategy makes of its bank's samples."""
        from ttc.run.outcomes import outcomes

        key = ("outcomes", cell.strategy.name, str(cell.strategy.params), unit, draws, tuple(problem_ids))
        if key not in self._made:
            recorded = self.recorded()
            self._made[key] = outcomes(recorded, cell.strategy.instance, cell.strategy.name, unit, draws, problem_ids)
        return cast("Outcomes", self._made[key])

    def _oracle(self, cell: Cell, problem_ids: Sequence[str]) -> Curves:
        from ttc.run.outcomes import mean_curves

        return mean_curves(self.outcomes(cell, "tokens", ORACLE_DRAWS, problem_ids))

    def _half(self, cell: Cell, problems: Sequence[Problem], draw: int) -> Ask:
        """Return the ask of `oracle-split` in one draw: curves from the half of the samples that is not dealt."""
        from ttc.run.outcomes import half, mean_curves, outcomes

        ids = [p.id for p in problems]
        key = ("half", cell.strategy.name, str(cell.strategy.params), draw, tuple(ids))
        if key not in self._made:
            other = half(self.recorded(), draw)
            found = outcomes(other, cell.strategy.instance, cell.strategy.name, "tokens", SPLIT_DRAWS, ids)
            self._made[key] = mean_curves(found)
        return self._ask(cell, problems, cast("Curves", self._made[key]))


def unit_of(allocator: object) -> Unit:
    """Return what an allocator's options grant."""
    unit: Unit = getattr(allocator, "unit", "tokens")
    return unit


def model_of(predictor: Predictor, subject: Subject) -> str:
    """Return what a predictor calls a subject's model: with its sampling, as in a bank, else by its label."""
    whole = configuration(subject)
    return whole if any(model == whole for model, _, _ in predictor.known()) else subject.model


def teller(config: SweepConfig, benches: Sequence[Bench], note: Callable[[str], None] = lambda _: None) -> Teller:
    """Return what finds an allocator's predictor: its own, the sweep's, the shipped one, or one fitted on the bank.

    Nothing is fitted before it is asked. Raises ConfigError where an allocator cannot be told what it needs, DataError
    where a predictor cannot be read.
    """
    by_subject = {id(bench.subject): bench for bench in benches}
    read: dict[Path, Predictor] = {}
    fitted: dict[int, CrossFitted] = {}

    def tell(allocator: Choice, solver: Choice, subject: Subject) -> Predictor:
        bench = by_subject[id(subject)]
        folder = allocator.spec.predictor or config.predictor or _shipped(bench)
        if folder is not None:
            from ttc.core.forecast import load_predictor

            predictor = read.setdefault(folder, read.get(folder) or load_predictor(folder))
            check_known(predictor, model_of(predictor, subject), solver.name, unit_of(allocator.instance))
            return predictor
        if bench.bank is None:
            raise ConfigError(
                f"{allocator.name} needs a predictor",
                "make one with ttc fit (from a bank or finished runs), then --predictor FOLDER",
            )
        if "training" in needs(allocator.instance):
            raise ConfigError(
                f"{allocator.name} learns a table from other problems than it is run on",
                "fit a predictor on another bank: ttc fit BANK --out FOLDER, then --predictor FOLDER",
            )
        if id(subject) not in fitted:
            fitted[id(subject)] = cross_fitted(config, bench, note)
        fitted[id(subject)].strategies[solver.name] = solver.instance
        return fitted[id(subject)]

    return tell


def cross_fitted(config: SweepConfig, bench: Bench, note: Callable[[str], None]) -> CrossFitted:
    """Return a predictor that learns from a bench's own bank, without any strategy yet."""
    from ttc.run.crossfit import CrossFitted

    return CrossFitted(recorded(config, bench), {}, config.seed, note)


def recorded(config: SweepConfig, bench: Bench) -> Recorded:
    """Return a bench's bank as outcomes are read from it. Raises ConfigError where it has none."""
    from ttc.run.outcomes import Recorded
    from ttc.store.features import read_features

    if bench.bank is None or config.bank is None:
        raise ConfigError("only a bank holds recorded outcomes", "record one: ttc collect, then --bank BANK")
    subject = bench.subject
    vectors = read_features(config.bank).get(subject.model)
    cap = subject.sampling.max_tokens
    return Recorded(bench.bank, subject.model, config.seed, cap, bench.min_call_tokens, vectors)


def _shipped(bench: Bench) -> Path | None:
    """Return the predictor that was fitted for the shipped pair, where the bench runs it on its own tasks."""
    folder = Path(str(files("ttc.embedded") / "predictor"))
    fits = bench.spec is not None and bench.spec.path == EMBEDDED and (folder / "predictor.json").is_file()
    return folder if fits else None


def check_known(predictor: Predictor, model: str, strategy: str, unit: Unit) -> None:
    """Refuse what a predictor has no curves of.

    Raises:
        ConfigError: naming what it knows.
    """
    known = predictor.known()
    if (model, strategy, unit) in known:
        return
    models = sorted({m for m, _, _ in known})
    if model not in models:
        raise ConfigError(
            f"the predictor knows nothing of {model!r}", f"it was fitted on {', '.join(map(repr, models))}"
        )
    strategies = sorted({s for m, s, u in known if m == model and u == unit})
    if strategy in {s for m, s, _ in known if m == model}:
        raise ConfigError(
            f"the predictor has no curves of {strategy!r} by {unit}",
            "this allocator serves strategies that draw whole answers: fit it on a bank, or choose knapsack",
        )
    raise ConfigError(
        f"the predictor has no curves of {strategy!r}",
        f"{did_you_mean(strategy, strategies)}; it knows {', '.join(strategies)}",
    )
