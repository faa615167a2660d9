"""The process reward model: the policy's network and two layers more, taught where solutions go wrong.

A sample is judged at its boundaries: after each newline, after each `=`, and after its end token. Two exact labels
stand at each: whether everything up to there is right, and whether the sample that goes through there ends right.
The first is taught on careless solutions, without end: it says what an error is. The second is taught on the policy's
own samples: on average over them it is the chance that the policy ends correctly from there, which is what a score
should say (Snell et al. 2024, arXiv 2408.03314, section 5.1).

The added layers are needed: whether a result is right shows once it is written, in comparison with what the policy's
last layer expected, and only a later layer can look at that. From the labels alone they hardly learn to compare, so
while slips are taught, three more things are asked, by heads that are not kept: of the policy's last layer which token
comes next, as before, and which one it stands at; of the layer above it whether that is the token that was likeliest.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ttc.embedded.careless import Careless
from ttc.embedded.corpus import BATCHES_A_CHUNK, Question, encode, encode_questions, padded, shares
from ttc.embedded.policy import Sample, Schedule, fit, model_config

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast

NO_LABEL = -1
ADDED_LAYERS = 2
LAYERS = 6 + ADDED_LAYERS
BODY_SHARE = 0.08
"""Of the learning rate, for what the policy knows already."""
SLIP_WEIGHT = 10.0
"""Of the label at the token where a careless solution goes wrong, against that of any other token."""
SURPRISE_WEIGHT = 5.0
"""Of a token that was not the likeliest, against one that was."""


class Judged(NamedTuple):
    """A sample with its question, and the exact labels at its boundaries."""

    question: Question
    ids: list[int]
    """Question and solution, with the end token where it ended."""
    boundaries: list[int]
    """Positions in `ids` of the tokens that end a prefix."""
    right: list[bool]
    """Whether the prefix that ends there is right."""
    ends_right: bool


class Calibration(NamedTuple):
    """score = sigmoid((logit - mean) / sigma): Platt's, as vLLM's pooler takes it."""

    logit_mean: float
    logit_sigma: float


def judge(
    asked: Sequence[Question], samples: Sequence[Sequence[Sample]], tokenizer: PreTrainedTokenizerFast
) -> list[Judged]:
    """Label every boundary of every sample."""
    words = {i: word for word, i in tokenizer.get_vocab().items()}
    judged = []
    for question, prompt, drawn in zip(asked, encode_questions(asked, tokenizer), samples, strict=True):
        for sample in drawn:
            ids = [*prompt, *sample.tokens, *([int(tokenizer.eos_token_id)] if sample.ended else [])]
            boundaries, right, text, good = [], [], "", True
            for place, token in enumerate(sample.tokens):
                text += words.get(token, "?")
                if words.get(token) in ("\n", "="):
                    good = good and question.is_right(text)
                    boundaries.append(len(prompt) + place)
                    right.append(good)
            good = good and sample.ended and question.is_right(text) and text.endswith("}")
            if sample.ended:
                boundaries.append(len(ids) - 1)
                right.append(good)
            judged.append(Judged(question, ids, boundaries, right, good))
    return judged


def judge_careless(
    asked: Sequence[Question], written: Sequence[Careless], tokenizer: PreTrainedTokenizerFast
) -> list[Judged]:
    """Label every token of careless solutions, the end token too: whether the text is right up to it."""
    words = {i: word for word, i in tokenizer.get_vocab().items()}
    judged = []
    texts = encode([solution.text for solution in written], tokenizer)
    for question, prompt, tokens, solution in zip(
        asked, encode_questions(asked, tokenizer), texts, written, strict=True
    ):
        ids = [*prompt, *tokens, int(tokenizer.eos_token_id)]
        ends = [*accumulate(len(words[token]) for token in tokens), len(solution.text) + 1]
        wrong_from = ends[-1] if solution.wrong_from is None else solution.wrong_from
        right = [end <= wrong_from for end in ends]
        judged.append(Judged(question, ids, list(range(len(prompt), len(ids))), right, right[-1]))
    return judged


def new_prm(policy: Any, tokenizer: PreTrainedTokenizerFast, seed: int) -> Any:
    """Return an untaught reward model on the body of a policy, in float32.

    The layers above the policy's pass on what they get, until they have learnt.
    """
    import torch
    from torch.nn import init
    from transformers import Qwen2ForSequenceClassification

    torch.manual_seed(seed)
    config = model_config(tokenizer, LAYERS)
    config.num_labels = 1
    model = Qwen2ForSequenceClassification(config).float().eval()
    model.model.load_state_dict(policy.model.state_dict(), strict=False)
    for layer in model.model.layers[policy.config.num_hidden_layers :]:
        init.zeros_(layer.self_attn.o_proj.weight)
        init.zeros_(layer.mlp.down_proj.weight)
    return model


def teach_process(
    model: Any,
    policy: Any,
    pool: Sequence[Question],
    tokenizer: PreTrainedTokenizerFast,
    schedule: Schedule,
    seed: int,
    folder: Path,
    log: Callable[[int, float], None],
) -> None:
    """Teach a reward model on `policy` up to which token careless solutions of `pool` are right.

    `folder` and `log` as for a policy; the loss told holds those of the heads that are not kept.
    """
    import torch
    from torch.nn import functional

    often = shares(pool)

    def draw(rng: random.Random, count: int) -> list[Judged]:
        asked = rng.choices(pool, often, k=count)
        return judge_careless(asked, [question.careless_solution(rng) for question in asked], tokenizer)

    def batches(first: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return _batches(draw, int(tokenizer.pad_token_id), schedule.batch, seed, first, outcome=False)

    def loss(batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        ids, labels = batch
        out = model.model(input_ids=ids, use_cache=False, output_hidden_states=True)
        below, first = out.hidden_states[-1 - ADDED_LAYERS], out.hidden_states[-ADDED_LAYERS]
        known = labels != NO_LABEL
        before = torch.cat([torch.ones_like(labels[:, :1]), labels[:, :-1]], dim=1)
        slips = (labels == 0) & (before != 0)
        logits, right = model.score(out.last_hidden_state)[known][:, 0], labels[known].float()
        process = _weighted_loss(logits, right, torch.where(slips[known], SLIP_WEIGHT, 1.0))
        known, ids = known[:, 1:], ids[:, 1:]
        foretold = policy.lm_head(policy.model.norm(below[:, :-1]))[known]
        likeliest = (foretold.argmax(-1) == ids[known]).float()
        seen = model.asides["likeliest"](first[:, 1:][known])[:, 0]
        surprise = _weighted_loss(seen, likeliest, torch.where(likeliest == 0, SURPRISE_WEIGHT, 1.0))
        here = functional.cross_entropy(model.asides["here"](below[:, 1:][known]), ids[known])
        return process + surprise + here + functional.cross_entropy(foretold, ids[known])

    width, words = model.config.hidden_size, model.config.vocab_size
    model.asides = torch.nn.ModuleDict({"here": torch.nn.Linear(width, words), "likeliest": torch.nn.Linear(width, 1)})
    policy.requires_grad_(requires_grad=False)
    fit(model.train(), loss, batches, schedule, folder, log, lambda name: BODY_SHARE if _of_body(name) else 1.0)
    del model.asides
    model.eval()


def teach_outcome(
    model: Any,
    data: Sequence[Judged],
    tokenizer: PreTrainedTokenizerFast,
    schedule: Schedule,
    seed: int,
    folder: Path,
    log: Callable[[int, float], None],
) -> None:
    """Teach a reward model where the policy's samples end right; `folder` as for a policy."""
    import torch

    def draw(rng: random.Random, count: int) -> list[Judged]:
        return rng.choices(data, k=count)

    def batches(first: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return _batches(draw, int(tokenizer.pad_token_id), schedule.batch, seed, first, outcome=True)

    def loss(batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        ids, labels = batch
        logits, known = _logits(model, ids), labels != NO_LABEL
        return torch.nn.functional.binary_cross_entropy_with_logits(logits[known], labels[known].float())

    fit(model.train(), loss, batches, schedule, folder, log)
    model.eval()


def boundary_logits(model: Any, data: Sequence[Judged], pad: int, rows: int = 256) -> list[list[float]]:
    """Return the model's logit at every boundary of every sample."""
    import torch

    found: list[list[float]] = [[] for _ in data]
    order = sorted(range(len(data)), key=lambda i: len(data[i].ids))
    for first in range(0, len(order), rows):
        batch = order[first : first + rows]
        with torch.inference_mode():
            logits = _logits(model, padded([data[i].ids for i in batch], pad)).float()
        for row, i in enumerate(batch):
            found[i] = logits[row, data[i].boundaries].tolist()
    return found


def calibrate(logits: Sequence[Sequence[float]], data: Sequence[Judged]) -> Calibration:
    """Fit the score to the chance that the policy ends correctly (Platt 1999), on problems nothing else has seen.

    Every boundary of a sample has the outcome of the sample, or failure where it is wrong already.
    """
    import numpy as np
    from scipy.optimize import minimize
    from scipy.special import expit, log_expit

    x = np.concatenate([np.asarray(row) for row in logits])
    y = np.concatenate([np.full(len(row.right), float(row.ends_right)) for row in data])

    def cost(ab: Any) -> tuple[float, Any]:
        z = ab[0] * x + ab[1]
        error = expit(z) - y
        return -float(np.mean(y * log_expit(z) + (1 - y) * log_expit(-z))), np.array([np.mean(error * x), error.mean()])

    slope, offset = minimize(cost, np.array([1.0, 0.0]), jac=True).x
    return Calibration(-float(offset / slope), float(1 / slope))


def _logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Return one logit a position: a prefix's is that of its last token, as attention only looks back."""
    logits: torch.Tensor = model.score(model.model(input_ids=ids, use_cache=False).last_hidden_state)[..., 0]
    return logits


def _of_body(name: str) -> bool:
    """Say whether a parameter came from the policy."""
    added = [f"model.layers.{LAYERS - 1 - i}." for i in range(ADDED_LAYERS)]
    return name.startswith(("model.layers.", "model.embed_tokens.")) and not name.startswith(tuple(added))


def _weighted_loss(logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the weighted mean cross entropy of yes-or-no labels."""
    import torch

    losses = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    return (weights * losses).sum() / weights.sum()


def _batches(
    draw: Callable[[random.Random, int], list[Judged]], pad: int, batch: int, seed: int, first: int, *, outcome: bool
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield token ids and labels (batch, length) from batch number `first` on, without end."""
    chunk, skip = divmod(first, BATCHES_A_CHUNK)
    while True:
        rng = random.Random(f"{seed} prm {chunk}")  # noqa: S311 - not a secret
        drawn = sorted(draw(rng, batch * BATCHES_A_CHUNK), key=lambda row: len(row.ids))
        batches = [drawn[i : i + batch] for i in range(0, len(drawn), batch)]
        rng.shuffle(batches)
        for rows in batches[skip:]:
            ids = padded([row.ids for row in rows], pad)
            yield ids, _labels(rows, ids, outcome=outcome)
        chunk, skip = chunk + 1, 0


def _labels(rows: Sequence[Judged], ids: torch.Tensor, *, outcome: bool) -> torch.Tensor:
    import torch

    labels = torch.full_like(ids, NO_LABEL)
    for i, row in enumerate(rows):
        values = [row.ends_right] * len(row.right) if outcome else row.right
        labels[i, row.boundaries] = torch.tensor(values, dtype=labels.dtype)
    return labels
