"""The policy: a small Qwen2, trained on solutions of both families, and samples drawn from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ttc.embedded.corpus import IGNORED, Question, encode_questions, solution_batches
from ttc.embedded.state import load_state, save_state
from ttc.embedded.tokenizer import CONTEXT_TOKENS

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast, Qwen2Config

LONGEST_SOLUTION = 192
"""Cap of a sample, in tokens; the longest right solution has fewer."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast a model is trained. Learning rates fall linearly to zero after the warm-up."""

    steps: int
    batch: int
    rate: float
    """Of the vectors and embeddings, by AdamW; the matrices between them take it by Muon, scaled alike."""
    warmup: int = 100

    def at(self, step: int) -> float:
        """Return the share of the rate that a step uses."""
        return min(1.0, (step + 1) / self.warmup) * max(0.0, 1 - step / self.steps)


class Sample(NamedTuple):
    """One solution that the policy wrote, as token ids without the end token, and whether it ended by itself."""

    tokens: list[int]
    ended: bool


def model_config(tokenizer: PreTrainedTokenizerFast, layers: int = 6) -> Qwen2Config:
    """Return the shape of the models: 0.2 M parameters a layer."""
    from transformers import Qwen2Config

    return Qwen2Config(
        vocab_size=64,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT_TOKENS,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        dtype="bfloat16",
    )


def as_llama(model: Any) -> Any:
    """Return a Qwen2 model as the Llama model that computes the same.

    transformers gives every Qwen2 folder the tokenizer of that family, whatever the folder holds; a Llama folder keeps
    its own. Llama's biases cover the output projection too: zero there.
    """
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

    left_out = (
        "model_type",
        "architectures",
        "use_sliding_window",
        "sliding_window",
        "max_window_layers",
        "layer_types",
    )
    shape = {key: value for key, value in model.config.to_dict().items() if key not in left_out}
    config = LlamaConfig(**shape, attention_bias=True)
    classifier = hasattr(model, "score")
    twin = (LlamaForSequenceClassification if classifier else LlamaForCausalLM)(config).to(model.dtype)
    weights = dict(model.state_dict())
    for name, tensor in twin.state_dict().items():
        if name.endswith("o_proj.bias"):
            weights[name] = tensor.new_zeros(tensor.shape)
    twin.load_state_dict(weights)
    return twin.eval()


def train_policy(
    pool: Sequence[Question],
    tokenizer: PreTrainedTokenizerFast,
    schedule: Schedule,
    seed: int,
    folder: Path,
    log: Callable[[int, float], None],
) -> Any:
    """Train a policy from nothing, or go on from the state in `folder`; returns it in float32.

    `log` is told the step and the mean loss of a solution's token, in nats.
    """
    import torch
    from transformers import Qwen2ForCausalLM

    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(model_config(tokenizer)).float().train()

    def loss(batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        ids, labels = batch
        logits = model(input_ids=ids, use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)

    def batches(first: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return solution_batches(pool, tokenizer, schedule.batch, seed, first)

    fit(model, loss, batches, schedule, folder, log)
    return model.eval()


def fit(
    model: Any,
    loss_of: Callable[[Any], torch.Tensor],
    batches: Callable[[int], Iterator[Any]],
    schedule: Schedule,
    folder: Path,
    log: Callable[[int, float], None],
    share: Callable[[str], float] = lambda name: 1.0,
    save_every: int = 200,
) -> None:
    """Run the steps that the state in `folder` has not seen. Killed at any moment, the next call goes on.

    `share` says which part of the rate a parameter takes, by its name.
    """
    import torch

    grouped: dict[tuple[bool, float], list[Any]] = {}
    for name, parameter in model.named_parameters():
        grouped.setdefault((parameter.ndim == 2 and "layers" in name, share(name)), []).append(parameter)
    hidden, others = (
        [{"params": held, "share": part} for (matrix, part), held in grouped.items() if matrix is kind]
        for kind in (True, False)
    )
    optimizers = [
        torch.optim.Muon(hidden, lr=schedule.rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=schedule.rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    start = load_state(folder, model, optimizers)
    source = batches(start)
    total = torch.zeros(())
    for step in range(start, schedule.steps):
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = group["share"] * schedule.rate * schedule.at(step)
        loss = loss_of(next(source))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        total += loss.detach()
        if (step + 1) % 50 == 0:
            log(step + 1, float(total) / 50)
            total.zero_()
        if (step + 1) % save_every == 0 or step + 1 == schedule.steps:
            save_state(folder, step + 1, model, optimizers)


def draw_samples(
    model: Any,
    asked: Sequence[Question],
    n: int,
    temperature: float,
    tokenizer: PreTrainedTokenizerFast,
    seed: int,
    rows: int = 512,
) -> list[list[Sample]]:
    """Return `n` samples of each question."""
    import torch

    prompts = encode_questions(asked, tokenizer)
    wanted = sorted((i for i in range(len(asked)) for _ in range(n)), key=lambda i: len(prompts[i]))
    found: list[list[Sample]] = [[] for _ in asked]
    torch.manual_seed(seed)
    pad, end = int(tokenizer.pad_token_id), int(tokenizer.eos_token_id)
    for first in range(0, len(wanted), rows):
        batch = wanted[first : first + rows]
        width = max(len(prompts[i]) for i in batch)
        ids = torch.tensor([[pad] * (width - len(prompts[i])) + prompts[i] for i in batch])
        with torch.inference_mode():
            out = model.generate(
                input_ids=ids,
                attention_mask=(ids != pad).long(),
                do_sample=True,
                temperature=temperature,
                top_k=0,
                max_new_tokens=LONGEST_SOLUTION,
                pad_token_id=pad,
                eos_token_id=end,
            )[:, width:].tolist()
        for i, row in zip(batch, out, strict=True):
            length = row.index(end) if end in row else len(row)
            found[i].append(Sample(row[:length], end in row))
    return found
