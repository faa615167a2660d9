"""Generated arithmetic against Python's own parser and evaluation; and what both generated tasks share."""

from __future__ import annotations

import ast
import operator
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttc.core.errors import ConfigError, DataError
from ttc.core.protocols import LoadOptions
from ttc_evals import arithmetic, countdown
from ttc_evals.arithmetic import Arithmetic, generate, prefix_is_right, reference_solution
from ttc_evals.countdown import Countdown
from ttc_evals.generated import canonical_form, parse_expression, split_of
from ttc_evals.numeric import NumericChecker

OPERATIONS = {ast.Add: ("+", operator.add), ast.Sub: ("-", operator.sub), ast.Mult: ("*", operator.mul)}
EXAMPLES = generate("train", 400, seed=3)


def work_out(node, lines):
    """Python's own reading of an expression, one line an operation, the left operand's first."""
    if isinstance(node, ast.Constant):
        return node.value
    left, right = work_out(node.left, lines), work_out(node.right, lines)
    sign, function = OPERATIONS[type(node.op)]
    lines.append((left, sign, right, function(left, right)))
    return lines[-1][3]


def lines_of(question):
    lines: list[tuple[int, str, int, int]] = []
    work_out(ast.parse(question, mode="eval").body, lines)
    return lines


def canonical(question):
    return canonical_form(parse_expression(question, "+-*"))


def test_the_reference_is_what_python_works_out():
    for example in EXAMPLES:
        lines = [f"{a}{sign}{b}={result}" for a, sign, b, result in lines_of(example.question)]
        assert example.gold == str(eval(example.question))
        assert reference_solution(example.question) == "\n".join([*lines, f"\\boxed{{{example.gold}}}"])
        assert example.meta["steps"] == len(lines)
        assert [message.content for message in example.messages] == [example.question]


def test_the_promised_bounds_hold():
    table = {1: (2, 1, 19), 2: (3, 1, 9), 3: (3, 10, 19), 4: (4, 10, 19), 5: (5, 10, 19), 6: (6, 10, 19),
             7: (7, 20, 99), 8: (8, 20, 99)}  # fmt: skip
    for example in EXAMPLES:
        steps, least, most = table[example.meta["difficulty"]]
        operands = [int(number) for number in re.findall(r"\d+", example.question)]
        assert len(operands) == steps + 1
        assert least <= max(operands) <= most
        assert min(operands) >= 1
        for a, sign, b, result in lines_of(example.question):
            assert abs(result) <= 999
            assert sign != "*" or min(abs(a), abs(b)) <= 12
    assert 100 < sum("(" in example.question for example in EXAMPLES) < 300


def test_difficulty_rises_evenly_over_the_mixture():
    by_level = {level: [e for e in EXAMPLES if e.meta["difficulty"] == level] for level in range(1, 9)}
    assert {len(examples) for examples in by_level.values()} == {50}
    steps = [sum(e.meta["steps"] for e in examples) / 50 for examples in by_level.values()]
    characters = [sum(len(reference_solution(e.question)) for e in examples) for examples in by_level.values()]
    assert steps == sorted(steps)
    assert characters == sorted(set(characters))


def test_every_prefix_of_a_reference_is_right_and_its_box_is_the_answer():
    checker = NumericChecker()
    for example in EXAMPLES:
        solution = reference_solution(example.question)
        ends = [match.end() for match in re.finditer(r"[\n=]", solution)]
        for end in [0, *ends, len(solution)]:
            assert prefix_is_right(example.question, solution[:end])
        assert prefix_is_right(example.question, solution + "\n")
        answer = checker.extract(solution)
        assert answer is not None
        assert checker.grade(answer, example.gold)


def test_every_wrong_digit_of_a_result_is_detected():
    for example in EXAMPLES[:60]:
        solution = reference_solution(example.question)
        for place, end in digits_of_results(solution):
            for digit in set("0123456789") - {solution[place]}:
                wrong = solution[:place] + digit + solution[place + 1 :]
                assert not prefix_is_right(example.question, wrong[:end]), wrong
                assert not prefix_is_right(example.question, wrong), wrong


def digits_of_results(solution):
    """Places of digits after `=` and in the box, with the end of their line."""
    for match in re.finditer(r"(?:=|boxed)(.*)(?:\n|$)", solution):
        yield from ((place, match.end()) for place in range(match.start(1), match.end(1)) if solution[place].isdigit())


@pytest.mark.parametrize(
    ("question", "text", "right"),
    [
        ("(1+2)*(3+4)", "3+4=7\n1+2=3\n3*7=21\n\\boxed{21}", True),
        ("(1+2)*(3+4)", "3+4=7\n7*3=21\n", False),
        ("1+2*3", "1+2=3\n", False),
        ("1+2*3", "2*3=6\n1+6=7\n", True),
        ("1+2*3", "3*2=6\n", False),
        ("10-3-2", "3-2=1\n", False),
        ("10-(3-2)", "3-2=1\n10-1=9\n", True),
        ("(3+4)*(5-(3+4))", "3+4=7\n3+4=7\n5-7=-2\n7*-2=-14\n\\boxed{-14}", True),
        ("(3+4)*(5-(3+4))", "3+4=7\n5-7=-2\n3+4=7\n7*-2=-14\n\\boxed{-14}", True),
        ("(3+4)*(5-(3+4))", "3+4=7\n3+4=7\n3+4=7\n", False),
        ("2-5-(1-9)", "2-5=-3\n1-9=-8\n-3--8=5\n\\boxed{5}", True),
        ("5-5", "5-5=", True),
        ("5-5", "5-5=0\n\\boxed{0}", True),
        ("5-5", "5-5=-0\n", False),
        ("5-5", "5-4=", False),
        ("5-5", "5-5=\n", False),
        ("5-5", "5-5=00\n", False),
        ("5-5", "5-5= 0\n", False),
        ("5-5", "\n5-5=0\n", False),
        ("5-5", "5-5=0\r\n", False),
        ("5-5", "\u0665-5=0\n", False),
        ("5-5", "\\boxed{0}", False),
        ("5-5", "5-5=0\n\\boxed{0}\n\\boxed{0}", False),
        ("5-5", "5-5=0\n\\boxed{}", False),
        ("5-5", "5-5=" + "9" * 5000 + "\n", False),
    ],
)
def test_lines_are_judged_in_their_place(question, text, right):
    assert prefix_is_right(question, text) is right


def test_operations_may_be_done_in_any_possible_order():
    rng = random.Random(0)
    for example in EXAMPLES:
        expression, text = f"({example.question})", ""
        while not re.fullmatch(r"\(?-?\d+\)?", expression):
            tree = ast.parse(expression, mode="eval")
            nodes = [n for n in ast.walk(tree) if isinstance(n, ast.BinOp) and is_number(n.left) and is_number(n.right)]
            node = rng.choice(nodes)
            a, b = (ast.literal_eval(side) for side in (node.left, node.right))
            sign, function = OPERATIONS[type(node.op)]
            text += f"{a}{sign}{b}={function(a, b)}\n"
            assert prefix_is_right(example.question, text), (example.question, text)
            expression = ast.unparse(Replace(node, function(a, b)).visit(tree))
        assert prefix_is_right(example.question, f"{text}\\boxed{{{example.gold}}}")


def is_number(node):
    return isinstance(node, ast.Constant) or (isinstance(node, ast.UnaryOp) and isinstance(node.operand, ast.Constant))


class Replace(ast.NodeTransformer):
    def __init__(self, node, value):
        self.node, self.value = node, value

    def visit_BinOp(self, node):
        return ast.parse(str(self.value), mode="eval").body if node is self.node else self.generic_visit(node)


WRITTEN = st.text("0123456789+-*/=, left\\boxed{}\n")


@given(st.text() | WRITTEN, st.sampled_from(EXAMPLES))
def test_no_text_makes_it_raise(text, example):
    assert prefix_is_right(example.question, text) in {True, False}
    assert not prefix_is_right(example.question, "x" + text)


@given(st.text())
def test_a_malformed_question_is_a_data_error(text):
    try:
        expected = eval(text) if re.fullmatch(r"[0-9+*()-]+", text) else None
    except SyntaxError:
        expected = None
    if expected is None:
        with pytest.raises(DataError):
            prefix_is_right(text, "")


@pytest.mark.parametrize("question", ["", "1+", "(1+2", "1+2)", "1 + 2", "1//2", "4/2", "1**2", "()", "-1", "(" * 9999])
def test_what_is_no_expression(question):
    with pytest.raises(DataError) as caught:
        reference_solution(question)
    assert caught.value.hint


def commuted(question, rng):
    """Turn around sums and products at random, regroup sums and products of three, and keep all else."""

    def turn(node):
        if isinstance(node, ast.Constant):
            return str(node.value)
        sign = OPERATIONS[type(node.op)][0]
        left, right = node.left, node.right
        if sign in "+*" and rng.random() < 0.5:
            left, right = right, left
        if sign in "+*" and isinstance(left, ast.BinOp) and type(left.op) is type(node.op) and rng.random() < 0.5:
            return f"({turn(left.left)}{sign}({turn(left.right)}{sign}{turn(right)}))"
        return f"({turn(left)}{sign}{turn(right)})"

    return turn(ast.parse(question, mode="eval").body)


def test_commuted_variants_are_one_problem_in_one_split():
    rng = random.Random(1)
    for example in EXAMPLES:
        for variant in (commuted(example.question, rng) for _ in range(4)):
            assert eval(variant) == int(example.gold)
            assert canonical(variant) == canonical(example.question)
            assert split_of("arithmetic", canonical(variant)) == "train"


def test_one_canonical_form_means_one_value_of_the_same_numbers():
    expressions = [e.question for e in generate("train", 1500, seed=9, difficulty=1)]
    expressions += [f"{a}{x}({b}{y}{c})" for a in (1, 2, 5) for b in (1, 2, 5) for c in (1, 2, 5)
                    for x in "+-*" for y in "+-*"]  # fmt: skip
    facts: dict[str, set[object]] = {}
    for text in expressions:
        fact = (eval(text), tuple(sorted(re.findall(r"\d+", text))))
        facts.setdefault(canonical(text), set()).add(fact)
    assert all(len(found) == 1 for found in facts.values())
    assert canonical("5-(3-1)") == canonical("1+5-3") != canonical("5-3-1")
    assert canonical("2*(4+3)") == canonical("(3+4)*2") != canonical("2*4+3")


# What both tasks share.

TASKS = {"arithmetic": (arithmetic, Arithmetic, 8), "countdown": (countdown, Countdown, 5)}


@pytest.mark.parametrize("name", TASKS)
def test_splits_share_no_problem_whatever_the_seed(name):
    module = TASKS[name][0]
    seen: dict[str, set[str]] = {"train": set(), "validation": set(), "test": set()}
    for split, count in (("train", 500), ("validation", 80), ("test", 80)):
        for seed in range(4):
            examples = module.generate(split, count, seed)
            forms = [canonical(e.question) if name == "arithmetic" else e.question for e in examples]
            assert len(set(forms)) == len({e.id for e in examples}) == count
            seen[split].update(forms)
    assert not seen["train"] & seen["validation"]
    assert not seen["train"] & seen["test"]
    assert not seen["validation"] & seen["test"]


def test_about_eight_percent_are_test_and_validation():
    splits = [split_of("any", str(i)) for i in range(20_000)]
    assert 0.07 < splits.count("test") / len(splits) < 0.09
    assert 0.07 < splits.count("validation") / len(splits) < 0.09


@pytest.mark.parametrize("name", TASKS)
def test_the_same_request_gives_the_same_problems_in_any_process(name):
    module, task, levels = TASKS[name]
    whole = module.generate("test", 40, 5)
    assert module.generate("test", 17, 5) == whole[:17]
    assert module.generate("test", 40, 6) != whole
    for level in range(1, levels + 1):
        same = [e for e in whole if e.meta["difficulty"] == level]
        assert module.generate("test", len(same), 5, level) == same
    program = (
        f"from ttc_evals.{name} import {task.__name__}\nfrom ttc.core.protocols import LoadOptions\n"
        f"print({task.__name__}().load(LoadOptions(limit=40, seed=5)).fingerprint)"
    )
    environment = {"PYTHONHASHSEED": "77", "PATH": "/usr/bin:/bin"}
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=60)
    assert run.stdout.strip() == task().load(LoadOptions(limit=40, seed=5)).fingerprint, run.stderr


@pytest.mark.parametrize("name", TASKS)
def test_loading_by_default_and_by_request(name):
    _, task, levels = TASKS[name]
    dataset = task().load(LoadOptions())
    assert dataset.source == {
        "name": name, "generator": f"{name}-1", "split": "test", "seed": "0", "count": "300",
    }  # fmt: skip
    assert [e.meta["difficulty"] for e in dataset.examples] == [1 + i % levels for i in range(300)]
    other = task().load(LoadOptions(split="validation", limit=7, seed=2))
    assert len(other.examples) == 7
    assert (other.source["split"], other.source["seed"], other.source["count"]) == ("validation", "2", "7")
    assert other.fingerprint != dataset.fingerprint
    assert task.name == name


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"data": Path("rows.jsonl")}, "generates its problems: it takes no data", "choose a split"),
        ({"hub": "me/mine"}, "it takes no hub", "choose a split"),
        ({"fields": {"question": "q"}}, "it takes no fields", "choose a split"),
        ({"split": "tset"}, "has no split 'tset'", "did you mean 'test'?"),
        ({"limit": 0}, "limit is 0", ""),
    ],
)
def test_wrong_requests(name, options, message, hint):
    with pytest.raises(ConfigError) as caught:
        TASKS[name][1]().load(LoadOptions(**options))
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_an_unknown_difficulty_and_more_than_there_is():
    with pytest.raises(ConfigError, match="has no difficulty 9"):
        generate("test", 1, 0, 9)
    with pytest.raises(ConfigError, match=r"countdown has only about \d+ problems of difficulty 1 in split 'test'"):
        countdown.generate("test", 100_000, 0, 1)


@pytest.mark.parametrize("name", TASKS)
def test_ten_thousand_problems_take_seconds(name):
    began = time.process_time()
    assert len(TASKS[name][0].generate("train", 10_000, 1)) == 10_000
    assert time.process_time() - began < 30
