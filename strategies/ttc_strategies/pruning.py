"""The pruning of efficient tree search: semantic clusters of last steps, and the binary programme over leaves.

Source: Hooper et al. 2025, arXiv 2502.13575, and its released code, whose uniform node cost is the default here.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Embedding = Literal["characters", "words"]
_DIMENSIONS = 512
_SHORTEST, _LONGEST = 2, 4  # character n-grams
_TIME_LIMIT_S = 5.0
_CHOSEN = 0.5


@dataclass(frozen=True, slots=True)
class Leaves:
    """The live leaves of a tree.

    Attributes:
        gains: what keeping each leaf is worth.
        paths: the branches above each leaf, from its parent up to the root.
        clusters: each leaf's cluster, from 0; None where there is no coverage term.
    """

    gains: Sequence[float]
    paths: Sequence[Sequence[int]]
    clusters: Sequence[int] | None = None

    @property
    def branches(self) -> list[int]:
        """Return every branch above a leaf once."""
        return list(dict.fromkeys(branch for path in self.paths for branch in path))


def kept_leaves(
    leaves: Leaves, leaf_costs: Sequence[float], branch_costs: Mapping[int, float], coverage: float
) -> list[int]:
    """Return the leaves to keep, at least one: an optimum of the binary programme.

    Maximise the gains of kept leaves, less the costs of kept leaves and of the branches above them, plus
    `coverage` times the share of clusters with a kept leaf.

    Branches above the same leaves are one variable, and those above a single leaf are part of it; that changes no
    optimum, since a branch is kept exactly when a leaf below it is.
    """
    import numpy as np
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    n = len(leaves.gains)
    values = [gain - cost for gain, cost in zip(leaves.gains, leaf_costs, strict=True)]
    groups, above = _shared_branches(leaves, branch_costs, values)
    labels = leaves.clusters if leaves.clusters is not None and coverage else None
    n_clusters = 0 if labels is None else max(labels) + 1
    # Columns: leaves, shared branches, clusters. Only leaves need be declared whole: the rest follow.
    objective = [*values, *(-cost for cost in groups), *(coverage / n_clusters for _ in range(n_clusters))]
    rows: list[list[tuple[int, float]]] = [[(i, 1.0) for i in range(n)]]
    low = [1.0]
    for child, parent in above:  # parent >= child
        rows.append([(n + parent, 1.0), (child, -1.0)])
        low.append(0.0)
    if labels is not None:
        for cluster in range(n_clusters):  # sum of its leaves >= covered
            members = [(i, 1.0) for i in range(n) if labels[i] == cluster]
            rows.append([*members, (n + len(groups) + cluster, -1.0)])
            low.append(0.0)
    entries = [(r, column, value) for r, row in enumerate(rows) for column, value in row]
    row_index, column_index, data = zip(*entries, strict=True)
    matrix = csr_array((data, (row_index, column_index)), shape=(len(rows), len(objective)))
    whole = np.zeros(len(objective), dtype=np.int64)
    whole[:n] = 1
    found = milp(
        -np.asarray(objective),
        integrality=whole,
        bounds=Bounds(0, 1),
        constraints=LinearConstraint(matrix, np.asarray(low), np.inf),
        options={"time_limit": _TIME_LIMIT_S},
    )
    if found.x is None:
        return list(range(n))  # the solver ran out of time: nothing is pruned
    return [i for i in range(n) if found.x[i] > _CHOSEN]


def _shared_branches(
    leaves: Leaves, branch_costs: Mapping[int, float], values: list[float]
) -> tuple[list[float], list[tuple[int, int]]]:
    """Merge branches above the same leaves; costs of those above one leaf are taken off `values`.

    Returns:
        The cost of each shared branch, and pairs (column of a leaf or branch, shared branch right above it), where
        leaves are the columns 0..n-1 and shared branch g is the column n + g.
    """
    n = len(leaves.gains)
    below: dict[int, int] = {}
    for i, path in enumerate(leaves.paths):
        for branch in path:
            below[branch] = below.get(branch, 0) | 1 << i
    group_of: dict[int, int] = {}
    costs: list[float] = []
    above: dict[int, int] = {}
    for i, path in enumerate(leaves.paths):
        column = i
        for branch in path:
            members = below[branch]
            if members == 1 << i:
                values[i] -= branch_costs[branch]
                continue
            group = group_of.setdefault(members, len(group_of))
            if group == len(costs):
                costs.append(0.0)
            if column != n + group:
                above[column] = group
                column = n + group
    for branch, members in below.items():
        if members in group_of:
            costs[group_of[members]] += branch_costs[branch]
    return costs, sorted(above.items())


def clusters(texts: Sequence[str], distance: float, embedding: Embedding) -> list[int]:
    """Return each text's cluster, numbered from 0 by first appearance.

    Agglomerative clustering by average linkage on cosine distances, cut at `distance`. Texts are embedded as counts
    of 2- to 4-grams of UTF-8 bytes, or of words, hashed into 512 numbers: deterministic, and no model is loaded. Such an
    embedding sees spelling, not meaning.
    """
    import numpy as np
    from scipy.cluster.hierarchy import fcluster, linkage

    distinct = list(dict.fromkeys(texts))
    if len(distinct) == 1:
        return [0] * len(texts)
    places = [
        row * _DIMENSIONS + zlib.crc32(piece) % _DIMENSIONS
        for row, text in enumerate(distinct)
        for piece in _pieces(text, embedding)
    ]
    counts = np.bincount(places, minlength=len(distinct) * _DIMENSIONS)
    vectors = counts.reshape(len(distinct), _DIMENSIONS).astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    upper = np.triu_indices(len(distinct), 1)
    distances = np.clip(1.0 - (vectors @ vectors.T)[upper], 0.0, 2.0)
    labels = fcluster(linkage(distances, "average"), t=distance, criterion="distance")
    label_of = dict(zip(distinct, labels.tolist(), strict=True))
    numbers: dict[int, int] = {}
    return [numbers.setdefault(label_of[text], len(numbers)) for text in texts]


def _pieces(text: str, embedding: Embedding) -> list[bytes]:
    padded = f" {text.strip()} ".encode("utf-8", "surrogatepass")  # even an empty text has a piece
    if embedding == "words":
        return padded.split() or [padded]
    return [padded[i : i + n] for n in range(_SHORTEST, _LONGEST + 1) for i in range(len(padded) - n + 1)]
