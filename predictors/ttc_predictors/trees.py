"""LightGBM's text form, checked before LightGBM reads it: its reader trusts every count and index that it is given.

Covered is what is written here: numerical splits with constant leaves, one output. Anything else is refused.
"""

from __future__ import annotations

import math

from ttc.core.errors import DataError

_MOST_LEAVES = 100_000
_HEAD = frozenset(
    ("version", "num_class", "num_tree_per_iteration", "label_index", "max_feature_idx", "objective", "feature_names",
     "monotone_constraints", "feature_infos")
)  # fmt: skip
_TREE = frozenset(
    ("num_leaves", "num_cat", "split_feature", "split_gain", "threshold", "decision_type", "left_child", "right_child",
     "leaf_value", "leaf_weight", "leaf_count", "internal_value", "internal_weight", "internal_count", "is_linear",
     "shrinkage")
)  # fmt: skip
_NUMERICAL = (0, 2, 4, 6, 8, 10)
"""Decision types without the bit that marks categories: where what is missing goes."""


def bare(text: str) -> str:
    """Return a model's head and trees alone: what is checked, and all that LightGBM is given.

    Without the sizes of the trees, so that it finds each by its heading and not by a number of bytes.
    """
    lines = text.partition("\nend of trees")[0].split("\n")
    return "\n".join(line for line in lines if not line.startswith("tree_sizes=")) + "\nend of trees\n"


def check(text: str, width: int) -> None:
    """Hold the text of a model of `width` features to what LightGBM takes for granted.

    Raises:
        DataError: it is no such model.
    """
    try:
        _check_model(text, width)
    except (KeyError, ValueError, IndexError) as error:
        raise DataError(f"a stored model is damaged: {type(error).__name__}: {error}") from error


def _check_model(text: str, width: int) -> None:
    if "\r" in text or "\0" in text:
        raise ValueError("it holds characters that no model has")
    head, *trees = bare(text).removesuffix("\nend of trees\n").split("\nTree=")
    first, _, rest = head.partition("\n")
    fields = _fields(rest, _HEAD)
    if first != "tree" or fields["num_class"] != "1" or fields["num_tree_per_iteration"] != "1" or not trees:
        raise ValueError("it is no model of one output")
    if not fields["objective"].isidentifier():
        raise ValueError("its objective is none that is used here")
    names = fields["feature_names"].split(" ")
    if len(names) != width or fields["max_feature_idx"] != str(width - 1):
        raise ValueError(f"it has {len(names)} features, {width} were expected")
    for number, tree in enumerate(trees):
        heading, _, body = tree.partition("\n")
        if heading != str(number):
            raise ValueError(f"tree {number} is missing")
        if not body.isascii():
            raise ValueError("it holds characters that no number has")
        _check(_fields(body, _TREE), width)


def _fields(lines: str, known: frozenset[str]) -> dict[str, str]:
    """Return a section's values. Its lines are held to what LightGBM writes, since it reads odd ones in ways of its own."""
    found: dict[str, str] = {}
    for line in lines.rstrip("\n").split("\n"):
        key, equals, value = line.partition("=")
        if not equals or "=" in value or key not in known or key in found:
            raise ValueError(f"it holds the line {line[:40]!r}")
        found[key] = value
    return found


def _check(tree: dict[str, str], width: int) -> None:
    """Raise KeyError or ValueError where a tree's arrays do not fit each other."""
    (leaves,) = _whole(tree, "num_leaves", 1)
    if not 1 <= leaves <= _MOST_LEAVES or tree["num_cat"] != "0" or tree.get("is_linear", "0") != "0":
        raise ValueError("a tree is of a kind that is not used here")
    if not all(math.isfinite(value) for value in _numbers(tree, "leaf_value", leaves)):
        raise ValueError("a leaf is not a finite number")
    for name, length in (("leaf_weight", leaves), ("leaf_count", leaves), ("internal_value", leaves - 1),
                         ("internal_weight", leaves - 1), ("internal_count", leaves - 1), ("split_gain", leaves - 1),
                         ("threshold", leaves - 1)):  # fmt: skip
        _numbers(tree, name, length, needed=name == "threshold" and leaves > 1)
    if leaves == 1:
        return
    if any(not 0 <= index < width for index in _whole(tree, "split_feature", leaves - 1)):
        raise ValueError("a split is on no feature")
    if any(kind not in _NUMERICAL for kind in _whole(tree, "decision_type", leaves - 1)):
        raise ValueError("a split is of a kind that is not used here")
    seen: set[int] = set()
    for side in ("left_child", "right_child"):
        for parent, child in enumerate(_whole(tree, side, leaves - 1)):
            # Below 0 it is a leaf. A node comes after its parent, so no path can lead back.
            if not (parent < child < leaves - 1 or -leaves <= child < 0) or child in seen:
                raise ValueError("a node has a child that is none")
            seen.add(child)


def _numbers(tree: dict[str, str], name: str, length: int, *, needed: bool = True) -> list[float]:
    if not needed and not tree.get(name):
        return []
    return [float(word) for word in _words(tree, name, length)]


def _whole(tree: dict[str, str], name: str, length: int) -> list[int]:
    return [int(word) for word in _words(tree, name, length)]


def _words(tree: dict[str, str], name: str, length: int) -> list[str]:
    # Python reads 1_0 and \t as LightGBM does not.
    words = tree[name].split(" ")
    if len(words) != length or "_" in tree[name]:
        raise ValueError(f"{name} does not hold {length} numbers")
    return words
