"""A question as rows of numbers, in three blocks: statistics of its text, its words, the model's own hidden state.

Blocks learn from questions alone and never see an outcome. Scikit-learn does the learning; what is kept are plain
arrays, rounded when they are made, so that a stored block gives the very same numbers.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from ttc.core.curves import FloatArray
from ttc.core.forecast import Seen
from ttc_predictors.text import STATISTICS, masked, statistics

BlockName = Literal["statistics", "words", "vector"]
LEAST_PROBLEMS = 12
"""Fewer teach nothing about words or hidden states."""
MOST_TERMS, MOST_TOPICS, MOST_COMPONENTS = 1000, 24, 32
_TOKEN = r"(?u)[^\W_]+|[-+*/^=%$<>()]"


def rounded(values: ArrayLike) -> FloatArray:
    """Return an array as it will be read back from a file: nine significant digits."""
    array = np.asarray(values, dtype=np.float64)
    flat = [float(f"{x:.9g}") for x in array.reshape(-1).tolist()]
    return np.array(flat, dtype=np.float64).reshape(array.shape)


@dataclass(frozen=True)
class Statistics:
    """Standardised statistics of the text."""

    mean: FloatArray
    scale: FloatArray

    def rows(self, problems: Sequence[Seen]) -> FloatArray:
        """Return (n, width); rows of problems without a text are not numbers."""
        return (raw_statistics(problems) - self.mean) / self.scale


@dataclass(frozen=True)
class Words:
    """TF-IDF of words and pairs of them, numbers masked, reduced to a few topics by a truncated SVD."""

    terms: tuple[str, ...]
    idf: FloatArray
    topics: FloatArray
    """(topics, terms)"""

    def rows(self, problems: Sequence[Seen]) -> FloatArray:
        """Return (n, topics); rows of problems without a text are not numbers."""
        found = np.full((len(problems), len(self.topics)), np.nan)
        known = [i for i, seen in enumerate(problems) if seen.text is not None]
        if known:
            weights = self._vectorizer.transform([masked(problems[i].text or "") for i in known])
            found[known] = np.asarray(weights @ self.topics.T)
        return found

    @cached_property
    def _vectorizer(self) -> Any:
        vectorizer = _vectorizer(vocabulary={term: i for i, term in enumerate(self.terms)})
        vectorizer.idf_ = self.idf
        return vectorizer


@dataclass(frozen=True)
class Vector:
    """Leading principal components of the hidden state, in units of the first one's spread."""

    mean: FloatArray
    components: FloatArray
    """(components, width)"""

    def rows(self, problems: Sequence[Seen]) -> FloatArray:
        """Return (n, components); rows of problems without a vector, or with one of another width, are not numbers."""
        found = np.full((len(problems), len(self.components)), np.nan)
        known = [
            i for i, seen in enumerate(problems) if seen.vector is not None and seen.vector.shape == self.mean.shape
        ]
        if known:
            stacked = np.array([problems[i].vector for i in known], dtype=np.float64)
            found[known] = (stacked - self.mean) @ self.components.T
        return found


Block = Statistics | Words | Vector


def raw_statistics(problems: Sequence[Seen]) -> FloatArray:
    """Return the statistics of the texts as they are, (n, len(STATISTICS))."""
    return np.array([statistics(seen.text) for seen in problems], dtype=np.float64).reshape(-1, len(STATISTICS))


def fit_blocks(problems: Sequence[Seen], wanted: Sequence[BlockName], seed: int) -> dict[BlockName, Block]:
    """Learn those of the blocks that enough of the problems have something of."""
    texts = [seen for seen in problems if seen.text is not None]
    vectors = [seen.vector for seen in problems if seen.vector is not None]
    blocks: dict[BlockName, Block] = {}
    if "statistics" in wanted and _enough(texts, problems):
        values = raw_statistics(texts)
        spread = values.std(axis=0)
        blocks["statistics"] = Statistics(rounded(values.mean(axis=0)), rounded(np.where(spread > 1e-9, spread, 1.0)))
    if "words" in wanted and _enough(texts, problems) and (words := _fit_words(texts, seed)) is not None:
        blocks["words"] = words
    widths = {vector.shape for vector in vectors}
    if "vector" in wanted and _enough(vectors, problems) and len(widths) == 1 and np.ptp(vectors, axis=0).any():
        blocks["vector"] = _fit_vector(np.array(vectors, dtype=np.float64), seed)
    return blocks


def _enough(known: Sequence[object], problems: Sequence[Seen]) -> bool:
    return len(known) >= max(LEAST_PROBLEMS, len(problems) / 2)


def _vectorizer(**settings: Any) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(lowercase=False, token_pattern=_TOKEN, ngram_range=(1, 2), sublinear_tf=True, **settings)


def _fit_words(problems: Sequence[Seen], seed: int) -> Words | None:
    from sklearn.decomposition import TruncatedSVD

    vectorizer = _vectorizer(min_df=max(2, len(problems) // 100), max_features=MOST_TERMS)
    try:
        weights = vectorizer.fit_transform([masked(seen.text or "") for seen in problems])
    except ValueError:  # no term stands in two of the texts
        return None
    count = min(MOST_TOPICS, len(problems) // 8, weights.shape[1] - 1)
    if count < 1:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # texts that are all the same have no variance to explain
        topics = TruncatedSVD(count, random_state=seed).fit(weights).components_
    terms = tuple(str(term) for term in vectorizer.get_feature_names_out())
    return Words(terms, rounded(vectorizer.idf_), rounded(topics))


def _fit_vector(vectors: FloatArray, seed: int) -> Vector:
    from sklearn.decomposition import PCA

    count = max(1, min(MOST_COMPONENTS, len(vectors) // 4, vectors.shape[1]))
    fitted = PCA(count, svd_solver="randomized", random_state=seed).fit(vectors)
    spread = float(np.sqrt(fitted.explained_variance_[0]))
    return Vector(rounded(fitted.mean_), rounded(fitted.components_ / (spread if spread > 1e-12 else 1.0)))


def block_to_json(block: Block) -> dict[str, Any]:
    """Return a block as JSON values."""
    values = {field.name: getattr(block, field.name) for field in fields(block)}
    return {key: list(value) if isinstance(value, tuple) else value.tolist() for key, value in values.items()}


def block_from_json(name: str, value: Mapping[str, Any]) -> Block:
    """Return the block that `block_to_json` described. Raises KeyError, TypeError or ValueError where it is none."""
    arrays = {key: np.array(stored, dtype=np.float64) for key, stored in value.items() if key != "terms"}
    if name == "words":
        words = Words(tuple(map(str, value["terms"])), arrays["idf"], arrays["topics"])
        if words.topics.shape[1:] != words.idf.shape or words.idf.shape != (len(words.terms),):
            raise ValueError("the topics do not fit the terms")
        return words
    return Vector(**arrays) if name == "vector" else Statistics(**arrays)
