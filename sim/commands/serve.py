"""`onestream serve`: the production server."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from sim.commands.options import add_address, positive

if TYPE_CHECKING:
    from argparse import Namespace

    from sim.commands.options import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser("serve", help="the production server")
    add_address(parser, port=8000)
    parser.add_argument(
        "--fake-ollama",
        nargs="?",
        const="normal",
        metavar="PROFILE",
        help="with an embedded fake Ollama, so that no real one is needed (default: normal)",
    )
    parser.add_argument(
        "--workers",
        type=positive,
        default=1,
        metavar="N",
        help="processes, which share their sessions as JARVIS_SESSIONS says (default: 1)",
    )
    parser.set_defaults(run=run)


def run(arguments: Namespace) -> int:
    from server.importing import ending_in_a_line

    with ending_in_a_line("onestream serve"):
        from server.log import say
        from server.run import run as run_server
        from server.run_workers import run_workers

        if arguments.fake_ollama is not None:
            from sim.bench.demo import embedded_fake
            from sim.fake_ollama import profile_named

    ollama = None
    if arguments.fake_ollama is not None:
        ollama = embedded_fake(profile_named(arguments.fake_ollama))

    def announce(address: str) -> None:
        say(f"onestream listens on {address}", sys.stdout)

    if arguments.workers > 1:
        return run_workers(
            arguments.workers, arguments.host, arguments.port, ollama=ollama, on_started=announce
        )
    return run_server(host=arguments.host, port=arguments.port, ollama=ollama, on_started=announce)
