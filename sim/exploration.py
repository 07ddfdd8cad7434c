"""explore(): runs a program under many schedules, and says what that shows."""

from __future__ import annotations

import gc
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import zip_longest

# Bound here, before an exploration replaces it: a budget is real time.
from time import perf_counter

from sim.counterexample import Counterexample, make_counterexample, replay_schedule
from sim.digest import digest_of
from sim.entropy import not_virtualised
from sim.errors import Nondeterminism
from sim.execution import Outcome, Program, guarded, run_execution
from sim.schedule import Bounds, Schedule, departures_of
from sim.schedulers import (
    PCT,
    CancelEverywhere,
    DepthFirst,
    NaturalOrder,
    Portfolio,
    RandomWalk,
    Reduced,
    Reducing,
    Scheduler,
)
from sim.shrink import shrink

BUDGET_S = 60.0
SHRINK_EXECUTIONS_MAX = 2000
# What bounds the shrinking is the number of executions; this is for programs with slow ones.
SHRINK_BUDGET_S = 10.0
COLLECT_EVERY_EXECUTIONS = 200

PROVED = "proved"
REFUTED = "refuted"
INCONCLUSIVE = "inconclusive"
ERROR = "error"

INTERRUPTED = "it was interrupted"
OUT_OF_BUDGET = "the budget is spent"


@dataclass(frozen=True, slots=True)
class Report:
    """The verdict on one program, with what it rests on.

    verdict: `proved`, `refuted`, `inconclusive` or `error`; reason: why, in words. claim: which
    schedules a proof covers, as `every schedule`; empty without a proof.
    complete: which part of the tree of choices was seen, 0..1, or None where that is unknown.
    labels: those reached. bounds_hit: the bounds that had a say in what was explored.
    """

    verdict: str
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

    @property
    def was_interrupted(self) -> bool:
        return self.reason.startswith(INTERRUPTED)

    @property
    def was_out_of_budget(self) -> bool:
        return self.reason.startswith(OUT_OF_BUDGET)

    @property
    def text(self) -> str:
        lines = [f"{self.verdict}: {self.reason}"]
        if self.counterexample is not None:
            lines.append(self.counterexample.text)
        return "\n".join(lines)


@dataclass(slots=True)
class _Findings:
    executions: int = 0
    labels: set[str] = field(default_factory=set)
    bounds_hit: set[str] = field(default_factory=set)
    failure: Outcome | None = None
    # Why the search ended before the scheduler was through; None if it was.
    stopped: str | None = None
    # Where two runs of the natural schedule differed; None if they did not.
    differs: str | None = None
    error: str | None = None


def explore(
    program: Program,
    *,
    strategy: str | Scheduler = "depth-first",
    budget_s: float | None = None,
    max_executions: int | None = None,
    seed: int = 0,
    labels: Iterable[str] = (),
    lateness_s: float = Bounds.lateness_s,
    passes_max: int = Bounds.passes_max,
    spin_max: int = Bounds.spin_max,
    horizon_s: float = Bounds.horizon_s,
    entropy_seed: int = Bounds.entropy_seed,
    level: str = "program",
    scenario: str | None = None,
    registry: str = "-",
    sources: Iterable[object] = (),
) -> Report:
    """Explores the schedules of `await program(world)`, and returns a Report.

    strategy: `depth-first` (every schedule), `reduced` (one schedule of each class, if the actors
    share nothing but what `World.shared` declares), `random`, `pct`, `portfolio` (random ones in
    turn), `natural`, `cancel everywhere` (see `World.offer_cancels`), or a Scheduler; the random
    ones and `natural` can refute and never prove.
    budget_s: real seconds, 60 unless `max_executions` bounds the search. seed: of the random ones.
    labels: what some execution has to reach (`world.reached`), or the verdict is inconclusive.
    lateness_s … horizon_s: the bounds of the arrival model, see `sim.schedule.Bounds`.
    entropy_seed: of the numbers that `random`, `uuid` and their like give the program; they are the
    same in each execution.
    level, scenario, registry, sources: what the schedule names, and whose code it depends on.
    """
    bounds = Bounds(lateness_s, passes_max, spin_max, horizon_s, entropy_seed)
    scheduler = _scheduler(strategy, seed)
    if budget_s is None and max_executions is None:
        budget_s = BUDGET_S
    begun = perf_counter()
    deadline = begun + budget_s if budget_s is not None else None
    with guarded():
        findings = _search(program, scheduler, bounds, deadline, max_executions)
        name = scenario or _name_of(program)
        digest = digest_of(level, (program, *sources))
        head = Schedule(level, name, registry, digest, bounds, ())
        counterexample = None
        if findings.error is None and findings.failure is not None:
            counterexample = _counterexample(program, findings.failure, head)
        elif findings.error is None and findings.stopped is None:
            findings.differs = _compare_two_runs(program, bounds)
            findings.differs = _with_entropy(findings.differs, (program, *sources))
            findings.stopped = findings.differs
    missing = sorted(set(labels) - findings.labels)
    verdict, reason = _verdict(findings, scheduler, missing, counterexample, bounds)
    return Report(
        verdict=verdict,
        reason=reason,
        claim=scheduler.covers if verdict == PROVED else "",
        executions=findings.executions,
        seconds=perf_counter() - begun,
        complete=scheduler.complete,
        strategy=scheduler.name,
        counterexample=counterexample,
        labels=frozenset(findings.labels),
        bounds=bounds,
        bounds_hit=frozenset(findings.bounds_hit),
        digest=head.digest,
    )


def _scheduler(strategy: str | Scheduler, seed: int) -> Scheduler:
    match strategy:
        case "depth-first":
            return DepthFirst()
        case "random":
            return RandomWalk(seed)
        case "pct":
            return PCT(seed)
        case "portfolio":
            return Portfolio(seed)
        case "natural":
            return NaturalOrder()
        case "cancel everywhere":
            return CancelEverywhere()
        case "reduced":
            return Reduced(DepthFirst(), seed=seed)
        case str():
            raise ValueError(
                f"strategy {strategy!r} is not known; there are depth-first, reduced, random, "
                f"pct, portfolio, natural and cancel everywhere, or give an object with the "
                f"methods of sim.schedulers.Scheduler"
            )
        case _:
            return strategy


def _search(
    program: Program,
    scheduler: Scheduler,
    bounds: Bounds,
    deadline: float | None,
    executions_max: int | None,
) -> _Findings:
    findings = _Findings()
    try:
        while scheduler.next_execution():
            if executions_max is not None and findings.executions >= executions_max:
                findings.stopped = f"the limit of {executions_max} executions was reached"
                break
            if deadline is not None and perf_counter() >= deadline:
                findings.stopped = OUT_OF_BUDGET
                break
            outcome = run_execution(program, scheduler, bounds)
            findings.executions += 1
            findings.labels |= outcome.labels
            findings.bounds_hit |= outcome.bounds_hit
            if isinstance(scheduler, Reducing):
                wrong = scheduler.learn(outcome.came_to, outcome.violation is not None)
                outcome.error = outcome.error or wrong
            if outcome.error is not None:
                findings.error = outcome.error
                break
            if outcome.violation is not None:
                findings.failure = outcome
                break
            if findings.executions % COLLECT_EVERY_EXECUTIONS == 0:
                gc.collect(1)
    except Nondeterminism as exc:
        findings.stopped = f"nondeterminism found: {exc}"
    except KeyboardInterrupt:
        findings.stopped = INTERRUPTED
    return findings


def _compare_two_runs(program: Program, bounds: Bounds) -> str | None:
    """Runs the natural schedule twice more; says where the two differ, if they do."""
    first, second = (
        run_execution(program, NaturalOrder(), bounds, traced=True).steps for _ in range(2)
    )
    for number, (one, other) in enumerate(zip_longest(first, second), 1):
        if one != other:
            return f"nondeterminism found: step {number} in natural order was {one}, then {other}"
    return None


def _with_entropy(differs: str | None, sources: Iterable[object]) -> str | None:
    """What the program's modules hold that no schedule decides makes a proof inconclusive, too."""
    held = not_virtualised(sources)
    if not held:
        return differs
    named = f"not virtualised: {'; '.join(held[:4])}; make it within the program"
    return f"{differs}; {named}" if differs else named


def _verdict(
    findings: _Findings,
    scheduler: Scheduler,
    labels_missing: list[str],
    counterexample: Counterexample | None,
    bounds: Bounds,
) -> tuple[str, str]:
    executions = f"{findings.executions} executions, {scheduler.name}"
    if findings.error is not None:
        return ERROR, findings.error
    if findings.failure is not None:
        if counterexample is None:
            return INCONCLUSIVE, "nondeterminism found: a violation was not the same on replay"
        return REFUTED, f"{counterexample.property} ({executions})"
    if findings.differs is not None or (findings.stopped and not scheduler.is_exhausted):
        return INCONCLUSIVE, f"{findings.stopped} ({executions})"
    if not scheduler.is_exhausted:
        return INCONCLUSIVE, f"no violation, but {scheduler.name} does not see all ({executions})"
    if labels_missing:
        return INCONCLUSIVE, f"labels never reached: {', '.join(labels_missing)} ({executions})"
    if findings.executions == 0:
        return ERROR, "nothing was executed"
    return PROVED, f"{scheduler.covers}, within {bounds} ({executions})"


def _counterexample(program: Program, failure: Outcome, head: Schedule) -> Counterexample | None:
    """Shrinks the failure and replays it twice, traced; None if it is not the same both times."""
    assert failure.violation is not None
    violated = failure.violation.property
    deadline = perf_counter() + SHRINK_BUDGET_S
    departures, _ = shrink(
        program,
        departures_of(failure.choices),
        violated,
        head.bounds,
        executions_max=SHRINK_EXECUTIONS_MAX,
        is_interrupted=lambda: perf_counter() > deadline,
    )
    schedule = replace(head, departures=departures)
    outcome = replay_schedule(program, schedule)
    if outcome.violation is None or outcome.violation.property != violated:
        return None
    if replay_schedule(program, schedule).trace_hash != outcome.trace_hash:
        return None
    return make_counterexample(program, outcome, schedule)


def _name_of(program: Program) -> str:
    module = getattr(program, "__module__", None)
    name = getattr(program, "__qualname__", type(program).__qualname__)
    return f"{module}:{name}" if module else name
