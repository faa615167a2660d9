"""What a question alone says: one linear guess a target, stacked from ridge regressions of its blocks.

With a few hundred problems trees cannot read thirty components; a ridge regression can, and hands the trees its guess
as one strong feature. Of a problem that was learned from, that guess comes from folds it is not in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttc.core.curves import FloatArray, IntArray
from ttc.core.forecast import Seen
from ttc_predictors.blocks import (
    Block,
    BlockName,
    block_from_json,
    block_to_json,
    fit_blocks,
    raw_statistics,
    rounded,
)
from ttc_predictors.text import STATISTICS

TARGETS = ("success", "tokens")
"""Log-odds that a sample is right, and the logarithm of its tokens."""
PENALTIES = tuple(float(a) for a in np.logspace(-1, 4, 16))
FEW_STATISTICS = ("characters", "words_a_sentence", "numbers", "largest_number", "digits", "products")
"""What trees see of the statistics where problems are few."""
MANY_PROBLEMS = 300
PROBLEMS_A_COMPONENT, RAW_COMPONENTS = 125, 8


@dataclass(frozen=True)
class Ridge:
    """A linear map of one block to all targets."""

    weights: FloatArray
    """(targets, width)"""
    intercept: FloatArray
    """(targets,)"""

    def guess(self, rows: FloatArray, means: FloatArray) -> FloatArray:
        """Return (n, targets); the means where a row is not known."""
        known = np.isfinite(rows).all(axis=1)
        found = np.broadcast_to(means, (len(rows), means.size)).copy()
        found[known] = rows[known] @ self.weights.T + self.intercept
        return found


@dataclass(frozen=True)
class Prior:
    """Guesses from the question, and the features that trees get of it."""

    blocks: Mapping[BlockName, Block]
    ridges: Mapping[BlockName, Ridge]
    mix: FloatArray
    """(targets, blocks): how far each block's guess is believed."""
    means: FloatArray
    """(targets,)"""
    raw: tuple[str, ...]
    """Statistics and components that trees see as they are."""

    @property
    def names(self) -> tuple[str, ...]:
        """Return the features' names, in order."""
        return (*(f"prior_{target}" for target in TARGETS), *self.raw)

    def features(self, problems: Sequence[Seen]) -> NDArray[np.float32]:
        """Return (n, len(names))."""
        rows = {name: block.rows(problems) for name, block in self.blocks.items()}
        guesses = np.array([self.ridges[name].guess(rows[name], self.means) for name in self.blocks])
        return self.table(problems, rows, _mixed(guesses, self.mix, self.means, len(problems)))

    def table(
        self, problems: Sequence[Seen], rows: Mapping[BlockName, FloatArray], guess: FloatArray
    ) -> NDArray[np.float32]:
        """Put the guesses, (n, targets), beside what trees see of the blocks."""
        statistics = raw_statistics(problems) if any(name in STATISTICS for name in self.raw) else np.empty((0, 0))
        columns = [guess[:, t] for t in range(len(TARGETS))]
        for name in self.raw:
            if name in STATISTICS:
                columns.append(statistics[:, STATISTICS.index(name)])
            else:
                number = int(name.removeprefix("component_"))
                known = "vector" in rows and number < rows["vector"].shape[1]
                columns.append(rows["vector"][:, number] if known else np.full(len(guess), np.nan))
        return np.column_stack(columns).astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "blocks": {name: block_to_json(block) for name, block in self.blocks.items()},
            "ridges": {n: {"weights": r.weights.tolist(), "intercept": r.intercept.tolist()} for n, r in self.ridges.items()},
            "mix": self.mix.tolist(),
            "means": self.means.tolist(),
            "raw": list(self.raw),
        }  # fmt: skip

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Prior:
        """Return what `to_json` described. Raises KeyError, TypeError or ValueError where it is none."""
        blocks: dict[Any, Block] = {name: block_from_json(name, stored) for name, stored in value["blocks"].items()}
        ridges: dict[Any, Ridge] = {
            name: Ridge(np.array(stored["weights"], dtype=np.float64), np.array(stored["intercept"], dtype=np.float64))
            for name, stored in value["ridges"].items()
        }
        mix = np.array(value["mix"], dtype=np.float64).reshape(len(TARGETS), len(blocks))
        return cls(blocks, ridges, mix, np.array(value["means"], dtype=np.float64), tuple(value["raw"]))


@dataclass(frozen=True)
class Wanted:
    """Which blocks a prior may use, and what trees see of them; None leaves that to the number of problems."""

    blocks: tuple[BlockName, ...]
    raw: tuple[str, ...] | None = None
    seed: int = 0


def fit_prior(
    problems: Sequence[Seen], targets: FloatArray, folds: IntArray, wanted: Wanted
) -> tuple[Prior, NDArray[np.float32]]:
    """Learn the prior of problems with known targets, (n, len(TARGETS)); return it and their cross-fitted features.

    `folds` (n,) are the inner folds: the guess of a problem comes from problems of the others.
    """
    blocks = fit_blocks(problems, wanted.blocks, wanted.seed)
    rows = {name: block.rows(problems) for name, block in blocks.items()}
    means = rounded(targets.mean(axis=0))
    ridges = {name: _ridge(rows[name], targets) for name in blocks}
    guesses = np.empty((len(blocks), *targets.shape))
    for fold in np.unique(folds):
        out = folds == fold
        for b, name in enumerate(blocks):
            ridge = _ridge(rows[name][~out], targets[~out])
            guesses[b, out] = ridge.guess(rows[name][out], targets[~out].mean(axis=0))
    mixed = np.empty_like(targets)
    for fold in np.unique(folds):
        out = folds == fold
        rest = targets[~out].mean(axis=0)
        mixed[out] = _mixed(guesses[:, out], _mix(guesses[:, ~out], targets[~out]), rest, int(out.sum()))
    raw = _raw_names(blocks, len(problems)) if wanted.raw is None else wanted.raw
    prior = Prior(blocks, ridges, _mix(guesses, targets), means, raw)
    return prior, prior.table(problems, rows, mixed)


def _ridge(rows: FloatArray, targets: FloatArray) -> Ridge:
    from sklearn.linear_model import RidgeCV

    known = np.isfinite(rows).all(axis=1)
    fitted = RidgeCV(alphas=PENALTIES, alpha_per_target=True).fit(rows[known], targets[known])
    return Ridge(rounded(fitted.coef_), rounded(fitted.intercept_))


def _mix(guesses: FloatArray, targets: FloatArray) -> FloatArray:
    """Return non-negative weights of the blocks' guesses, (targets, blocks), by least squares around the mean."""
    from scipy.optimize import nnls

    if not len(guesses):
        return np.zeros((targets.shape[1], 0))
    around, truth = guesses - targets.mean(axis=0), targets - targets.mean(axis=0)
    return rounded(np.array([nnls(around[:, :, t].T, truth[:, t])[0] for t in range(targets.shape[1])]))


def _mixed(guesses: FloatArray, mix: FloatArray, means: FloatArray, count: int) -> FloatArray:
    if not guesses.size:
        return np.broadcast_to(means, (count, means.size)).copy()
    return np.asarray(means + np.einsum("tb,bnt->nt", mix, guesses - means))


def _raw_names(blocks: Mapping[BlockName, Block], problems: int) -> tuple[str, ...]:
    names: list[str] = []
    if "statistics" in blocks:
        names += STATISTICS if problems >= MANY_PROBLEMS else FEW_STATISTICS
    if "vector" in blocks:
        count = min(RAW_COMPONENTS, problems // PROBLEMS_A_COMPONENT, len(getattr(blocks["vector"], "components", ())))
        names += [f"component_{i}" for i in range(count)]
    return tuple(names)
