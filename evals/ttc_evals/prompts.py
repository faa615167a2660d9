"""The wording of the built-in tasks: zero-shot, with the answer's place said."""

from __future__ import annotations

MATH = """{question}

Reason step by step, and put your final answer within \\boxed{}."""

CHOICE = """{question}

Reason step by step, and put the letter of your final answer within \\boxed{}."""

CODE = """{question}

Reason step by step, then give your final answer as one Python code block that holds the whole function, with its \
imports."""
