"""`onestream mutants`: who is killed, by which property."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sim.bench.levels import CLUSTER, MUTANT_LEVELS
from sim.commands.options import (
    add_html,
    add_json,
    add_quiet,
    add_workers,
    executor_of,
    progress_on_terminal,
)
from sim.counted import counted
from sim.exploration.verdict import Verdict

if TYPE_CHECKING:
    from argparse import Namespace

    from sim.bench.checking.mutants import Kill
    from sim.commands.options import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "mutants", help="production with one line broken: who is killed, by which property"
    )
    parser.add_argument("--level", choices=MUTANT_LEVELS, help="default: all")
    parser.add_argument("--name", metavar="NAME", help="this one alone, with its counterexample")
    add_workers(parser)
    parser.add_argument(
        "--verbose", action="store_true", help="with the command that replays each counterexample"
    )
    add_json(parser)
    add_quiet(parser)
    add_html(parser)
    parser.set_defaults(run=run)


def run(arguments: Namespace) -> int:
    from sim.bench.checking.mutants import kill_all
    from sim.exploration.progress import Progress

    def print_kill(kill: Kill) -> None:
        progress.clear()
        if not arguments.json:
            _print_kill(kill, is_verbose=arguments.verbose)

    with Progress(progress_on_terminal(arguments)) as progress:
        kills = kill_all(
            level=arguments.level,
            name=arguments.name,
            executor=executor_of(arguments),
            on_kill=print_kill,
            watch=progress.watch,
        )
    survivors = [kill.mutant for kill in kills if not kill.is_killed]
    if arguments.json:
        print(json.dumps({"mutants": [k.as_json() for k in kills], "survivors": survivors}))
    else:
        if arguments.name:
            print(f"\n{kills[0].text}")
        print(f"\n{_table(kills)}")
    if arguments.html:
        from sim.commands.pages import page_of_mutants, write

        write(page_of_mutants(kills), arguments.html)
    return (Verdict.REFUTED if survivors else Verdict.PROVED).exit_code


def _print_kill(kill: Kill, *, is_verbose: bool) -> None:
    what = f"{kill.killer} in {kill.scenario}" if kill.is_killed else "SURVIVES"
    print(f"{kill.mutant:<46} {counted(kill.executions, 'execution', 5)}  {what}", flush=True)
    if is_verbose and kill.is_killed:
        print(f"  onestream replay {kill.schedule}", flush=True)


def _table(kills: list[Kill]) -> str:
    """Each property with the mutants that it killed first, and the survivors."""
    by_killer: dict[str, list[str]] = {}
    for kill in kills:
        by_killer.setdefault(kill.killer or "nobody", []).append(kill.mutant)
    lines = [f"{killer}: {', '.join(names)}" for killer, names in sorted(by_killer.items())]
    of_cluster = [kill for kill in kills if kill.level == CLUSTER]
    others = [kill for kill in kills if kill.level != CLUSTER]
    lines += [_total(each) for each in (others, of_cluster) if each]
    return "\n".join(lines)


def _total(kills: list[Kill]) -> str:
    executions = sum(kill.executions for kill in kills)
    seconds = sum(kill.seconds for kill in kills)
    killed = sum(kill.is_killed for kill in kills)
    where = " at cluster level" if kills[0].level == CLUSTER else ""
    figures = f"{counted(executions, 'execution')} in {seconds:.1f} s"
    return f"{killed} of {len(kills)} killed{where} ({figures})"
