"""A random model that starts in seconds, for tests and benchmarks of engines. Its answers mean nothing."""

from __future__ import annotations

from pathlib import Path

CONTEXT_TOKENS = 512
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_tiny_model(folder: Path, chat_template: str | None = CHAT_TEMPLATE) -> None:
    """Write a random two-layer Qwen2 with one token a byte, in float32 (0.4 M parameters)."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
    )
    if chat_template is not None:
        wrapped.chat_template = chat_template
    wrapped.save_pretrained(folder)
    config = Qwen2Config(
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
    torch.manual_seed(7)
    Qwen2ForCausalLM(config).float().save_pretrained(folder)
