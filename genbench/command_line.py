"""The command line: finds commands in `genbench/commands`, parses arguments, reports errors, returns exit codes.

A module `commands/name.py` defines the command `name`, a function decorated with `click.command` that returns an exit
code. It is imported when it is called.
What it needs beyond plain data it imports inside the function, so that `genbench list` and completion answer at once.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem, shell_complete

from genbench import RUNS, __doc__, __version__, program
from genbench.console import accept_any_text, printable
from genbench.errors import UsageError, nearest, short
from genbench.suite import ROOT

OK, FAILED, USAGE, REGRESSED, INTERRUPTED = 0, 1, 2, 3, 130


class Commands(click.Group):
    """The modules of this folder as commands."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return sorted(path.stem for path in (Path(__file__).parent / "commands").glob("[a-z]*.py"))

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Return a command, None if there is none of that name."""
        if name not in self.list_commands(ctx):
            return None
        command: click.Command = getattr(importlib.import_module(f"genbench.commands.{name}"), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that `args` start with; raises UsageError that names the nearest one."""
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            raise UsageError(f"unknown command {name!r}{nearest(name, self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)


@click.command(cls=Commands, help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(prog)s %(version)s")
def commands() -> None:
    """Run a command."""


# ---------------------------------------------------------------------------------------- options and arguments


class WholeNumber(click.ParamType[int]):
    """An integer from `lowest` to `highest`, in ASCII digits."""

    name = "integer"

    def __init__(self, lowest: int, highest: int) -> None:
        self.lowest, self.highest = lowest, highest

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return `value` as an integer."""
        text = str(value)
        digits = text.removeprefix("-")
        if not (digits.isascii() and digits.isdigit() and len(digits) <= 19):
            self.fail(f"{short(text)} is not a whole number from {self.lowest} to {self.highest}", param, ctx)
        if not self.lowest <= int(text) <= self.highest:
            self.fail(f"{short(text)} is not a whole number from {self.lowest} to {self.highest}", param, ctx)
        return int(text)


class Folder(click.ParamType[Path]):
    """The path of a folder."""

    name = "folder"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return `value` as a path."""
        if not str(value):
            self.fail("the name of a folder is empty", param, ctx)
        return Path(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Let the shell complete folders."""
        return [CompletionItem(incomplete, type="dir")]


def complete_run(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return the ids of recorded runs that start with `incomplete`."""
    folder = Path(ctx.params.get("results") or RUNS)
    return sorted({path.name for path in folder.glob(f"*/{incomplete}*") if len(path.name) == 16 and path.is_dir()})


def results_option(command: Callable[..., int]) -> Callable[..., int]:
    """Add the option --results to a command."""
    return click.option(
        "--results", type=Folder(), default=RUNS, show_default=True, is_eager=True, metavar="DIR", help="Records."
    )(command)


def run_argument(command: Callable[..., int]) -> Callable[..., int]:
    """Add the argument RUN, the start of a run's id, to a command."""
    return click.argument("run", metavar="RUN", shell_complete=complete_run)(command)


# ---------------------------------------------------------------------------------------------- the program


def main(arguments: Sequence[str] | None = None) -> int:
    """Execute the command line `arguments` (default: those of the process) and return the exit code."""
    accept_any_text()
    folders = [str(ROOT)]  # suites may name models in modules of the current folder, or of the project's
    with suppress(FileNotFoundError):  # the folder has been deleted
        folders.insert(0, os.getcwd())
    sys.path += [path for path in folders if path not in sys.path]
    if instruction := os.environ.get("_GENBENCH_COMPLETE"):
        return shell_complete(commands, {}, "genbench", "_GENBENCH_COMPLETE", instruction)
    try:
        with program.interruptible():
            code = execute(sys.argv[1:] if arguments is None else list(arguments))
    except KeyboardInterrupt:
        code = INTERRUPTED
    return program.exit_quickly(code) if program.is_program("__main__") else code


def execute(arguments: list[str]) -> int:
    """Return the exit code of a command line; errors are one line on stderr."""
    try:
        with commands.make_context("genbench", arguments) as context:
            return int(commands.invoke(context) or OK)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message(), file=sys.stderr)
        return USAGE
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.UsageError as error:
        message = describe_usage_error(error)
    except UsageError as error:
        message = str(error)
    except SystemExit as error:
        message = f"a module outside genbench ended the program: SystemExit({error.code!r})"
    except BrokenPipeError:  # the reader of the output has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        message = describe_os_error(error)
    program.check()  # an interrupted import fails in odd ways
    print(f"genbench: {printable(message)}", file=sys.stderr)
    return USAGE


def describe_usage_error(error: click.UsageError) -> str:
    """Return one line for an error of Click: what is wrong with which option or argument."""
    message = error.message if isinstance(error, click.BadParameter) else error.format_message()
    message = " ".join(message.split()).removesuffix(".")
    match error:
        case click.NoSuchOption():
            options = [name for param in (error.ctx.command.params if error.ctx else ()) for name in param.opts]
            return f"unknown option {error.option_name!r}{nearest(error.option_name, options)}"
        case click.MissingParameter():
            match error.param:
                case click.Option() as option:
                    name = option.opts[0]
                case argument:
                    name = argument.human_readable_name if argument else ""
            return f"{name} is missing; `{error.ctx.command_path if error.ctx else 'genbench'} --help` explains it"
        case click.BadParameter(param=click.Option() as option):
            return f"{option.opts[0]}: {message}"
        case click.BadParameter(param=click.Parameter() as argument):
            return f"{argument.human_readable_name}: {message}"
    return f"{message[:1].lower()}{message[1:]}"


def describe_os_error(error: OSError) -> str:
    """Return the path of `error`, if it has one, and the system's reason."""
    reason = error.strerror or str(error) or type(error).__name__
    return " ".join((f"{error.filename}: {reason}" if error.filename is not None else reason).split())
