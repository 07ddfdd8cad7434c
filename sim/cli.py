"""The command line: `onestream …`.

`check` exits with 0 proved, 1 refuted, 2 inconclusive, 3 error or bad usage, and so does
`simulate`, where 0 is passed; `bugs` with 0 if every verdict is the expected one, else 1.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

PROVED_EXIT, REFUTED_EXIT, INCONCLUSIVE_EXIT, ERROR_EXIT = range(4)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        # argparse would exit with 2, which is our "inconclusive".
        self.print_usage(sys.stderr)
        self.exit(ERROR_EXIT, f"{self.prog}: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    # Registries and programs of the user's are found where the user stands.
    if "" not in sys.path:
        sys.path.insert(0, "")
    arguments = _parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
    except (ValueError, OSError) as exc:
        print(f"onestream: {exc}", file=sys.stderr)
        return ERROR_EXIT
    return code


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="onestream", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)

    check = commands.add_parser("check", help="prove or refute registries in the simulator")
    check.add_argument("--level", choices=("registry", "server"), help="default: all there are")
    check.add_argument("--scenario", metavar="NAME", help="default: all")
    check.add_argument(
        "--registry",
        metavar="MODULE:CLASS",
        help="check this one alone: a class with register, cancel and pop; or production, "
        "original, quick_fix (default: all three)",
    )
    check.add_argument(
        "--budget", type=_seconds, default=60.0, metavar="SECONDS", help="in total; default 60"
    )
    check.add_argument(
        "--jobs",
        type=_positive,
        metavar="N",
        help="processes; default: as many as there are cores, and 1 for one scenario",
    )
    check.add_argument("--json", action="store_true", help="print one JSON object")
    check.set_defaults(run=_check)

    deepen = commands.add_parser(
        "deepen", help="prove stories of growing size: registers, cancels, leavers, hangs"
    )
    deepen.add_argument(
        "--registry", default="production", metavar="MODULE:CLASS", help="as of check"
    )
    deepen.add_argument(
        "--level", choices=("registry", "server"), default="registry", help="default: registry"
    )
    deepen.add_argument(
        "--size",
        metavar="NAME",
        help="this one alone, such as size-1s3r1c0l1h: 3 registers, …; size-….async: a server's",
    )
    deepen.add_argument(
        "--budget", type=_seconds, default=60.0, metavar="SECONDS", help="in total; default 60"
    )
    deepen.add_argument("--json", action="store_true", help="print one JSON object")
    deepen.set_defaults(run=_deepen)

    _add_simulate(commands)

    replay = commands.add_parser("replay", help="replay the schedule of a counterexample")
    replay.add_argument("schedule", metavar="SCHEDULE")
    replay.set_defaults(run=_replay)

    export = commands.add_parser("export", help="force a schedule on stock asyncio, in one file")
    export.add_argument("schedule", metavar="SCHEDULE")
    export.add_argument("-o", dest="file", metavar="FILE", help="default: standard output")
    export.set_defaults(run=_export)

    serve = commands.add_parser("serve", help="the production server")
    serve.add_argument("--host", default="127.0.0.1", metavar="H")
    serve.add_argument("--port", type=int, default=8000, metavar="P")
    serve.add_argument(
        "--fake-ollama",
        nargs="?",
        const="normal",
        metavar="PROFILE",
        help="with an embedded fake Ollama, so that no real one is needed (default: normal)",
    )
    serve.set_defaults(run=_serve)

    fake = commands.add_parser("fake-ollama", help="a fake Ollama, with a model for each trouble")
    fake.add_argument("--host", default="127.0.0.1", metavar="H")
    fake.add_argument("--port", type=int, default=11434, metavar="P")
    fake.add_argument("--profile", default="normal", metavar="NAME")
    fake.set_defaults(run=_fake_ollama)

    demo = commands.add_parser("demo", help="the note's two-prompt test on a real server")
    demo.set_defaults(run=_demo)

    bugs = commands.add_parser(
        "bugs", help="bugs that others have reported, found or proved absent, by CPython version"
    )
    bugs.add_argument("--json", action="store_true", help="print one JSON object")
    bugs.add_argument(
        "--python",
        action="append",
        default=[],
        metavar="PATH",
        help="another interpreter, beside those that are found; may be repeated",
    )
    bugs.add_argument("--this-version", action="store_true", help="the running interpreter alone")
    bugs.set_defaults(run=_bugs)

    mutants = commands.add_parser(
        "mutants", help="production with one line broken: who is killed, by which property"
    )
    mutants.add_argument("--level", choices=("registry", "server"), help="default: both")
    mutants.add_argument("--name", metavar="NAME", help="this one alone, with its counterexample")
    mutants.add_argument("--jobs", type=_positive, default=1, metavar="N", help="processes")
    mutants.add_argument(
        "--verbose", action="store_true", help="with the command that replays each counterexample"
    )
    mutants.add_argument("--json", action="store_true", help="print one JSON object")
    mutants.set_defaults(run=_mutants)
    return parser


def _add_simulate(commands: Any) -> None:
    simulate = commands.add_parser(
        "simulate", help="long random runs: many users, faults, then healing and liveness"
    )
    simulate.add_argument("--seeds", type=_positive, default=500, metavar="N", help="default 500")
    simulate.add_argument("--first-seed", type=_not_negative, default=0, metavar="N")
    simulate.add_argument("--jobs", type=_positive, default=1, metavar="N", help="processes")
    simulate.add_argument(
        "--profile",
        metavar="NAME",
        help="calm, busy, flaky or hostile-upstream (default: they take turns)",
    )
    simulate.add_argument("--level", choices=("registry", "server"), help="default: server")
    simulate.add_argument(
        "--registry",
        default="production",
        metavar="MODULE:CLASS",
        help="as of check; default: production",
    )
    simulate.add_argument(
        "--client", choices=("async", "thread", "both"), default="both", help="of Ollama"
    )
    simulate.add_argument(
        "--budget", type=_seconds, metavar="SECONDS", help="stop after so long; default: never"
    )
    simulate.add_argument("--json", action="store_true", help="print one JSON object")
    simulate.set_defaults(run=_simulate)


def _simulate(arguments: argparse.Namespace) -> int:
    from sim.simulate.command import run_command

    return run_command(arguments)


def _serve(arguments: argparse.Namespace) -> int:
    from server.log import say
    from server.run import run

    ollama = None
    if arguments.fake_ollama is not None:
        from sim.demo import embedded_fake
        from sim.fake_ollama import profile_named

        ollama = embedded_fake(profile_named(arguments.fake_ollama))

    def announce(address: str) -> None:
        say(f"onestream listens on {address}", sys.stdout)

    return run(host=arguments.host, port=arguments.port, ollama=ollama, on_started=announce)


def _fake_ollama(arguments: argparse.Namespace) -> int:
    import asyncio

    from sim.fake_ollama.http_front import serve

    asyncio.run(serve(profile=arguments.profile, host=arguments.host, port=arguments.port))
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    from sim.demo import demo

    return demo()


def _check(arguments: argparse.Namespace) -> int:
    from sim import report
    from sim.check import check

    # A program that reads the JSON object may keep both streams in one file.
    is_quiet = arguments.json and not sys.stderr.isatty()
    verdict = check(
        level=arguments.level,
        scenario=arguments.scenario,
        registry=arguments.registry,
        budget_s=arguments.budget,
        jobs=arguments.jobs or (1 if arguments.scenario else _cores()),
        on_result=(lambda result: None) if arguments.json else report.print_result,
        progress_to=None if is_quiet else sys.stderr,
    )
    if arguments.json:
        print(json.dumps(verdict.as_json(), indent=2))
    else:
        report.print_verdict(verdict)
    return verdict.verdict.exit_code


def _deepen(arguments: argparse.Namespace) -> int:
    from sim.deepen import Deepened, deepen, largest_proved
    from sim.tested_pythons import interpreter
    from sim.verdict import Verdict

    def print_result(result: Deepened) -> None:
        if not arguments.json:
            print(result, flush=True)

    results = deepen(
        level=arguments.level,
        registry=arguments.registry,
        budget_s=arguments.budget,
        size=arguments.size,
        on_result=print_result,
    )
    largest = largest_proved(results)
    if arguments.json:
        found = [result.as_json() for result in results]
        names = [str(each) for each in largest]
        told = {"interpreter": interpreter(), "results": found, "largest_proved": names}
        print(json.dumps(told))
    else:
        wrong = (Verdict.REFUTED, Verdict.ERROR)
        failed = [r.report for r in results if r.report.verdict in wrong]
        print("".join(f"\n{report.text}\n" for report in failed))
        print("every schedule was seen of stories up to:")
        print("\n".join(f"  {each}" for each in largest) or "  none")
    verdicts = {result.report.verdict for result in results}
    for worst in (Verdict.ERROR, Verdict.REFUTED):
        if worst in verdicts:
            return worst.exit_code
    return (Verdict.PROVED if largest else Verdict.INCONCLUSIVE).exit_code


def _replay(arguments: argparse.Namespace) -> int:
    from sim.check import replay
    from sim.errors import ScheduleDoesNotFit

    try:
        counterexample = replay(arguments.schedule)
    except ScheduleDoesNotFit as exc:
        print(f"onestream: {exc}", file=sys.stderr)
        return ERROR_EXIT
    if counterexample is None:
        print("no violation: under this schedule every property holds")
        return PROVED_EXIT
    print(counterexample.text)
    return REFUTED_EXIT


def _bugs(arguments: argparse.Namespace) -> int:
    from sim.historical import matrix

    here_alone = arguments.this_version
    columns = [matrix.run_here()] if here_alone else matrix.run_matrix(arguments.python)
    if arguments.json:
        print(matrix.as_json(columns))
    else:
        matrix.print_matrix(columns)
    return 0 if all(column.holds for column in columns) else 1


def _mutants(arguments: argparse.Namespace) -> int:
    from sim.mutants import Kill, kill_all, table

    def print_kill(kill: Kill) -> None:
        if not arguments.json:
            what = f"{kill.killer} in {kill.scenario}" if kill.is_killed else "SURVIVES"
            print(f"{kill.mutant:<46} {kill.executions:>5} executions  {what}", flush=True)
            if arguments.verbose and kill.is_killed:
                print(f"  onestream replay {kill.schedule}", flush=True)

    kills = kill_all(
        level=arguments.level, name=arguments.name, jobs=arguments.jobs, on_kill=print_kill
    )
    survivors = [kill.mutant for kill in kills if not kill.is_killed]
    if arguments.json:
        print(json.dumps({"mutants": [k.as_json() for k in kills], "survivors": survivors}))
    else:
        if arguments.name:
            print(f"\n{kills[0].text}")
        print(f"\n{table(kills)}")
    return REFUTED_EXIT if survivors else PROVED_EXIT


def _export(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from sim.check import exported
    from sim.errors import ScheduleDoesNotFit

    try:
        text = exported(arguments.schedule)
    except ScheduleDoesNotFit as exc:
        print(f"onestream: {exc}", file=sys.stderr)
        return ERROR_EXIT
    if arguments.file is None:
        print(text, end="")
    else:
        Path(arguments.file).write_text(text, encoding="utf-8")
        print(f"written: {arguments.file}; run it with python, or with python -m pytest")
    return 0


def _cores() -> int:
    """How many cores this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _seconds(text: str) -> float:
    seconds = float(text)
    if seconds <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number of seconds")
    return seconds


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number


def _not_negative(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return number


if __name__ == "__main__":
    sys.exit(main())
