"""A made-up run: journals written line by line, as a sweep would."""

import json

import numpy as np

from ttc.store.journal import JournalWriter
from ttc.store.rundir import RunDir


def cell(name, strategy="self-consistency", *, budget=512, allocator="uniform", **other):
    line = {
        "kind": "cell", "cell": name, "task": "gsm8k", "model": "tiny", "strategy": strategy, "strategy_params": "{}",
        "allocator": allocator, "allocator_params": "{}", "budget": budget, "seed": 0, "draws": 1, "n_problems": 2,
        "oracle": False, "parameters": None, "reward_parameters": None,
    }  # fmt: skip
    return {**line, **other}


def record(name, problem, score=1.0, tokens=100, **other):
    line = {
        "cell": name, "problem_id": problem, "grant_tokens": 512, "answer": "4", "correct": bool(score), "score": score,
        "status": "ok", "stop_reason": "finished", "completion_tokens": tokens, "probe_tokens": 0, "prompt_tokens": 20,
        "cached_tokens": 5, "reward_tokens": 0, "sequential_tokens": tokens, "kv_token_steps": None, "calls": 1,
        "wall_s": 0.5,
        "candidates": [{"index": 0, "answer": "4", "correct": bool(score), "score": None, "logprob": -1.0,
                        "completion_tokens": int(tokens), "finish": "stop", "text": "4"}],
        "allocation": None,
    }  # fmt: skip
    return {**line, **other}


def failed(name, problem, **other):
    return record(name, problem, None, answer=None, correct=None, status="error", candidates=[], **other)


def end(name, wall_s=None):
    return {"kind": "cell_end", "cell": name, "wall_s": wall_s}


def run_of(path, lines, **manifest):
    path.mkdir(parents=True, exist_ok=True)
    (path / "manifest.json").write_text(json.dumps({"spec_id": "abc", "state": "finished", **manifest}))
    with JournalWriter(path / "journal", "main") as journal:
        for line in lines:
            journal.append(line)
    return RunDir(path)


def sweep(strategies, budgets, *, problems, gain=0.1, seed=0, **other):
    """Cells whose accuracy grows with log tokens, on shared difficulties; `strategies`: name -> offset."""
    generator = np.random.default_rng(seed)
    difficulty = generator.random(problems)
    lines = []
    for (strategy, allocator), offset in strategies.items():
        for budget in budgets:
            name = f"{strategy}-{allocator}-{budget}-{other.get('model', '')}-{other.get('strategy_params', '')}"
            described = {"n_problems": problems, "oracle": strategy == "coverage", **other}
            lines.append(cell(name, strategy, budget=budget, allocator=allocator, **described))
            chance = 0.35 + offset + gain * np.log2(budget / budgets[0])
            spent = generator.uniform(0.7, 0.97, problems) * budget
            lines += [record(name, f"p{i:05}", float(difficulty[i] < chance), int(spent[i])) for i in range(problems)]
            lines.append(end(name, 3.0))
    return lines
