"""How good a predictor is on problems it has not seen: numbers for a table, and a figure of its reliability."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttc.core.curves import FloatArray, IntArray
from ttc.core.errors import StorageError
from ttc_predictors.boosting import Grown, Stack
from ttc_predictors.model import HeldOut, ModelPart
from ttc_predictors.value import Fresh

BINS = 10
SHOWN_PILOTS = (0, 1, 2, 4, 8)
TOP_FEATURES = 15
DIGITS = 4


def of_model(model: str, part: ModelPart, held: HeldOut, folds: IntArray) -> dict[str, Any]:
    """Return how well single samples were predicted out of fold: from the question alone, and after pilots.

    brier is that of single samples, so that it cannot reach 0 where rates are between 0 and 1; base_brier is that of
    the mean rate. spearman is the mean of the folds', since models of different folds differ in level. ece is the expected calibration error over BINS bins of equal size. cost_error is the mean absolute
    error of a problem's mean tokens, cost_ratio the sum of the predicted over the sum of the recorded, over the mean.
    """
    states = held.states
    drawn = [k for k in SHOWN_PILOTS if (states.drawn == k).any()]
    pilots = [{"drawn": k, **_rates(held, states.drawn == k, folds[states.problem])} for k in drawn]
    bare = states.drawn == 0
    tokens, lengths = held.tokens[bare], held.lengths[bare]
    return {
        "model": model,
        "problems": int(bare.sum()),
        **{key: value for key, value in pilots[0].items() if key != "drawn"},
        "cost_error": _short(np.abs(tokens - lengths).mean() / max(1.0, lengths.mean())),
        "cost_ratio": _short(tokens.mean() / max(1.0, lengths.mean())),
        "calibration": [part.calibration.fresh.method, part.calibration.seen.method],
        "reliability": reliability(held.success[bare], held.rates[bare]),
        "pilots": pilots,
        "importances": _top(part.success),
    }


def _rates(held: HeldOut, chosen: NDArray[np.bool_], folds: IntArray) -> dict[str, float | None]:
    p, rate, weight = held.success[chosen], held.rates[chosen], held.states.weight[chosen]
    base = np.average(rate, weights=weight)
    bins = reliability(p, rate, weight)
    ece = sum(row["share"] * abs(row["predicted"] - row["recorded"]) for row in bins)
    return {
        "brier": _short(np.average((p - rate) ** 2 + rate * (1 - rate), weights=weight)),
        "base_brier": _short(base * (1 - base)),
        "ece": _short(ece),
        "spearman": _rank_correlation(p, rate, folds[chosen]),
    }


def _rank_correlation(predicted: FloatArray, recorded: FloatArray, folds: IntArray) -> float | None:
    """Return the mean of the folds' rank correlations, None where predictions do not vary."""
    from scipy.stats import spearmanr

    parts = [(predicted[folds == fold], recorded[folds == fold]) for fold in np.unique(folds)]
    varied = [(p, r) for p, r in parts if p.size > 2 and np.ptp(p) > 0 and np.ptp(r) > 0]
    return _short(np.mean([spearmanr(p, r).statistic for p, r in varied])) if varied else None


def reliability(
    predicted: FloatArray, recorded: FloatArray, weight: FloatArray | None = None
) -> list[dict[str, float]]:
    """Return bins of equally many predictions: their mean, the mean recorded rate, and their share of the weight."""
    w = np.ones(predicted.size) if weight is None else weight
    order = np.argsort(predicted, kind="stable")
    parts = [part for part in np.array_split(order, min(BINS, predicted.size)) if part.size]
    return [
        {
            "predicted": _short(np.average(predicted[part], weights=w[part])),
            "recorded": _short(np.average(recorded[part], weights=w[part])),
            "share": _short(w[part].sum() / w.sum()),
        }
        for part in parts
    ]


def of_value(
    key: tuple[str, str, str], level: Grown, gain: Grown | None, fresh: Fresh, explained: float
) -> dict[str, Any]:
    """Return how well a strategy's curves were predicted out of fold.

    gain_explained is the share of the variance of recorded gains that predicted ones explain: what single draws leave to
    chance is in it, so that it stays small. trust is how far gains are believed where nothing was drawn.
    """
    model, strategy, unit = key
    return {
        "model": model,
        "strategy": strategy,
        "unit": unit,
        "shape": None if gain is None else gain.stack.linear.design,
        "gain_explained": _short(explained),
        "trust": _short(fresh.trust),
        "trees": [_trees(level.stack), 0 if gain is None else _trees(gain.stack)],
        "importances": {} if gain is None else _top(gain.stack),
    }


def draw_reliability(report: Mapping[str, Any], path: Path) -> None:
    """Draw predicted against recorded success rates of each model.

    Raises:
        StorageError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    rows = report.get("success", [])
    figure = Figure(figsize=(4.2 * max(1, len(rows)), 4.2), layout="constrained")
    for number, row in enumerate(rows, start=1):
        axes = figure.add_subplot(1, len(rows), number)
        axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
        bins = row["reliability"]
        axes.plot([b["predicted"] for b in bins], [b["recorded"] for b in bins], "o-", color="#2a6f97")
        axes.set(xlabel="predicted success rate", ylabel="recorded success rate", xlim=(0, 1), ylim=(0, 1))
        axes.set_title(f"{row['model']}\nout of fold, from the question alone", fontsize=9)
        axes.set_aspect("equal")
    try:
        figure.savefig(path, format="png", dpi=120, metadata={"Software": None})
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error


def _trees(stack: Stack) -> int:
    return 0 if stack.forest is None else int(stack.forest.booster.num_trees())


def _top(stack: Stack) -> dict[str, float]:
    return {name: _short(gain) for name, gain in list(stack.importances().items())[:TOP_FEATURES]}


def _short(value: Any) -> float:
    return round(float(value), DIGITS)
