"""`onestream replay`: the execution of a counterexample, once more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.commands.options import add_html, add_schedule
from sim.exploration.verdict import Verdict

if TYPE_CHECKING:
    from argparse import Namespace

    from sim.commands.options import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser("replay", help="replay the schedule of a counterexample")
    add_schedule(parser)
    add_html(parser)
    parser.set_defaults(run=run)


def run(arguments: Namespace) -> int:
    from sim.replay import replay, why_it_may_not_come_back

    counterexample = replay(arguments.schedule)
    if counterexample is None:
        print("no violation: under this schedule every property holds")
        cause = why_it_may_not_come_back(arguments.schedule)
        if cause:
            print(cause)
        return Verdict.PROVED.exit_code
    print(counterexample.text)
    if arguments.html:
        from sim.commands.pages import page_of_counterexample, write

        write(page_of_counterexample(counterexample), arguments.html)
    return Verdict.REFUTED.exit_code
