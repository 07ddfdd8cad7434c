"""Threads that are overtaken between the lines of the modules where they and the program begin,
and that go on between those of them that the loop's own thread runs.

To run every schedule of these is too much for all but the smallest programs, so the search leaves
them out unless `world.declare` asks for them, and a claim says so. Some random executions with them
find what stock Python shows in noisy runs, as an update that two threads lose between two lines.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from time import perf_counter

from sim.counterexamples.counterexample import Counterexample
from sim.exploration.executing import Watch, search
from sim.exploration.judgement import Conclusion, conclude
from sim.exploration.report import Findings
from sim.exploration.subject import Problem
from sim.exploration.verdict import Stop
from sim.kernel.origin import is_own_code
from sim.kernel.schedule import GOES_ON
from sim.kernel.threads.handing_over import hands_over_before
from sim.kernel.threads.untold import NO_FILES, WITHIN_STEPS
from sim.kernel.watchdog import limited
from sim.schedulers import RandomWalk
from sim.schedulers.random_first import FirstFew

EXECUTIONS = 20
# Of the budget, after which they are run, where the search has not ended by then.
BEFORE_PART = 0.1
SECONDS_MAX = 3.0
"""How long they may go on after the budget is spent."""


def _with_lines(problem: Problem) -> Problem:
    """The same, and each line of its own modules that a thread runs is a switch point."""
    return replace(problem, bounds=replace(problem.bounds, own_lines=True))


def _are_left_out(findings: Findings) -> bool:
    """Whether threads were not overtaken at lines of a user's own module, nor overtook the loop."""
    if findings.between_lines:
        return False
    left_out = findings.undeclared
    return WITHIN_STEPS in left_out or any(map(is_own_code, left_out - NO_FILES))


def refuted_between_lines(
    problem: Problem, findings: Findings, until: float, seed: int, watch: Watch
) -> tuple[Findings, Conclusion] | None:
    """A violation, or an error, of some random executions more, which count in any case.

    Only if that was not looked for before. until: of the budget. findings: of the search that found
    nothing. Raises KeyboardInterrupt where somebody wants it to end.
    """
    if not _are_left_out(findings):
        return None
    problem = _with_lines(problem)
    until = max(until, perf_counter() + SECONDS_MAX)
    scheduler = FirstFew(RandomWalk(seed), EXECUTIONS)
    with limited(until):
        more = search(problem, scheduler, until, None, watch)
        findings.executions += more.executions
        findings.between_lines = more.executions
        if more.stopped is Stop.INTERRUPTED:
            raise KeyboardInterrupt
        if more.failure is None and more.error is None:
            return None
        concluded = conclude(
            problem, more, until, lambda: watch(more, scheduler), is_exhausted=False
        )
        if concluded.counterexample is not None:
            caveat = _caveat(problem, concluded.counterexample, findings.undeclared)
            caveats = filter(None, (concluded.caveat, caveat))
            concluded = replace(concluded, caveat="; ".join(caveats))
    more.executions = findings.executions
    more.found_by = "random, between the lines of threads"
    return more, concluded


def _caveat(problem: Problem, found: Counterexample, files: Iterable[str]) -> str:
    """Where CPython itself would not have let another thread go on; empty if it would."""
    by_name = {Path(file).name: file for file in files}
    departures = found.replay(problem.subject.program).departures
    overtaken = {
        event.name.partition(GOES_ON)[2] for each in departures for event in each.passed_over
    }
    never = []
    for place in sorted(overtaken):
        name, _, line = place.rpartition(":")
        if name in by_name and not hands_over_before(by_name[name], int(line)):
            never.append(place)
    if not never:
        return ""
    return (
        f"before {' and '.join(never)} this CPython, which has the GIL, lets no other thread go "
        f"on unless something there runs Python (an object's `__add__`, a property): with plain "
        f"numbers it takes a build without the GIL"
    )


def may_be_found(findings: Findings, conclusion: Conclusion) -> bool:
    """Whether the search ended without a fault, and not since somebody wanted it to end.

    Where an execution had to be broken off, more of them would take as long.
    """
    is_quiet = findings.failure is None and findings.error is None and not findings.is_broken_off
    is_sure = conclusion.survived is None and conclusion.differs is None
    return is_quiet and is_sure and findings.stopped in (None, Stop.OUT_OF_BUDGET)
