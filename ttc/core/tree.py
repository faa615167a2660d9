"""What a tree search leaves behind: its nodes, what became of them, and the KV tokens that it held."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Fate = Literal["kept", "pruned", "finished", "cut", "rollout"]
"""What became of a node.

kept: it was extended; pruned: it was not; finished: the model ended its response there; cut: a cap or the grant
ended it; rollout: drawn only to judge the node it hangs on.
"""


@dataclass(frozen=True, slots=True)
class TraceNode:
    """One step of one branch.

    Attributes:
        parent: position of the parent in the trace, None below the prompt; parents come before their children.
        step: when it was drawn: all nodes of one number were drawn at once.
        until: the last step at which its tokens were held, because it or a descendant could be read.
        tokens: generated tokens of this step alone.
        score: a reward model's score of the response up to here, None where it was not asked.
        text: of this step alone.
        fate: what became of it.
    """

    parent: int | None
    step: int
    until: int
    tokens: int
    score: float | None
    text: str
    fate: Fate


@dataclass(frozen=True, slots=True)
class Trace:
    """The whole search of one problem. `prompt_tokens` stand before all of its nodes."""

    nodes: tuple[TraceNode, ...]
    prompt_tokens: int = 0


def kv_token_steps(trace: Trace) -> int:
    """Return the unique generated tokens held at each step, summed over steps.

    A shared prefix counts once a step, however many branches read it; the prompt is left out, since every method
    holds it throughout (Hooper et al. 2025, arXiv 2502.13575: the size of the KV cache a step).
    """
    return sum(node.tokens * (node.until - node.step + 1) for node in trace.nodes)


def to_columns(trace: Trace, with_text: bool) -> dict[str, Any]:
    """Return a trace as plain data, a list a field; scores that are no finite number become None."""
    nodes = trace.nodes
    return {
        "prompt_tokens": trace.prompt_tokens,
        "parent": [node.parent for node in nodes],
        "step": [node.step for node in nodes],
        "until": [node.until for node in nodes],
        "tokens": [node.tokens for node in nodes],
        "score": [_rounded(node.score) for node in nodes],
        "text": [node.text for node in nodes] if with_text else None,
        "fate": [node.fate for node in nodes],
    }


def from_columns(columns: Mapping[str, Any]) -> Trace:
    """Return the trace that `to_columns` wrote; texts that were left out are empty."""
    texts: Sequence[str] = columns["text"] or [""] * len(columns["step"])
    rows = zip(
        columns["parent"],
        columns["step"],
        columns["until"],
        columns["tokens"],
        columns["score"],
        texts,
        columns["fate"],
        strict=True,
    )
    return Trace(tuple(TraceNode(*row) for row in rows), columns["prompt_tokens"])


def _rounded(score: float | None) -> float | None:
    # Six digits are more than a picture needs, and a third of the journal line.
    return round(score, 6) if score is not None and math.isfinite(score) else None
