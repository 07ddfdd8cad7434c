"""`onestream demo`: the note's two-prompt test on a real server."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import Namespace

    from sim.commands.options import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser("demo", help="the note's two-prompt test on a real server")
    parser.set_defaults(run=run)


def run(arguments: Namespace) -> int:
    from server.importing import ending_in_a_line

    with ending_in_a_line("onestream demo"):
        from sim.bench.demo import demo

    return demo()
