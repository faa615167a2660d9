"""A search's tree in the terminal."""

from ttc.cli.tree import draw, tree_lines
from ttc.core.tree import Trace, TraceNode, to_columns


def node(parent, step, score, text, fate, tokens=4):
    return TraceNode(parent, step, step, tokens, score, text, fate)


TRACE = Trace(
    (
        node(None, 0, 0.2, "low", "pruned"),
        node(None, 0, 0.9, "high\n\n", "kept"),
        node(1, 1, 0.7, "wins \x1b[31m", "finished"),
        node(1, 1, None, "too long " * 20, "cut"),
    )
)


def test_branches_hang_on_their_parents_best_first():
    assert draw(TRACE) == [
        "tree: 2 rounds, 4 nodes (1 cut, 1 finished, 1 kept, 1 pruned), 16 KV token-steps",
        "├─ 0.900 kept [4] high",
        "│  ├─ 0.700 finished [4] wins \\x1b[31m",
        "│  └─     - cut [4] too long too long too long too long too long too long to ...",
        "└─ 0.200 pruned [4] low",
    ]


def test_many_pruned_leaves_are_counted():
    wide = Trace(tuple(node(None, 0, i / 100, f"leaf {i}", "pruned") for i in range(50)))
    lines = draw(wide)
    assert [line.split()[-1] for line in lines[1:4]] == ["49", "48", "47"]
    assert lines[4:] == ["└─ ... 47 more pruned"]


def test_a_long_chain_is_drawn_without_recursion():
    chain = Trace(tuple(node(i - 1 if i else None, i, 0.5, "s", "kept") for i in range(3000)))
    assert len(draw(chain)) == 3001


def test_a_record_without_a_trace_draws_nothing():
    assert tree_lines({"answer": "4"}) == []
    assert tree_lines({"trace": to_columns(TRACE, with_text=False)})[1] == "  ├─ 0.900 kept [4]"
    assert draw(Trace(())) == ["tree: 0 rounds, 0 nodes (), 0 KV token-steps"]
