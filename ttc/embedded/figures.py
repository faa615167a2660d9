"""What the trained pair achieves, as numbers and as one picture beside the weights."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttc.core.vote import majority
from ttc.embedded.corpus import Question, encode
from ttc.embedded.policy import Sample
from ttc.embedded.prm import Calibration, boundary_logits, judge
from ttc_evals.arithmetic import Arithmetic
from ttc_evals.countdown import Countdown

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerFast

VOTES = 16
"""Samples of a vote."""
_SUBSETS = 64
"""Votes are averaged over this many random subsets of a problem's samples."""
_BINS = 10


def measure(
    asked: Sequence[Question],
    samples: Sequence[Sequence[Sample]],
    prm: Any,
    calibration: Calibration,
    tokenizer: PreTrainedTokenizerFast,
) -> dict[str, Any]:
    """Return the figures of all problems, of each family and difficulty, and of the score."""
    import numpy as np
    from scipy.special import expit

    judged = judge(asked, samples, tokenizer)
    logits = boundary_logits(prm, judged, int(tokenizer.pad_token_id))
    scores = [expit((np.asarray(row) - calibration.logit_mean) / calibration.logit_sigma) for row in logits]
    rows = []
    place = 0
    for question, drawn in zip(asked, samples, strict=True):
        last = [float(row[-1]) if len(row) else 0.0 for row in scores[place : place + len(drawn)]]
        rows.append(_of_problem(question, [str(tokenizer.decode(s.tokens)) if s.ended else "" for s in drawn], last))
        place += len(drawn)
    families = sorted({question.family for question in asked})
    return {
        "problems": len(asked),
        "samples": len(samples[0]),
        "tokens_a_sample": round(float(np.mean([len(s.tokens) + s.ended for drawn in samples for s in drawn])), 1),
        "all": _summary(rows),
        **{f: _summary([r for q, r in zip(asked, rows, strict=True) if q.family == f]) for f in families},
        "levels": {
            f"{f} {level}": _summary([r for q, r in zip(asked, rows, strict=True) if (q.family, q.level) == (f, level)])
            for f, level in sorted({(q.family, q.level) for q in asked})
        },
        "prm": {
            "auroc_steps": _auroc(np.concatenate(scores), np.concatenate([row.right for row in judged])),
            "right_line_above_wrong": _told_apart(asked, prm, tokenizer),
            **_reliability(
                np.concatenate(scores), np.concatenate([[row.ends_right] * len(row.right) for row in judged])
            ),
        },
    }


def draw(figures: dict[str, Any], losses: dict[str, Path], path: Path) -> None:
    """Draw loss curves, accuracy by difficulty and the calibration curve."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    loss, levels, curve = figure.subplots(1, 3)
    for name, log in losses.items():
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        loss.plot([line["step"] for line in lines], [line["loss"] for line in lines], label=name)
    loss.set(xlabel="step", ylabel="loss (nats a label)", yscale="log", title="Training")
    loss.legend()
    names = list(figures["levels"])
    for key, label in (("pass@1", "one sample"), ("majority@16", "majority of 16"), ("any@32", "any of 32")):
        levels.plot(range(len(names)), [figures["levels"][name][key] for name in names], "o", label=label)
    levels.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    levels.set(ylabel="share of problems right", title="Test problems by difficulty", ylim=(-0.02, 1.02))
    levels.legend(fontsize=7)
    bins = figures["prm"]["calibration"]
    curve.plot([0, 1], [0, 1], color="grey", linewidth=1)
    curve.plot([b["score"] for b in bins], [b["right"] for b in bins], "o-")
    curve.set(xlabel="score", ylabel="share that ends right", title="Calibration of the score")
    figure.savefig(path)


def _of_problem(question: Question, texts: Sequence[str], scores: Sequence[float]) -> dict[str, float]:
    """Return one problem's figures, votes averaged over random subsets."""
    import numpy as np

    checker = (Arithmetic() if question.family == "arithmetic" else Countdown()).checker
    answers = [checker.extract(text) if text else None for text in texts]
    right = {answer: checker.grade(answer, question.gold) for answer in set(answers) if answer is not None}
    correct = [right.get(answer, False) if answer is not None else False for answer in answers]
    rng = random.Random(question.text)  # noqa: S311 - not a secret
    votes: list[bool] = []
    weighted: list[bool] = []
    for _ in range(_SUBSETS):
        subset = rng.sample(range(len(texts)), VOTES)
        chosen = [answers[i] for i in subset]
        for found, weights in ((votes, None), (weighted, [scores[i] for i in subset])):
            winner = majority(chosen, weights)
            found.append(winner is not None and correct[subset[winner]])
    return {
        "pass@1": float(np.mean(correct)),
        "any@32": float(any(correct)),
        "majority@16": float(np.mean(votes)),
        "weighted@16": float(np.mean(weighted)),
    }


def _summary(rows: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Return means over problems, and paired differences with their 95 % bootstrap intervals."""
    import numpy as np

    means = {key: round(float(np.mean([row[key] for row in rows])), 4) for key in rows[0]}
    pairs = {
        "majority@16 - pass@1": [row["majority@16"] - row["pass@1"] for row in rows],
        "weighted@16 - majority@16": [row["weighted@16"] - row["majority@16"] for row in rows],
    }
    return {"problems": len(rows), **means, **{name: _interval(np.array(values)) for name, values in pairs.items()}}


def _interval(values: NDArray[np.float64]) -> list[float]:
    """Return mean, lower and upper bound."""
    from ttc.metrics.statistics import bootstrap_mean

    found = bootstrap_mean(values)
    return [] if found is None else [round(x, 4) for x in (found.estimate, found.low, found.high)]


def _told_apart(asked: Sequence[Question], prm: Any, tokenizer: PreTrainedTokenizerFast) -> dict[str, float]:
    """Return how often a line of a right solution scores above the same line with another result, by family."""
    import numpy as np

    rng = random.Random(0)  # noqa: S311 - not a secret
    pairs = []
    for question in asked:
        lines = question.solution(rng).split("\n")[:-1]
        place = rng.randrange(len(lines))
        ends = (lines[place], with_another_result(lines[place], rng))
        texts = ["\n".join([*lines[:place], end]) + "\n" for end in ends]
        pairs.append([Sample(ids, ended=False) for ids in encode(texts, tokenizer)])
    last = [row[-1] for row in boundary_logits(prm, judge(asked, pairs, tokenizer), int(tokenizer.pad_token_id))]
    told = np.array(last[::2]) > np.array(last[1::2])
    families = np.array([question.family for question in asked])
    return {str(family): round(float(told[families == family].mean()), 4) for family in np.unique(families)}


def with_another_result(line: str, rng: random.Random) -> str:
    """Return a line of a solution whose result is off by a little, its list of numbers too."""
    plan, _, rest = line.partition("=")
    result, comma, left = rest.partition(", left ")
    wrong = str(int(result) + rng.choice([1, 2, 10]))
    if not comma:
        return f"{plan}={wrong}"
    numbers = left.split(" ")
    numbers[numbers.index(result)] = wrong
    return f"{plan}={wrong}, left {' '.join(sorted(numbers, key=int))}"


def _auroc(scores: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Return the chance that a right prefix scores above a wrong one (Mann-Whitney)."""
    from scipy.stats import mannwhitneyu

    if right.all() or not right.any():
        return float("nan")
    u = mannwhitneyu(scores[right], scores[~right]).statistic
    return round(float(u / (right.sum() * (~right).sum())), 4)


def _reliability(scores: NDArray[np.float64], outcome: NDArray[np.bool_]) -> dict[str, Any]:
    """Return the calibration curve in bins of equal width and the expected calibration error."""
    import numpy as np

    place = np.minimum((scores * _BINS).astype(int), _BINS - 1)
    bins = [
        {"score": round(float(scores[place == b].mean()), 4), "right": round(float(outcome[place == b].mean()), 4),
         "prefixes": int((place == b).sum())}
        for b in range(_BINS) if (place == b).any()
    ]  # fmt: skip
    error = sum(b["prefixes"] * abs(b["score"] - b["right"]) for b in bins) / len(scores)
    return {"expected_calibration_error": round(float(error), 4), "calibration": bins}
