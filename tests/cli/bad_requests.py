"""Requests and files that are wrong: what is said about them, and the exit code."""

import json
from pathlib import Path

from error_case import Case, bank_sweep, edited, file, sweep

ONE_OBJECT = "one JSON object a line"
LABELS = "give each a label of its own in the YAML file"
CODE = '{"task_id": "t/0", "prompt": "def f():\\n", "test": "def check(f):\\n    pass\\n", "entry_point": "f"}\n'


def other_bank_field(folder: Path) -> None:
    rows = (folder / "rows.jsonl").read_text()
    (folder / "bad-rows.jsonl").write_text(rows + json.dumps({"problem_id": "z", "confg": "m"}) + "\n")


def renamed(rows: list[str], mark: str) -> list[str]:
    return [row.replace('"id": "p', f'"id": "{mark}') for row in rows]


REQUEST = [
    Case("No such command", "swep", 2, "No such command 'swep'. Did you mean 'sweep'?", "ttc --help"),
    Case(
        "No such option",
        sweep("--strategis x"),
        2,
        "No such option: --strategis (Possible options: --strategies)",
        "ttc sweep --help",
    ),
    Case(
        "Option of another type",
        sweep("--temperature hot"),
        2,
        "Invalid value for '--temperature': Input should be a valid number, unable to parse string as a number",
        "ttc sweep --help",
    ),
    Case(
        "Unknown display",
        sweep("--display loud"),
        2,
        "Invalid value for '--display': 'loud' is not one of 'auto', 'rich', 'plain', 'json', 'none'.",
        "ttc sweep --help",
    ),
    Case(
        "Unknown strategy",
        sweep(strategies="self-consistancy"),
        2,
        "unknown strategy 'self-consistancy'",
        "did you mean 'self-consistency'?",
    ),
    Case("Unknown allocator", sweep("--allocators unifrm"), 2, "unknown allocator 'unifrm'", "did you mean 'uniform'?"),
    Case("Unknown task", sweep(task="locl"), 2, "unknown task 'locl'", "did you mean 'local'?"),
    Case(
        "Unknown reward model",
        sweep("--prm nope"),
        2,
        "unknown reward model 'nope'",
        "allowed: embedded, fake, a model folder, ORGANISATION/NAME, http://HOST/v1#NAME",
    ),
    Case(
        "Unknown engine option",
        sweep(model="'fake:fial=1'"),
        2,
        "fake:fial=1 has no parameter 'fial'",
        "did you mean 'fail'?",
    ),
    Case(
        "Model folder that does not exist",
        sweep(model="./no-such-folder"),
        2,
        "no such model folder: ./no-such-folder",
        "allowed: bank, run",
    ),
    Case(
        "Endpoint without a model's name",
        sweep(model="http://127.0.0.1:9/v1"),
        2,
        "http://127.0.0.1:PORT/v1 is not a model of a server",
        "write http://HOST:PORT/v1#NAME",
    ),
    Case(
        "Endpoint with a port that cannot be",
        sweep(model="http://127.0.0.1:80429/v1#m"),
        2,
        "http://127.0.0.1:PORT/v1#m is not a model of a server",
        "write http://HOST:PORT/v1#NAME",
    ),
    Case(
        "No task",
        sweep(task=None, data=None),
        2,
        "no task and no bank given",
        "give --task NAME (ttc ls tasks) or --bank FOLDER",
    ),
    Case(
        "No model",
        sweep(model=None),
        2,
        "no model given",
        "give --model with a hub name, a folder, or http://HOST/v1#NAME",
    ),
    Case("No strategies", sweep(strategies=None), 2, "no strategies given", "ttc ls strategies names them"),
    Case(
        "No budgets",
        sweep(budgets=None),
        2,
        "no budgets given",
        "for example --budgets 256,512,1024 (mean completion tokens a problem)",
    ),
    Case(
        "Budget 0",
        sweep(budgets="0"),
        2,
        "command line: budgets.0: Input should be greater than or equal to 1, found '0'",
    ),
    Case(
        "Negative budget",
        sweep(budgets="256,-4"),
        2,
        "command line: budgets.1: Input should be greater than or equal to 1, found '-4'",
    ),
    Case(
        "Budget that is no number",
        sweep(budgets="many"),
        2,
        "command line: budgets.0: Input should be a valid integer, unable to parse string as an integer, found 'many'",
    ),
    Case("Budget given twice", sweep(budgets="256,256"), 2, "a budget stands twice in [256, 256]"),
    Case("Strategy given twice", sweep(strategies="greedy,greedy"), 2, "strategies: 'greedy' stands twice", LABELS),
    Case(
        "Limit of no problem",
        sweep("--limit 0"),
        2,
        "command line: limit: Input should be greater than or equal to 1, found 0",
    ),
    Case(
        "Negative seed",
        sweep("--seed -1"),
        2,
        "command line: seed: Input should be greater than or equal to 0, found -1",
    ),
    Case(
        "Negative temperature",
        sweep("--temperature -1"),
        2,
        "command line: sampling.temperature: Input should be greater than or equal to 0, found -1.0",
    ),
    Case(
        "Unknown kind of token in a price",
        sweep("--price promt=1"),
        2,
        "--price promt=1: unknown kind of token 'promt'",
        "did you mean 'prompt'?",
    ),
    Case("Price that is no number", sweep("--price prompt=x"), 2, "--price prompt=x: expected a number after ="),
    Case(
        "Infinite price",
        sweep("--price prompt=inf"),
        2,
        "command line: price.prompt: Input should be a finite number, found inf",
    ),
    Case(
        "Price of a million tokens in one number",
        sweep("--price-per-mtok 1"),
        2,
        "--price-per-mtok 1: expected IN,OUT, for example 0.10,0.40",
    ),
    Case(
        "Nonsense for --max-errors",
        sweep("--max-errors lots"),
        2,
        "command line: max_errors is 'lots': give a share such as 1% or a number of problems",
    ),
    Case("Task and bank at once", bank_sweep("--task local"), 2, "command line: give a task or a bank, not both"),
    Case("Rows for two tasks", sweep("--task gsm8k"), 2, "--data needs exactly one task, 2 are given"),
    Case(
        "Reward scores wanted, none there",
        sweep(strategies="weighted-vote"),
        2,
        "weighted-vote cannot run on fake: its samples have no reward scores",
        "give --prm MODEL, a bank with the field 'score', or a strategy such as self-consistency",
    ),
    Case(
        "Model-written code without consent",
        sweep(task="humaneval", data="code.jsonl"),
        2,
        "task humaneval is graded by running code that the model writes",
        "add --allow-code-execution if this machine may do that (in a sandbox; docs/sandbox.md states its limits)",
        file("code.jsonl", CODE),
    ),
    Case(
        "Samples wanted: none",
        "collect --task local --data problems.jsonl --model fake --n 0 --out new",
        2,
        "Invalid value for '--n': Input should be greater than or equal to 1",
        "ttc collect --help",
    ),
]

FILES = [
    Case(
        "Configuration file that does not exist",
        "sweep nope.yaml",
        2,
        "cannot read nope.yaml: No such file or directory",
    ),
    Case(
        "Unknown key",
        "sweep c.yaml",
        2,
        "c.yaml: unknown key 'budgetz'",
        "did you mean 'budgets'?",
        file("c.yaml", "task: local\nbudgetz: [1]\n"),
    ),
    Case(
        "Unknown key inside another",
        "sweep c.yaml",
        2,
        "c.yaml: unknown key 'strategies.0.parms'",
        "did you mean 'params'?",
        file("c.yaml", "strategies:\n  - name: greedy\n    parms: {n: 3}\n"),
    ),
    Case(
        "Value of another type",
        sweep("c.yaml --temperature 1"),
        2,
        "c.yaml: sampling: Input should be a valid dictionary or instance of SamplingSpec, found 5",
        None,
        file("c.yaml", "sampling: 5\n"),
    ),
    Case(
        "Unknown parameter of a strategy",
        sweep("c.yaml", strategies=None),
        2,
        "self-consistency has no parameter 'm'",
        "allowed: n",
        file("c.yaml", "strategies:\n  - {name: self-consistency, params: {m: 3}}\n"),
    ),
    Case(
        "Not YAML",
        "sweep c.yaml",
        2,
        "c.yaml is not YAML: while parsing a flow sequence in \"<unicode string>\", line 1, column 8: model: [a ^ expected ',' or ']', but got '<stream end>' in \"<unicode string>\", line 2, column 1: ^",
        None,
        file("c.yaml", "model: [a\n"),
    ),
    Case(
        "YAML that holds a list",
        "sweep c.yaml",
        2,
        "c.yaml must hold keys and values, found list",
        None,
        file("c.yaml", "- a\n- b\n"),
    ),
    Case(
        "Rows that are not there",
        sweep(data="nope.jsonl"),
        3,
        "no such file: nope.jsonl",
        "give a JSON Lines or Parquet file",
    ),
    Case("Rows that cannot be read", sweep(data="/proc/self/mem"), 3, "cannot read /proc/self/mem: Input/output error"),
    Case(
        "Line that is not JSON",
        sweep(data="bad.jsonl"),
        3,
        "bad.jsonl line 7: not JSON: Expecting ':' delimiter at column 12",
        ONE_OBJECT,
        edited("bad.jsonl", lambda rows: [*renamed(rows, "a"), *renamed(rows, "b"), '{"answer"  1}', *rows]),
    ),
    Case(
        "Row that lacks a field",
        sweep(data="bad.jsonl"),
        3,
        "bad.jsonl line 3: no field 'answer'",
        "allowed: id, question; other names are set by the task's fields",
        edited("bad.jsonl", lambda rows: [*rows[:2], '{"id": "x", "question": "?"}']),
    ),
    Case(
        "Two rows with one id",
        sweep(data="bad.jsonl"),
        3,
        "bad.jsonl line 4: id 'pN' was already used at bad.jsonl line 1",
        "ids must be unique",
        edited("bad.jsonl", lambda rows: [*rows[:3], rows[0]]),
    ),
    Case("Empty file", sweep(data="bad.jsonl"), 3, "bad.jsonl holds no rows", None, file("bad.jsonl", "")),
    Case(
        "Column for a field that the task has not",
        sweep("--field qestion=q"),
        2,
        "task local has no field 'qestion'",
        "did you mean 'question'?",
    ),
    Case(
        "Bank that is none",
        bank_sweep(bank="run"),
        3,
        "run is not a bank (it has no bank.parquet)",
        "make one: ttc import ROWS.jsonl --out BANK",
    ),
    Case(
        "Bank that is damaged",
        bank_sweep(),
        3,
        "cannot read bank/bank.parquet: Could not open Parquet input source 'bank/bank.parquet': Parquet magic bytes not found in footer. Either the file is corrupted or this is not a parquet file.",
        "import or collect the bank again",
        file("bank/bank.parquet", "x" * 100),
    ),
    Case(
        "Unknown field in a bank's rows",
        "import bad-rows.jsonl --out new",
        3,
        "bad-rows.jsonl, line 41: unknown field 'confg'",
        "did you mean 'config'?",
        other_bank_field,
    ),
    Case(
        "Bank in the place of another",
        "import rows.jsonl --out bank",
        6,
        "bank already holds a bank",
        "give another --out",
    ),
    Case(
        "Configuration that the bank has not",
        bank_sweep("--model 'tiny T=0.8'"),
        2,
        "the bank bank has no configuration 'tiny T=0.8'",
        "did you mean 'tiny T=0.7'?",
    ),
    Case(
        "Temperature for recorded samples",
        bank_sweep("--temperature 1"),
        2,
        "a bank's samples are recorded: temperature cannot be chosen any more",
        "leave it out, or draw new samples with --task and --model",
    ),
    Case(
        "Strategy that needs its own temperature, on recorded samples",
        bank_sweep(strategies="greedy"),
        2,
        "greedy cannot run on tiny T=0.7: it needs its own temperature, and recorded samples have theirs",
        "give --model instead of --bank, or another strategy",
    ),
    Case(
        "Run that does not exist",
        "report no-such-run",
        3,
        "no such run: no-such-run",
        "ttc ls runs lists the runs of results/",
    ),
    Case(
        "Folder that is no run",
        "show bank",
        3,
        "bank is not a run folder (it has no manifest.json)",
        "ttc ls runs lists the runs of results/",
    ),
    Case(
        "Problem that the run has not",
        "show run --problem nonsense",
        3,
        "run has no problem 'nonsense'",
        "allowed: pN, pN, pN",
    ),
]
