"""The program `ttc`: its commands, and the one place where errors become messages and exit codes."""

from __future__ import annotations

import sys
import traceback
from typing import Annotated

import typer
import typer.exceptions

from ttc.cli import bank, demo, doctor, fit, ls, plan, report, solve, sweep
from ttc.core.errors import StorageError, TtcError
from ttc.core.secrets import without_secrets

app = typer.Typer(
    name="ttc",
    help="Spend test-time compute where it pays: strategies, token budgets, Pareto curves.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for module in (demo, sweep, plan, solve, bank, fit, report, ls, doctor):
    module.register(app)

USAGE = 2
INTERRUPTED = 130


@app.callback()
def _globals(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Hold the options of every command; `--debug` is read from the command line by `main`."""


def main() -> None:
    """Run the command line and leave with its exit code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code; errors are told on stderr."""
    code: object
    try:
        # Returns the code of an early exit, 130 for Ctrl-C among them; a command itself returns None.
        code = app(args=_with_values(arguments), prog_name="ttc", standalone_mode=False)
    except TtcError as error:
        return _tell(error, arguments)
    except typer.exceptions.TyperException as error:
        message = error.format_message().replace("Value error, ", "")
        typer.echo(f"error: {_one_line(message)}", err=True)
        context = getattr(error, "ctx", None)
        if context is not None:
            typer.echo(f"hint: {context.command_path} --help", err=True)
        return USAGE
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except SystemExit:
        return 0  # the reader of our output has gone: nothing left to say
    except Exception as error:  # noqa: BLE001 - the boundary of the program: whatever happens is told in one line
        if isinstance(error, OSError) and error.errno is not None:
            return _tell(StorageError(str(error)), arguments)
        return _tell(TtcError(f"{type(error).__name__}: {error}", "this is a defect: --debug shows where"), arguments)
    if code == INTERRUPTED:
        typer.echo("interrupted; what is finished is kept: run the same command again to go on", err=True)
    return code if isinstance(code, int) else 0


def _with_values(arguments: list[str]) -> list[str]:
    """Give `--ray` an empty value where it stands alone: its address may be left out."""
    following = [*arguments, "--"][1:]
    alone = (word == "--ray" and after.startswith("-") for word, after in zip(arguments, following, strict=True))
    return [f"{word}=" if bare else word for word, bare in zip(arguments, alone, strict=True)]


def _tell(error: TtcError, arguments: list[str]) -> int:
    if "--debug" in arguments:
        typer.echo(without_secrets(traceback.format_exc()), err=True)
    typer.echo(f"error: {_one_line(error.message)}", err=True)
    if error.hint:
        typer.echo(f"hint: {_one_line(error.hint)}", err=True)
    return error.exit_code


def _one_line(text: str) -> str:
    return without_secrets(" ".join(text.split()))
