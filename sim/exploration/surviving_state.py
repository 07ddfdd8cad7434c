"""State that outlives an execution: found before the search, and judged in fresh processes.

A second execution that finds what the first has left behind is another program's. So the natural
schedule is run twice before anything else. Where the two differ, or where a violation was found, a
fork from before the first execution says what happens without the others, and which variable of
which module has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sim.counterexamples.differences import difference, drifting_names
from sim.exploration.clocks_of_today import with_clocks_of_today
from sim.exploration.fresh_copy import FreshCopy
from sim.exploration.module_state import ModuleState, named
from sim.exploration.orderless_sets import orderless_sets
from sim.exploration.subject import Problem
from sim.exploration.verdict import Stop
from sim.kernel.execution import run_execution
from sim.kernel.guards import guarded
from sim.kernel.hashing import names_kept, use_deterministic_scopes
from sim.kernel.outcome import Outcome
from sim.kernel.violation import Kind
from sim.schedulers import NaturalOrder, Replay

Departures = tuple[tuple[int, int], ...]

FORKS_MAX, FORKS_S = 50, 10.0
"""How many executions run in forks, and for how many real seconds, where state survives."""

_INSTEAD = (
    "make it inside the program, or let each execution run in a fork of its own (isolate=True)"
)
_UNNAMED = (
    "what modules, classes and closures hold is the same: so something depends on an address, as "
    "the order of a set of objects does (keep them in a list or a dict), or on a real clock, or "
    "has been left in a file, a database or the memory of a C extension"
)
_ORDERLESS = (
    "whose members hash by address: it iterates in another order each time, on stock Python, too; "
    "keep them in a list, or in a dict (dict.fromkeys(…)), which have an order"
)


@dataclass(frozen=True, slots=True)
class Survived:
    """What differs between two executions, and why, in words.

    stop: STATE_SURVIVED if it is known what the first left behind, else NONDETERMINISM.
    """

    words: str
    stop: Stop

    @classmethod
    def of(
        cls,
        differs: str,
        changes: list[str] | None,
        what: str = "an execution",
        sets: Sequence[str] = (),
    ) -> Survived:
        """changes: what it has left behind; None if that is not known. sets: of no order."""
        if changes == []:
            stop = Stop.NONDETERMINISM
            likely = f"{' and '.join(sets)}, {_ORDERLESS}" if sets else _UNNAMED
            return cls(f"{stop}: {differs}; {likely}", stop)
        names = f"{named(changes)}; " if changes else ""
        return cls(f"state survived {what}: {names}{differs}; {_INSTEAD}", Stop.STATE_SURVIVED)


class NaturalRuns:
    """first: the natural execution that came before all others, None if none is compared with it.
    problem: with the clocks of today, if it is another one with them; then `first` has them, too.

    differs: in words, where the one after it was another; None if it was the same.
    violated_at_once: what the very first one violates, which had a fresh process. names: those of
    the first one's tasks, by pattern, that had others in the second: they carry a counter, or an
    address. copy: from before all executions.
    """

    def __init__(self, problem: Problem, copy: FreshCopy) -> None:
        self.problem = problem
        self.copy = copy
        self.first: Outcome | None = None
        self.differs: str | None = None
        self.violated_at_once: str | None = None
        self.names: Mapping[str, Sequence[str]] = {}

    def look(self, is_over: Callable[[], bool]) -> None:
        """Runs the natural schedule twice. is_over: whether the budget is spent after the first."""
        first = self._run()
        violation = first.violation
        self.violated_at_once = None if violation is None else violation.property
        # An endless step takes seconds each time.
        if first.error or is_over() or (violation and violation.kind is Kind.ENDLESS_STEP):
            return
        second = self._run()
        self.names = drifting_names(first, second)
        self.first, self.differs = first, difference(first, second)
        if self.names and self.differs is not None:
            # By their names tasks are ordered in sets.
            self.differs = difference(first, self._run())
        if self.differs is None and not is_over():
            self._look_at_clocks(first)

    def _look_at_clocks(self, first: Outcome) -> None:
        with names_kept(self.names):
            found = with_clocks_of_today(self.problem, first)
        if found is not None:
            self.problem, self.first = found
            self.copy.bounds = self.problem.bounds
            # The very first execution had others.
            self.violated_at_once = None

    def survived_since(self) -> Survived | None:
        """Runs it once more: what has survived other executions, or None."""
        if self.first is None:
            return None
        differs = difference(self.first, self._run())
        return self.survived(differs) if differs is not None else None

    def survived(
        self, differs: str, departures: Departures = (), *, what: str = "an execution"
    ) -> Survived:
        """Why it differs. departures: of an execution that leaves something behind."""
        changes = self.changes(departures)
        sets = self.copy.ask(orderless_sets) or [] if changes == [] else []
        return Survived.of(differs, changes, what, sets)

    def changes(self, departures: Departures) -> list[str] | None:
        """What an execution changes in a fresh process; None if that is not known."""
        changes: list[str] | None = None
        # The program's own modules first, and after the execution itself the natural one.
        for installed in (False, True):
            for schedule in dict.fromkeys((departures, ())):
                changes = self.copy.ask(_changes_of, schedule, installed)
                if changes != []:
                    return changes
        return changes

    def held_by_modules(self) -> list[str] | None:
        """What natural order changes of modules and classes, or asks of a cache that is full, which
        another order may change. None if that is not known.
        """
        changes: list[str] | None = self.copy.ask(_changes_of, (), False, True)
        return changes

    def _run(self) -> Outcome:
        problem = self.problem
        with names_kept(self.names):
            return run_execution(
                problem.subject.program, NaturalOrder(), problem.bounds, traced=True
            )


# ---- asked of a fresh process ------------------------------------------------------------------


def natural_runs_agree(problem: Problem) -> bool:
    """Whether a second execution is as the first, and one with the clocks of today."""
    with FreshCopy(problem) as copy, guarded():
        natural = NaturalRuns(problem, copy)
        natural.look(lambda: False)
    return natural.differs is None and natural.problem is problem


def is_violated(problem: Problem, departures: Departures, violated: str) -> bool:
    """Whether the schedule violates the property where nothing was executed before."""
    with guarded():
        outcome = _replayed(problem, departures)
    return outcome.violation is not None and outcome.violation.property == violated


def _changes_of(
    problem: Problem,
    departures: Departures,
    installed: bool,
    of_modules: bool = False,
) -> list[str]:
    """What the first execution changes, a sentence for each variable.

    of_modules: and of classes alone, with the full caches that it asks.
    """
    subject = problem.subject

    def read() -> ModuleState:
        return ModuleState(
            subject.program,
            subject.sources,
            subject.held,
            installed=installed,
            functions=not of_modules,
            asked=of_modules,
        )

    # It stays in place.
    use_deterministic_scopes()
    with guarded():
        before = read()
        _replayed(problem, departures)
        return before.changes(read())


def _replayed(problem: Problem, departures: Departures) -> Outcome:
    replay = Replay(departures, strict=False)
    return run_execution(problem.subject.program, replay, problem.bounds)
