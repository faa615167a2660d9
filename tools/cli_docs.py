"""Write docs/cli.md from the program itself: its commands, their options, and the exit codes.

.venv/bin/python tools/cli_docs.py
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import typer.models

from ttc.cli.main import INTERRUPTED, app
from ttc.core import errors

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "cli.md"
HEAD = """# Commands

Written by `tools/cli_docs.py` from the program itself; a test compares the two. `ttc COMMAND --help` says the same.
Results go to stdout, progress and warnings to stderr. `ttc --debug COMMAND` shows the traceback of an error.
"""


_Word = tuple[str, inspect.Parameter, Any, typer.models.ParameterInfo]
"""How it is typed, and what was declared: name and default, type, help."""


def document() -> str:
    """Return docs/cli.md."""
    commands = [(command.name or "", command.callback) for command in app.registered_commands]
    index = [f"- [`ttc {name}`](#ttc-{name}): {_about(function)[0]}" for name, function in commands]
    parts = [HEAD, *index, "", *(line for name, function in commands for line in _command(name, function))]
    return "\n".join([*parts, *_exit_codes()]) + "\n"


def _about(function: Callable[..., Any] | None) -> list[str]:
    return inspect.cleandoc(function.__doc__ or "").split("\n\n") if function is not None else [""]


def _command(name: str, function: Callable[..., Any] | None) -> Iterator[str]:
    if function is None:
        return
    hints = typing.get_type_hints(function, include_extras=True)
    arguments: list[_Word] = []
    options: list[_Word] = []
    for parameter in inspect.signature(function).parameters.values():
        kind, info = typing.get_args(hints[parameter.name])[:2]
        is_argument = isinstance(info, typer.models.ArgumentInfo)
        (arguments if is_argument else options).append((_shown(parameter, kind, info), parameter, kind, info))
    yield f"## ttc {name}\n"
    yield from (f"{' '.join(text.split())}\n" for text in _about(function))
    words = [shown if _needed(parameter) else f"[{shown}]" for shown, parameter, _, _ in arguments]
    words += [shown for shown, parameter, _, _ in options if _needed(parameter)]
    optional = ["[OPTIONS]"] if any(not _needed(parameter) for _, parameter, _, _ in options) else []
    yield f"```\n{' '.join(['ttc', name, *words, *optional])}\n```\n"
    if arguments or options:
        yield "| | | default |\n|---|---|---|"
        for shown, parameter, kind, info in [*arguments, *options]:
            text = str(info.help or "").replace("|", "\\|").replace("<", "&lt;")
            if isinstance(info, typer.models.ArgumentInfo) and (choices := _choices(kind)):
                text += " One of " + ", ".join(f"`{choice}`" for choice in choices) + "."
            yield f"| `{shown}` | {text} | {_default(parameter)} |".replace("|  |", "| |")
        yield ""


def _shown(parameter: inspect.Parameter, kind: Any, info: typer.models.ParameterInfo) -> str:
    """Return an argument or an option as it is typed, with a word for its value."""
    several, kind = _single(kind)
    if isinstance(info, typer.models.ArgumentInfo):
        return parameter.name.rstrip("_").upper() + ("..." if several else "")
    words = [info.default, *(info.param_decls or ())]  # inside Annotated the first word stands where a default would
    declared = next((word for word in words if isinstance(word, str) and word.startswith("--")), None)
    flag = declared or "--" + parameter.name.rstrip("_").replace("_", "-")
    if kind is bool:
        return flag
    if choices := _choices(kind):
        return f"{flag} " + "\\|".join(choices)
    return f"{flag} { ({Path: 'PATH', int: 'N', float: 'X'}.get(kind, 'TEXT')) }" + ("..." if several else "")


def _single(kind: Any) -> tuple[bool, Any]:
    """Return whether several are taken, and the type of one."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        (kind,) = (inner for inner in typing.get_args(kind) if inner is not type(None))
    if typing.get_origin(kind) is list:
        return True, typing.get_args(kind)[0]
    return False, kind


def _choices(kind: Any) -> list[str]:
    is_choice = isinstance(kind, type) and issubclass(kind, Enum)
    return [str(member.value) for member in kind] if is_choice else []


def _needed(parameter: inspect.Parameter) -> bool:
    return parameter.default is inspect.Parameter.empty


def _default(parameter: inspect.Parameter) -> str:
    if _needed(parameter):
        return "required"
    value = parameter.default.value if isinstance(parameter.default, Enum) else parameter.default
    return "" if value is None or value is False else f"`{value}`"


def _exit_codes() -> Iterator[str]:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.TtcError)]
    codes = {kind.exit_code: inspect.cleandoc(kind.__doc__ or "").partition("\n")[0] for kind in kinds}
    codes[errors.TtcError.exit_code] = "A defect of this program; `--debug` shows where."
    codes |= {0: "Done.", INTERRUPTED: "Interrupted; what is finished is kept, and the same command goes on."}
    yield "## Exit codes\n"
    yield "| code | meaning |\n|---|---|"
    yield from (f"| {code} | {codes[code]} |" for code in sorted(codes))
    yield "\n[Each message](errors.md), with its hint and its code."


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
