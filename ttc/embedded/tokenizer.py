r"""The tokenizer of the shipped pair: one token a character, and one for each of the fixed phrases of a solution.

Digits stand alone, so that carrying is something a small model can learn; the newline and `=` are tokens of their
own, so that a step or a plan can end in a stop token.
"""

from __future__ import annotations

import string
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

CONTEXT_TOKENS = 512
PAD, END, UNKNOWN, QUESTION, SOLUTION = "<pad>", "<end>", "<unknown>", "<question>", "<solution>"
PHRASES = (", left ", " -> ", "\\boxed{")
CHARACTERS = string.digits + "+-*/()=,>\\{} \n" + string.ascii_lowercase
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}" + SOLUTION + "{{ message['content'] }}" + END + "{% else %}" + QUESTION +
    "{{ message['content'] }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}" + SOLUTION + "{% endif %}"
)  # fmt: skip


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Return the tokenizer, with its chat template. What it has no token for becomes `<unknown>`."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [PAD, END, UNKNOWN, QUESTION, SOLUTION, *PHRASES, *CHARACTERS]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=UNKNOWN))
    phrases = "|".join(phrase.replace("\\", r"\\").replace("{", r"\{") for phrase in PHRASES)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(rf"{phrases}|[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        additional_special_tokens=[QUESTION, SOLUTION],
        model_max_length=CONTEXT_TOKENS,
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Read a saved tokenizer."""
    from transformers import PreTrainedTokenizerFast

    loaded: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder)
    return loaded
