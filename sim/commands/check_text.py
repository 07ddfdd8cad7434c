"""What `onestream check` prints: a line for each result, then counterexamples and bounds."""

from __future__ import annotations

import sys
import textwrap

from sim.bench.checking.check import Checked
from sim.bench.checking.jobs import Result, in_words
from sim.bench.levels import CLUSTER, LEVELS, STACK
from sim.counted import counted
from sim.exploration.tested_pythons import interpreter
from sim.exploration.verdict import Stop, Verdict
from sim.wrapped import columns, fitted

_COVERED = """\
what a verdict covers: the code under check, run by CPython's own event loop, under the schedules
that its line names: every choice of when and in which order outside events land and threads go on,
within the bounds above. Threads switch at locks, at blocking calls, where they call the loop, and
at each line of registry/stop_signal.py, server/ollama_thread.py and server/wakeable.py (not at
stack level); other lines are one step, from one of these points to the next."""
_REPLACED = """\
Replaced: the clock, the selector; at server level also ASGI server, transports and executor; at
stack level instead the kernel's sockets and the executor."""
_NOT_COVERED = "Not covered: other scenarios than these, dense time between the instants{rest}."
_COVERED_BY_CLUSTER = """\
at cluster level a verdict covers the worker's side of a lease (server/stores/lease.py) and the
lease table (registry/lease_table.py), as processes on hosts: crashes and pauses before any of their
steps, messages that are lost or late, a store that is replaced; with up to as many faults in an
execution as the bounds say."""
_ASSUMED = """\
It assumes: A1 rates of clocks differ by no more than margin / lease; A2 the store's clock is not
set forward by the margin; A3 lost writes show as another generation, and a primary that was
replaced refuses within its lag; A4 no worker's clock stands while others go on; A5 no record is
evicted."""
_REPLACED_IN_CLUSTER = (
    "Replaced: the network, the store's program, what a stream does with its lease."
)
# Where the level is not among those played.
_STACK = ", and sockets, which `onestream check --level stack --budget 900` plays"

_MORE_TIME = "raise it (--budget SECONDS), or share it among processes (--jobs N)"

# So that a line of the table has 80 columns; the longest name of a scenario fits.
_NAME_COLUMNS = 40
_BELOW = " " * 13


def print_result(result: Result) -> None:
    report = result.report
    name = f"{result.registry} {result.scenario}"
    figures = f"{counted(report.executions, 'execution', 6)} {report.seconds:6.2f} s"
    words = report.covers if report.verdict == Verdict.PROVED else _short(report.reason)
    line = f"{result.shown_verdict:<12} {name:<{_NAME_COLUMNS}} {figures}"
    if sys.stdout.isatty():
        # What a terminal would break anywhere stands below.
        wrapped = textwrap.wrap(words, columns() - len(_BELOW))
        line = "\n".join((line, *(f"{_BELOW}{each}" for each in wrapped)))
    else:
        line += f"  {words}"
    print(line, flush=True)


def print_verdict(verdict: Checked) -> None:
    _print_not_applicable(verdict)
    _print_errors(verdict)
    _print_counterexamples(verdict)
    _print_limits(verdict)
    report = verdict.results[0].report
    hit = sorted({bound for result in verdict.results for bound in result.report.bounds_hit})
    print()
    print(fitted(f"bounds: {report.bounds}; hit: {', '.join(hit) or 'none'}", "  "))
    digests = dict.fromkeys(result.report.digest for result in verdict.results)
    print(f"certificate: {interpreter()}, code {', '.join(digests)}")
    print(what_it_covers(verdict))
    for row in verdict.rows_missing:
        print(f"never taken: {row}")
    print()
    for registry in dict.fromkeys(result.registry for result in verdict.results):
        print(_summary(registry, verdict))
    spent = sum(each.report.stopped is Stop.OUT_OF_BUDGET for each in verdict.results)
    if spent:
        print(fitted(f"next: {spent} of them spent the budget; {_MORE_TIME}", "  "))


def what_it_covers(verdict: Checked) -> str:
    played = {result.level for result in verdict.results}
    words = []
    if played & {*LEVELS, STACK}:
        rest = "" if STACK in played else _STACK
        words += [_COVERED, _REPLACED, _NOT_COVERED.format(rest=rest)]
    if CLUSTER in played:
        words += [_COVERED_BY_CLUSTER, _ASSUMED, _REPLACED_IN_CLUSTER]
    return "\n".join(map(fitted, words))


def _print_not_applicable(verdict: Checked) -> None:
    for registry, scenario in verdict.not_applicable:
        print(
            fitted(
                f"not applicable: {registry} {scenario}: methods, or a module, are lacking", _BELOW
            )
        )


def _print_counterexamples(verdict: Checked) -> None:
    """One text for each property that a registry violates; of the others only the schedule."""
    shown: set[tuple[str, str]] = set()
    others: list[str] = []
    for result in verdict.results:
        counterexample = result.report.counterexample
        if counterexample is None or result.limit:
            continue
        kind = (result.registry, counterexample.property)
        if kind in shown:
            others.append(f"  onestream replay {counterexample.schedule}")
            continue
        shown.add(kind)
        print(
            f"\n-- {result.registry}, {result.scenario}: {Verdict.REFUTED}\n{counterexample.text}"
        )
    if others:
        print("\n-- more ways to the same violations")
        print("\n".join(others))


def _print_errors(verdict: Checked) -> None:
    """Of the line of a result only the beginning of its reason fits."""
    for result in verdict.results:
        if result.report.verdict == Verdict.ERROR:
            print(f"\n-- {result.registry}, {result.scenario}: {result.report.text}")


def _print_limits(verdict: Checked) -> None:
    """What the promise rests on: where it does not hold, production is refuted."""
    limits = [each for each in verdict.results if each.limit]
    if limits:
        print("\n-- limits: what lies outside of these assumptions is not promised")
    for result in limits:
        found = result.report.counterexample
        print(f"{result.limit}")
        if found is None:
            print(f"  not shown: {result.scenario} is {result.report.verdict}")
        else:
            print(f"  else {found.property.partition(':')[0]}: onestream replay {found.schedule}")


def _summary(registry: str, verdict: Checked) -> str:
    results = [each for each in verdict.results if each.registry == registry]
    reports = [each.report for each in results]
    executions = sum(report.executions for report in reports)
    seconds = sum(report.seconds for report in reports)
    figures = f"{counted(executions, 'execution')} in {seconds:.1f} s"
    return f"{registry}: {in_words(results)} ({figures})"


def _short(reason: str) -> str:
    words = reason.partition(" (")[0]
    return words if len(words) <= 40 else words[:39] + "…"
