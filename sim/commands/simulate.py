"""`onestream simulate`: long random runs, with faults, healing and liveness."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from sim.bench.levels import LEVELS
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

    from sim.bench.simulation.run import Batch, Failure
    from sim.commands.options import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "simulate", help="long random runs: many users, faults, then healing and liveness"
    )
    parser.add_argument("--seeds", type=positive, default=500, metavar="N", help="runs")
    parser.add_argument(
        "--first-seed", type=not_negative, default=0, metavar="N", help="the others follow it"
    )
    add_workers(parser)
    parser.add_argument(
        "--profile",
        metavar="NAME",
        help="calm, busy, flaky or hostile-upstream (default: they take turns)",
    )
    parser.add_argument("--level", choices=LEVELS, help="default: server")
    parser.add_argument(
        "--registry",
        default="production",
        metavar="MODULE:CLASS",
        help="as of check; default: production",
    )
    parser.add_argument(
        "--client", choices=("async", "thread", "both"), default="both", help="of Ollama"
    )
    parser.add_argument(
        "--budget", type=seconds, metavar="SECONDS", help="stop after so long; default: never"
    )
    add_json(parser)
    add_quiet(parser)
    add_html(parser)
    parser.set_defaults(run=run)


def run(arguments: Namespace) -> int:
    from sim.bench.simulation.run import make_simulation, simulate
    from sim.commands.simulate_text import print_failure, print_report, progress_words
    from sim.exploration.progress import Progress

    simulation = make_simulation(
        level=arguments.level,
        registry=arguments.registry,
        profile=arguments.profile,
        client=arguments.client,
    )
    begun = time.perf_counter()

    def show(done: Batch) -> None:
        seconds = time.perf_counter() - begun
        progress.show(lambda: progress_words(done, arguments.seeds, seconds))

    def failed(failure: Failure) -> None:
        progress.clear()
        if not arguments.json:
            print_failure(simulation, failure)

    with Progress(progress_stream(arguments), arguments.budget) as progress:
        report = simulate(
            simulation,
            seeds=arguments.seeds,
            first_seed=arguments.first_seed,
            executor=executor_of(arguments, program=arguments.registry),
            budget_s=arguments.budget,
            on_progress=show,
            on_failure=failed,
        )
    if arguments.json:
        print(json.dumps(report.as_json(), indent=2))
    else:
        print_report(report)
    if arguments.html:
        from sim.commands.pages import page_of_simulation, write

        write(page_of_simulation(report), arguments.html)
    return report.verdict.exit_code
