r"""What a strategy must know of how a model writes: its steps, plans, thinking and forced answers.

Separators are stop strings: they hold for any tokenizer. Strings are inserted only by `Context.encode`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any

from pydantic import Field

from ttc.core.errors import ConfigError, did_you_mean
from ttc.core.parameters import validated
from ttc.core.types import Completion, Sampling, Tokens

LONGEST_STEP = 256
"""Default cap of one step in tokens, or a typical whole sample where that is less."""

Length = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, slots=True)
class ModelProfile:
    r"""How a model writes.

    Attributes:
        name: of the profile.
        step_stop: strings that end a step.
        step_stop_token_ids: tokens that end a step, beside the strings.
        plan_stop: strings that end the planning part of a step; the rest of the step is its execution.
        step_format: what to ask for so that a model writes its steps in that form; empty where it does anyway.
        think_open: what opens the thinking part; empty where thinking has no opening.
        think_close: what closes it, and starts the answer; empty where all of a response is one text.
        opens_thinking: whether the chat template itself ends with `think_open`.
        no_think: text after the prompt that makes the model answer without thinking; empty where there is none.
        wait: text that makes a model go on where it wanted to end; empty where nothing does.
        answer_suffix: text that makes a model answer now, thinking closed.
        answer_stop: strings that end such an answer; one that is `}` ends it where its braces are balanced.
        template_flags: extra variables of the chat template, such as `enable_thinking`.
        instructable: whether the model follows written instructions; one trained on bare questions does not.
        sample_tokens: typical tokens of a whole sample (t_hat).
        step_tokens: typical tokens of a step (s_hat).
        steps: typical number of steps (d_hat).
    """

    name: str
    step_stop: tuple[str, ...] = ("\n\n",)
    step_stop_token_ids: Tokens = ()
    plan_stop: tuple[str, ...] = ("\nExecution:",)
    step_format: str = (
        "Work in steps, separated by blank lines. Write each step as one line 'Plan: ...' that says what to do"
        " next, then one line 'Execution: ...' that does it. End with the final answer in \\boxed{}."
    )
    think_open: str = ""
    think_close: str = ""
    opens_thinking: bool = False
    no_think: str = ""
    wait: str = "Wait"
    answer_suffix: str = "\n\nFinal answer: \\boxed{"
    answer_stop: tuple[str, ...] = ("}",)
    template_flags: Mapping[str, bool | int | str] = field(default_factory=dict)
    instructable: bool = True
    sample_tokens: Length | None = None
    step_tokens: Length | None = None
    steps: Length | None = None

    def step_sampling(self, sampling: Sampling) -> Sampling:
        """Return a copy that stops after one step, at the latest after the least of 256 and t_hat tokens."""
        return _stopping(sampling, self.step_stop, self.step_stop_token_ids, self._step_cap())

    def plan_sampling(self, sampling: Sampling) -> Sampling:
        """Return a copy that stops after the planning part of a step, at the latest after the step."""
        stop = (*self.plan_stop, *self.step_stop)
        return _stopping(sampling, stop, self.step_stop_token_ids, self._step_cap())

    def is_end(self, completion: Completion) -> bool:
        """Say whether a completion ended by itself: neither cut nor stopped at a separator."""
        return completion.finish == "stop" and not self.is_separator(completion.stop_reason)

    def is_separator(self, stop_reason: int | str | None) -> bool:
        """Say whether a response goes on after this stop: the end of a plan, a step or the thinking."""
        if isinstance(stop_reason, int):
            return stop_reason in self.step_stop_token_ids
        return bool(stop_reason) and stop_reason in (*self.step_stop, *self.plan_stop, self.think_close)

    def _step_cap(self) -> int:
        return min(LONGEST_STEP, self.sample_tokens or LONGEST_STEP)


def _stopping(sampling: Sampling, stop: tuple[str, ...], token_ids: Tokens, cap: int) -> Sampling:
    return replace(
        sampling,
        stop=tuple(dict.fromkeys((*sampling.stop, *stop))),
        stop_token_ids=tuple(dict.fromkeys((*sampling.stop_token_ids, *token_ids))),
        max_tokens=min(sampling.max_tokens, cap),
    )


DEFAULT = ModelProfile("default")
"""An instruct model that writes its steps as paragraphs."""

_CLOSED = "\n</think>\n\nFinal answer: \\boxed{"

PROFILES: Mapping[str, ModelProfile] = {
    "default": DEFAULT,
    "qwen3": ModelProfile(
        "qwen3",
        think_open="<think>",
        think_close="</think>",
        # What the family's chat template itself writes with enable_thinking=False.
        no_think="<think>\n\n</think>\n\n",
        answer_suffix=_CLOSED,
    ),
    "r1": ModelProfile(
        "r1",
        think_open="<think>",
        think_close="</think>",
        opens_thinking=True,
        no_think="\n\n</think>\n\n",
        answer_suffix=_CLOSED,
    ),
    # A solution is lines; up to and including `=` is the plan; `\boxed{N}` is the last line and ends the text.
    "embedded": ModelProfile(
        "embedded",
        step_stop=("\n",),
        plan_stop=("=",),
        step_format="",
        think_close="\\boxed{",
        no_think="\\boxed{",
        wait="",
        answer_suffix="\\boxed{",
        instructable=False,
        sample_tokens=44,
        step_tokens=9,
        steps=5,
    ),
}

_LABELS = (
    (re.compile(r"^embedded\b", re.IGNORECASE), "embedded"),
    (re.compile(r"deepseek-r1|r1-distill|\bqwq\b", re.IGNORECASE), "r1"),
    # The family's models without a thinking mode.
    (re.compile(r"qwen3.*(instruct|coder|base)", re.IGNORECASE), "default"),
    (re.compile(r"qwen3", re.IGNORECASE), "qwen3"),
)
_ARCHITECTURES = {"Qwen3ForCausalLM": "qwen3", "Qwen3MoeForCausalLM": "qwen3"}


def match_profile(label: str, architecture: str | None = None) -> ModelProfile:
    """Return the built-in profile of a model by its label, else by its architecture, else the default."""
    name = next((name for pattern, name in _LABELS if pattern.search(label)), None)
    return PROFILES[name or _ARCHITECTURES.get(architecture or "", "default")]


def choose_profile(given: str | Mapping[str, Any] | None, label: str, architecture: str | None = None) -> ModelProfile:
    """Return the profile of a model: the matched one, a named one, or one with some fields given.

    Fields that are given replace those of the profile that `name` names, else of the matched one.

    Raises:
        ConfigError: an unknown name or field, or a value that does not fit.
    """
    matched = match_profile(label, architecture)
    if given is None:
        return matched
    if isinstance(given, str):
        if given not in PROFILES:
            raise ConfigError(f"unknown model profile {given!r}", did_you_mean(given, PROFILES))
        return PROFILES[given]
    base = PROFILES.get(str(given.get("name", "")), matched)
    return validated(ModelProfile, {**asdict(base), **given}, f"the profile of {label}")
