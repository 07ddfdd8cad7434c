"""`onestream deepen`: proves scenarios of growing size."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sim.bench.levels import LEVELS
from sim.commands.options import (
    add_budget,
    add_html,
    add_json,
    add_quiet,
    add_workers,
    executor_of,
    progress_on_terminal,
)
from sim.exploration.verdict import Verdict

if TYPE_CHECKING:
    from argparse import Namespace

    from sim.bench.checking.deepen import Deepened, SizeBound
    from sim.commands.options import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "deepen", help="prove scenarios of growing size: registers, cancels, leavers, hangs"
    )
    parser.add_argument(
        "--registry", default="production", metavar="MODULE:CLASS", help="as of check"
    )
    parser.add_argument("--level", choices=LEVELS, default="registry", help="default: registry")
    parser.add_argument(
        "--client",
        action="store_true",
        help="those of the most general client of a registry: any operation on any name",
    )
    parser.add_argument(
        "--size",
        metavar="NAME",
        help="this one alone, such as size-1s3r1c0l1h: 3 registers, …; size-….async: a server's",
    )
    add_budget(parser)
    add_workers(parser)
    add_json(parser)
    add_quiet(parser)
    add_html(parser)
    parser.set_defaults(run=run)


def run(arguments: Namespace) -> int:
    from sim.bench.checking.deepen import deepen, largest_proved
    from sim.exploration.progress import Progress

    def print_result(result: Deepened) -> None:
        progress.clear()
        if not arguments.json:
            print(result, flush=True)

    terminal = progress_on_terminal(arguments)
    with Progress(terminal, arguments.budget) as progress, progress.interruptible():
        results = deepen(
            level=arguments.level,
            registry=arguments.registry,
            budget_s=arguments.budget,
            size=arguments.size,
            client=arguments.client,
            executor=executor_of(arguments, program=arguments.registry),
            on_result=print_result,
            progress=progress,
        )
    largest = largest_proved(results)
    if arguments.json:
        _print_json(results, largest)
    else:
        _print_summary(results, largest)
    verdict = _verdict(results, largest)
    if arguments.html:
        from sim.commands.pages import page_of_deepening, write

        write(page_of_deepening(results, largest, verdict), arguments.html)
    return verdict.exit_code


def _verdict(results: list[Deepened], largest: list[SizeBound]) -> Verdict:
    """A size for which the time did not suffice is not a failure, if another one was proved."""
    verdicts = {result.report.verdict for result in results}
    for worst in (Verdict.ERROR, Verdict.REFUTED):
        if worst in verdicts:
            return worst
    return Verdict.PROVED if largest else Verdict.INCONCLUSIVE


def _print_json(results: list[Deepened], largest: list[SizeBound]) -> None:
    from sim.exploration.tested_pythons import interpreter

    found = {
        "interpreter": interpreter(),
        "results": [result.as_json() for result in results],
        "largest_proved": [str(each) for each in largest],
    }
    print(json.dumps(found))


def _print_summary(results: list[Deepened], largest: list[SizeBound]) -> None:
    wrong = (Verdict.REFUTED, Verdict.ERROR)
    failed = [each.report for each in results if each.report.verdict in wrong]
    print("".join(f"\n{report.text}\n" for report in failed))
    print("every schedule was visited up to:")
    print("\n".join(f"  {each}" for each in largest) or "  none")
