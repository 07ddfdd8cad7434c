"""Arguments that several commands have."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, TypeVar

N = TypeVar("N", int, float)

if TYPE_CHECKING:
    from sim.executors.base import MakeExecutor

    Parser = argparse.ArgumentParser
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_json(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def add_quiet(parser: Parser) -> None:
    parser.add_argument("--quiet", action="store_true", help="print no progress")


def progress_stream(arguments: argparse.Namespace) -> TextIO | None:
    """Where the progress goes; None with --quiet.

    A program that reads the JSON object may keep both streams in one file.
    """
    is_for_programs = arguments.json and not sys.stderr.isatty()
    return None if arguments.quiet or is_for_programs else sys.stderr


def progress_on_terminal(arguments: argparse.Namespace) -> TextIO | None:
    """The same of a command that prints a line for each result: elsewhere these are enough."""
    stream = progress_stream(arguments)
    return stream if stream is not None and stream.isatty() else None


def add_html(parser: Parser) -> None:
    parser.add_argument(
        "--html",
        type=writable,
        metavar="FILE",
        help="write a page: the result, and counterexamples step by step",
    )


def add_workers(parser: Parser, default: str = "1") -> None:
    """Who does the work. default: how many, in words."""
    parser.add_argument("--jobs", type=positive, metavar="N", help=f"processes; default: {default}")
    parser.add_argument(
        "--cluster",
        nargs="?",
        const="",
        metavar="HOST:PORT",
        help="in place of processes here, the nodes of a Ray cluster, or N processors of them with "
        "--jobs N; without an address a cluster is started on this machine",
    )


def executor_of(
    arguments: argparse.Namespace, jobs: int = 1, *, program: str = ""
) -> MakeExecutor | None:
    """What does the work: None for this process.

    jobs: where none were asked for. program: FILE.py:NAME or MODULE:NAME, of the user's.
    """
    if arguments.cluster is not None:
        from sim.executors.on_ray import OnRay

        address, workers_max = arguments.cluster, arguments.jobs
        return partial(OnRay, address, workers_max, program=program, say=_say)
    from sim.executors.processes import processes

    return processes(arguments.jobs or jobs)


def _say(words: str) -> None:
    print(f"onestream: {words}", file=sys.stderr)


def add_budget(parser: Parser) -> None:
    parser.add_argument(
        "--budget", type=seconds, default=60.0, metavar="SECONDS", help="in total; default 60"
    )


def add_schedule(parser: Parser) -> None:
    parser.add_argument("schedule", metavar="SCHEDULE")


def add_address(parser: Parser, *, port: int) -> None:
    parser.add_argument("--host", default="127.0.0.1", metavar="H", help="the address to listen on")
    parser.add_argument("--port", type=int, default=port, metavar="P", help="0 is any that is free")


def seconds(text: str) -> float:
    value = _number(float, text, "a positive number of seconds")
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number of seconds")
    return value


def seconds_or_none(text: str) -> float:
    value = _number(float, text, "a number of seconds, 0 or more")
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds, 0 or more")
    return value


def whole(text: str) -> int:
    return _number(int, text, "a whole number")


def positive(text: str) -> int:
    number = _number(int, text, "a positive whole number")
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number


def not_negative(text: str) -> int:
    number = _number(int, text, "a whole number, 0 or more")
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return number


def writable(text: str) -> str:
    """A file that can be written, before the work of minutes whose result it is to have."""
    path = Path(text)
    if not text or path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is not the name of a file")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text!r} cannot be written: is its folder there?")
    return text


def _number(kind: Callable[[str], N], text: str, words: str) -> N:
    """argparse would name this file's function in place of what is allowed."""
    try:
        return kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not {words}") from None
