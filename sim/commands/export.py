"""`onestream export`: a schedule as a file that forces it on stock asyncio."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sim.commands.options import add_schedule

if TYPE_CHECKING:
    from argparse import Namespace

    from sim.commands.options import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser("export", help="force a schedule on stock asyncio, in one file")
    add_schedule(parser)
    parser.add_argument("-o", dest="file", metavar="FILE", help="default: standard output")
    parser.set_defaults(run=run)


def run(arguments: Namespace) -> int:
    from sim.replay import exported

    text = exported(arguments.schedule)
    if arguments.file is None:
        print(text, end="")
    else:
        Path(arguments.file).write_text(text, encoding="utf-8")
        print(f"written: {arguments.file}; run it with python, or with python -m pytest")
    return 0
