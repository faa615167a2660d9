"""What learned allocation buys on recorded samples of a real model, and two controls that must not gain.

    python benchmarks/learned_allocation.py TRAIN TEST --out FOLDER [--draws 4] [--strategies coverage,self-consistency]

TRAIN and TEST are banks of other problems by `ttc collect`, with hidden states. Predictors learn from TRAIN, once from the
question's text (where the bank has it), once from the hidden state; every allocator is replayed on TEST at 1, 2, 4 and 8
samples' worth of tokens a problem. Accuracies are compared with uniform grants at equal realised tokens, the uniform
curve read linearly in log tokens; intervals are paired bootstraps over problems. Oracles know the recorded samples.

Controls: `shuffled` gives every training problem the samples of another one, so that questions say nothing; `rewritten`
grades both banks anew: of a seeded half of the problems every sample is wrong, of the others the most frequent answer is
right, so that nothing in a question tells the halves apart, but votes of the pilot go on to look the same.

Everything is kept in FOLDER; a killed run goes on from there.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ttc import sweep
from ttc.metrics.frontier import Curve, compute_to_match, difference_at_cost, share_of_gap
from ttc.metrics.statistics import Interval
from ttc.report.aggregate import load_tables
from ttc.report.outcomes import Outcomes, by_subject
from ttc.run.fitting import Asked, fit_predictor
from ttc.store.bank import Bank, Row, read_bank, write_bank

SAMPLES = (1, 2, 4, 8)
"""Budgets, in samples' worth of tokens a problem."""
BEYOND = (0.5, 12)
"""Where the uniform and the oracle's curve are read as well, so that no realised cost lies outside them."""
FIT_DRAWS = 16
"""Orders of a training problem's samples that a predictor learns from."""
PLAIN = ("uniform", "oracle")
KNAPSACK = {"name": "knapsack", "label": "knapsack"}
PILOT = {"name": "knapsack", "params": {"pilot": 1}, "label": "knapsack, pilot 1"}


@dataclass(frozen=True)
class Method:
    """One allocator with one predictor: its curve over the budgets."""

    name: str
    curve: Curve


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables; write them as JSON beside the runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--draws", type=int, default=4, help="seeded orders of a problem's samples")
    parser.add_argument("--strategies", default="coverage,self-consistency")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    study = Study(args.train, args.test, args.out, args.draws, tuple(args.strategies.split(",")), args.seed)
    rows = [*study.real(), *study.shuffled(), *study.rewritten()]
    (args.out / "figures.json").write_text(json.dumps(bounded(rows), indent=1, allow_nan=False) + "\n")


def bounded(value: Any) -> Any:
    """Return JSON values with null for what is infinite: an interval's end where nothing bounds it."""
    if isinstance(value, dict):
        return {key: bounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [bounded(inner) for inner in value]
    return None if isinstance(value, float) and math.isinf(value) else value


@dataclass(frozen=True)
class Study:
    """The banks, and where everything that is made of them lies."""

    train: Path
    test: Path
    out: Path
    draws: int
    strategies: tuple[str, ...]
    seed: int

    def real(self) -> list[dict[str, Any]]:
        """Every allocator with every kind of predictor, on the banks as they are."""
        features = ["hidden"]
        if all(row.prompt for row in read_bank(self.train).rows()):
            features.insert(0, "text")
        predictors = {kind: self.fit("real", self.train, kind) for kind in features}
        rows = []
        for strategy in self.strategies:
            methods = self.curves("real", self.test, strategy, None, [*PLAIN, "oracle-split"])
            for kind, predictor in predictors.items():
                asked: list[Any] = [KNAPSACK, PILOT, "sequential", "binned-policy"]
                found = self.curves("real", self.test, strategy, predictor, asked, kind)
                methods |= found
            rows += self.table("real", strategy, methods)
        return rows

    def shuffled(self) -> list[dict[str, Any]]:
        """The knapsack after learning from questions that say nothing."""
        bank = self.rewritten_bank("shuffled-train", self.train, shuffled_questions)
        rows = []
        predictor = self.fit("shuffled", bank, "auto")
        for strategy in self.strategies:
            methods = self.curves("real", self.test, strategy, None, [*PLAIN, "oracle-split"])
            methods |= self.curves("shuffled", self.test, strategy, predictor, [KNAPSACK], "shuffled")
            rows += self.table("shuffled", strategy, methods)
        return rows

    def rewritten(self) -> list[dict[str, Any]]:
        """The knapsack and waves where which half can be solved cannot be known beforehand."""
        train = self.rewritten_bank("rewritten-train", self.train, half_hopeless)
        test = self.rewritten_bank("rewritten-test", self.test, half_hopeless)
        knows_text = all(row.prompt for row in read_bank(self.train).rows())
        kind = "text" if knows_text else "hidden"
        predictor = self.fit("rewritten", train, kind)
        rows = []
        for strategy in self.strategies:
            methods = self.curves("rewritten", test, strategy, None, list(PLAIN))
            methods |= self.curves("rewritten", test, strategy, predictor, [KNAPSACK, "sequential"], kind)
            rows += self.table("rewritten", strategy, methods)
        return rows

    def fit(self, study: str, bank: Path, features: str) -> Path:
        """Return the folder of a predictor, fitted now or before."""
        folder = self.out / f"predictor-{study}-{features}"
        if not (folder / "predictor.json").exists():
            asked = Asked((bank,), self.strategies, features, draws=FIT_DRAWS, seed=self.seed)
            kept: Any = fit_predictor(asked)[0]  # every kind can be saved
            kept.save(folder)
        return folder

    def rewritten_bank(self, name: str, source: Path, rewrite: Any) -> Path:
        """Return a changed copy of a bank, with its hidden states."""
        folder = self.out / name
        if not (folder / "bank.parquet").exists():
            bank = read_bank(source)
            folder.mkdir(parents=True, exist_ok=True)
            if (source / "features.parquet").exists():
                shutil.copy(source / "features.parquet", folder)
            write_bank(rewrite(bank, self.seed), folder, name)
        return folder

    def curves(
        self, study: str, bank: Path, strategy: str, predictor: Path | None, allocators: list[Any], kind: str = ""
    ) -> dict[str, Method]:
        """Replay allocators on a bank, and return their curves by name."""
        each = read_bank(self.test).mean_tokens
        counts = SAMPLES if predictor else sorted({*SAMPLES, *BEYOND})
        config: dict[str, Any] = {
            "bank": str(bank), "strategies": [strategy], "allocators": allocators, "draws": self.draws, "seed": self.seed,
            "budgets": [round(each * count) for count in counts],
        }  # fmt: skip
        if predictor:
            config["predictor"] = str(predictor)
        result = sweep(config, self.out / "runs" / "-".join(filter(None, (study, strategy, kind or "plain"))))
        (outcomes,) = by_subject(load_tables(result.folder)).values()
        return {
            method.name: method for method in methods_of(outcomes, f" ({kind})" if kind in ("text", "hidden") else "")
        }

    def table(self, study: str, strategy: str, methods: Mapping[str, Method]) -> list[dict[str, Any]]:
        """Print one strategy's table, and return its rows."""
        uniform, oracle = methods["uniform"], methods["oracle"]
        split = methods.get("oracle-split")
        each = read_bank(self.test).mean_tokens
        print(f"\n## {study}: {strategy}, {uniform.curve.scores.shape[1]} problems, {each:.0f} tokens a sample\n")
        print(
            "| allocator | budget | tokens | accuracy % | less uniform at equal tokens | gap to oracle closed | to oracle-split |"
        )
        print("|---|---|---|---|---|---|---|")
        rows: list[dict[str, Any]] = []
        wide = sorted({*SAMPLES, *BEYOND})
        for name, method in methods.items():
            for i in range(method.curve.scores.shape[0]):
                count = (SAMPLES if len(method.curve.scores) == len(SAMPLES) else wide)[i]
                costs, scores = method.curve.costs[i], method.curve.scores[i]
                row: dict[str, Any] = {
                    "study": study, "strategy": strategy, "allocator": name, "samples_worth": count,
                    "tokens": float(costs.mean()), "accuracy": float(scores.mean()),
                }  # fmt: skip
                if name not in PLAIN:
                    point = Curve(costs[None], scores[None])
                    gain = difference_at_cost(uniform.curve, costs, scores)
                    row |= {
                        "less_uniform": None if gain is None else asdict(gain),
                        "gap_closed": _interval(_share(point, uniform, oracle)),
                        "split_gap_closed": _interval(_share(point, uniform, split)) if split and count <= 2 else None,
                    }  # fmt: skip
                rows.append(row)
                print(_line(row))
            if name not in PLAIN:
                at = wide.index(SAMPLES[-1])
                match = compute_to_match(method.curve, uniform.curve.costs[at], uniform.curve.scores[at])
                told = f"{match.cost:.0f} tokens" if match.cost else "-"
                share = (
                    f"{match.ratio.estimate:.2f} [{match.ratio.low:.2f}, {match.ratio.high:.2f}] of its tokens"
                    if match.ratio
                    else ""
                )
                print(f"| {name} | matches uniform at {SAMPLES[-1]} | {told} | {match.status} | {share} | | |")
                rows.append({"study": study, "strategy": strategy, "allocator": name, "matches": SAMPLES[-1],
                             "tokens": match.cost, "status": match.status, "ratio": _interval(match.ratio)})  # fmt: skip
        return rows


def methods_of(outcomes: Outcomes, mark: str) -> Iterator[Method]:
    """Yield one method an allocator of a run, over the problems' mean outcomes."""
    for name in dict.fromkeys(cell["allocator"] for cell in outcomes.cells):
        columns = [i for i, cell in enumerate(outcomes.cells) if cell["allocator"] == name]
        columns.sort(key=lambda i: outcomes.cells[i]["budget"])
        yield Method(f"{name}{mark}", Curve(outcomes.tokens[:, columns].T, outcomes.score[:, columns].T))


def shuffled_questions(bank: Bank, seed: int) -> Iterator[Row]:
    """Yield the samples of a bank, every problem's under the question of another one."""
    for pool in bank.pools.values():
        names = sorted(pool)
        others = random.Random(seed).sample(names, len(names))  # noqa: S311 - not a secret
        for name, other in zip(names, others, strict=True):
            for row in pool[other]:
                yield replace(row, problem_id=name, prompt=pool[name][0].prompt)


def half_hopeless(bank: Bank, seed: int) -> Iterator[Row]:
    """Yield the samples of a bank graded anew: half of the problems have no right one, of the others the mode is right."""
    for pool in bank.pools.values():
        names = sorted(pool)
        hopeless = set(random.Random(f"{seed} {len(names)}").sample(names, len(names) // 2))  # noqa: S311 - not a secret
        for name, rows in pool.items():
            answers = Counter(row.answer for row in rows if row.answer is not None and row.finish == "stop")
            mode = None if name in hopeless or not answers else min(answers, key=lambda a: (-answers[a], a))
            for row in rows:
                yield replace(row, correct=mode is not None and row.answer == mode)


def _share(point: Curve, uniform: Method, oracle: Method) -> Interval | None:
    """Return the share of an oracle's lead over uniform grants; one that needs fewer tokens keeps its score with more."""
    known, own = oracle.curve, float(point.costs.mean())
    best = int(known.scores.mean(axis=1).argmax())
    if known.costs.mean(axis=1).max() < own:
        known = Curve(
            np.vstack([known.costs, np.full_like(point.costs, 1.01 * own)]),
            np.vstack([known.scores, known.scores[best]]),
        )
    return share_of_gap(point, uniform.curve, known)


def _interval(found: Any) -> dict[str, float] | None:
    return None if found is None else {"estimate": found.estimate, "low": found.low, "high": found.high}


def _line(row: Mapping[str, Any]) -> str:
    gain = row.get("less_uniform")
    shown = (
        f"{100 * gain['mean']:+.1f} [{100 * gain['low']:+.1f}, {100 * gain['high']:+.1f}]{'*' * gain['significant']}"
        if gain
        else "-"
    )
    shares = (
        f"{s['estimate']:.2f} [{s['low']:.2f}, {s['high']:.2f}]" if s else "-"
        for s in (row.get("gap_closed"), row.get("split_gap_closed"))
    )
    return f"| {row['allocator']} | {row['samples_worth']} | {row['tokens']:.0f} | {100 * row['accuracy']:.1f} | {shown} | {' | '.join(shares)} |"


if __name__ == "__main__":
    main()
