"""Write docs/cli.md and docs/config.md from the program itself: commands, options, exit codes; a sweep file's keys.

.venv/bin/python tools/cli_docs.py
"""

from __future__ import annotations

import ast
import inspect
import types
import typing
from collections.abc import Callable, Iterator
from enum import Enum
from itertools import pairwise
from pathlib import Path
from typing import Any

import typer.models
from pydantic import BaseModel

from ttc.cli.main import INTERRUPTED, app
from ttc.core import errors, specs

DOCS = Path(__file__).resolve().parents[1] / "docs"
HEAD = """# Commands

Written by `tools/cli_docs.py` from the program itself; a test compares the two. `ttc COMMAND --help` says the same.
Results go to stdout, progress and warnings to stderr. `ttc --debug COMMAND` shows the traceback of an error.
"""

CONFIG_HEAD = """# A sweep's file

Written by `tools/cli_docs.py` from `ttc/core/specs.py`; a test compares the two. `ttc sweep FILE.yaml` reads it, and flags override its keys;
`ttc.sweep` takes the same as a dict. Unknown keys are refused. None is a key that is left out. A task, model, strategy or allocator without more to
say is its name alone, and one value stands for a list of one (not in `also` and `stop`).

```yaml
task: gsm8k
model: Qwen/Qwen2.5-0.5B-Instruct
strategies: [self-consistency, {name: best-of-n, params: {select: logprob}, label: best of n}]
allocators: [uniform, {name: knapsack, params: {pilot: 1}}]
budgets: [512, 1024]
predictor: predictor
sampling: {temperature: 0.7, max_tokens: 512}
```
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


def config_document() -> str:
    """Return docs/config.md."""
    parts = (specs.SweepConfig, specs.TaskSpec, specs.ModelSpec, specs.ChoiceSpec, specs.GridSpec, specs.SamplingSpec)
    return "\n".join([CONFIG_HEAD, *(line for part in parts for line in _keys(part))])


def _keys(part: type[BaseModel]) -> Iterator[str]:
    """Describe a part of the configuration. Raises KeyError for a key without a sentence below it."""
    schema, said = part.model_json_schema(ref_template="{model}"), _sentences(part)
    yield f"## {_title(part.__name__)}\n\n{inspect.cleandoc(part.__doc__ or '')}\n\n| key | | default | |\n|---|---|---|---|"
    for name, value in schema["properties"].items():
        default = "required" if name in schema.get("required", ()) else _said_default(value.get("default"))
        yield f"| `{name}` | {_kind(value)} | {default} | {said[name]} |".replace("|  |", "| |")
    yield ""


def _sentences(part: type[BaseModel]) -> dict[str, str]:
    """Return what stands below each field, in the class or its bases."""
    found: dict[str, str] = {}
    for cls in reversed(part.__mro__):
        if cls.__module__ == specs.__name__:
            (tree,) = ast.parse(inspect.getsource(cls)).body
            body = tree.body if isinstance(tree, ast.ClassDef) else []
            for field, below in pairwise(body):
                if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
                    found[ast.unparse(field.target)] = " ".join(ast.literal_eval(below.value).split())
    return found


def _title(name: str) -> str:
    return name.removesuffix("Spec").replace("SweepConfig", "Sweep")


def _kind(schema: dict[str, Any]) -> str:
    """Say in words what a key takes."""
    if "anyOf" in schema:
        return " or ".join(_kind(one) for one in schema["anyOf"] if one.get("type") != "null")
    if "$ref" in schema:
        return f"[{_title(schema['$ref']).lower()}](#{_title(schema['$ref']).lower()})"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema["type"] == "array":
        return "list of " + _kind(schema["items"])
    if schema["type"] == "object":
        keys, values = schema.get("propertyNames"), schema["additionalProperties"]
        return (_kind(keys) if keys else "names") + ": " + (_kind(values) if isinstance(values, dict) else "values")
    words = {"string": "text", "integer": "whole number", "number": "number", "boolean": "`true`, `false`"}
    kind = "path" if schema.get("format") == "path" else words[schema["type"]]
    signs = (("≥", "ge", "minimum"), (">", "gt", "exclusiveMinimum"), ("≤", "le", "maximum"))
    limits = [f" {sign} {schema[key]:g}" for sign, *keys in signs for key in keys if key in schema]
    return kind + ",".join(limits)


def _said_default(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return ", ".join(f"`{one['name']}`" for one in value)
    return f"`{str(value).lower()}`" if isinstance(value, int | float | str) else ""


if __name__ == "__main__":
    (DOCS / "cli.md").write_text(document(), encoding="utf-8")
    (DOCS / "config.md").write_text(config_document(), encoding="utf-8")
