"""What one mix of configurations buys, beside the best single one and the even mix, on problems it was not fitted on.

    python benchmarks/mixed.py BANK [--test BANK] [--budgets 1,2,4,8] [--flops 0.5B=494e6 1.5B=1.54e9] [--json OUT]

The mix is fitted on training problems (`ttc.allocate.mixed`: coverage) and scored on the others, by coverage (without
bias, from the recorded samples) and by self-consistency (replayed, `--draws` orders). The best single configuration is
chosen on the training problems, at the mix's tokens there and for each score; the even mix begins its rounds with whatever is
best there. A budget is in samples' worth: 1 is what a sample of a configuration costs on average. All are compared at
the tokens that the mix really takes on the test problems, a sample more or less of the others being drawn by chance so
that they take as many. Costs are completion tokens; with `--flops` a token counts by its model's parameters, a
configuration's model being the one whose name is in its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ttc.allocate import mixed, smoothed_rates
from ttc.core.errors import ConfigError
from ttc.core.identity import sample_seed
from ttc.core.types import Problem, Prompt, Sampling
from ttc.engines.joint import Member, MixedEngine, proportional_sequence
from ttc.engines.replay import ReplayEngine
from ttc.metrics.estimators import Votes, count_votes, maj_at_k, pass_at_k
from ttc.metrics.statistics import Difference, bootstrap_mean, paired_difference
from ttc.run.bench import BankJudge
from ttc.run.context import World
from ttc.run.granting import Fixed
from ttc.run.ledger import Ledger
from ttc.run.solve import Attempt, solve
from ttc.store.bank import Bank, read_bank
from ttc_strategies.voting import SelfConsistency

Floats = NDArray[np.float64]
SCORES = ("coverage", "self-consistency")
PLENTY = 10**12


@dataclass(frozen=True, eq=False)
class Pools:
    """What a bank holds of some problems, for configurations that all have them: arrays are (configurations, problems)."""

    bank: Bank
    configs: tuple[str, ...]
    problems: tuple[str, ...]
    correct: Floats
    samples: Floats
    tokens: Floats
    """Mean cost of a sample, in budget tokens."""
    votes: tuple[Votes, ...]

    @property
    def most(self) -> NDArray[np.int64]:
        """Return how many samples every problem has, (configurations,)."""
        return np.asarray(self.samples.min(axis=1), dtype=np.int64)


def common_problems(bank: Bank, configs: Sequence[str]) -> list[str]:
    """Return the problems that every configuration has samples of, sorted."""
    return sorted(set.intersection(*(set(bank.pools[c]) for c in configs)))


def make_pools(bank: Bank, configs: Sequence[str], problems: Sequence[str], weights: Sequence[float]) -> Pools:
    """Count what the configurations did on the problems; `weights` are budget tokens a completion token."""
    rows = [[bank.pools[c][p] for p in problems] for c in configs]
    right = [[[r.correct and r.finish == "stop" for r in pool] for pool in config] for config in rows]
    answers = [[[r.answer if r.finish == "stop" else None for r in pool] for pool in config] for config in rows]
    lengths = [[np.mean([r.completion_tokens for r in pool]) for pool in config] for config in rows]
    return Pools(
        bank,
        tuple(configs),
        tuple(problems),
        np.array([[sum(pool) for pool in config] for config in right], dtype=np.float64),
        np.array([[len(pool) for pool in config] for config in right], dtype=np.float64),
        np.array(lengths) * np.asarray(weights)[:, None],
        tuple(count_votes(a, r) for a, r in zip(answers, right, strict=True)),
    )


def split_problems(problems: Sequence[str], share: float, seed: int) -> tuple[list[str], list[str]]:
    """Split by the hash of a problem's name, so that a longer bank keeps its shorter one's halves mixed alike."""
    order = sorted(problems, key=lambda p: sample_seed(seed, p, "split", 0))
    cut = round(share * len(order))
    return sorted(order[:cut]), sorted(order[cut:])


def weights_of(configs: Sequence[str], sizes: Mapping[str, float]) -> list[float]:
    """Return budget tokens a completion token, counted in tokens of the smallest model."""
    if not sizes:
        return [1.0] * len(configs)
    found = [[size for name, size in sizes.items() if name in config] for config in configs]
    for config, fits in zip(configs, found, strict=True):
        if len(fits) != 1:
            raise ConfigError(f"--flops: {len(fits)} of the names {sorted(sizes)} are in {config!r}, one must be")
    return [fits[0] / min(sizes.values()) for fits in found]


# --- what samples in a fixed order are worth


def coverage_of(pools: Pools, order: Sequence[int]) -> Floats:
    """Return the chance of each problem that any of the samples is right, (P,): independent pools, without bias."""
    missed = np.ones(len(pools.problems))
    for config in range(len(pools.configs)):
        if k := order.count(config):
            missed *= 1 - pass_at_k(pools.samples[config], pools.correct[config], k)
    return 1 - missed


def spend_of(pools: Pools, order: Sequence[int]) -> float:
    """Return what the samples take of each problem on average, in budget tokens."""
    return float(sum((pools.tokens[config].mean() for config in order), 0.0))


def votes_of(pools: Pools, order: Sequence[int], draws: int, seed: int = 0) -> Floats:
    """Return how often self-consistency over the samples is right, (P,): replayed in so many orders of each pool."""
    if not order:
        return np.zeros(len(pools.problems))
    longest = max(pools.bank.longest(c) for c in pools.configs)
    members = [Member(ReplayEngine(pools.bank, c, seed)) for c in pools.configs]
    engine = MixedEngine(members, [order.count(i) for i in range(len(members))])
    judge = BankJudge(engine)
    world = World(engine, judge, Sampling(max_tokens=longest), seed, 1)

    async def replay() -> list[float]:
        means = []
        for name in pools.problems:
            granters = [Fixed(Ledger(PLENTY), {name: PLENTY}) for _ in range(draws)]
            problem = Problem(name, "", Prompt((), (0,)))
            outcomes = await solve(Attempt(SelfConsistency(len(order)), problem, granters, world, judge, 600.0))
            failed = next((o.error for o in outcomes if o.error is not None), None)
            assert failed is None, failed
            means.append(float(np.mean([o.score for o in outcomes])))
        return means

    return np.array(asyncio.run(replay()))


def at_spend(pools: Pools, order: Sequence[int], target: float, value: Callable[[list[int]], Floats]) -> Floats | None:
    """Return what the first samples of an order are worth where they take `target` tokens, None where they never do.

    Between two numbers of samples it is drawn which one a problem gets: their mean, weighted so that spends are equal.
    """
    spends = [spend_of(pools, order[:k]) for k in range(len(order) + 1)]
    if spends[-1] < target - 1e-9:
        return None
    k = min(int(np.searchsorted(spends, target + 1e-9, side="right")) - 1, len(order) - 1)
    share = min(1.0, max(0.0, (target - spends[k]) / (spends[k + 1] - spends[k])))
    lower = value(list(order[:k])) if share < 1 - 1e-9 else None
    upper = value(list(order[: k + 1])) if share > 1e-9 else None
    if lower is None or upper is None:
        return lower if upper is None else upper
    return (1 - share) * lower + share * upper


# --- the comparison


def chosen_single(train: Pools, target: float, score: str) -> int:
    """Return the configuration that is best alone on the training problems, at so many tokens."""

    def worth(config: int) -> float:
        def majority(order: list[int]) -> Floats:
            return maj_at_k(train.votes[config], len(order)) if order else np.zeros(len(train.problems))

        value = majority if score == SCORES[1] else lambda order: coverage_of(train, order)
        most = int(train.most[config])
        limit = min(target, spend_of(train, [config] * most))  # what the bank cannot show counts as its last sample
        found = at_spend(train, [config] * most, limit, value)
        return -1.0 if found is None else float(found.mean())

    return max(range(len(train.configs)), key=worth)


def even_order(train: Pools, test: Pools) -> list[int]:
    """Return rounds of one sample of each configuration, the best of the training problems first, while there are any."""
    rank = np.argsort(-(train.correct / train.samples).mean(axis=1), kind="stable")
    return [int(config) for config in rank] * int(test.most.min())


def compare(train: Pools, test: Pools, samples_worth: float, draws: int) -> dict[str, object]:
    """Fit a mix at one budget and score it beside the others."""
    budget = int(np.ceil(samples_worth * train.tokens.mean()))
    most = np.minimum(train.most, test.most)
    mix = mixed(smoothed_rates(train.correct, train.samples), train.tokens.mean(axis=1), budget, most)
    order = list(proportional_sequence(mix.counts.tolist()))
    spend = spend_of(test, order)
    row: dict[str, object] = {
        "samples_worth": samples_worth, "budget_tokens": budget, "tokens": spend, "problems": len(test.problems),
        "mix": {c: int(k) for c, k in zip(test.configs, mix.counts, strict=True) if k},
    }  # fmt: skip
    for score in SCORES:

        def value(some: list[int], score: str = score) -> Floats:
            return coverage_of(test, some) if score == SCORES[0] else votes_of(test, some, draws)

        single = chosen_single(train, spend_of(train, order), score)
        values = {
            "mixed": value(order),
            "single": at_spend(test, [single] * int(test.most[single]), spend, value),
            "even": at_spend(test, even_order(train, test), spend, value),
        }
        row[score] = {"single_config": test.configs[single], **told(values)}
    return row


def told(values: Mapping[str, Floats | None]) -> dict[str, object]:
    """Return the means with their intervals, and how the mix differs from each of the others."""
    told: dict[str, object] = {}
    for name, scores in values.items():
        interval = None if scores is None else bootstrap_mean(scores)
        told[name] = None if interval is None else asdict(interval)
        if name != "mixed":
            told[f"mixed - {name}"] = None if scores is None else asdict(difference(values["mixed"], scores))
    return told


def difference(a: Floats | None, b: Floats) -> Difference:
    """Return the paired difference of two methods on the same problems."""
    assert a is not None
    found = paired_difference(a, b)
    assert found is not None, "there are no test problems"
    return found


def print_table(rows: Sequence[Mapping[str, object]], score: str) -> None:
    """Print one score's table."""
    print(f"\n### {score}\n")
    print("| samples' worth | tokens | mix | mixed | best single | even mix | mixed - single | mixed - even |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        cells = row[score]
        assert isinstance(cells, dict)
        mix = ", ".join(f"{k} x {c}" for c, k in row["mix"].items())  # type: ignore[attr-defined]
        means = [f"{cells[m]['estimate']:.4f}" if cells[m] else "-" for m in ("mixed", "single", "even")]
        means[1] += f" ({cells['single_config']})"
        gaps = [cells[f"mixed - {m}"] for m in ("single", "even")]
        shown = [f"{g['mean']:+.4f} [{g['low']:+.4f}, {g['high']:+.4f}]{'*' * g['significant']}" if g else "-"
                 for g in gaps]  # fmt: skip
        print(f"| {row['samples_worth']:g} | {row['tokens']:.0f} | {mix} | {' | '.join(means + shown)} |")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print both tables; write them as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bank", type=Path)
    parser.add_argument("--test", type=Path, help="score on this bank's problems; without it, on those left by --train")
    parser.add_argument("--train", type=float, default=0.5, help="share of the problems to fit on")
    parser.add_argument("--budgets", default="1,2,4,8")
    parser.add_argument("--configs", nargs="*", help="only configurations with one of these in their name")
    parser.add_argument("--flops", nargs="*", default=[], metavar="MODEL=PARAMETERS")
    parser.add_argument("--draws", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0, help="of the split")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)
    bank = read_bank(args.bank)
    held = read_bank(args.test) if args.test else bank
    configs = sorted(c for c in bank.pools if not args.configs or any(word in c for word in args.configs))
    sizes = {name: float(size) for name, _, size in (word.rpartition("=") for word in args.flops)}
    weights = weights_of(configs, sizes)
    both = common_problems(bank, configs)
    fitted, scored = (
        (both, common_problems(held, configs)) if args.test else split_problems(both, args.train, args.seed)
    )
    train, test = make_pools(bank, configs, fitted, weights), make_pools(held, configs, scored, weights)
    rows = [compare(train, test, float(b), args.draws) for b in args.budgets.split(",")]
    print(f"{len(configs)} configurations, {len(fitted)} problems to fit on, {len(scored)} to score on")
    for score in SCORES:
        print_table(rows, score)
    print("\nDifferences are paired over problems, with 95% intervals; * where one can be told from zero.")
    if args.json:
        told = {"bank": bank.fingerprint, "configs": configs, "weights": weights, "train": len(fitted), "rows": rows}
        args.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
