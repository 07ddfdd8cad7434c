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
    seconds_or_none,
    whole,
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
        metavar="SECONDS",
        help="of virtual time, after which an execution counts as one that never ends; default 600",
    )
    parser.add_argument(
        "--spin-max",
        type=positive,
        metavar="N",
        help="after how many iterations of the loop without rest a program counts as one that "
        "spins for ever; default 200",
    )
    parser.add_argument(
        "--step-lines-max",
        type=positive,
        metavar="N",
        help="after how many lines one step of the loop counts as one that never ends; "
        "default 10000000",
    )
    parser.add_argument(
        "--lateness",
        type=seconds_or_none,
        metavar="SECONDS",
        help="how late the loop may be for a timer; default 0.01",
    )
    parser.add_argument(
        "--passes-max",
        type=not_negative,
        metavar="N",
        help="how often an outside event without `latest` may be passed over; default 4",
    )
    parser.add_argument(
        "--entropy-seed",
        type=whole,
        metavar="N",
        help="of the numbers that random, uuid and so on give the program; default 0",
    )
    parser.add_argument(
        "--no-thread-lines",
        action="store_true",
        help="no look at threads that are overtaken between the lines of files not declared",
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

    bounds = {
        "lateness_s": arguments.lateness,
        "passes_max": arguments.passes_max,
        "spin_max": arguments.spin_max,
        "horizon_s": arguments.horizon,
        "entropy_seed": arguments.entropy_seed,
        "step_lines_max": arguments.step_lines_max,
    }
    request = Request(
        program=arguments.program,
        strategy=arguments.strategy,
        seed=arguments.seed,
        labels=tuple(arguments.label),
        budget_s=arguments.budget,
        executions_max=arguments.executions,
        isolate=arguments.isolate,
        unretrieved=arguments.unretrieved,
        **{name: bound for name, bound in bounds.items() if bound is not None},
        thread_lines=not arguments.no_thread_lines,
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
