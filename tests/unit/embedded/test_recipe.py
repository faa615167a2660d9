"""The recipe's parts, on a model of a few thousand parameters: what it learns is measured elsewhere."""

import itertools
import random

import numpy as np
import pytest
import torch

from ttc.embedded.corpus import IGNORED, mixed_questions, padded, questions, solution_batches
from ttc.embedded.policy import Sample, Schedule, as_llama, draw_samples, fit
from ttc.embedded.prm import LAYERS, NO_LABEL, boundary_logits, calibrate, judge, judge_careless, new_prm, teach_process
from ttc.embedded.tokenizer import (
    CHARACTERS,
    CONTEXT_TOKENS,
    END,
    PHRASES,
    QUESTION,
    SOLUTION,
    build_tokenizer,
    load_tokenizer,
)

TOKENIZER = build_tokenizer()


@pytest.fixture
def tiny():
    """A causal model and a classifier on the same body, random."""
    from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2ForSequenceClassification

    config = Qwen2Config(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=CONTEXT_TOKENS, pad_token_id=TOKENIZER.pad_token_id,
        eos_token_id=TOKENIZER.eos_token_id, bos_token_id=None, num_labels=1,
    )  # fmt: skip
    torch.manual_seed(0)
    return Qwen2ForCausalLM(config).eval(), Qwen2ForSequenceClassification(config).eval()


def ids_of(text):
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


def test_every_solution_survives_the_tokenizer_and_fits_the_context(tmp_path):
    TOKENIZER.save_pretrained(tmp_path)
    read = load_tokenizer(tmp_path)
    for question in questions("test", 20, 3):
        text = question.solution(random.Random(0))
        assert read.decode(read(text)["input_ids"]) == text
        assert len(ids_of(question.text)) + len(ids_of(text)) + 3 < 192
    assert len(read) == 5 + len(PHRASES) + len(CHARACTERS) <= 64


def test_a_digit_is_one_token_and_a_phrase_is_one_token():
    assert len(ids_of("123=456\n")) == 8
    assert len(ids_of("8-5=3, left 3 7")) == 9
    assert len(ids_of("\\boxed{24}")) == 4


def test_the_chat_template_wraps_the_question():
    text = TOKENIZER.apply_chat_template(
        [{"role": "user", "content": "1+2"}], tokenize=False, add_generation_prompt=True
    )
    assert text == f"{QUESTION}1+2{SOLUTION}"
    chat = [{"role": "user", "content": "1+2"}, {"role": "assistant", "content": "1+2=3"}]
    assert TOKENIZER.apply_chat_template(chat, tokenize=False) == f"{QUESTION}1+2{SOLUTION}1+2=3{END}"


def test_batches_are_the_same_from_any_start_and_teach_only_solutions():
    pool = questions("train", 5, 0)
    whole = list(itertools.islice(solution_batches(pool, TOKENIZER, 4, 7, 0), 70))
    later = list(itertools.islice(solution_batches(pool, TOKENIZER, 4, 7, 37), 33))
    assert all(
        torch.equal(a, b) for one, other in zip(whole[37:], later, strict=True) for a, b in zip(one, other, strict=True)
    )
    for ids, labels in whole[:5]:
        for row, label in zip(ids.tolist(), labels.tolist(), strict=True):
            text = TOKENIZER.decode([t for t in row if t != TOKENIZER.pad_token_id])
            question, _, solution = text.removeprefix(QUESTION).partition(SOLUTION)
            taught = TOKENIZER.decode([t for t in label if t != IGNORED])
            assert taught == solution + END
            asked = next(q for q in pool if q.text == question)
            slips = asked.family == "arithmetic"
            assert asked.is_right(solution) or slips


def test_the_mixture_is_what_a_sweep_runs_on():
    from ttc.core.protocols import LoadOptions
    from ttc_evals.countdown import Countdown

    loaded = Countdown().load(LoadOptions(limit=10, seed=0)).examples
    assert [q.text for q in mixed_questions("test", 10, 0)[10:]] == [e.question for e in loaded]


def test_an_interrupted_training_ends_where_an_unbroken_one_does(tiny, tmp_path):
    from copy import deepcopy

    pool = questions("train", 4, 0)

    def run(model, folder, stop_after=None):
        def loss(batch):
            if stop_after is not None and next(count) >= stop_after:
                raise KeyboardInterrupt
            ids, labels = batch
            return torch.nn.functional.cross_entropy(model(input_ids=ids).logits.flatten(0, 1), labels.flatten())

        count = itertools.count()
        schedule = Schedule(steps=6, batch=4, rate=1e-2, warmup=2)
        fit(
            model,
            loss,
            lambda first: solution_batches(pool, TOKENIZER, 4, 0, first),
            schedule,
            folder,
            lambda *_: None,
            save_every=2,
        )

    unbroken, broken, again = tiny[0], deepcopy(tiny[0]), deepcopy(tiny[0])
    run(unbroken, tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        run(broken, tmp_path / "b", stop_after=5)
    run(again, tmp_path / "b")
    for one, other in zip(unbroken.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_samples_follow_the_model_and_end_at_its_end_token(tiny):
    """Against the distribution of the first token, computed without a cache or padding."""
    model = tiny[0]
    asked = mixed_questions("test", 2, 0)
    drawn = draw_samples(model, asked, 600, 1.0, TOKENIZER, 5, rows=300)
    assert [len(d) for d in drawn] == [600] * len(asked)
    prompt = [*ids_of(f"{QUESTION}{asked[0].text}{SOLUTION}")]
    with torch.inference_mode():
        chances = torch.softmax(model(input_ids=torch.tensor([prompt])).logits[0, -1], 0).numpy()
    first = [s.tokens[0] if s.tokens else TOKENIZER.eos_token_id for s in drawn[0]]
    seen = np.bincount(first, minlength=64) / 600
    assert np.abs(seen - chances).sum() / 2 < 0.2
    assert all(TOKENIZER.eos_token_id not in s.tokens for d in drawn for s in d)


ARITHMETIC = "3+4*2"


@pytest.mark.parametrize(
    ("text", "ended", "right", "ends_right"),
    [
        ("4*2=8\n3+8=11\n\\boxed{11}", True, [True, True, True, True, True], True),
        ("4*2=9\n3+9=12\n\\boxed{12}", True, [True, False, False, False, False], False),
        ("4*2=8\n3+8=11\n\\boxed{12}", True, [True, True, True, True, False], False),
        ("3+4=7\n7*2=14\n\\boxed{14}", True, [False] * 5, False),
        ("4*2=8\n3+", False, [True, True], False),
        ("4*2=8\n3+8=11\n", True, [True, True, True, True, False], False),
    ],
)
def test_labels_at_the_boundaries(text, ended, right, ends_right):
    from ttc.embedded.corpus import Question

    question = Question("arithmetic", 1, ARITHMETIC, "11")
    row = judge([question], [[Sample(ids_of(text), ended)]], TOKENIZER)[0]
    assert (row.right, row.ends_right) == (right, ends_right)
    marks = [TOKENIZER.decode([row.ids[place]]) for place in row.boundaries]
    assert marks == (["=", "\n"] * 3)[: text.count("=") + text.count("\n")] + [END] * ended


def test_labels_of_careless_solutions_are_those_at_the_boundaries():
    rng = random.Random(0)
    asked = questions("test", 20, 0)
    written = [question.careless_solution(rng) for question in asked]
    for question, solution, row in zip(asked, written, judge_careless(asked, written, TOKENIZER), strict=True):
        exact = judge([question], [[Sample(ids_of(solution.text), True)]], TOKENIZER)[0]
        assert (row.ids, row.ends_right) == (exact.ids, exact.ends_right)
        labels = dict(zip(row.boundaries, row.right, strict=True))
        assert [labels[place] for place in exact.boundaries] == exact.right
        assert row.right == sorted(row.right, reverse=True)  # what went wrong stays wrong
        assert len(labels) == len(ids_of(solution.text)) + 1


def test_a_prefix_is_scored_by_its_last_token_alone(tiny):
    """What vLLM does with one prefix: the classifier of transformers, without anything after it."""
    classifier = tiny[1]
    asked = mixed_questions("test", 2, 1)
    samples = [[Sample(ids_of(q.solution(random.Random(1))), True)] for q in asked]
    data = judge(asked, samples, TOKENIZER)
    for row, logits in zip(data, boundary_logits(classifier, data, TOKENIZER.pad_token_id), strict=True):
        for place, logit in zip(row.boundaries, logits, strict=True):
            with torch.inference_mode():
                alone = classifier(input_ids=torch.tensor([row.ids[: place + 1]])).logits[0, 0]
            assert logit == pytest.approx(float(alone), abs=1e-5)


def test_an_untaught_reward_model_sees_what_the_policy_sees():
    from transformers import Qwen2ForCausalLM

    from ttc.embedded.policy import model_config

    policy = Qwen2ForCausalLM(model_config(TOKENIZER)).float().eval()
    model = new_prm(policy, TOKENIZER, 0)
    ids = torch.tensor([ids_of(f"{QUESTION}1+2{SOLUTION}1+2=")])
    with torch.inference_mode():
        own, other = (m.model(input_ids=ids).last_hidden_state for m in (policy, model))
    assert torch.allclose(own, other, atol=1e-5)
    assert model.config.num_hidden_layers == LAYERS > policy.config.num_hidden_layers


def test_a_reward_model_learns_what_a_slip_is(tiny, tmp_path):
    """A few steps lower the loss."""
    losses = []
    pool = questions("train", 6, 0)
    schedule = Schedule(steps=100, batch=16, rate=5e-3, warmup=5)
    teach_process(tiny[1], tiny[0], pool, TOKENIZER, schedule, 0, tmp_path, lambda _, loss: losses.append(loss))
    assert losses[-1] < losses[0]


def test_the_folder_computes_the_same_and_keeps_its_tokenizer(tiny, tmp_path):
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    ids = torch.tensor([ids_of(f"{QUESTION}3 5 7 8 -> 24{SOLUTION}8-5=3, left 3 3 7\n")])
    for model, kind in zip(tiny, (AutoModelForCausalLM, AutoModelForSequenceClassification), strict=True):
        for name, bias in model.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(bias)
        as_llama(model).save_pretrained(tmp_path / kind.__name__)
        TOKENIZER.save_pretrained(tmp_path / kind.__name__)
        read = kind.from_pretrained(tmp_path / kind.__name__).eval()
        with torch.inference_mode():
            assert torch.allclose(read(input_ids=ids).logits, model(input_ids=ids).logits, atol=1e-5)
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / kind.__name__)
        assert tokenizer.decode(ids[0]) == f"{QUESTION}3 5 7 8 -> 24{SOLUTION}8-5=3, left 3 3 7\n"


def test_the_calibration_finds_the_line_that_made_the_data():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, 20_000)
    wins = rng.random(20_000) < 1 / (1 + np.exp(-(logits - 1.5) / 2.0))
    row = judge(mixed_questions("test", 1, 0)[:1], [[Sample([], True)]], TOKENIZER)[0]
    data = [row._replace(right=[True], ends_right=bool(win)) for win in wins]
    found = calibrate([[logit] for logit in logits], data)
    assert found.logit_mean == pytest.approx(1.5, abs=0.1)
    assert found.logit_sigma == pytest.approx(2.0, abs=0.1)


def test_padding_has_no_label():
    assert padded([[1], [1, 2]], NO_LABEL).tolist() == [[1, NO_LABEL], [1, 2]]
