"""A configuration is read as meant or refused by key, never guessed."""

from pathlib import Path

import pytest

from ttc.core.errors import ConfigError
from ttc.core.specs import max_errors, parse_config, read_config


def refusal(values):
    with pytest.raises(ConfigError) as caught:
        parse_config(values, "sweep.yaml")
    assert caught.value.message.startswith("sweep.yaml: ")
    assert "\n" not in caught.value.message
    assert caught.value.exit_code == 2
    return caught.value


@pytest.mark.parametrize(
    ("values", "where", "nearest"),
    [
        ({"stratgies": ["a"]}, "stratgies", "strategies"),
        ({"modle": "m"}, "modle", "model"),
        ({"sampling": {"temprature": 0.5}}, "sampling.temprature", "temperature"),
        ({"strategies": [{"name": "x"}, {"name": "y", "parms": {}}]}, "strategies.1.parms", "params"),
        ({"models": [{"path": "m", "optoins": {}}]}, "models.0.optoins", "options"),
        ({"model": {"path": "m", "lable": "x"}}, "models.0.lable", "label"),
        ({"task": {"name": "t", "splt": "test"}}, "tasks.0.splt", "split"),
        ({"allocators": [{"name": "a", "lbel": "x"}]}, "allocators.0.lbel", "label"),
    ],
)
def test_an_unknown_key_is_told_with_its_place_and_the_nearest_key_allowed_there(values, where, nearest):
    error = refusal(values)
    assert error.message == f"sweep.yaml: unknown key {where!r}"
    assert error.hint == f"did you mean {nearest!r}?"


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"budgets": ["many"]}, ["budgets.0", "'many'"]),
        ({"budgets": [256, 0]}, ["budgets.1", "0"]),
        ({"budgets": [256.5]}, ["budgets.0", "256.5"]),
        ({"budgets": True}, ["budgets.0", "True"]),
        ({"limit": True}, ["limit", "True"]),
        ({"limit": 0}, ["limit", "0"]),
        ({"seed": -1}, ["seed", "-1"]),
        ({"seed": 2**63}, ["seed"]),
        ({"draws": "few"}, ["draws", "'few'"]),
        ({"sampling": {"temperature": -0.1}}, ["sampling.temperature", "-0.1"]),
        ({"sampling": {"top_p": 0}}, ["sampling.top_p"]),
        ({"sampling": None}, ["sampling"]),
        ({"sampling": {"stop": "x"}}, ["sampling.stop", "'x'"]),
        ({"strategies": [1]}, ["strategies.0"]),
        ({"models": [{"label": "x"}]}, ["models.0.path"]),
        ({"price": {"prompts": 1}}, ["price", "'prompts'"]),
        ({"price": {"prompt": -1}}, ["price.prompt", "-1"]),
        ({"price": {"prompt": float("inf")}}, ["price.prompt", "inf"]),
        ({"problem_timeout_s": 0}, ["problem_timeout_s"]),
        ({"max_errors": "200%"}, ["max_errors", "'200%'"]),
        ({"bank": "b", "task": "t"}, ["task or a bank"]),
        ({"task": "a", "tasks": ["b"]}, ["task or tasks"]),
        ({1: 2}, ["1"]),
    ],
)
def test_a_wrong_value_is_told_with_its_place(values, told):
    message = refusal(values).message
    assert all(word in message for word in told), message


def test_commas_single_values_and_lists_mean_the_same():
    forms = [
        {"strategies": "greedy, best-of-n", "budgets": "256,512", "task": "gsm8k", "model": "m"},
        {"strategies": ["greedy", "best-of-n"], "budgets": [256, 512], "tasks": ["gsm8k"], "models": ["m"]},
        {
            "strategies": [{"name": "greedy"}, {"name": "best-of-n"}],
            "budgets": ["256", "512"],
            "tasks": {"name": "gsm8k"},
            "models": [{"path": "m"}],
        },
        {"strategies": ["greedy", "best-of-n"], "budgets": (256, 512), "tasks": "gsm8k", "models": [Path("m")]},
    ]
    first, *others = [parse_config(form, "c") for form in forms]
    assert [s.name for s in first.strategies] == ["greedy", "best-of-n"]
    assert first.budgets == (256, 512)
    assert all(other == first for other in others)


def test_one_budget_is_a_list_of_one():
    assert parse_config({"budgets": 256}, "c").budgets == (256,)


def test_an_absent_list_is_empty_and_allocators_default_to_uniform():
    config = parse_config({"strategies": None}, "c")
    assert config.strategies == ()
    assert [a.name for a in config.allocators] == ["uniform"]


@pytest.mark.parametrize(
    ("text", "n", "allowed"),
    [
        ("0", 100, 0), ("3", 100, 3), ("0%", 100, 0), ("1%", 99, 0), ("1%", 100, 1), ("1%", 1319, 13),
        ("2.5%", 1000, 25), ("100%", 7, 7), ("0.1%", 1000, 1),
    ],
)  # fmt: skip
def test_max_errors_is_a_share_or_a_number(text, n, allowed):
    assert max_errors(text, n) == allowed


def test_max_errors_takes_whole_percents_exactly():
    """29 % of 100 is 29, though 0.29 * 100 is less in binary."""
    assert [max_errors(f"{p}%", 100) for p in range(101)] == list(range(101))


@pytest.mark.parametrize("text", ["", "%", "-1", "-1%", "101%", "many", "nan%", "1.5", "5 %%"])
def test_max_errors_refuses_other_words(text):
    with pytest.raises(ValueError, match="max_errors"):
        max_errors(text, 10)


def test_max_errors_may_be_written_as_a_yaml_number(tmp_path):
    (tmp_path / "c.yaml").write_text("max_errors: 5\n")
    assert parse_config(read_config(tmp_path / "c.yaml"), "c").max_errors == "5"


@pytest.mark.parametrize(
    ("text", "told"), [("a: [", "is not YAML"), ("- a\n", "found list"), ("just words\n", "found str")]
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path, text, told):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=told):
        read_config(path)


def test_an_empty_file_asks_for_nothing_and_a_missing_one_is_told(tmp_path):
    (tmp_path / "c.yaml").write_text("# nothing\n")
    assert read_config(tmp_path / "c.yaml") == {}
    with pytest.raises(ConfigError, match="No such file"):
        read_config(tmp_path / "none.yaml")
