"""`onestream check`: proves or refutes registries in the simulator."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sim.bench.levels import CHECKED_LEVELS
from sim.commands.options import (
    add_budget,
    add_html,
    add_json,
    add_quiet,
    add_workers,
    executor_of,
    not_negative,
    progress_stream,
)

if TYPE_CHECKING:
    from argparse import Namespace

    from sim.commands.options import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser("check", help="prove or refute registries in the simulator")
    parser.add_argument("--level", choices=CHECKED_LEVELS, help="default: registry and server")
    parser.add_argument("--scenario", metavar="NAME", help="default: all")
    parser.add_argument(
        "--registry",
        metavar="MODULE:CLASS",
        help="check this one alone: a class with register, cancel and pop; or production, "
        "original, quick_fix (default: all three)",
    )
    add_budget(parser)
    parser.add_argument(
        "--departures",
        type=not_negative,
        metavar="N",
        help="search up to N of them where there are too many schedules for all, and end there; "
        "default: 1, and then as deep as the budget goes",
    )
    add_workers(parser, default="as many as there are cores, and 1 for one scenario")
    add_json(parser)
    add_quiet(parser)
    add_html(parser)
    parser.set_defaults(run=run)


def run(arguments: Namespace) -> int:
    from sim.bench.checking.check import check
    from sim.commands.check_text import print_result, print_verdict
    from sim.executors.processes import cores

    checked = check(
        level=arguments.level,
        scenario=arguments.scenario,
        registry=arguments.registry,
        budget_s=arguments.budget,
        departures=arguments.departures,
        executor=executor_of(
            arguments,
            jobs=1 if arguments.scenario else cores(),
            program=arguments.registry or "",
        ),
        on_result=(lambda result: None) if arguments.json else print_result,
        progress_to=progress_stream(arguments),
    )
    if arguments.json:
        print(json.dumps(checked.as_json(), indent=2))
    else:
        print_verdict(checked)
    if arguments.html:
        from sim.commands.check_text import what_it_covers
        from sim.commands.pages import page_of_check, write

        write(page_of_check(checked, what_it_covers(checked)), arguments.html)
    return checked.verdict.exit_code
