"""What an exploration comes to: the findings of its executions, and the report on them."""

from __future__ import annotations

from dataclasses import dataclass, field

from sim.counterexamples.counterexample import Counterexample
from sim.exploration.verdict import Stop, Unretrieved, Verdict
from sim.kernel.outcome import Outcome
from sim.kernel.schedule import Bounds
from sim.wrapped import wrapped


@dataclass(frozen=True, slots=True)
class Report:
    """The verdict on one program, with what it rests on; `print(report)` shows it in words.

    reason: why, in words, with the bounds that were hit. stopped: what ended the search, where it
    is inconclusive for that.
    claim: which schedules a proof covers, as `every schedule`, and between which lines of theirs
    threads were not overtaken; empty without a proof. covers: the first part of it alone.
    complete: which part of the tree of choices was seen, 0..1, or None where that is unknown.
    found_by: which scheduler's execution is the counterexample, where several took turns.
    unretrieved: what the first execution left behind in which nobody retrieved an exception or
    awaited a coroutine, and which asyncio would log.
    labels: those reached; labels_missing: those never reached, where nothing else is wrong.
    bounds_hit: the bounds that limited what was explored.
    unconfirmed: a violation that was seen, and is none of a fresh process as far as is known.
    states: how many were visited; None where none are read.
    """

    verdict: Verdict
    reason: str
    claim: str
    covers: str
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
    states: int | None = None

    @property
    def was_interrupted(self) -> bool:
        return self.stopped is Stop.INTERRUPTED

    @property
    def was_out_of_budget(self) -> bool:
        return self.stopped is Stop.OUT_OF_BUDGET

    def __str__(self) -> str:
        return self.text

    @property
    def text(self) -> str:
        lines = wrapped(f"{self.verdict}: {self.reason}")
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
    # The files of the program's that threads ran without being overtaken between their lines.
    undeclared: set[str] = field(default_factory=set)
    # Generators of the program's modules, from which executions have drawn.
    drawn_from: set[str] = field(default_factory=set)
    # Whether some execution has read a clock of `time` or `datetime`.
    reads_clock: bool = False
    # In how many executions more threads were overtaken between these lines.
    between_lines: int = 0
    # In how many executions more sets of tasks iterated in another order; None without such sets.
    set_orders: int | None = None
    # In how many the machine had another number of CPUs; None where that makes no difference.
    machines: int | None = None
    # In how many timers of one instant fired apart; None where none met.
    apart: int | None = None
    # In how many readings of the wall clock were equal; None where none could be.
    equal: int | None = None
    # In how many outside events landed around the ends of time limits; None where there were none.
    limits: int | None = None
    # In how many garbage was collected at polls; None where there was none.
    collected: int | None = None
    # In how many handlers of signals ran between two lines; None where none has run.
    signals: int | None = None
    # In how many clocks began with those of today; None where none was read, or all had these.
    of_today: int | None = None
    failure: Outcome | None = None
    found_by: str | None = None
    # Why the search ended before the scheduler was exhausted, None if it was; stopped_why: in
    # words, where they say more than those of `stopped`.
    stopped: Stop | None = None
    stopped_why: str | None = None
    error: str | None = None
    # The last execution did not end within the budget.
    is_broken_off: bool = False
    # Of the first execution that left something unretrieved: what, and its departures.
    unretrieved: tuple[tuple[str, ...], tuple[tuple[int, int], ...]] | None = None
    # Of the last execution: how many choice points it had.
    choice_points: int = 0

    @property
    def beside(self) -> int:
        """How many executions came after the search (`beside.py`)."""
        looks = (
            *(self.set_orders, self.machines, self.apart, self.equal, self.collected),
            *(self.of_today, self.signals, self.limits),
        )
        return sum(executions or 0 for executions in looks)

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
        self.undeclared |= later.undeclared
        self.drawn_from |= later.drawn_from
        self.reads_clock = self.reads_clock or later.reads_clock
        self.failure, self.found_by = later.failure, later.found_by
        self.stopped, self.stopped_why = later.stopped, later.stopped_why
        self.error = later.error
        self.unretrieved = self.unretrieved or later.unretrieved
        self.choice_points = later.choice_points or self.choice_points
