"""Random configurations, banks, journals, answers and steps: read as meant or refused, never half."""

import json
import tempfile
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from oracles import check_answer, check_journal

from ttc.core.errors import ConfigError, DataError
from ttc.core.specs import SweepConfig, parse_config, read_config
from ttc.core.types import Step
from ttc.engines.rewards import RewardFormat, _separated
from ttc.store.bank import FIELDS, parse_rows, read_bank, write_bank

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
KEYS = [*SweepConfig.model_fields, "task", "model"]


@given(st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=8), JSON, max_size=5))
@example({"models": "http://a/v1"})
@example({"max_errors": "nan%"})
@example({"max_errors": "1_0"})
@example({"models": {"path": "a;b", "options": 3}})
@example({"also": {"strategies": {"": 0}}})
def test_a_configuration_is_read_or_refused_in_one_line(values):
    try:
        config = parse_config(values, "c.yaml")
    except ConfigError as error:
        assert "\n" not in error.message.replace(repr(values), "")
        return
    assert parse_config(config.model_dump(mode="python", exclude_defaults=True), "again") == config


@given(st.binary(max_size=200) | st.text(alphabet="&*!-[]{}:?|>%@`'\"#, ab1\n\t", max_size=80).map(str.encode))
@example(b"&a [*a]")
@example(b"? *a\n: &a b")
@example(b"1e999999999: 2001-99-99")
@example(b"0x: 1:99:99")
@example(b"<<: [1]")
@example(b"[" * 3000)
@example("\x85".encode())
def test_bytes_are_a_configuration_or_refused(content):
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "c.yaml"
        path.write_bytes(content)
        try:
            assert isinstance(read_config(path), dict)
        except ConfigError as error:
            assert error.exit_code == 2


ROW = st.fixed_dictionaries(
    {"problem_id": st.sampled_from("abc"), "config": st.sampled_from(["c", "d/../e"]), "sample": st.integers(0, 3),
     "correct": st.booleans(), "completion_tokens": st.integers(0, 2**63 - 1), "prompt_tokens": st.integers(0, 9),
     "finish": st.sampled_from(["stop", "length"])},
    optional={"prompt": st.none() | st.text(), "answer": st.none() | st.text(), "logprob": st.floats(), "score": st.floats()},
)  # fmt: skip


@given(st.lists(ROW | JSON | st.dictionaries(st.sampled_from(list(FIELDS)), JSON), min_size=1, max_size=6))
@example([{"problem_id": "\ud800", "config": "c", "sample": 0, "correct": True, "completion_tokens": 1, "prompt_tokens": 1, "finish": "stop"}])  # fmt: skip
def test_a_bank_is_what_its_lines_say_or_refused(values):
    lines = [json.dumps(value) for value in values]
    try:
        rows = parse_rows(lines, "rows.jsonl")
    except DataError as error:
        assert error.message.startswith("rows.jsonl")
        return
    with tempfile.TemporaryDirectory() as name:
        write_bank(rows, Path(name) / "bank", "b")
        bank = read_bank(Path(name) / "bank")
    key = lambda row: (row.config, row.problem_id, row.sample)  # noqa: E731
    assert sorted(bank.rows(), key=key) == sorted(rows, key=key)


LINE = st.one_of(
    st.binary(max_size=60),
    JSON.map(lambda value: json.dumps(value).encode()),
    st.fixed_dictionaries({"cell": st.sampled_from("ab"), "problem_id": st.sampled_from("12"), "status": st.sampled_from(["ok", "error"])})
    .map(lambda row: json.dumps(row).encode()),
)  # fmt: skip


@given(st.lists(LINE, max_size=6).map(b"\n".join), st.sampled_from([b"", b"\n", b"\r\n", b"\x00"]))
@example(b'{"problem_id": [1], "cell": {}}', b"\n")
@example(b"[" * 100_000, b"\n")
@example(b'{"a": 1' + b"0" * 5000 + b"}", b"")
@example(b'{"kind": NaN}', b"")
@example(b'{"kind": "\\ud800"}', b"\n")
def test_a_journal_of_any_bytes_can_be_read_and_gone_on_with(content, end):
    check_journal(content + end)


ANSWER = st.lists(
    st.sampled_from(["\\boxed{", "}", "{", "\\{", "\\}", "\\", "answer is ", "####", "1/2", "-", "^", "\\frac", "10^", "9" * 40, "\n", "$",
                     "%", ",", "e", ".", "```python\n", "```", "def f(): pass\n", "(", ")", "\N{ARABIC-INDIC DIGIT ONE}", "\x00", "\ud800"])
    | st.text(max_size=6),
    max_size=14,
).map("".join)  # fmt: skip


@given(ANSWER)
@example("\\boxed{" * 2000 + "}" * 2000)
@example("\\boxed{1e999999999}")
@example("\\boxed{9**9**9**9}")
@example("####" * 5000)
@example("```python\n" + "(" * 5000 + "\n```")
@example("```python\n" + "-" * 20_000 + "1\n```")
@example("def f(): return '\ud800'")
@example("\\boxed{\\frac{1}{0}}")
def test_answers_are_read_the_same_each_time(text):
    check_answer(text)


@given(
    st.lists(st.integers(0, 5)),
    st.lists(st.lists(st.integers(0, 5), max_size=6), max_size=6),
    st.lists(st.integers(0, 5), max_size=2),
)
def test_steps_and_separators_are_told_apart(prompt, steps, ends):
    """Every step's score is the one at the separator that was put after it, whatever its own tokens are."""
    reading = _separated(
        tuple(prompt), tuple(Step(tuple(s), "") for s in steps), RewardFormat("token_classify", 5, tuple(ends))
    )
    at = [i for i, token in enumerate(reading.tokens) if token == 5]
    assert reading.n_scores == len(at)
    assert len(reading.places) == len(steps)
    start = len(prompt)
    for place, step in zip(reading.places, steps, strict=True):
        said = list(reading.tokens[start : at[place]])
        assert said == step[: len(said)]
        assert all(token in ends for token in step[len(said) :])
        start = at[place] + 1
    assert start == len(reading.tokens)


def test_the_random_lines_are_not_all_refused():
    """The generators do reach what is accepted."""
    row = {
        "problem_id": "a",
        "config": "c",
        "sample": 0,
        "correct": True,
        "completion_tokens": 1,
        "prompt_tokens": 1,
        "finish": "stop",
    }
    assert len(parse_rows([json.dumps(row)], "x")) == 1
    assert parse_config(yaml.safe_load("task: local\nmodel: fake\nbudgets: 64"), "x").budgets == (64,)
    with pytest.raises(DataError):
        parse_rows(["{}"], "x")
