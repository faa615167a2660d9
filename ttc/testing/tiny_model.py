"""A random model that starts in seconds, for tests and benchmarks of engines. Its answers mean nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import Qwen2Config

CONTEXT_TOKENS = 512
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


SEPARATOR = "<extra_0>"


def build_tiny_model(folder: Path, chat_template: str | None = CHAT_TEMPLATE) -> None:
    """Write a random two-layer Qwen2 with one token a byte, in float32 (0.4 M parameters)."""
    import torch
    from transformers import Qwen2ForCausalLM

    config = _write_tokenizer(folder, chat_template)
    torch.manual_seed(7)
    Qwen2ForCausalLM(config).float().save_pretrained(folder)


def build_tiny_classifier(folder: Path, num_labels: int = 1) -> None:
    """Write a random `Qwen2ForSequenceClassification` with the tiny model's tokenizer."""
    import torch
    from transformers import Qwen2ForSequenceClassification

    config = _write_tokenizer(folder, CHAT_TEMPLATE)
    config.num_labels = num_labels
    torch.manual_seed(8)
    Qwen2ForSequenceClassification(config).float().save_pretrained(folder)


def build_tiny_prm(folder: Path) -> None:
    """Write a random `Qwen2ForProcessRewardModel`: a Qwen2, and two layers that give two numbers a token.

    The architecture is that of Qwen2.5-Math-PRM, which transformers itself does not know.
    """
    import torch
    from transformers import Qwen2Model, Qwen2PreTrainedModel

    class Qwen2ForProcessRewardModel(Qwen2PreTrainedModel):
        def __init__(self, config: Qwen2Config) -> None:
            super().__init__(config)
            width = config.hidden_size
            self.model = Qwen2Model(config)
            self.score = torch.nn.Sequential(torch.nn.Linear(width, width), torch.nn.ReLU(), torch.nn.Linear(width, 2))
            self.post_init()  # type: ignore[no-untyped-call]

    config = _write_tokenizer(folder, CHAT_TEMPLATE, SEPARATOR)
    torch.manual_seed(9)
    Qwen2ForProcessRewardModel(config).save_pretrained(folder)


def _write_tokenizer(folder: Path, chat_template: str | None, *special: str) -> Qwen2Config:
    """Write a tokenizer of one token a byte and return the configuration of a model that reads it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>", *special],
    )
    if chat_template is not None:
        wrapped.chat_template = chat_template
    wrapped.save_pretrained(folder)
    return Qwen2Config(
        vocab_size=len(wrapped),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT_TOKENS,
        initializer_range=0.12,
        tie_word_embeddings=False,
        eos_token_id=wrapped.eos_token_id,
        bos_token_id=None,
        pad_token_id=wrapped.pad_token_id,
        dtype="float32",
    )
