"""The command line: `onestream …`. Each command is a module of sim/commands/."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from sim.commands import (
    bugs,
    check,
    deepen,
    demo,
    explore,
    export,
    fake_ollama,
    mutants,
    prove,
    replay,
    serve,
    simulate,
)
from sim.exploration.verdict import EXIT_CODES, Verdict
from sim.kernel.errors import NotAProgram, ScheduleDoesNotFit
from sim.wrapped import wrapped

# In the order in which `onestream --help` names them.
COMMANDS = (
    check,
    deepen,
    prove,
    explore,
    simulate,
    replay,
    export,
    serve,
    fake_ollama,
    demo,
    bugs,
    mutants,
)
# What the extra `server` installs. No command but those of the bench and the server imports these.
SERVER_PACKAGES = {
    *("fastapi", "httpcore", "httptools", "httpx", "prometheus_client"),
    *("pydantic", "pydantic_settings", "starlette", "uvicorn"),
}
ERROR_EXIT = Verdict.ERROR.exit_code
NOBODY_READS_EXIT = 128 + 13
"""As a shell has it for a command that SIGPIPE ends: no verdict, since none was read."""
INTERRUPTED_EXIT = 128 + 2
"""The same of SIGINT."""


class _Defaults(argparse.HelpFormatter):
    """Every option says what holds without it."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text, default = action.help or "", action.default
        is_value = isinstance(default, int | float | str) and not isinstance(default, bool)
        is_said = not text or "default" in text
        if is_said or not is_value or default == argparse.SUPPRESS:
            return text
        return f"{text} (default: %(default)s)"


class _Parser(argparse.ArgumentParser):
    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **{"formatter_class": _Defaults, **named})

    def error(self, message: str) -> None:  # type: ignore[override]
        # argparse would exit with 2, which is our "inconclusive". Its usage of a command with many
        # options would stand before what is wrong.
        self.exit(ERROR_EXIT, f"{self.prog}: {message}\nusage: {self.prog} --help\n")


class _Version(argparse.Action):
    """Of the package that is installed, which is read where it is asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str, **_: Any) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, 0, help="print the version, and exit")

    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        from importlib.metadata import PackageNotFoundError, version

        from sim.exploration.tested_pythons import interpreter

        try:
            number = version("onestream")
        except PackageNotFoundError:
            number = "of a folder, not installed"
        print(f"onestream {number}, {interpreter()}")
        parser.exit(0)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    try:
        try:
            return _run(argv)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        return _nobody_reads()
    except KeyboardInterrupt:
        # Of a search the first one ends with a verdict; this is where none can be given.
        print("onestream: Ctrl-C ended it", file=sys.stderr)
        return INTERRUPTED_EXIT


def _run(argv: Sequence[str] | None) -> int:
    # The user's registries and programs are found in the current directory.
    if "" not in sys.path:
        sys.path.insert(0, "")
    arguments = _parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
    except BrokenPipeError:
        raise
    except (ValueError, OSError, NotAProgram, ScheduleDoesNotFit) as exc:
        print("\n".join(wrapped(f"onestream: {exc}")), file=sys.stderr)
        return ERROR_EXIT
    except ModuleNotFoundError as exc:
        package = (exc.name or "").partition(".")[0]
        if package not in SERVER_PACKAGES:
            raise
        print(
            f"onestream: this needs {package}, which the extra `server` installs: "
            f"python3 -m pip install 'onestream[server]'",
            file=sys.stderr,
        )
        return ERROR_EXIT
    return code


def _nobody_reads() -> int:
    """As of `onestream … | head`: no error of ours, and what Python still holds goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            os.dup2(nowhere, stream.fileno())
    return NOBODY_READS_EXIT


def _parser() -> argparse.ArgumentParser:
    codes = ", ".join(f"{code} {verdict}" for verdict, code in EXIT_CODES.items())
    parser = _Parser(prog="onestream", epilog=f"exit codes: {codes} or bad usage")
    parser.add_argument("--version", action=_Version)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    for command in COMMANDS:
        command.add_parser(subparsers)
    return parser


if __name__ == "__main__":
    sys.exit(main())
