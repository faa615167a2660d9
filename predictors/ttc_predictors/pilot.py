"""What the first samples of a problem say about it, whether or not they are right: nobody knows that yet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ttc.core.forecast import Sample

NAN = math.nan
MOST_ANSWERS = 16
"""Different answers that are told apart; rarer ones say nothing more."""

FEATURES = (
    "drawn",
    "unanswered_share",
    "leader_votes",
    "leader_share",
    "second_share",
    "distinct_answers",
    "agreement",
    "margin",
    "stability",
    "since_lead",
    "leader_is_whole",
    "leader_size",
    "cut_share",
    "log_length",
    "length_spread",
    "leader_log_length",
    "logprob",
    "worst_logprob",
    "leader_logprob",
    "leader_logprob_lead",
    "score",
    "best_score",
    "leader_score",
    "leader_score_lead",
    "leader_score_share",
)


@lru_cache(maxsize=65536)
def stability(first: int, second: int) -> float:
    """Return P(p1 > p2) for the two leading answers' counts under a uniform prior.

    1 - I_{1/2}(a+1, b+1), for whole numbers a binomial tail. Source: Aggarwal et al. 2023 (arXiv 2305.11860).
    """
    n = first + second + 1
    return sum(math.comb(n, k) for k in range(first + 1)) / (1 << n)


@lru_cache(maxsize=262144)
def overtaking(first: int, second: int, further: int) -> float:
    """Return the chance that the second of two answers leads after `further` votes on the two.

    Votes follow Polya's urn from a uniform prior: y of them are for the second with beta-binomial probability, and it
    leads where second + y > first + further - y.
    """
    n, a, b = further, second + 1, first + 1
    least = (first - second + further) // 2 + 1
    if least > n:
        return 0.0
    log = math.lgamma
    base = log(n + 1) + log(a + b) - log(a) - log(b) - log(a + b + n)
    return math.fsum(
        math.exp(base + log(a + y) + log(b + n - y) - log(y + 1) - log(n - y + 1)) for y in range(least, n + 1)
    )


def pilot_features(drawn: Sequence[Sample]) -> NDArray[np.float32]:
    """Return the features of what was drawn, and the votes of its answers, (len(FEATURES) + MOST_ANSWERS,).

    Features that nothing is known of are not a number. Votes fall, so the leader's are the first.
    """
    k = len(drawn)
    if not k:
        nothing = [0.0, NAN, 0.0, *[NAN] * 4, 0.0, *[NAN] * (len(FEATURES) - 8)]
        return np.array([*nothing, *[0.0] * MOST_ANSWERS], dtype=np.float32)
    counts, leader, since = _tally(drawn)
    ranked = sorted(counts.values(), reverse=True)
    a, b = (ranked[0] if ranked else 0), (ranked[1] if len(ranked) > 1 else 0)
    answered = sum(ranked)
    lengths = [math.log(max(1, s.completion_tokens)) for s in drawn]
    mean_length = sum(lengths) / k
    spread = math.sqrt(sum((x - mean_length) ** 2 for x in lengths) / k) if k > 1 else NAN
    leads = [s.answer == leader and leader is not None for s in drawn]
    whole, size = _shape(leader)
    return np.array(
        [
            k,
            (k - answered) / k,
            a,
            a / k,
            b / k,
            len(ranked),
            agreement(ranked),
            a - b,
            stability(a, b),
            since,
            whole,
            size,
            sum(not s.finished for s in drawn) / k,
            mean_length,
            spread,
            _mean([x for x, lead in zip(lengths, leads, strict=True) if lead]),
            *_logprobs(drawn, leads),
            *_scores(drawn, leads),
            *ranked[:MOST_ANSWERS],
            *[0.0] * (MOST_ANSWERS - len(ranked)),
        ],
        dtype=np.float32,
    )


def agreement(counts: Sequence[int]) -> float:
    """Return (ln n - H) / ln n of the answers' counts: 1 where all agree, 0 where none do, and 0 for a single one.

    Source: Certaindex (Fu et al. 2024, arXiv 2412.20993).
    """
    n = sum(counts)
    if n < 2:
        return 0.0
    entropy = -sum(c / n * math.log(c / n) for c in counts)
    return (math.log(n) - entropy) / math.log(n)


def _tally(drawn: Sequence[Sample]) -> tuple[dict[str, int], str | None, int]:
    """Return the votes, the leading answer (the first seen of equals), and how many samples ago it took the lead."""
    counts: dict[str, int] = {}
    first: dict[str, int] = {}
    leader: str | None = None
    since = 0
    for i, sample in enumerate(drawn):
        if (answer := sample.answer) is not None:
            counts[answer] = counts.get(answer, 0) + 1
            first.setdefault(answer, i)
            if leader is None or (counts[answer], -first[answer]) > (counts[leader], -first[leader]):
                leader, since = answer, i
    return counts, leader, len(drawn) - 1 - since


def _shape(answer: str | None) -> tuple[float, float]:
    """Say whether an answer is a whole number, at least 0, and how large, or how long where it is no number."""
    if answer is None:
        return NAN, NAN
    text = answer.replace(",", "")
    if text.isdecimal():
        return 1.0, len(text.lstrip("0"))
    return 0.0, len(answer)


def _logprobs(drawn: Sequence[Sample], leads: Sequence[bool]) -> tuple[float, float, float, float]:
    known = [(s.logprob / max(1, s.completion_tokens), lead)
             for s, lead in zip(drawn, leads, strict=True) if s.logprob is not None]  # fmt: skip
    mine, others = _mean([p for p, lead in known if lead]), _mean([p for p, lead in known if not lead])
    return _mean([p for p, _ in known]), min((p for p, _ in known), default=NAN), mine, mine - others


def _scores(drawn: Sequence[Sample], leads: Sequence[bool]) -> tuple[float, float, float, float, float]:
    known = [(s.score, lead) for s, lead in zip(drawn, leads, strict=True) if s.score is not None]
    if not known:
        return NAN, NAN, NAN, NAN, NAN
    mine, total = [p for p, lead in known if lead], sum(p for p, _ in known)
    mean, others = _mean(mine), _mean([p for p, lead in known if not lead])
    return total / len(known), max(p for p, _ in known), mean, mean - others, sum(mine) / total if total > 0 else NAN


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else NAN
