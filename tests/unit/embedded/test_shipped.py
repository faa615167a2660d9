"""The shipped reward model knows a right step from a corrupted one; what it achieves beyond that is in figures.json."""

import json
import random
from pathlib import Path

import pytest
import torch

from ttc.api import make_plan
from ttc.embedded.corpus import mixed_questions
from ttc.embedded.figures import with_another_result
from ttc.embedded.policy import Sample
from ttc.embedded.prm import boundary_logits, judge
from ttc.embedded.tokenizer import load_tokenizer

FOLDER = Path(__file__).parents[3] / "ttc" / "embedded"


@pytest.fixture(scope="module")
def shipped():
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(FOLDER / "prm", dtype=torch.float32).eval()
    return model, load_tokenizer(FOLDER / "policy")


def test_a_right_step_scores_above_a_corrupted_one(shipped):
    model, tokenizer = shipped
    rng = random.Random(0)
    pairs = {"arithmetic": [], "countdown": []}
    for question in mixed_questions("test", 100, 0):
        lines = question.solution(rng).split("\n")[:-1]
        place = rng.randrange(len(lines))
        good = "\n".join(lines[: place + 1]) + "\n"
        bad = "\n".join([*lines[:place], with_another_result(lines[place], rng)]) + "\n"
        assert question.is_right(good) and not question.is_right(bad)
        ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (good, bad)]
        data = judge([question], [[Sample(row, ended=False) for row in ids]], tokenizer)
        scores = [row[-1] for row in boundary_logits(model, data, int(tokenizer.pad_token_id))]
        pairs[question.family].append(scores[0] > scores[1])
    assert sum(pairs["countdown"]) >= 90
    assert sum(pairs["arithmetic"]) >= 90


def test_both_models_are_small_and_together_below_16_mb():
    files = [path for name in ("policy", "prm") for path in (FOLDER / name).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 16e6
    figures = json.loads((FOLDER / "figures.json").read_text())
    assert figures["prm"]["auroc_steps"] >= 0.9
    assert figures["all"]["weighted@16 - majority@16"][1] > 0.0


@pytest.mark.parametrize(("prm", "there"), [(None, True), ("off", False)])
def test_the_policy_brings_its_reward_model_unless_it_is_off(prm, there):
    config = {"task": "arithmetic", "strategies": "greedy", "budgets": [50], "limit": 1}
    bench = make_plan({**config, "prm": prm} if prm else config).benches[0]
    assert (bench.reward is not None) is there
    assert ("reward" in bench.subject.capabilities) is there
