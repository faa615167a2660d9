"""What routing by predicted preference buys between a weak and a strong configuration of a bank, at equal FLOPs.

    python benchmarks/route.py BANK --weak 0.5B=494e6 --strong 1.5B=1.54e9 [--shares 0.1,0.25,0.5,0.75] [--json OUT]

Each problem is answered by one sample, of the weak or of the strong configuration; which one is decided by
`ttc.allocate.route` from the question alone: a ridge regression on its text, and on the weak model's hidden state where
the bank holds it (`ttc collect --features hidden`), predicts the preference from problems of other folds. A budget is
the share of the problems that the strong one could answer if all were alike. Accuracies are means over the recorded
samples. A token read or written costs 2 * parameters FLOPs; where the hidden state was looked at, a problem that goes to
the strong model has been read by the weak one as well. Beside it, at the very FLOPs that the routed problems took: random
routing (exactly, in expectation), and an oracle that knows every problem's accuracies and costs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ttc.allocate import Curves, knapsack, preference, route
from ttc.core.errors import ConfigError
from ttc.core.forecast import Seen
from ttc.metrics.compute import flops
from ttc.metrics.statistics import Difference, bootstrap_mean, bootstrap_statistic, paired_difference
from ttc.store.bank import Bank, read_bank
from ttc.store.features import read_features
from ttc_predictors.blocks import BlockName, fit_blocks
from ttc_predictors.folds import folds, groups

Floats = NDArray[np.float64]
BLOCKS: tuple[BlockName, ...] = ("statistics", "words", "vector")
PENALTIES = tuple(10.0**k for k in range(6))
FOLDS = 5


@dataclass(frozen=True)
class Side:
    """One of the two configurations: its name in the bank, and its model's parameters."""

    config: str
    parameters: float


@dataclass(frozen=True, eq=False)
class Pair:
    """What both did on the problems they share: arrays are (problems, samples) or (problems,)."""

    seen: tuple[Seen, ...]
    prompt_tokens: Floats
    weak_right: Floats
    strong_right: Floats
    weak_flops: Floats
    strong_flops: Floats

    @property
    def weak(self) -> Floats:
        """Return the weak configuration's accuracies."""
        return np.asarray(self.weak_right.mean(axis=1))

    @property
    def strong(self) -> Floats:
        """Return the strong configuration's accuracies."""
        return np.asarray(self.strong_right.mean(axis=1))


def find_side(bank: Bank, words: str) -> Side:
    """Read `NAME=PARAMETERS`, NAME being in the name of one configuration."""
    name, _, size = words.rpartition("=")
    found = [c for c in sorted(bank.pools) if name and name in c]
    if len(found) != 1:
        raise ConfigError(
            f"{name!r} must be in the name of one configuration, not {len(found)} of {sorted(bank.pools)}"
        )
    return Side(found[0], float(size))


def make_pair(bank: Bank, weak: Side, strong: Side, vectors: Mapping[str, NDArray[np.float32]]) -> Pair:
    """Join what the two configurations did on the problems that both have."""
    names = sorted(set(bank.pools[weak.config]) & set(bank.pools[strong.config]))
    right, cost = {}, {}
    for side in (weak, strong):
        pools = [bank.pools[side.config][name] for name in names]
        samples = min(map(len, pools))  # a table needs as many of each
        right[side] = np.array([[float(r.correct and r.finish == "stop") for r in p[:samples]] for p in pools])
        moved = [np.mean([r.prompt_tokens + r.completion_tokens for r in p[:samples]]) for p in pools]
        cost[side] = flops(side.parameters, moved)
    firsts = [bank.pools[weak.config][name][0] for name in names]
    read = np.array([r.prompt_tokens for r in firsts], dtype=np.float64)
    if vectors:
        cost[strong] = cost[strong] + flops(weak.parameters, read)
    seen = tuple(Seen(r.problem_id, r.prompt, vectors.get(r.problem_id)) for r in firsts)
    return Pair(seen, read, right[weak], right[strong], cost[weak], cost[strong])


@dataclass(frozen=True, eq=False)
class Forecast:
    """What is predicted of each problem from those of other folds, (problems,)."""

    preferences: Floats
    weak_flops: Floats
    strong_flops: Floats


def cross_fit(pair: Pair, labels: Floats, blocks: Sequence[BlockName] = BLOCKS, seed: int = 0) -> Forecast:
    """Predict preferences by ridge regression, its penalty chosen inside, and costs by their means."""
    from sklearn.linear_model import RidgeCV

    fold = folds(groups(pair.seen), FOLDS, seed)
    told = Forecast(*(np.empty(len(pair.seen)) for _ in range(3)))
    for k in range(FOLDS):
        inside, outside = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        known = fit_blocks([pair.seen[i] for i in inside], blocks, seed)
        columns = [np.nan_to_num(block.rows(pair.seen)) for block in known.values()]
        length = np.log(np.maximum(pair.prompt_tokens, 1))
        x = np.column_stack([length - length[inside].mean(), *columns])
        model = RidgeCV(PENALTIES).fit(x[inside], labels[inside])
        told.preferences[outside] = model.predict(x[outside])
        told.weak_flops[outside] = pair.weak_flops[inside].mean()
        told.strong_flops[outside] = pair.strong_flops[inside].mean()
    return told


def random_at(pair: Pair, mean_flops: float) -> Floats:
    """Return each problem's expected accuracy where all have the same chance of the strong answer, at so many FLOPs."""
    weak, strong = pair.weak_flops.mean(), pair.strong_flops.mean()
    share = (mean_flops - weak) / (strong - weak)
    return np.asarray((1 - share) * pair.weak + share * pair.strong)


def oracle_at(pair: Pair, mean_flops: float) -> Floats:
    """Return each problem's accuracy where the best split of the FLOPs is known."""
    costs = np.stack([pair.weak_flops, pair.strong_flops], axis=1)
    curves = Curves.from_table(costs, np.stack([pair.weak, pair.strong], axis=1))
    total = int(mean_flops * len(pair.seen)) + len(pair.seen)  # each cost is rounded up to a whole FLOP
    choice = knapsack(curves, total).choice
    return np.where(choice == 1, pair.strong, np.where(choice == 0, pair.weak, 0.0))


def compare(pair: Pair, told: Forecast, share: float) -> dict[str, object]:
    """Route at one budget and score it beside the others at the FLOPs it took."""
    low, high = float(told.weak_flops.sum()), float(told.strong_flops.sum())
    total = int(low + share * (high - low)) + 1
    sent = route(told.preferences, told.weak_flops, told.strong_flops, total).choice == 1
    routed = np.where(sent, pair.strong, pair.weak)
    spent = float(np.where(sent, pair.strong_flops, pair.weak_flops).mean())
    chance, best = random_at(pair, spent), oracle_at(pair, spent)
    values = {"routed": routed, "random": chance, "oracle": best, "weak": pair.weak, "strong": pair.strong}
    return {
        "share": share, "sent": float(sent.mean()), "mean_flops": spent, "problems": len(pair.seen),
        **{name: asdict(bootstrap_mean(v) or _none()) for name, v in values.items()},
        "routed - random": asdict(difference(routed, chance)), "oracle - random": asdict(difference(best, chance)),
        "routed - strong": asdict(difference(routed, pair.strong)), "gap_closed": closed(routed, chance, best),
    }  # fmt: skip


def closed(routed: Floats, chance: Floats, best: Floats) -> dict[str, float] | None:
    """Return the share of what an oracle gains over chance that routing gains, None where an oracle gains nothing."""
    if (best - chance).mean() <= 1e-9:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        return asdict(
            bootstrap_statistic(
                np.stack([routed - chance, best - chance], axis=1),
                lambda means: np.nan_to_num(means[:, 0] / means[:, 1], nan=0.0),
            )
        )


def difference(a: Floats, b: Floats) -> Difference:
    """Return the paired difference of two methods on the same problems."""
    return paired_difference(a, b) or _none()


def _none() -> Difference:
    raise ConfigError("the two configurations share no problem")


def print_table(rows: Sequence[Mapping[str, object]]) -> None:
    """Print one row a budget."""
    print("| share on offer | sent | FLOPs a problem | routed | random | oracle | routed - random | gap closed |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        means = " | ".join(f"{row[m]['estimate']:.4f}" for m in ("routed", "random", "oracle"))  # type: ignore[index]
        gap, part = row["routed - random"], row["gap_closed"]
        shown = f"{gap['mean']:+.4f} [{gap['low']:+.4f}, {gap['high']:+.4f}]{'*' * gap['significant']}"  # type: ignore[index]
        share = f"{part['estimate']:.2f} [{part['low']:.2f}, {part['high']:.2f}]" if part else "-"  # type: ignore[index]
        print(f"| {row['share']:.2f} | {row['sent']:.2f} | {row['mean_flops']:.3g} | {means} | {shown} | {share} |")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table; write it as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bank", type=Path)
    parser.add_argument("--weak", required=True, metavar="NAME=PARAMETERS")
    parser.add_argument("--strong", required=True, metavar="NAME=PARAMETERS")
    parser.add_argument("--shares", default="0.1,0.25,0.5,0.75")
    parser.add_argument("--blocks", default=",".join(BLOCKS), help="what is looked at of a question")
    parser.add_argument("--seed", type=int, default=0, help="of the folds")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)
    bank = read_bank(args.bank)
    weak, strong = find_side(bank, args.weak), find_side(bank, args.strong)
    blocks = [name for name in BLOCKS if name in args.blocks.split(",")]
    vectors = read_features(args.bank).get(weak.config, {}) if "vector" in blocks else {}
    pair = make_pair(bank, weak, strong, vectors)
    labels = preference(pair.weak_right, pair.strong_right)
    told = cross_fit(pair, labels, blocks, args.seed)
    rank = rank_correlation(told.preferences, labels)
    rows = [compare(pair, told, float(share)) for share in args.shares.split(",")]
    print(
        f"{len(pair.seen)} problems; hidden state: {'yes' if vectors else 'no'}; rank correlation of preference {rank:+.3f}"
    )
    for name, side, values, cost in (("weak", weak, pair.weak, pair.weak_flops), ("strong", strong, pair.strong, pair.strong_flops)):  # fmt: skip
        print(f"all {name} ({side.config}): {values.mean():.4f} at {cost.mean():.3g} FLOPs a problem")
    print_table(rows)
    print("\nDifferences are paired over problems, with 95% intervals; * where one can be told from zero.")
    if args.json:
        sides = {"weak": asdict(weak), "strong": asdict(strong)}
        written = {"bank": bank.fingerprint, **sides, "hidden": bool(vectors), "rank_correlation": rank, "rows": rows}
        args.json.write_text(json.dumps(written, indent=1) + "\n")


def rank_correlation(a: Floats, b: Floats) -> float:
    """Return Spearman's rank correlation, 0 where one of the two does not vary."""
    from scipy.stats import spearmanr

    return float(spearmanr(a, b).statistic) if np.ptp(a) > 0 and np.ptp(b) > 0 else 0.0


if __name__ == "__main__":
    main()
