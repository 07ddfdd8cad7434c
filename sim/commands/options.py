"""Arguments that several commands have."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Parser = argparse.ArgumentParser
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_json(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def add_jobs(parser: Parser) -> None:
    parser.add_argument("--jobs", type=positive, default=1, metavar="N", help="processes")


def add_budget(parser: Parser) -> None:
    parser.add_argument(
        "--budget", type=seconds, default=60.0, metavar="SECONDS", help="in total; default 60"
    )


def add_schedule(parser: Parser) -> None:
    parser.add_argument("schedule", metavar="SCHEDULE")


def add_address(parser: Parser, *, port: int) -> None:
    parser.add_argument("--host", default="127.0.0.1", metavar="H")
    parser.add_argument("--port", type=int, default=port, metavar="P")


def seconds(text: str) -> float:
    value = float(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number of seconds")
    return value


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number


def not_negative(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return number
