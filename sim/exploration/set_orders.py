"""Other orders in which sets of tasks and futures may iterate.

On stock Python that order hangs on addresses. Within a search it is one and the same, so that its
executions can be repeated; before it says "proved", some executions in other orders find what
depends on it, as on which task of `asyncio.wait`'s done set comes first.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from time import perf_counter

from sim.exploration.executing import Watch, search
from sim.exploration.judgement import Conclusion, conclude
from sim.exploration.report import Findings
from sim.exploration.subject import Problem
from sim.kernel.execution import Outcome, run_execution
from sim.kernel.watchdog import limited
from sim.schedulers import NaturalOrder, RandomWalk
from sim.schedulers.random_first import FirstFew

ORDERS = 16
RANDOM_EXECUTIONS = 1
"""In each order, besides that in natural order."""


def are_hashed(natural: Outcome | None) -> bool:
    """Whether that traced execution put tasks or futures into sets or dictionaries of its own."""
    recording = None if natural is None else natural.recording
    return recording is not None and (recording.hashes_tasks or recording.hashes_futures)


def natural_traced(problem: Problem) -> Outcome:
    scheduler = NaturalOrder()
    scheduler.next_execution()
    return run_execution(problem.subject.program, scheduler, problem.bounds, traced=True)


def refuted_in_another_order(
    problem: Problem,
    findings: Findings,
    until: float,
    seed: int,
    watch: Watch,
    *,
    is_whole: bool,
) -> tuple[Findings, Conclusion] | None:
    """A violation of some executions more, until this reading of `perf_counter`.

    findings: of a search that would prove; it notes how many there were. is_whole: it has seen
    every schedule; else random ones would refute what lies beyond its bound.
    """
    findings.set_orders = 0
    with limited(until):
        for order in range(1, ORDERS + 1):
            other = replace(problem, bounds=replace(problem.bounds, set_order=order))
            random = [FirstFew(RandomWalk(seed), RANDOM_EXECUTIONS)] if is_whole else []
            for scheduler in (NaturalOrder(), *random):
                if perf_counter() >= until:
                    return None
                more = search(other, scheduler, until, None, watch)
                findings.set_orders += more.executions
                if more.failure is not None:
                    is_interrupted = partial(watch, findings, scheduler)
                    concluded = conclude(other, more, until, is_interrupted, is_exhausted=False)
                    more.executions = findings.executions + findings.set_orders
                    more.found_by = "another order of sets of tasks"
                    return more, concluded
    return None
