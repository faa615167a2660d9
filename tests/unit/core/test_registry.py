"""Names lead to classes, and wrong ones to a message that helps."""

import sys

import pytest

from ttc.core import registry
from ttc.core.errors import ConfigError
from ttc.core.parameters import build, parameters


def write(folder, text, name="mine.py"):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("from __future__ import annotations\n" + text)
    return str(folder / name)


def failure(call, *args):
    with pytest.raises(ConfigError) as caught:
        call(*args)
    return caught.value


@pytest.mark.parametrize(
    ("kind", "given", "nearest"),
    [
        ("strategies", "best-of-m", "best-of-n"),
        ("strategies", "selfconsistency", "self-consistency"),
        ("allocators", "unifrom", "uniform"),
        ("tasks", "gsm8", "gsm8k"),
    ],
)
def test_an_unknown_name_is_told_with_the_nearest(kind, given, nearest):
    error = failure(registry.load, kind, given)
    assert repr(given) in error.message
    assert error.hint == f"did you mean {nearest!r}?"
    assert error.exit_code == 2


def test_a_name_near_to_none_is_told_all_of_them():
    error = failure(registry.load, "strategies", "zzz")
    assert error.message == "unknown strategy 'zzz'"
    assert all(name in error.hint for name in registry.names("strategies"))


def test_every_registered_strategy_and_allocator_builds_without_parameters():
    for kind, method in (("strategies", "solve"), ("allocators", "allocate")):
        for entry in registry.registered(kind):
            instance = build(kind, entry.name, {})
            assert callable(getattr(instance, method)), entry
            assert build(kind, entry.name, parameters(instance)) == instance


def test_a_class_is_loaded_from_a_file(tmp_path):
    file = write(tmp_path, "class Mine:\n    word = 'here'\n")
    assert registry.load("strategies", f"{file}:Mine").word == "here"


def test_a_missing_class_is_told_with_the_nearest_of_that_file(tmp_path):
    file = write(tmp_path, "from dataclasses import dataclass\nclass Mine: pass\n")
    error = failure(registry.load, "strategies", f"{file}:Mien")
    assert "no class 'Mien'" in error.message
    assert error.hint == "did you mean 'Mine'?"


def test_a_missing_file_is_told(tmp_path):
    assert "no such file" in failure(registry.load, "tasks", f"{tmp_path}/none.py:Mine").message


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("import nothing_of_that_name\n", "nothing_of_that_name"),
        ("class Mine(:\n", "SyntaxError"),
        ("raise ValueError('not today')\n", "ValueError: not today"),
        ("1 / 0\n", "ZeroDivisionError"),
        ("{}['x']\n", "KeyError"),
    ],
)
def test_a_file_that_raises_at_import_is_a_wrong_request_and_leaves_no_module(tmp_path, text, told):
    before = set(sys.modules)
    error = failure(registry.load, "strategies", write(tmp_path, text) + ":Mine")
    assert told in error.message
    assert not [name for name in set(sys.modules) - before if name.startswith("ttc_user")]


def test_files_of_one_name_do_not_disturb_each_other(tmp_path):
    text = "from dataclasses import dataclass\nfrom typing import Literal\nWord = Literal['{0}']\n"
    text += "@dataclass(frozen=True)\nclass Mine:\n    word: Word = '{0}'\n"
    one, two = write(tmp_path / "a", text.format("one")), write(tmp_path / "b", text.format("two"))
    first, second = registry.load("strategies", f"{one}:Mine"), registry.load("strategies", f"{two}:Mine")
    assert first.__module__ != second.__module__
    assert build("strategies", f"{one}:Mine", {"word": "one"}).word == "one"
    assert build("strategies", f"{two}:Mine", {"word": "two"}).word == "two"
    failure(build, "strategies", f"{one}:Mine", {"word": "two"})


def test_what_is_not_a_dataclass_cannot_be_built(tmp_path):
    file = write(tmp_path, "class Mine: pass\ndef solve(): pass\n")
    for name in ("Mine", "solve"):
        assert "is not a dataclass" in failure(build, "strategies", f"{file}:{name}", {}).message


def test_an_unknown_parameter_is_told_with_the_nearest():
    error = failure(build, "strategies", "best-of-n", {"selct": "logprob"})
    assert "'selct'" in error.message
    assert error.hint == "did you mean 'select'?"


@pytest.mark.parametrize(
    ("name", "params", "told"),
    [
        ("best-of-n", {"n": 0}, "n: "),
        ("best-of-n", {"n": "many"}, "'many'"),
        ("best-of-n", {"select": "luck"}, "'luck'"),
        ("self-consistency", {"n": 2.5}, "2.5"),
        ("adaptive-consistency", {"threshold": 1.0}, "threshold"),
        ("adaptive-consistency", {"n": None}, "None"),
        ("early-stopping-consistency", {"window": -1}, "-1"),
    ],
)
def test_a_value_that_does_not_fit_is_told_with_parameter_and_value(name, params, told):
    error = failure(build, "strategies", name, params)
    assert error.message.startswith(name)
    assert told in error.message
