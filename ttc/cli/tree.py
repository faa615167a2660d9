"""Draw the tree of a search for the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ttc.core.tree import Trace, TraceNode, from_columns, kv_token_steps

SHOWN_CHARACTERS = 60
SHOWN_LEAVES = 3
"""Ended branches of one kind drawn below a node; the others are counted."""


def tree_lines(record: Mapping[str, Any]) -> list[str]:
    """Return the drawing of a journal record's tree, indented; nothing where its strategy searched none."""
    columns = record.get("trace")
    return [] if columns is None else [f"  {line}" for line in draw(from_columns(columns))]


def draw(trace: Trace) -> list[str]:
    """Return a summary and one line a step: score, what became of it, tokens, text. The best branch comes first."""
    fates = Counter(node.fate for node in trace.nodes)
    steps = 1 + max((node.step for node in trace.nodes), default=-1)
    told = ", ".join(f"{count} {fate}" for fate, count in sorted(fates.items()))
    lines = [f"tree: {steps} rounds, {len(trace.nodes)} nodes ({told}), {kv_token_steps(trace)} KV token-steps"]
    children: dict[int | None, list[int]] = {}
    for i, node in enumerate(trace.nodes):
        children.setdefault(node.parent, []).append(i)
    # Depth first without recursion: a chain of short steps may be hundreds of nodes deep.
    stack = _branches(trace.nodes, children.get(None, []), children, "")
    while stack:
        line, below, indent = stack.pop()
        lines.append(line)
        stack += _branches(trace.nodes, below, children, indent)
    return lines


def _branches(
    nodes: Sequence[TraceNode], siblings: Sequence[int], children: Mapping[int | None, list[int]], indent: str
) -> list[tuple[str, list[int], str]]:
    """Return siblings as (line, children, indent of the children), the last one first: the order of a stack."""
    ranked = sorted(siblings, key=lambda i: (-_score(nodes[i]), i))
    shown: list[int] = []
    hidden: Counter[str] = Counter()
    leaves: Counter[str] = Counter()
    for i in ranked:
        leaf = i not in children
        if leaf and leaves[nodes[i].fate] >= SHOWN_LEAVES:
            hidden[nodes[i].fate] += 1
        else:
            shown.append(i)
            leaves[nodes[i].fate] += leaf
    entries: list[tuple[str, list[int]]] = [(_line(nodes[i]), children.get(i, [])) for i in shown]
    entries += [(f"... {count} more {fate}", []) for fate, count in hidden.items()]
    last = len(entries) - 1
    return [
        (f"{indent}{'└' if n == last else '├'}─ {line}", below, indent + ("   " if n == last else "│  "))
        for n, (line, below) in enumerate(entries)
    ][::-1]


def _score(node: TraceNode) -> float:
    return -1.0 if node.score is None else node.score


def _line(node: TraceNode) -> str:
    score = "    -" if node.score is None else f"{node.score:5.3f}"
    # A model may write control sequences: none reaches the terminal as it is.
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in node.text.strip()[: SHOWN_CHARACTERS + 1])
    if len(text) > SHOWN_CHARACTERS:
        text = text[: SHOWN_CHARACTERS - 4] + " ..."
    return f"{score} {node.fate} [{node.tokens}] {text}".rstrip()
