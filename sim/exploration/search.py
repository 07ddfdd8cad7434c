"""explore(): runs a program under many schedules, and reports a verdict."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Literal

from sim.counterexamples.counterexample import Counterexample, confirmed
from sim.counterexamples.differences import difference
from sim.counterexamples.shrink import shrink
from sim.exploration.fresh_copy import FreshCopy
from sim.exploration.subject import Problem, Subject, require_program
from sim.exploration.surviving_state import NaturalRuns, Survived, is_violated
from sim.exploration.verdict import Stop, Unretrieved, Verdict
from sim.kernel import forks
from sim.kernel.errors import BudgetSpent, Nondeterminism
from sim.kernel.execution import (
    Outcome,
    Program,
    guarded,
    require_no_running_loop,
    run_execution,
)
from sim.kernel.hashing import names_kept
from sim.kernel.isolation.entropy import not_virtualised
from sim.kernel.schedule import Bounds, Schedule, departures_of
from sim.kernel.violation import Kind, Violation
from sim.kernel.watchdog import limited
from sim.schedulers import (
    PCT,
    CancelEverywhere,
    DepartureBounded,
    DepthFirst,
    NaturalOrder,
    Portfolio,
    RandomWalk,
    Reduced,
    Scheduler,
    Staged,
    StateMatching,
)

BUDGET_S = 60.0
DEFAULT_STRATEGY = "staged"
SHRINK_EXECUTIONS_MAX = 2000
# What bounds the shrinking is the number of executions; this is for programs with slow ones.
SHRINK_BUDGET_S = 10.0
# How long the replays may take once the budget is spent.
CONCLUDE_S = 5.0
COLLECT_EVERY_EXECUTIONS = 200
FORKS_MAX, FORKS_S = 50, 10.0
"""How many executions run in forks, and for how many real seconds, where state survives."""


@dataclass(frozen=True, slots=True)
class Report:
    """The verdict on one program, with what it rests on.

    reason: why, in words. stopped: what ended the search, where it is inconclusive for that.
    claim: which schedules a proof covers, as `every schedule`; empty without a proof.
    complete: which part of the tree of choices was seen, 0..1, or None where that is unknown.
    found_by: which scheduler's execution is the counterexample, where several took turns.
    unretrieved: what the first execution left behind in which nobody retrieved an exception or
    awaited a coroutine, and which asyncio would log.
    labels: those reached; labels_missing: those never reached, where nothing else is wrong.
    bounds_hit: the bounds that limited what was explored.
    unconfirmed: a violation that was seen, and is none of a fresh process as far as is known.
    """

    verdict: Verdict
    reason: str
    claim: str
    executions: int
    seconds: float
    complete: float | None
    strategy: str
    counterexample: Counterexample | None
    labels: frozenset[str]
    bounds: Bounds
    bounds_hit: frozenset[str]
    digest: str
    found_by: str | None = None
    stopped: Stop | None = None
    labels_missing: tuple[str, ...] = ()
    unconfirmed: str = ""
    unretrieved: Unretrieved | None = None

    @property
    def was_interrupted(self) -> bool:
        return self.stopped is Stop.INTERRUPTED

    @property
    def was_out_of_budget(self) -> bool:
        return self.stopped is Stop.OUT_OF_BUDGET

    @property
    def text(self) -> str:
        lines = [f"{self.verdict}: {self.reason}"]
        if self.counterexample is not None:
            lines.append(self.counterexample.text)
        elif self.unretrieved is not None:
            lines.append(self.unretrieved.text)
        if self.unconfirmed:
            lines += ["a violation was seen all the same, and is not confirmed:", self.unconfirmed]
        return "\n".join(lines)


@dataclass(slots=True)
class Findings:
    """The results of several executions together."""

    executions: int = 0
    labels: set[str] = field(default_factory=set)
    bounds_hit: set[str] = field(default_factory=set)
    failure: Outcome | None = None
    found_by: str | None = None
    # Why the search ended before the scheduler was exhausted, None if it was; stopped_why: in
    # words, where they say more than those of `stopped`.
    stopped: Stop | None = None
    stopped_why: str | None = None
    error: str | None = None
    # Of the first execution that left something unretrieved: what, and its departures.
    unretrieved: tuple[tuple[str, ...], tuple[tuple[int, int], ...]] | None = None
    # Of the last execution: how many choice points it had.
    choice_points: int = 0

    @property
    def is_final(self) -> bool:
        """Whether no further execution could change the verdict."""
        is_stopped = self.stopped is not None and self.stopped.is_final
        return self.failure is not None or self.error is not None or is_stopped

    def add(self, later: Findings) -> None:
        """As if the executions of `later` had followed."""
        self.executions += later.executions
        self.labels |= later.labels
        self.bounds_hit |= later.bounds_hit
        self.failure, self.found_by = later.failure, later.found_by
        self.stopped, self.stopped_why = later.stopped, later.stopped_why
        self.error = later.error
        self.unretrieved = self.unretrieved or later.unretrieved
        self.choice_points = later.choice_points or self.choice_points


@dataclass(frozen=True, slots=True)
class Conclusion:
    """What the replays showed. differs: where two runs of the natural schedule differed.

    survived: what has outlived an execution. unconfirmed: as in Report.
    spent: what ran when there was no time left for them.
    """

    digest: str
    counterexample: Counterexample | None = None
    differs: str | None = None
    survived: Survived | None = None
    unconfirmed: str = ""
    spent: str | None = None


Departures = tuple[tuple[int, int], ...]
Watch = Callable[[Findings, Scheduler], bool]
"""Called before each execution; True interrupts the search."""


def explore(
    program: Program | Subject,
    *,
    strategy: str | Scheduler = DEFAULT_STRATEGY,
    budget_s: float | None = None,
    max_executions: int | None = None,
    seed: int = 0,
    labels: Iterable[str] = (),
    lateness_s: float = Bounds.lateness_s,
    passes_max: int = Bounds.passes_max,
    spin_max: int = Bounds.spin_max,
    horizon_s: float = Bounds.horizon_s,
    entropy_seed: int = Bounds.entropy_seed,
    step_lines_max: int = Bounds.step_lines_max,
    isolate: bool = False,
    unretrieved: Literal["warn", "fail"] = "warn",
    watch: Watch = lambda findings, scheduler: False,
) -> Report:
    """Explores the schedules of `await program(world)`, and returns a Report.

    program: or a Subject, which has its own name and lists the code that its schedules depend on.
    strategy: `staged` (natural order, some random schedules, some with one departure, then every
    schedule, each state of memory only once), `states` (the last alone), `depth-first` (every
    schedule), `departures` (every schedule with up to one departure, then two, … as long as the
    budget allows), `reduced` (one schedule of each class, if the actors share nothing but what
    `World.shared` declares), `random`, `pct`, `portfolio` (several random
    schedulers in turns), `natural`, `cancel everywhere` (see `World.offer_cancels`), or a
    Scheduler; the random ones and `natural` can refute and never prove. seed: of what is random.
    budget_s: real seconds, 60 unless `max_executions` bounds the search.
    labels: what some execution has to reach (`world.reached`), or the verdict is inconclusive.
    lateness_s … horizon_s, step_lines_max: the bounds of the arrival model, see
    `sim.kernel.schedule.Bounds`.
    entropy_seed: of the numbers that `random`, `uuid` and so on give the program; they are the
    same in each execution.
    isolate: each execution runs in a fork of this process, for programs that change what outlives
    one (a module's globals, a cache): some ms each, and not under `states`, `reduced` and `cancel
    everywhere`.
    unretrieved: whether an exception that nobody retrieves, or a coroutine that nobody awaits, of
    an execution that ends well is a warning of the report (asyncio logs it), or a violation.
    watch: called before each execution with the findings so far; interrupts by returning True.
    """
    require_no_running_loop()
    if unretrieved not in ("warn", "fail"):
        raise ValueError(f"unretrieved is 'warn' or 'fail', not {unretrieved!r}")
    bounds = Bounds(
        lateness_s,
        passes_max,
        spin_max,
        horizon_s,
        entropy_seed,
        step_lines_max,
        unretrieved_fails=unretrieved == "fail",
    )
    scheduler = make_scheduler(strategy, seed, isolate=isolate)
    if budget_s is None and max_executions is None:
        budget_s = BUDGET_S
    subject = program if isinstance(program, Subject) else Subject.of(program)
    require_program(subject.program)
    subject = replace(subject, labels=(*subject.labels, *labels))
    if isolate and not forks.are_possible():
        raise ValueError("isolate=True needs os.fork, which this system lacks")
    problem = Problem(subject, bounds, isolate)
    begun = perf_counter()
    deadline = begun + budget_s if budget_s is not None else None
    limits = _Limits(deadline, max_executions, watch)
    if isolate or subject.makes_its_state or max_executions == 0:
        with limited(limits.until), guarded(isolate=isolate):
            found = _search_and_conclude(problem, scheduler, limits, None)
    else:
        with limited(limits.until), FreshCopy(problem) as copy, guarded():
            found = _explored(problem, scheduler, limits, NaturalRuns(problem, copy), seed)
    return make_report(problem, scheduler, *found, perf_counter() - begun)


@dataclass(frozen=True, slots=True)
class _Limits:
    """As of `search`."""

    deadline: float | None
    executions_max: int | None
    watch: Watch

    @property
    def is_over(self) -> bool:
        return self.deadline is not None and perf_counter() >= self.deadline

    @property
    def until(self) -> float:
        """Of `limited`."""
        return math.inf if self.deadline is None else self.deadline

    @property
    def seconds_left(self) -> float:
        return math.inf if self.deadline is None else max(0.0, self.deadline - perf_counter())


def _explored(
    problem: Problem, scheduler: Scheduler, limits: _Limits, natural: NaturalRuns, seed: int
) -> tuple[Findings, Conclusion]:
    """Looks for state that survives an execution, then searches."""
    try:
        natural.look(lambda: limits.is_over)
        if natural.differs is not None:
            return _searched_in_forks(problem, limits, natural, seed)
    except KeyboardInterrupt:
        return Findings(stopped=Stop.INTERRUPTED), Conclusion(problem.digest)
    except BudgetSpent as exc:
        return _out_of_budget(Findings(), exc), Conclusion(problem.digest)
    with names_kept(natural.names):
        return _search_and_conclude(problem, scheduler, limits, natural)


def _search_and_conclude(
    problem: Problem, scheduler: Scheduler, limits: _Limits, natural: NaturalRuns | None
) -> tuple[Findings, Conclusion]:
    deadline, executions_max, watch = limits.deadline, limits.executions_max, limits.watch
    findings = search(problem, scheduler, deadline, executions_max, watch)
    # What was found is worth a few seconds more.
    until = max(limits.until, perf_counter() + CONCLUDE_S)
    try:
        with limited(until):
            concluded = conclude(problem, findings, lambda: watch(findings, scheduler), natural)
        return findings, concluded
    except KeyboardInterrupt:
        findings.stopped = Stop.INTERRUPTED
        return findings, Conclusion(problem.digest)
    except BudgetSpent as exc:
        return findings, Conclusion(problem.digest, spent=str(exc))


def _out_of_budget(findings: Findings, spent: BudgetSpent) -> Findings:
    findings.stopped = Stop.OUT_OF_BUDGET
    findings.stopped_why = f"{Stop.OUT_OF_BUDGET}: {spent}"
    return findings


def _searched_in_forks(
    problem: Problem, limits: _Limits, natural: NaturalRuns, seed: int
) -> tuple[Findings, Conclusion]:
    """State survives, so nothing is proved; a violation in a fresh process is one all the same."""
    assert natural.first is not None
    assert natural.differs is not None
    survived = natural.survived(natural.differs, what="the first execution")
    executions_max = min(FORKS_MAX, limits.executions_max or FORKS_MAX)
    seconds = min(FORKS_S, limits.seconds_left)
    found = natural.copy.ask(_search_alone, seed, executions_max, seconds)
    if found is not None:
        findings, conclusion = found
        return findings, replace(conclusion, survived=survived)
    violation = natural.first.violation
    unconfirmed = "" if violation is None else _words_of_violation(violation)
    return Findings(), Conclusion(problem.digest, survived=survived, unconfirmed=unconfirmed)


def _search_alone(
    problem: Problem, seed: int, executions_max: int, seconds: float
) -> tuple[Findings, Conclusion]:
    """Some schedules, in natural order and at random, each in a fork of its own."""
    limits = _Limits(perf_counter() + seconds, executions_max, lambda findings, scheduler: False)
    with guarded(isolate=True):
        return _search_and_conclude(problem, Portfolio(seed), limits, None)


def _confirm_alone(
    problem: Problem, departures: Departures, violated: str
) -> Counterexample | None:
    """The counterexample, where each execution that leads to it runs in a fork of its own."""
    head = problem.subject.natural_schedule(problem.bounds)
    program, bounds = problem.subject.program, problem.bounds
    deadline = perf_counter() + SHRINK_BUDGET_S
    with guarded(isolate=True):
        departures, _ = shrink(
            program,
            departures,
            violated,
            bounds,
            executions_max=FORKS_MAX,
            is_interrupted=lambda: perf_counter() > deadline,
        )
        return confirmed(program, replace(head, departures=departures), violated)


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
        claim=scheduler.covers if verdict == Verdict.PROVED else "",
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
    )


def _unretrieved(problem: Problem, findings: Findings) -> Unretrieved | None:
    if findings.unretrieved is None:
        return None
    seen, departures = findings.unretrieved
    head = problem.subject.natural_schedule(problem.bounds)
    return Unretrieved(seen, str(replace(head, departures=departures)))


# The most departures that `departures` comes to; no budget does.
DEPARTURES_MAX = 100

STRATEGIES: dict[str, Callable[[int], Scheduler]] = {
    "staged": Staged,
    "depth-first": lambda seed: DepthFirst(),
    "departures": lambda seed: DepartureBounded(1, DEPARTURES_MAX),
    "reduced": lambda seed: Reduced(DepthFirst(), seed=seed),
    "states": lambda seed: StateMatching(seed=seed),
    "random": RandomWalk,
    "pct": PCT,
    "portfolio": Portfolio,
    "natural": lambda seed: NaturalOrder(),
    "cancel everywhere": lambda seed: CancelEverywhere(),
}


def make_scheduler(strategy: str | Scheduler, seed: int, *, isolate: bool = False) -> Scheduler:
    if isinstance(strategy, Scheduler):
        return strategy
    if not isinstance(strategy, str):
        raise TypeError(
            f"strategy {strategy!r} is no scheduler: let {type(strategy).__name__} inherit from "
            f"sim.Scheduler, which has a default for all but next_execution and choose"
        )
    if strategy not in STRATEGIES:
        raise ValueError(
            f"strategy {strategy!r} is not known; there are {', '.join(STRATEGIES)}, or give an "
            f"object of a class that inherits from sim.Scheduler"
        )
    if isolate and strategy == Staged.name:
        return Staged(seed, reads_states=False)
    return STRATEGIES[strategy](seed)


def search(
    problem: Problem,
    scheduler: Scheduler,
    deadline: float | None,
    executions_max: int | None,
    watch: Watch,
) -> Findings:
    """Runs the scheduler's executions until it is exhausted, or something else ends the search.

    deadline: a reading of `time.perf_counter`. To be called within `guarded`.
    """
    findings = Findings()
    try:
        while scheduler.next_execution():
            if executions_max is not None and findings.executions >= executions_max:
                findings.stopped = Stop.EXECUTIONS_MAX
                findings.stopped_why = f"the limit of {executions_max} executions was reached"
                break
            if deadline is not None and perf_counter() >= deadline:
                findings.stopped = Stop.OUT_OF_BUDGET
                break
            if watch(findings, scheduler):
                findings.stopped = Stop.INTERRUPTED
                break
            if _execute(problem, scheduler, findings):
                break
            if findings.executions % COLLECT_EVERY_EXECUTIONS == 0:
                gc.collect(1)
    except Nondeterminism as exc:
        findings.stopped = Stop.NONDETERMINISM
        findings.stopped_why = f"{Stop.NONDETERMINISM}: {exc}"
    except BudgetSpent as exc:
        _out_of_budget(findings, exc)
    except KeyboardInterrupt:
        findings.stopped = Stop.INTERRUPTED
    return findings


def _execute(problem: Problem, scheduler: Scheduler, findings: Findings) -> bool:
    """One execution; whether it ends the search."""
    outcome = run_execution(problem.subject.program, scheduler, problem.bounds)
    findings.executions += 1
    findings.labels |= outcome.labels
    findings.bounds_hit |= outcome.bounds_hit
    findings.choice_points = len(outcome.choices)
    if outcome.unretrieved and findings.unretrieved is None:
        findings.unretrieved = outcome.unretrieved, departures_of(outcome.choices)
    violated = outcome.violation.property if outcome.violation is not None else None
    wrong = scheduler.learn(violated, outcome.labels)
    outcome.error = outcome.error or wrong
    if outcome.error is not None:
        findings.error = outcome.error
    elif outcome.violation is not None:
        findings.failure = outcome
        findings.found_by = scheduler.at_work
    return findings.error is not None or findings.failure is not None


def conclude(
    problem: Problem,
    findings: Findings,
    is_interrupted: Callable[[], bool] = lambda: False,
    natural: NaturalRuns | None = None,
) -> Conclusion:
    """Replays what was found: the failure, shrunk, or else the natural schedule.

    natural: its runs from before the search; without them it is run twice.
    """
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
    if findings.stopped is not None:
        return Conclusion(head.digest)
    still = natural.survived_since() if natural is not None else None
    alone = None if natural is not None else _compare_two_runs(subject.program, problem.bounds)
    differs = _with_entropy(alone, (subject.program, *subject.sources))
    return Conclusion(head.digest, differs=differs, survived=still)


def _is_inherited(outcome: Outcome) -> bool:
    return outcome.violation is not None and outcome.violation.is_inherited


def _judged_inherited(digest: str, failure: Outcome, natural: NaturalRuns | None) -> Conclusion:
    """On stock asyncio each run would begin with objects that are bound to no loop."""
    assert failure.violation is not None
    text = _words_of_violation(failure.violation)
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
            # Each execution of it takes seconds.
            return Conclusion(digest, found)
        shrunk = Schedule.parse(found.schedule).departures
        is_real = natural.copy.ask(is_violated, shrunk, violated)
        if is_real is None:
            survived = natural.survived_since()
            if survived is not None:
                return Conclusion(digest, survived=survived, unconfirmed=found.text)
        if is_real is not False:
            return Conclusion(digest, found)
    afresh = natural.copy.ask(_confirm_alone, departures, violated)
    seen = "comes" if found is not None else "did not come"
    differs = f"«{violated}» was violated in an execution, and {seen} back in this process"
    if afresh is not None:
        return Conclusion(digest, afresh, survived=natural.survived(differs, departures))
    differs += ", and is not violated in a fresh one" if natural.copy.is_alive else ""
    text = found.text if found is not None else _words_of_violation(failure.violation)
    return Conclusion(digest, survived=natural.survived(differs, departures), unconfirmed=text)


def _words_of_violation(violation: Violation) -> str:
    seen = f"\n  seen: {violation.detail}" if violation.detail else ""
    return f"violated at {violation.at:.3f} s: {violation.property}{seen}"


def _compare_two_runs(program: Program, bounds: Bounds) -> str | None:
    """Runs the natural schedule twice more; in words, where the two differ, or None."""
    first, second = (run_execution(program, NaturalOrder(), bounds, traced=True) for _ in range(2))
    differs = difference(first, second)
    return f"{Stop.NONDETERMINISM}: {differs}" if differs is not None else None


def _with_entropy(differs: str | None, sources: Iterable[object]) -> str | None:
    """State in the program's modules that no schedule decides makes a proof inconclusive, too."""
    held = not_virtualised(sources)
    if not held:
        return differs
    named = f"not virtualised: {'; '.join(held[:4])}; make it within the program"
    return f"{differs}; {named}" if differs else named


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
    executions = f"{findings.executions} executions, {scheduler.name}"
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
        survived = f"; {conclusion.survived.words}" if conclusion.survived is not None else ""
        return _Judged(Verdict.REFUTED, f"{found.property} ({executions}{by}){survived}")
    if conclusion.survived is not None:
        return _Judged(Verdict.INCONCLUSIVE, conclusion.survived.words, conclusion.survived.stop)
    if conclusion.differs is not None:
        return _Judged(Verdict.INCONCLUSIVE, f"{conclusion.differs} ({executions})")
    if scheduler.is_exhausted:
        return _judged_exhausted(problem, findings, scheduler, executions)
    stopped = findings.stopped_why or findings.stopped
    why = stopped or f"no violation, but {scheduler.name} does not see all"
    may_go_on = findings.stopped in (None, Stop.OUT_OF_BUDGET, Stop.EXECUTIONS_MAX)
    advice = f"; next: {scheduler.next_to_try}" if may_go_on and scheduler.next_to_try else ""
    return _Judged(Verdict.INCONCLUSIVE, f"{why} ({executions}){advice}", findings.stopped)


def _judged_unconfirmed(findings: Findings, conclusion: Conclusion) -> _Judged:
    """A violation was seen, and not confirmed."""
    if conclusion.survived is not None:
        return _Judged(Verdict.INCONCLUSIVE, conclusion.survived.words, conclusion.survived.stop)
    if findings.stopped is Stop.INTERRUPTED:
        why = f"{Stop.INTERRUPTED} before a violation was confirmed"
        return _Judged(Verdict.INCONCLUSIVE, why, Stop.INTERRUPTED)
    why = f"{Stop.NONDETERMINISM}: a violation was not the same on replay"
    return _Judged(Verdict.INCONCLUSIVE, why, Stop.NONDETERMINISM)


def _judged_exhausted(
    problem: Problem, findings: Findings, scheduler: Scheduler, executions: str
) -> _Judged:
    missing = tuple(sorted(set(problem.subject.labels) - findings.labels))
    if missing:
        why = f"labels never reached: {', '.join(missing)} ({executions})"
        return _Judged(Verdict.INCONCLUSIVE, why, labels_missing=missing)
    if findings.executions == 0:
        return _Judged(Verdict.ERROR, "nothing was executed")
    if scheduler.vacuous is not None:
        return _Judged(Verdict.INCONCLUSIVE, f"{scheduler.vacuous} ({executions})")
    covered = f"{scheduler.covers}, within {problem.bounds} ({executions})"
    return _Judged(Verdict.PROVED, covered)


def _counterexample(
    program: Program, failure: Outcome, head: Schedule, is_interrupted: Callable[[], bool]
) -> Counterexample | None:
    """Shrinks the failure and replays it twice, traced; None if it is not the same both times."""
    assert failure.violation is not None
    violated = failure.violation.property
    deadline = perf_counter() + SHRINK_BUDGET_S
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
