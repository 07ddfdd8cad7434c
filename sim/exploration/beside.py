"""Some executions beside a search, of what stock Python may do otherwise.

A search keeps it as it is, so that its executions can be repeated: the order in which sets of tasks
iterate, the machine's CPUs, by which asyncio's default pool has its threads, which timers fire
together, that each reading of the wall clock is later than the last, when garbage is collected,
where the handlers of signals run, and what clocks show at the beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter
from typing import TypeAlias

from sim.exploration import (
    apart,
    clocks_of_today,
    collected,
    equal,
    machines,
    set_orders,
    signal_lines,
    time_limits,
)
from sim.exploration.executing import Watch, search
from sim.exploration.judgement import Conclusion, conclude
from sim.exploration.report import Findings
from sim.exploration.subject import Problem
from sim.exploration.thread_lines import may_be_found, refuted_between_lines
from sim.exploration.verdict import Stop
from sim.kernel.collections_at_polls import only_what_is_new
from sim.kernel.execution import run_execution
from sim.kernel.outcome import Outcome
from sim.kernel.schedule import Bounds
from sim.kernel.watchdog import limited
from sim.schedulers import DepartureBounded, NaturalOrder, OnlyKinds, RandomWalk, Scheduler
from sim.schedulers.random_first import FirstFew

RANDOM_EXECUTIONS = 1
"""In each of these bounds, besides that in natural order."""
SECONDS_MAX = 1.0
"""How long they may take after the budget is spent."""


Found: TypeAlias = tuple[Findings, Conclusion]


@dataclass(frozen=True, slots=True)
class Beside:
    """What such executions need of the search.

    until: of its budget. is_whole: whether it has seen every schedule; else random ones would
    refute what lies beyond its bound. thread_lines: whether threads are overtaken between lines.
    """

    until: float
    seed: int
    watch: Watch
    is_whole: bool
    thread_lines: bool


def natural_traced(problem: Problem) -> Outcome:
    scheduler = NaturalOrder()
    scheduler.next_execution()
    return run_execution(problem.subject.program, scheduler, problem.bounds, traced=True)


def looked_beside(
    problem: Problem, found: Found, natural: Outcome | None, beside: Beside, *, is_exhausted: bool
) -> Found:
    """What one comes to that found nothing. natural: a traced execution, None if there is none.

    is_exhausted: whether the search would prove.
    """
    if not may_be_found(*found) or found[0].executions == 0:
        # What has run no execution shows nothing, as a scheduler that a search before has used.
        return found
    try:
        if beside.thread_lines:
            limits = beside.until, beside.seed, beside.watch
            found = refuted_between_lines(problem, found[0], *limits) or found
        if _holds(found):
            found = _refuted_on_another_machine(problem, found[0], beside) or found
        if _holds(found) and is_exhausted:
            beside = replace(beside, until=max(beside.until, perf_counter() + SECONDS_MAX))
            found = _refuted_beside(problem, found[0], natural, beside) or found
            if _holds(found) and perf_counter() >= beside.until:
                # Or a machine's speed would decide between a proof and what they refute.
                found = found[0], replace(found[1], lacks_beside=True)
    except KeyboardInterrupt:
        found[0].stopped = Stop.INTERRUPTED
        found = found[0], replace(found[1], lacks_beside=is_exhausted)
    return found


def _holds(found: Found) -> bool:
    return found[0].failure is None and found[0].error is None


def _refuted_beside(
    problem: Problem, findings: Findings, natural: Outcome | None, beside: Beside
) -> Found | None:
    """findings: of a search that would prove."""
    return (
        _refuted_with_timers_apart(problem, findings, beside)
        or _refuted_with_equal_readings(problem, findings, beside)
        or _refuted_around_time_limits(problem, findings, natural, beside)
        or _refuted_in_another_order(problem, findings, natural, beside)
        or _refuted_with_collections(problem, findings, beside)
        or _refuted_with_signals_between_lines(problem, findings, beside)
        or _refuted_with_clocks_of_today(problem, findings, beside)
    )


def _refuted_in_another_order(
    problem: Problem, findings: Findings, natural: Outcome | None, beside: Beside
) -> Found | None:
    if not set_orders.are_hashed(natural):
        return None
    findings.set_orders = 0

    def count(more: Findings) -> None:
        findings.set_orders = (findings.set_orders or 0) + more.executions

    others = set_orders.in_other_orders(problem.bounds)
    return _refuted(problem, findings, others, "another order of sets of tasks", count, beside)


def _refuted_on_another_machine(
    problem: Problem, findings: Findings, beside: Beside
) -> Found | None:
    """findings: of a search that found nothing, whether or not it has ended."""
    if not machines.make_a_difference(problem, findings):
        return None
    findings.machines = 0

    def count(more: Findings) -> None:
        findings.machines = (findings.machines or 0) + more.executions

    beside = replace(beside, until=max(beside.until, perf_counter() + SECONDS_MAX))
    others = machines.on_other_machines(problem.bounds)
    return _refuted(problem, findings, others, "another number of CPUs", count, beside)


def _refuted_with_timers_apart(
    problem: Problem, findings: Findings, beside: Beside
) -> Found | None:
    if not apart.met(findings):
        return None
    findings.apart = 0
    schedulers: list[Scheduler] = [
        FirstFew(OnlyKinds(apart.OF_THE_CLOCK, apart.DEPARTURES), apart.EXECUTIONS)
    ]
    if beside.is_whole:
        schedulers.append(FirstFew(RandomWalk(beside.seed), apart.RANDOM_EXECUTIONS))

    def count(more: Findings) -> None:
        findings.apart = (findings.apart or 0) + more.executions

    other = replace(problem, bounds=apart.timers_apart(problem.bounds))
    with limited(beside.until):
        return _refuted_by(other, findings, schedulers, "timers apart", count, beside)


def _refuted_with_equal_readings(
    problem: Problem, findings: Findings, beside: Beside
) -> Found | None:
    if not equal.are_possible(findings):
        return None
    findings.equal = 0

    def count(more: Findings) -> None:
        findings.equal = (findings.equal or 0) + more.executions

    others = equal.with_equal_readings(problem.bounds)
    return _refuted(problem, findings, others, "two readings of the clock equal", count, beside)


def _refuted_around_time_limits(
    problem: Problem, findings: Findings, natural: Outcome | None, beside: Beside
) -> Found | None:
    # In each something departs from natural order, which may lie beyond the bound of a search.
    if not (beside.is_whole and time_limits.are_possible(findings, natural)):
        return None
    with limited(beside.until):
        few = FirstFew(RandomWalk(beside.seed), time_limits.TO_LEARN)
        limits = time_limits.learned(problem, [NaturalOrder(), few], beside.until)
        if not limits:
            return None
        findings.limits = 0
        departing = OnlyKinds(time_limits.KINDS, time_limits.DEPARTURES)
        schedulers = [
            FirstFew(departing, time_limits.executions_of(natural)),
            FirstFew(RandomWalk(beside.seed), time_limits.RANDOM_EXECUTIONS),
        ]

        def count(more: Findings) -> None:
            findings.limits = (findings.limits or 0) + more.executions

        other = replace(problem, bounds=time_limits.with_limits(problem.bounds, limits))
        return _refuted_by(other, findings, schedulers, "a time limit that ends", count, beside)


def _refuted_with_collections(problem: Problem, findings: Findings, beside: Beside) -> Found | None:
    looked = 0

    def count(more: Findings) -> None:
        nonlocal looked
        looked += more.executions
        if findings.collected is not None or "collections" in more.bounds_hit:
            findings.collected = looked

    others = collected.with_collections(problem.bounds, findings)
    with only_what_is_new():
        return _refuted(problem, findings, others, "the garbage collector", count, beside)


def _refuted_with_signals_between_lines(
    problem: Problem, findings: Findings, beside: Beside
) -> Found | None:
    if not signal_lines.are_possible(findings):
        return None
    findings.signals = 0
    schedulers: list[Scheduler] = [FirstFew(DepartureBounded(1), signal_lines.EXECUTIONS)]
    if beside.is_whole:
        schedulers.append(FirstFew(RandomWalk(beside.seed), signal_lines.RANDOM_EXECUTIONS))

    def count(more: Findings) -> None:
        findings.signals = (findings.signals or 0) + more.executions

    other = replace(problem, bounds=signal_lines.between_lines(problem.bounds))
    with limited(beside.until):
        return _refuted_by(other, findings, schedulers, "a signal between two lines", count, beside)


def _refuted_with_clocks_of_today(
    problem: Problem, findings: Findings, beside: Beside
) -> Found | None:
    bounds = clocks_of_today.of_today(problem.bounds)
    if bounds is None or not clocks_of_today.may_matter(problem, findings):
        return None
    findings.of_today = 0
    schedulers: list[Scheduler] = [NaturalOrder()]
    if beside.is_whole:
        schedulers = [
            FirstFew(DepartureBounded(1), clocks_of_today.EXECUTIONS),
            FirstFew(RandomWalk(beside.seed), clocks_of_today.RANDOM_EXECUTIONS),
        ]

    def count(more: Findings) -> None:
        findings.of_today = (findings.of_today or 0) + more.executions

    with limited(beside.until):
        other = replace(problem, bounds=bounds)
        return _refuted_by(other, findings, schedulers, "the clocks of today", count, beside)


def _refuted(
    problem: Problem,
    findings: Findings,
    others: Iterable[Bounds],
    found_by: str,
    count: Callable[[Findings], None],
    beside: Beside,
) -> Found | None:
    """A violation, or an error, of executions within these bounds. count: told of them.

    Raises KeyboardInterrupt where somebody wants it to end.
    """
    with limited(beside.until):
        for bounds in others:
            few = FirstFew(RandomWalk(beside.seed), RANDOM_EXECUTIONS)
            schedulers = [NaturalOrder(), *([few] if beside.is_whole else [])]
            other = replace(problem, bounds=bounds)
            found = _refuted_by(other, findings, schedulers, found_by, count, beside)
            if found is not None or perf_counter() >= beside.until:
                return found
    return None


def _refuted_by(
    problem: Problem,
    findings: Findings,
    schedulers: Iterable[Scheduler],
    found_by: str,
    count: Callable[[Findings], None],
    beside: Beside,
) -> Found | None:
    until, watch = beside.until, beside.watch
    for scheduler in schedulers:
        if perf_counter() >= until:
            return None
        more = search(problem, scheduler, until, None, watch)
        count(more)
        if more.stopped is Stop.INTERRUPTED:
            raise KeyboardInterrupt
        if more.failure is not None or more.error is not None:
            is_interrupted = partial(watch, findings, scheduler)
            concluded = conclude(problem, more, until, is_interrupted, is_exhausted=False)
            more.executions = findings.executions + findings.beside
            more.found_by = found_by
            return more, concluded
    return None
