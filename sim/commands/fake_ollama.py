"""`onestream fake-ollama`: a fake Ollama on a real port."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sim.commands.options import add_address

if TYPE_CHECKING:
    from argparse import Namespace

    from sim.commands.options import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "fake-ollama", help="a fake Ollama, with a model for each trouble"
    )
    add_address(parser, port=11434)
    parser.add_argument(
        "--profile", default="normal", metavar="NAME", help="its speed and its troubles"
    )
    parser.set_defaults(run=run)


def run(arguments: Namespace) -> int:
    from server.importing import ending_in_a_line

    with ending_in_a_line("onestream fake-ollama"):
        from sim.fake_ollama.http_front import serve

    asyncio.run(serve(profile=arguments.profile, host=arguments.host, port=arguments.port))
    return 0
