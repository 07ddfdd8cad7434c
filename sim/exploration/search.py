"""explore(): runs a program under many schedules, and reports a verdict."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from time import perf_counter

from sim.counterexamples.counterexample import Counterexample, confirmed
from sim.counterexamples.shrink import shrink
from sim.exploration.subject import Subject, require_program
from sim.exploration.verdict import Stop, Verdict
from sim.kernel.errors import Nondeterminism
from sim.kernel.execution import (
    Outcome,
    Program,
    guarded,
    require_no_running_loop,
    run_execution,
)
from sim.kernel.isolation.entropy import not_virtualised
from sim.kernel.schedule import Bounds, Schedule, departures_of
from sim.kernel.violation import Kind
from sim.schedulers import (
    PCT,
    CancelEverywhere,
    DepthFirst,
    NaturalOrder,
    Portfolio,
    RandomWalk,
    Reduced,
    Scheduler,
    StateMatching,
)

BUDGET_S = 60.0
DEFAULT_STRATEGY = "depth-first"
SHRINK_EXECUTIONS_MAX = 2000
# What bounds the shrinking is the number of executions; this is for programs with slow ones.
SHRINK_BUDGET_S = 10.0
COLLECT_EVERY_EXECUTIONS = 200


@dataclass(frozen=True, slots=True)
class Report:
    """The verdict on one program, with what it rests on.

    reason: why, in words. stopped: what ended the search, where it is inconclusive for that.
    claim: which schedules a proof covers, as `every schedule`; empty without a proof.
    complete: which part of the tree of choices was seen, 0..1, or None where that is unknown.
    found_by: which scheduler's execution is the counterexample, where several took turns.
    labels: those reached; labels_missing: those never reached, where nothing else is wrong.
    bounds_hit: the bounds that limited what was explored.
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
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Problem:
    """What is explored, and within which bounds."""

    subject: Subject
    bounds: Bounds = field(default_factory=Bounds)


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
        self.choice_points = later.choice_points or self.choice_points


@dataclass(frozen=True, slots=True)
class Conclusion:
    """What the replays showed. differs: where two runs of the natural schedule differed."""

    digest: str
    counterexample: Counterexample | None = None
    differs: str | None = None


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
    watch: Watch = lambda findings, scheduler: False,
) -> Report:
    """Explores the schedules of `await program(world)`, and returns a Report.

    program: or a Subject, which has its own name and lists the code that its schedules depend on.
    strategy: `depth-first` (every schedule), `reduced` (one schedule of each class, if the actors
    share nothing but what `World.shared` declares), `states` (every schedule, each state of memory
    only once), `random`, `pct`, `portfolio` (several random
    schedulers in turns), `natural`, `cancel everywhere` (see `World.offer_cancels`), or a
    Scheduler; the random ones and `natural` can refute and never prove. seed: of what is random.
    budget_s: real seconds, 60 unless `max_executions` bounds the search.
    labels: what some execution has to reach (`world.reached`), or the verdict is inconclusive.
    lateness_s … horizon_s: the bounds of the arrival model, see `sim.kernel.schedule.Bounds`.
    entropy_seed: of the numbers that `random`, `uuid` and so on give the program; they are the
    same in each execution.
    watch: called before each execution with the findings so far; interrupts by returning True.
    """
    require_no_running_loop()
    bounds = Bounds(lateness_s, passes_max, spin_max, horizon_s, entropy_seed)
    scheduler = make_scheduler(strategy, seed)
    if budget_s is None and max_executions is None:
        budget_s = BUDGET_S
    subject = program if isinstance(program, Subject) else Subject.of(program)
    require_program(subject.program)
    subject = replace(subject, labels=(*subject.labels, *labels))
    problem = Problem(subject, bounds)
    begun = perf_counter()
    deadline = begun + budget_s if budget_s is not None else None
    with guarded():
        findings = search(problem, scheduler, deadline, max_executions, watch)
        conclusion = conclude(problem, findings, lambda: watch(findings, scheduler))
    seconds = perf_counter() - begun
    return make_report(problem, scheduler, findings, conclusion, seconds)


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
    )


STRATEGIES: dict[str, Callable[[int], Scheduler]] = {
    "depth-first": lambda seed: DepthFirst(),
    "reduced": lambda seed: Reduced(DepthFirst(), seed=seed),
    "states": lambda seed: StateMatching(seed=seed),
    "random": RandomWalk,
    "pct": PCT,
    "portfolio": Portfolio,
    "natural": lambda seed: NaturalOrder(),
    "cancel everywhere": lambda seed: CancelEverywhere(),
}


def make_scheduler(strategy: str | Scheduler, seed: int) -> Scheduler:
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
    problem: Problem, findings: Findings, is_interrupted: Callable[[], bool] = lambda: False
) -> Conclusion:
    """Replays what was found: the failure, shrunk, or else the natural schedule twice."""
    subject = problem.subject
    head = subject.natural_schedule(problem.bounds)
    counterexample, differs = None, None
    if findings.error is None and findings.failure is not None:
        counterexample = _counterexample(subject.program, findings.failure, head, is_interrupted)
    elif findings.error is None and findings.stopped is None:
        differs = _compare_two_runs(subject.program, problem.bounds)
        differs = _with_entropy(differs, (subject.program, *subject.sources))
    return Conclusion(head.digest, counterexample, differs)


def _compare_two_runs(program: Program, bounds: Bounds) -> str | None:
    """Runs the natural schedule twice more; in words, where the two differ, or None."""
    first, second = (
        run_execution(program, NaturalOrder(), bounds, traced=True).steps for _ in range(2)
    )
    for number, (one, other) in enumerate(zip_longest(first, second), 1):
        if one != other:
            return f"nondeterminism found: step {number} in natural order was {one}, then {other}"
    return None


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
    if findings.error is not None:
        return _Judged(Verdict.ERROR, findings.error)
    if findings.failure is not None:
        found = conclusion.counterexample
        if found is None:
            why = f"{Stop.NONDETERMINISM}: a violation was not the same on replay"
            return _Judged(Verdict.INCONCLUSIVE, why)
        by = "" if findings.found_by == scheduler.name else f", found by {findings.found_by}"
        return _Judged(Verdict.REFUTED, f"{found.property} ({executions}{by})")
    if conclusion.differs is not None:
        return _Judged(Verdict.INCONCLUSIVE, f"{conclusion.differs} ({executions})")
    if scheduler.is_exhausted:
        return _judged_exhausted(problem, findings, scheduler, executions)
    stopped = findings.stopped_why or findings.stopped
    why = stopped or f"no violation, but {scheduler.name} does not see all"
    return _Judged(Verdict.INCONCLUSIVE, f"{why} ({executions})", findings.stopped)


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
