"""`onestream explore`: any asyncio program, under every schedule that the strategy covers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sim.commands.options import (
    add_html,
    add_json,
    add_quiet,
    add_workers,
    executor_of,
    not_negative,
    positive,
    progress_stream,
    seconds,
)

if TYPE_CHECKING:
    from argparse import Namespace

    from sim.commands.options import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "explore", help="explore any asyncio program: an `async def` that takes the world"
    )
    parser.add_argument("program", metavar="PROGRAM", help="MODULE:NAME or FILE.py:NAME")
    parser.add_argument(
        "--strategy",
        metavar="NAME",
        help="as of sim.explore: staged (default), states, depth-first, departures, random, …",
    )
    parser.add_argument(
        "--budget",
        type=seconds,
        metavar="SECONDS",
        help="default 60, or none with --executions",
    )
    parser.add_argument("--executions", type=positive, metavar="N", help="stop after this number")
    parser.add_argument(
        "--seed", type=not_negative, default=0, metavar="N", help="of what is random"
    )
    parser.add_argument(
        "--label",
        action="append",
        default=[],
        metavar="TEXT",
        help="what some execution has to reach for a proof; may be repeated",
    )
    parser.add_argument(
        "--isolate",
        action="store_true",
        help="each execution in a fork of its own, for programs whose state outlives one",
    )
    parser.add_argument(
        "--unretrieved",
        choices=("warn", "fail"),
        default="warn",
        help="what an exception that nobody retrieves, or a coroutine that nobody awaits, is",
    )
    parser.add_argument(
        "--horizon",
        type=seconds,
        default=600.0,
        metavar="SECONDS",
        help="of virtual time, after which an execution counts as one that never ends; default 600",
    )
    parser.add_argument(
        "--cpus",
        type=positive,
        metavar="N",
        help="of the machine that the verdict is for, by which asyncio's default pool has its "
        "threads, min(32, N + 4); default: any, explored with 4",
    )
    add_workers(parser)
    add_json(parser)
    add_quiet(parser)
    add_html(parser)
    parser.set_defaults(run=run)


def run(arguments: Namespace) -> int:
    from sim.commands.explore_text import as_json, print_report
    from sim.exploration.progress import Progress
    from sim.exploration.request import Request, explored

    request = Request(
        program=arguments.program,
        strategy=arguments.strategy,
        seed=arguments.seed,
        labels=tuple(arguments.label),
        budget_s=arguments.budget,
        executions_max=arguments.executions,
        isolate=arguments.isolate,
        unretrieved=arguments.unretrieved,
        horizon_s=arguments.horizon,
        cpus=arguments.cpus,
    )
    stream = progress_stream(arguments)
    with Progress(stream, request.seconds) as progress, progress.interruptible():
        executor = executor_of(arguments, program=arguments.program)
        report = explored(request, progress, executor=executor)
    if arguments.json:
        print(json.dumps(as_json(request, report), indent=2))
    else:
        print_report(report)
    if arguments.html:
        from sim.commands.pages import page_of_exploration, write

        write(page_of_exploration(request, report), arguments.html)
    return report.verdict.exit_code
