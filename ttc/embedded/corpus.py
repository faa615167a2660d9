"""What the pair is trained on: problems of both families, their solutions, and both as token ids."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ttc.core.types import Example
from ttc.embedded import careless
from ttc.embedded.careless import Careless
from ttc_evals import arithmetic, countdown

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast

IGNORED = -100
"""Label of a token that no loss is taken on."""
_SHARE = {
    "arithmetic": {1: 1, 2: 1, 3: 2, 4: 2, 5: 2, 6: 2, 7: 2, 8: 2},
    "countdown": {1: 2, 2: 2, 3: 2, 4: 2, 5: 2},
}
"""How often each difficulty is drawn, relative to the others."""
BATCHES_A_CHUNK = 32
"""Batches are made this many at a time, by a seed of their own, so that a training can go on anywhere."""


class Question(NamedTuple):
    """A problem, and which family it is of."""

    family: str
    level: int
    text: str
    gold: str

    def solution(self, rng: random.Random) -> str:
        """Return a right solution: the one of arithmetic, one of those of countdown."""
        if self.family == "arithmetic":
            return arithmetic.reference_solution(self.text)
        return countdown.reference_solution(self.text, rng)

    def careless_solution(self, rng: random.Random) -> Careless:
        """Return a solution of somebody who slips: what the policy learns in arithmetic, and the reward model to see."""
        write = careless.arithmetic_solution if self.family == "arithmetic" else careless.countdown_solution
        return write(self.text, rng)

    def is_right(self, prefix: str) -> bool:
        """Say whether a prefix of a solution is right so far."""
        judge = arithmetic.prefix_is_right if self.family == "arithmetic" else countdown.prefix_is_right
        return judge(self.text, prefix)


def questions(split: str, per_level: int, seed: int) -> list[Question]:
    """Return `per_level` different problems of each difficulty of both families."""
    found = []
    for family, module in (("arithmetic", arithmetic), ("countdown", countdown)):
        for level in module.LEVELS:
            found += [_question(family, e) for e in module.generate(split, per_level, seed, level)]
    return found


def mixed_questions(split: str, per_family: int, seed: int) -> list[Question]:
    """Return as many problems of each family, their difficulties in turn: what `ttc sweep` runs on by default."""
    return [
        _question(family, example)
        for family, module in (("arithmetic", arithmetic), ("countdown", countdown))
        for example in module.generate(split, per_family, seed)
    ]


def solution_batches(
    pool: Sequence[Question], tokenizer: PreTrainedTokenizerFast, batch: int, seed: int, first: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield token ids and labels (batch, length), padded on the right, from batch number `first` on, without end.

    Solutions of arithmetic are careless ones, of countdown right ones. Labels are the next tokens of the solution;
    the question is not learnt. Batches hold solutions of like lengths, so that little is padding. Batch i is the
    same whatever `first` is.
    """
    weights = shares(pool)
    chunk, skip = divmod(first, BATCHES_A_CHUNK)
    while True:
        rng = random.Random(f"{seed} {chunk}")  # noqa: S311 - not a secret
        drawn = rng.choices(pool, weights, k=batch * BATCHES_A_CHUNK)
        prompts = encode_questions(drawn, tokenizer)
        texts = [q.careless_solution(rng).text if q.family == "arithmetic" else q.solution(rng) for q in drawn]
        solutions = [[*ids, tokenizer.eos_token_id] for ids in encode(texts, tokenizer)]
        order = sorted(range(len(drawn)), key=lambda i: len(prompts[i]) + len(solutions[i]))
        batches = [order[i : i + batch] for i in range(0, len(order), batch)]
        rng.shuffle(batches)
        for rows in batches[skip:]:
            labels = [[IGNORED] * (len(prompts[i]) - 1) + solutions[i] for i in rows]
            yield (
                padded([[*prompts[i], *solutions[i][:-1]] for i in rows], int(tokenizer.pad_token_id)),
                padded(labels, IGNORED),
            )
        chunk, skip = chunk + 1, 0


def shares(pool: Sequence[Question]) -> list[float]:
    """Return how often each question is drawn in training, relative to the others."""
    held = Counter((question.family, question.level) for question in pool)
    return [_SHARE[q.family][q.level] / held[q.family, q.level] for q in pool]


def encode(texts: Sequence[str], tokenizer: PreTrainedTokenizerFast) -> list[list[int]]:
    """Return the token ids of solutions."""
    ids: list[list[int]] = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return ids


def encode_questions(asked: Sequence[Question], tokenizer: PreTrainedTokenizerFast) -> list[list[int]]:
    """Return the token ids of questions, by the chat template."""
    chats = [[{"role": "user", "content": question.text}] for question in asked]
    texts = tokenizer.apply_chat_template(chats, tokenize=False, add_generation_prompt=True)
    return encode([str(text) for text in texts], tokenizer)


def padded(rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    """Return rows of different lengths as one matrix, filled on the right."""
    import torch

    width = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows])


def _question(family: str, example: Example) -> Question:
    return Question(family, int(example.meta["difficulty"]), example.question, example.gold)
