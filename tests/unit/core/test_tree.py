"""The trace of a search as plain data, and its KV tokens by hand."""

import json
import math

from ttc.core.tree import Trace, TraceNode, from_columns, kv_token_steps, to_columns


def node(parent, step, until, tokens, score=0.5, text="x", fate="kept"):
    return TraceNode(parent, step, until, tokens, score, text, fate)


TRACE = Trace(
    (
        node(None, 0, 2, 10),
        node(None, 0, 0, 7, fate="pruned"),
        node(0, 1, 1, 5, 0.123456789, fate="finished"),
        node(0, 1, 2, 3, None, "é\u2028🙂"),
        node(3, 2, 2, 2, math.nan, fate="cut"),
    ),
    prompt_tokens=40,
)


def test_kv_tokens_count_a_shared_prefix_once_a_step():
    # step 0: 10 + 7; step 1: 10 + 5 + 3; step 2: 10 + 3 + 2; the prompt stands apart
    assert kv_token_steps(TRACE) == 17 + 18 + 15
    assert kv_token_steps(Trace(())) == 0


def test_columns_are_json_and_come_back():
    columns = json.loads(json.dumps(to_columns(TRACE, with_text=True), allow_nan=False))
    back = from_columns(columns)
    assert [n.text for n in back.nodes] == [n.text for n in TRACE.nodes]
    assert [n.score for n in back.nodes] == [0.5, 0.5, 0.123457, None, None]
    assert kv_token_steps(back) == kv_token_steps(TRACE)
    assert back.prompt_tokens == 40


def test_texts_can_be_left_out():
    columns = to_columns(TRACE, with_text=False)
    assert "x" not in json.dumps(columns["text"])
    assert {n.text for n in from_columns(columns).nodes} == {""}
