"""What prompted emulations share: adding to a question, answering without thinking, reading JSON out of prose."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ttc.core.profiles import ModelProfile
from ttc.core.protocols import Context
from ttc.core.types import Completion, Message, Problem, Prompt


def extended(problem: Problem, ctx: Context, instruction: str) -> Prompt:
    """Return the problem's prompt with an instruction after the question; its own prompt where there is none."""
    if not instruction:
        return problem.prompt
    *before, last = problem.prompt.messages
    return ctx.render([*before, Message(last.role, f"{last.content}\n\n{instruction}")])


def asked(ctx: Context, text: str, *, think: bool = True) -> Prompt:
    """Return the prompt of one message; without thinking where the model can do so."""
    return directly(ctx, ctx.render([Message("user", text)]), think=think)


def directly(ctx: Context, prompt: Prompt, *, think: bool) -> Prompt:
    """Return a prompt as it is, or with the thinking already closed; an engine that only takes chats decides itself."""
    if think or not (ctx.profile.think_open and ctx.profile.no_think and prompt.ids):
        return prompt
    return prompt.extend(ctx.encode(ctx.profile.no_think))


def visible(response: Completion, profile: ModelProfile) -> str:
    """Return what follows a response's thinking; empty where it was cut while thinking."""
    if not (profile.think_open and profile.think_close):
        return response.text.strip()
    _, closed, text = response.text.rpartition(profile.think_close)
    return "" if response.finish == "length" and not closed else text.strip()


def read_json(text: str) -> Any:
    """Return the first JSON object or list in a text, None where there is none."""
    decoder = json.JSONDecoder()
    for start, character in enumerate(text):
        if character in "{[":
            try:
                return decoder.raw_decode(text, start)[0]
            except json.JSONDecodeError:
                continue
    return None


def strings(values: Any) -> list[str]:
    """Return the texts of a JSON list, or of an object's values in their order; empty where it holds others."""
    found: Sequence[Any] = list(values.values()) if isinstance(values, dict) else values
    if not isinstance(found, list) or not all(isinstance(value, str) and value.strip() for value in found):
        return []
    return [value.strip() for value in found]
