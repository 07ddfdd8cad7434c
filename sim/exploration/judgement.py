"""From findings to a verdict: what was found is replayed, and of a search "proved" is said here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

from sim.counted import counted
from sim.counterexamples.counterexample import Counterexample, confirmed
from sim.counterexamples.differences import difference
from sim.counterexamples.shrink import shrink
from sim.exploration import clocks_of_today, collected, equal, machines, time_limits
from sim.exploration.databases import connections_held
from sim.exploration.module_state import named
from sim.exploration.named_by_programs import NamesOf
from sim.exploration.report import Findings, Report
from sim.exploration.subject import Problem
from sim.exploration.surviving_state import (
    FORKS_MAX,
    Departures,
    NaturalRuns,
    Survived,
    is_violated,
)
from sim.exploration.verdict import Stop, Unretrieved, Verdict
from sim.kernel.errors import BudgetSpent
from sim.kernel.execution import Program, run_execution
from sim.kernel.guards import guarded
from sim.kernel.isolation.entropy import clocks_held
from sim.kernel.outcome import Outcome
from sim.kernel.schedule import Bounds, Schedule, departures_of
from sim.kernel.threads.untold import NO_FILES, NOT_FOR_THREADS, WITHIN_STEPS
from sim.kernel.violation import Kind, Violation
from sim.kernel.watchdog import limited, seconds_left
from sim.schedulers import NaturalOrder, Scheduler

SHRINK_EXECUTIONS_MAX = 2000
# What bounds the shrinking is the number of executions; this is for programs with slow ones.
SHRINK_BUDGET_S = 10.0
# Of the time that is left; the rest is for the replays.
SHRINK_PART = 0.5
# How long the replays may take once the budget is spent.
CONCLUDE_S = 5.0


@dataclass(frozen=True, slots=True)
class Conclusion:
    """What the replays showed. differs: where two runs of the natural schedule differed.

    survived: what has outlived an execution. unconfirmed: as in Report.
    spent: what ran when there was no time left for them. unrepeated: why it is not known whether a
    fresh process has the violation, too; empty if it is known. caveat: where stock Python shows it
    under a condition alone; empty without one. lacks_beside: whether the budget, or who
    wanted it, ended the search before the executions beside it.
    """

    digest: str
    counterexample: Counterexample | None = None
    differs: str | None = None
    survived: Survived | None = None
    unconfirmed: str = ""
    spent: str | None = None
    unrepeated: str = ""
    caveat: str = ""
    lacks_beside: bool = False


def conclude(
    problem: Problem,
    findings: Findings,
    until: float,
    is_interrupted: Callable[[], bool] = lambda: False,
    natural: NaturalRuns | None = None,
    *,
    is_exhausted: bool,
    matches_states: bool = False,
) -> Conclusion:
    """Replays what was found: the failure, shrunk, or else the natural schedule.

    until: of the budget, by `perf_counter`; what was found is worth a few seconds more.
    natural: its runs from before the search; without them it is run twice.
    is_exhausted: whether the scheduler has seen enough for a proof, however the search ended.
    matches_states: whether that rests on states.
    """
    try:
        with limited(max(until, perf_counter() + CONCLUDE_S)):
            concluded = _replayed(
                problem, findings, is_interrupted, natural, is_exhausted, matches_states
            )
            if concluded.counterexample is None:
                return concluded
            schedule, caveat = concluded.counterexample.schedule, ""
            # It is true without what it hangs on.
            with suppress(BudgetSpent):
                caveat = (
                    machines.condition(problem, findings, schedule)
                    or equal.condition(schedule)
                    or time_limits.condition(schedule)
                    or clocks_of_today.condition(problem, findings, schedule)
                    or collected.condition(problem, schedule)
                )
            return replace(concluded, caveat=caveat)
    except KeyboardInterrupt:
        findings.stopped = Stop.INTERRUPTED
        return Conclusion(problem.digest)
    except BudgetSpent as exc:
        return Conclusion(problem.digest, spent=str(exc))


def _replayed(
    problem: Problem,
    findings: Findings,
    is_interrupted: Callable[[], bool],
    natural: NaturalRuns | None,
    is_exhausted: bool,
    matches_states: bool,
) -> Conclusion:
    subject = problem.subject
    head = subject.natural_schedule(problem.bounds)
    if findings.error is not None:
        return Conclusion(head.digest)
    if findings.failure is not None and _is_inherited(findings.failure):
        return _judged_inherited(head.digest, findings.failure, natural)
    if findings.failure is not None:
        found = _counterexample(subject.program, findings.failure, head, is_interrupted)
        if natural is None:
            return Conclusion(head.digest, found)
        return _judged_afresh(head.digest, findings.failure, found, natural)
    if findings.stopped is Stop.NONDETERMINISM and natural is not None:
        survived = natural.survived(findings.stopped_why or findings.stopped)
        return Conclusion(head.digest, survived=survived)
    if findings.stopped is not None and not is_exhausted:
        return Conclusion(head.digest)
    still = natural.survived_since() if natural is not None else None
    # The first of them may have ended in an error, or for lack of time.
    was_compared = natural is not None and natural.first is not None
    alone = None if was_compared else _compare_two_runs(subject.program, problem.bounds)
    if natural is not None and matches_states and still is None and alone is None:
        alone = _unread(natural)
    differs = _with_entropy(alone, findings, (subject.program, *subject.sources))
    return Conclusion(head.digest, differs=differs, survived=still)


def _unread(natural: NaturalRuns) -> str | None:
    """A proof by states is none where something decides that no state contains."""
    held = natural.held_by_modules()
    if held is None:
        return (
            f"states were matched, and they do not contain what modules and classes hold, which is "
            f"not known: there was no answer from a fresh process; {_TAKE_DEPTH_FIRST}"
        )
    if not held:
        return None
    return (
        f"states were matched, and they do not contain what modules and classes hold, which an "
        f"execution changes: {named(held)}; make it inside the program, or {_TAKE_DEPTH_FIRST}"
    )


_TAKE_DEPTH_FIRST = 'take strategy="depth-first"'


def _is_inherited(outcome: Outcome) -> bool:
    return outcome.violation is not None and outcome.violation.is_inherited


def _judged_inherited(digest: str, failure: Outcome, natural: NaturalRuns | None) -> Conclusion:
    """On stock asyncio each run would begin with objects that are bound to no loop."""
    assert failure.violation is not None
    text = words_of_violation(failure.violation)
    differs = f"«{failure.violation.property}» was violated by an object of an earlier loop"
    changes = None if natural is None else natural.changes(departures_of(failure.choices))
    if changes:
        return Conclusion(digest, survived=Survived.of(differs, changes), unconfirmed=text)
    words = (
        f"state survived an execution before this exploration: {differs}; make the object inside "
        f"the program, or explore those that came before with isolate=True as well"
    )
    survived = Survived(words, Stop.STATE_SURVIVED)
    return Conclusion(digest, survived=survived, unconfirmed=text)


def _judged_afresh(
    digest: str, failure: Outcome, found: Counterexample | None, natural: NaturalRuns
) -> Conclusion:
    """Whether a violation is one in a process in which nothing was executed before.

    found: the counterexample, if it came back in this process.
    """
    assert failure.violation is not None
    violated, departures = failure.violation.property, departures_of(failure.choices)
    if found is not None:
        if failure.violation.kind is Kind.ENDLESS_STEP:
            # Each execution of it takes seconds; the very first one was in a fresh process.
            is_known = natural.violated_at_once == violated
            return Conclusion(digest, found, unrepeated="" if is_known else _TOO_SLOW)
        shrunk = Schedule.parse(found.schedule).departures
        is_real = natural.copy.ask(is_violated, shrunk, violated)
        if is_real:
            return Conclusion(digest, found)
        if is_real is None:
            survived = natural.survived_since()
            if survived is not None:
                return Conclusion(digest, survived=survived, unconfirmed=found.text)
            return Conclusion(digest, found, unrepeated=_UNREPEATED)
    afresh: list[Counterexample] | None = natural.copy.ask(_confirm_alone, departures, violated)
    seen = "comes" if found is not None else "did not come"
    differs = f"«{violated}» was violated in an execution, and {seen} back in this process"
    if afresh:
        return Conclusion(digest, afresh[0], survived=natural.survived(differs, departures))
    if afresh is not None:
        differs += ", and is not violated in a fresh one"
    text = found.text if found is not None else words_of_violation(failure.violation)
    return Conclusion(digest, survived=natural.survived(differs, departures), unconfirmed=text)


_UNREPEATED, _TOO_SLOW = (
    f"not repeated in a fresh process, {why}: state of an earlier execution may have a part in it"
    for why in ("of which there was no answer in time", "as that takes too long")
)


def words_of_violation(violation: Violation) -> str:
    seen = f"\n  seen: {violation.detail}" if violation.detail else ""
    return f"violated at {violation.at:.3f} s: {violation.headline()}{seen}"


def _compare_two_runs(program: Program, bounds: Bounds) -> str | None:
    """Runs the natural schedule twice more; in words, where the two differ, or None."""
    first, second = (run_execution(program, NaturalOrder(), bounds, traced=True) for _ in range(2))
    differs = difference(first, second)
    return f"{Stop.NONDETERMINISM}: {differs}" if differs is not None else None


def _with_entropy(differs: str | None, findings: Findings, sources: Sequence[object]) -> str | None:
    """What no schedule decides in the program's modules makes a proof inconclusive, too."""
    words = [differs] if differs else []
    clocks, connections = clocks_held(sources), connections_held(sources)
    if clocks or connections:
        names = NamesOf(sources)
        clocks = [each for each in clocks if names.may_use(each.name)]
        connections = [each for each in connections if names.may_use(each.name)]
    if clocks:
        held = "; ".join(f"{each.words} holds a clock" for each in clocks[:_HELD_MAX])
        words.append(f"not virtualised: {held}; make it within the program")
    if connections:
        held = "; ".join(f"{each.words} is held" for each in connections[:_HELD_MAX])
        words.append(
            f"a database was opened before the executions, and is the same in each, with what the "
            f"last one wrote and with functions that may read a real clock: {held}; open it within "
            f"the program"
        )
    if findings.drawn_from:
        drawn = ", ".join(sorted(findings.drawn_from)[:_HELD_MAX])
        words.append(
            f"executions draw from a generator made before them, so each has other numbers: {drawn}"
            f"; make it within the program, with a seed, or let each execution run in a fork of "
            f"its own (isolate=True)"
        )
    return "; ".join(words) or None


_HELD_MAX = 4


@dataclass(frozen=True, slots=True)
class _Judged:
    """See Report."""

    verdict: Verdict
    reason: str
    stopped: Stop | None = None
    labels_missing: tuple[str, ...] = ()


def _judged(
    problem: Problem, findings: Findings, scheduler: Scheduler, conclusion: Conclusion
) -> _Judged:
    executions = f"{counted(findings.executions, 'execution')}, {scheduler.name}"
    if problem.isolate:
        executions += ", each in a fork of its own"
    if findings.error is not None:
        return _Judged(Verdict.ERROR, findings.error)
    if conclusion.spent is not None:
        why = f"{Stop.OUT_OF_BUDGET} before what was found is repeated: {conclusion.spent}"
        return _Judged(Verdict.INCONCLUSIVE, f"{why} ({executions})", Stop.OUT_OF_BUDGET)
    if findings.failure is not None:
        found = conclusion.counterexample
        if found is None:
            return _judged_unconfirmed(findings, conclusion)
        by = "" if findings.found_by == scheduler.name else f", found by {findings.found_by}"
        marks = [conclusion.survived.words] if conclusion.survived is not None else []
        marks += [mark for mark in (conclusion.unrepeated, conclusion.caveat) if mark]
        words = "; ".join([f"{found.headline} ({executions}{by})", *marks])
        return _Judged(Verdict.REFUTED, words)
    if conclusion.survived is not None:
        return _Judged(Verdict.INCONCLUSIVE, conclusion.survived.words, conclusion.survived.stop)
    if conclusion.differs is not None:
        return _Judged(Verdict.INCONCLUSIVE, f"{conclusion.differs} ({executions})")
    if conclusion.lacks_beside:
        is_interrupted = findings.stopped is Stop.INTERRUPTED
        why = Stop.INTERRUPTED if is_interrupted else Stop.OUT_OF_BUDGET
        advice = "" if is_interrupted else "; raise the budget"
        return _Judged(
            Verdict.INCONCLUSIVE,
            f"{why}: {scheduler.name} has seen all of its schedules, and the executions beside "
            f"them were cut short (other orders of sets, timers apart, equal readings of a clock, "
            f"ends of time limits, the garbage collector, signals between lines){advice} "
            f"({executions})",
            why,
        )
    if scheduler.is_exhausted and findings.stopped is not Stop.NONDETERMINISM:
        return _judged_exhausted(problem, findings, scheduler, executions)
    stopped = findings.stopped_why or findings.stopped
    why = stopped or f"no violation, but {scheduler.name} does not see all"
    may_go_on = findings.stopped in (None, Stop.OUT_OF_BUDGET, Stop.EXECUTIONS_MAX)
    # More time, or a smaller program, does not help where one step does not end.
    may_go_on = may_go_on and not findings.is_broken_off
    advice = f"; next: {scheduler.next_to_try}" if may_go_on and scheduler.next_to_try else ""
    is_of_step = findings.is_broken_off or findings.stopped is Stop.THREAD_SPINS
    left_out = "" if is_of_step else _left_out(findings, _LEFT_OUT_TOO)
    why = f"{why} ({executions}{_hit(findings)}){advice}{left_out}"
    return _Judged(Verdict.INCONCLUSIVE, why, findings.stopped)


def _judged_unconfirmed(findings: Findings, conclusion: Conclusion) -> _Judged:
    """A violation was seen, and not confirmed."""
    if conclusion.survived is not None:
        return _Judged(Verdict.INCONCLUSIVE, conclusion.survived.words, conclusion.survived.stop)
    if findings.stopped is Stop.INTERRUPTED:
        why = f"{Stop.INTERRUPTED} before a violation was confirmed"
        return _Judged(Verdict.INCONCLUSIVE, why, Stop.INTERRUPTED)
    why = f"{Stop.NONDETERMINISM}: a violation was not the same on replay"
    return _Judged(Verdict.INCONCLUSIVE, why, Stop.NONDETERMINISM)


def _why_nothing_was_executed(scheduler: Scheduler) -> str:
    name = type(scheduler).__name__
    return (
        f"nothing was executed: this {name} has no schedule left, as one that another search has "
        f"used; make one for each search, in the marker or the call itself: strategy={name}(…)"
    )


def _judged_exhausted(
    problem: Problem, findings: Findings, scheduler: Scheduler, executions: str
) -> _Judged:
    if findings.executions == 0:
        return _Judged(Verdict.ERROR, _why_nothing_was_executed(scheduler))
    missing = tuple(sorted(set(problem.subject.labels) - findings.labels))
    if missing:
        why = f"labels never reached: {', '.join(missing)} ({executions})"
        return _Judged(Verdict.INCONCLUSIVE, why, labels_missing=missing)
    if scheduler.vacuous is not None:
        return _Judged(Verdict.INCONCLUSIVE, f"{scheduler.vacuous} ({executions})")
    covers = _claim(scheduler, findings)
    is_cut = scheduler.bound_finished is not None and scheduler.complete != 1.0
    if is_cut and scheduler.name not in covers:
        # Those with one departure more were begun.
        executions += ", not to the end"
    covered = f"{covers}, within {problem.bounds} ({executions}{_hit(findings)})"
    return _Judged(Verdict.PROVED, covered)


def _hit(findings: Findings) -> str:
    """The bounds without which there would have been other executions; empty if there are none."""
    return f"; hit: {', '.join(sorted(findings.bounds_hit))}" if findings.bounds_hit else ""


def _claim(scheduler: Scheduler, findings: Findings) -> str:
    """What the scheduler covers, and what is left out where threads run the program's own lines."""
    looked = (
        (", with sets of tasks in one order", findings.set_orders, "looked at others"),
        (", with the threads of 4 CPUs", findings.machines, "looked at 1 and 28"),
        (", with timers of one instant together", findings.apart, "looked at others"),
        (", with no two readings of the clock equal", findings.equal, "looked at others"),
        (", with outside events at the instants of the model", findings.limits, "had others"),
        (", with garbage kept to the end", findings.collected, "collected it at polls"),
        (", with handlers of signals at polls", findings.signals, "ran them between lines"),
        (", with clocks that begin in 2020", findings.of_today, "had those of today"),
    )
    beside = "".join(
        f"{kept} ({counted(executions, 'execution')} {did})"
        for kept, executions, did in looked
        if executions is not None
    )
    return scheduler.covers + beside + _left_out(findings, ", ")


_LEFT_OUT_TOO = "; what was run holds "


def _left_out(findings: Findings, begins: str) -> str:
    """What threads were not overtaken by, and how that is added."""
    if not findings.undeclared:
        return ""
    *names, last = sorted({Path(file).name for file in findings.undeclared - NO_FILES}) or [""]
    random = counted(findings.between_lines, "random execution")
    looked = f" but for {random}" * bool(findings.between_lines)
    known = f"nothing is known of those{looked}; world.declare(__file__"
    where = []
    if last:
        files = " and ".join(filter(None, [", ".join(names), last]))
        where.append(f"between the lines of {files} ({known}) there adds them)")
    if NOT_FOR_THREADS in findings.undeclared:
        advice = "let a thread call loop.call_soon_threadsafe"
        where.append(f"between the lines of {NOT_FOR_THREADS} ({advice})")
    if WITHIN_STEPS in findings.undeclared:
        where.append(f"within {WITHIN_STEPS} ({known}, in_loop=True) adds them)")
    return (
        f"{begins}if threads switch only where they wait or take a lock, and not "
        f"{', nor '.join(where)}"
    )


def _counterexample(
    program: Program, failure: Outcome, head: Schedule, is_interrupted: Callable[[], bool]
) -> Counterexample | None:
    """Shrinks the failure and replays it twice, traced; None if it is not the same both times."""
    assert failure.violation is not None
    violated = failure.violation.property
    deadline = _shrink_until()
    departures = departures_of(failure.choices)
    # Each execution that the watchdog breaks off takes seconds.
    if failure.violation.kind is not Kind.ENDLESS_STEP:
        departures, _ = shrink(
            program,
            departures,
            violated,
            head.bounds,
            executions_max=SHRINK_EXECUTIONS_MAX,
            is_interrupted=lambda: perf_counter() > deadline or is_interrupted(),
        )
    return confirmed(program, replace(head, departures=departures), violated)


def _shrink_until() -> float:
    return perf_counter() + min(SHRINK_BUDGET_S, SHRINK_PART * seconds_left())


def _confirm_alone(problem: Problem, departures: Departures, violated: str) -> list[Counterexample]:
    """It alone, where each execution that leads to it runs in a fork; none if nothing violates."""
    head = problem.subject.natural_schedule(problem.bounds)
    program, bounds = problem.subject.program, problem.bounds
    deadline = _shrink_until()
    with guarded(isolate=True):
        departures, _ = shrink(
            program,
            departures,
            violated,
            bounds,
            executions_max=FORKS_MAX,
            is_interrupted=lambda: perf_counter() > deadline,
        )
        found = confirmed(program, replace(head, departures=departures), violated)
    return [] if found is None else [found]


def make_report(
    problem: Problem,
    scheduler: Scheduler,
    findings: Findings,
    conclusion: Conclusion,
    seconds: float,
) -> Report:
    judged = _judged(problem, findings, scheduler, conclusion)
    verdict = judged.verdict
    return Report(
        verdict=verdict,
        reason=judged.reason,
        stopped=judged.stopped,
        labels_missing=judged.labels_missing,
        claim=_claim(scheduler, findings) if verdict == Verdict.PROVED else "",
        covers=scheduler.covers if verdict == Verdict.PROVED else "",
        executions=findings.executions,
        seconds=seconds,
        complete=scheduler.complete,
        strategy=scheduler.name,
        counterexample=conclusion.counterexample,
        labels=frozenset(findings.labels),
        bounds=problem.bounds,
        bounds_hit=frozenset(findings.bounds_hit),
        digest=conclusion.digest,
        found_by=findings.found_by if verdict == Verdict.REFUTED else None,
        unconfirmed=conclusion.unconfirmed,
        unretrieved=_unretrieved(problem, findings),
        states=scheduler.states,
    )


def _unretrieved(problem: Problem, findings: Findings) -> Unretrieved | None:
    if findings.unretrieved is None:
        return None
    seen, departures = findings.unretrieved
    head = problem.subject.natural_schedule(problem.bounds)
    return Unretrieved(seen, str(replace(head, departures=departures)))
