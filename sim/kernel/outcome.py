"""What one execution comes to."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from sim.kernel.recording import Departure, Recording
from sim.kernel.violation import Violation
from sim.kernel.world import TraceLine


@dataclass(slots=True)
class Outcome:
    """The result of one execution.

    choices: the option taken at each choice point; cost: how many departures they are. error: why
    there is no verdict, or None. recording: of a traced execution, what happened in it.
    unretrieved: the exceptions that nobody retrieved and the coroutines that nobody awaited, in
    words, of an execution that ended well.
    """

    choices: list[int] = field(default_factory=list)
    cost: int = 0
    violation: Violation | None = None
    error: str | None = None
    # Where there is an error: whether it is that a thread goes on and on, which another may end.
    is_undecided: bool = False
    labels: set[str] = field(default_factory=set)
    bounds_hit: set[str] = field(default_factory=set)
    # The files of the program's that threads ran without being overtaken between their lines.
    undeclared: set[str] = field(default_factory=set)
    # Whether something on its way in the network may come as late as one likes.
    is_late_without_bound: bool = False
    recording: Recording | None = None
    # After which poll a step was broken off as endless, and whose, if its lines were counted.
    endless_after: int | None = None
    endless: str | None = None
    unretrieved: tuple[str, ...] = ()
    # Whether the program's own process has read a clock of `time` or `datetime`.
    reads_clock: bool = False
    # Of a traced execution: whether the program, or a library, has read the clock of the loop.
    reads_loop: bool = False
    # Of one that learns of them: how long the time limits of the program are.
    time_limits: tuple[float, ...] = ()
    # What the garbage collector freed in it, in words, if it is traced.
    freed: list[str] = field(default_factory=list)

    @property
    def trace(self) -> list[TraceLine]:
        return self.recording.trace if self.recording is not None else []

    @property
    def steps(self) -> list[str]:
        """A line for each callback of a traced execution."""
        return self.recording.steps if self.recording is not None else []

    @property
    def departures(self) -> list[Departure]:
        return self.recording.departures if self.recording is not None else []

    @property
    def options(self) -> list[int]:
        """How many there were at each choice point of a traced execution."""
        return self.recording.options if self.recording is not None else []

    @property
    def trace_hash(self) -> str:
        """The same for two executions that ran the same callbacks at the same virtual times."""
        return hashlib.sha256("\n".join(self.steps).encode()).hexdigest()
