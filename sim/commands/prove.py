"""`onestream prove`: the two tables, in every state, by induction."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sim.commands.options import add_json

if TYPE_CHECKING:
    from argparse import Namespace

    from sim.bench.proving.prove import Part
    from sim.commands.options import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "prove", help="prove the protocol's and the leases' table by induction, for any size"
    )
    parser.add_argument("--quick", action="store_true", help="smaller cut-offs, as the tests do")
    parser.add_argument(
        "--part", metavar="NAME", help="this one alone, by the name it is shown with"
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: Namespace) -> int:
    from sim.bench.proving.prove import PARTS, prove, verdict_of

    if arguments.part not in (None, *PARTS):
        raise ValueError(f"{arguments.part!r} is no part; there are {', '.join(PARTS)}")
    on_part = _ignore if arguments.json else _print_part
    parts = prove(quick=arguments.quick, part=arguments.part, on_part=on_part)
    verdict = verdict_of(parts)
    if arguments.json:
        found = {"verdict": verdict, "parts": [part.as_json() for part in parts]}
        print(json.dumps(found, indent=2))
    else:
        seconds = sum(part.seconds for part in parts)
        print(f"{verdict} ({len(parts)} parts in {seconds:.1f} s)")
    return verdict.exit_code


def _ignore(part: Part) -> None:
    pass


def _print_part(part: Part) -> None:
    print(f"{part.verdict:<8}  {part.name}: {part.what}")
    print(f"          for {part.bound}")
    print(f"          {part.how}, {part.seconds:.1f} s")
    if part.violated:
        print(f"          VIOLATED: {part.violated}")
    if part.counterexample:
        print(f"          {part.counterexample}")
    print(flush=True)
