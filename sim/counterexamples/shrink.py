"""Makes a failing schedule smaller: by departures, then length, then the values of its choices."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from sim.kernel.errors import Nondeterminism
from sim.kernel.execution import Program, run_execution
from sim.kernel.outcome import Outcome
from sim.kernel.schedule import FAULT, FAULT_IN_STEP, Bounds, ChoicePoint, departures_of
from sim.schedulers import DepartureBounded, NaturalOrder, Replay, Scheduler

Departures = tuple[tuple[int, int], ...]
# The cost in departures, the choice points, the sum of the indices and options of the departures.
Size = tuple[int, int, int]

# How far later choices are moved when an earlier one is taken out, since that removes some choice
# points, or adds some.
_SHIFTS = (0, -1, 1, -2, 2, -3, 3)
# At how many of its offers a fault is tried alone.
_ALONE_MAX = 30
# The share of the executions that may go to the search for a schedule with fewer departures.
_BELOW_PART = 8


def shrink(
    program: Program,
    departures: Departures,
    violated: str,
    bounds: Bounds,
    *,
    executions_max: int,
    is_interrupted: Callable[[], bool] = lambda: False,
) -> tuple[Departures, int]:
    """The smallest schedule found that violates the same property, and the executions it took.

    First each fault of the schedule is tried alone: it may be all that is needed, and its place is
    another one where nothing else departs. Then the schedule itself is made smaller: each candidate
    is natural wherever it says nothing (zero refill), also beyond its end; the first that is
    smaller is taken, and the search begins again with it. Then the schedules with fewer departures
    are searched, with an eighth of `executions_max`: where that is enough to see them all, the
    result has the fewest possible. `is_interrupted` is asked before each execution.
    """
    shrinking = _Shrinking(program, violated, bounds, executions_max, is_interrupted)
    try:
        whole = _NotingFaults(departures)
        if shrinking.takes(whole):
            shrinking.tries_alone(whole.faults)
            shrinking.descend()
            while shrinking.looks_below():
                shrinking.descend()
    except (_Spent, Nondeterminism):
        # Nondeterminism is found, and reported, when the result is replayed.
        pass
    return shrinking.departures if shrinking.size else departures, shrinking.executions


class _Spent(Exception):
    """The executions allowed are spent."""


class _Shrinking:
    """departures, size: of the smallest execution so far, once there is one."""

    def __init__(
        self,
        program: Program,
        violated: str,
        bounds: Bounds,
        executions_max: int,
        is_interrupted: Callable[[], bool],
    ) -> None:
        self.departures: Departures = ()
        self.size: Size | None = None
        self.executions = 0
        self._program = program
        self._violated = violated
        self._bounds = bounds
        self._executions_max = executions_max
        self._left_below = executions_max // _BELOW_PART
        self._is_interrupted = is_interrupted
        self._tried: set[Departures] = set()

    def takes(self, scheduler: Scheduler) -> bool:
        """Runs one execution; True if it is smaller, and so taken. Raises _Spent."""
        if self.executions >= self._executions_max or self._is_interrupted():
            raise _Spent
        self.executions += 1
        outcome = run_execution(self._program, scheduler, self._bounds)
        if outcome.violation is None or outcome.violation.property != self._violated:
            return False
        size = _size(outcome)
        if self.size is not None and size >= self.size:
            return False
        self.size = size
        self.departures = departures_of(outcome.choices)
        self._tried.add(self.departures)
        return True

    def tries_alone(self, faults: Iterable[str]) -> None:
        """Takes an execution that has one of these faults, and no other departure."""
        assert self.size is not None
        for fault in faults if self.size[0] > 1 else ():
            for turn in range(_ALONE_MAX):
                alone = _Alone(fault, turn)
                if self.takes(alone):
                    return
                if not alone.has_happened:
                    break

    def descend(self) -> None:
        """Takes smaller candidates until none is smaller."""
        while any(map(self._takes_candidate, _candidates(self.departures))):
            pass

    def _takes_candidate(self, candidate: Departures) -> bool:
        if candidate in self._tried:
            return False
        self._tried.add(candidate)
        return self.takes(Replay(candidate, strict=False))

    def looks_below(self) -> bool:
        """Whether some schedule with fewer departures fails as well; it is taken."""
        assert self.size is not None
        cost = self.size[0]
        # The natural schedule was a candidate.
        if cost < 2:
            return False
        below = DepartureBounded(cost - 1)
        while self._left_below > 0 and below.next_execution():
            self._left_below -= 1
            if self.takes(below):
                return True
        return False


class _NotingFaults(Replay):
    """faults: those that happened, by name."""

    def __init__(self, departures: Departures) -> None:
        super().__init__(departures, strict=False)
        self.faults: dict[str, None] = {}

    def choose(self, point: ChoicePoint) -> int:
        option = super().choose(point)
        if option and point.kind in _KINDS_OF_FAULTS:
            self.faults[_apart_from_its_place(point.options[option].name)] = None
        return option


class _Alone(NaturalOrder):
    """Natural order, but for one fault, at that one of its offers."""

    def __init__(self, fault: str, turn: int) -> None:
        self._fault, self._left = fault, turn
        self.has_happened = False

    def choose(self, point: ChoicePoint) -> int:
        if self.has_happened or point.kind not in _KINDS_OF_FAULTS:
            return 0
        names = [_apart_from_its_place(each.name) for each in point.options]
        if self._fault not in names:
            return 0
        self._left -= 1
        self.has_happened = self._left < 0
        return names.index(self._fault) if self.has_happened else 0


def _apart_from_its_place(name: str) -> str:
    """As a process's fault is named: «it crashes before it sends» is «it crashes»."""
    return name.partition(" before it ")[0]


_KINDS_OF_FAULTS = (FAULT, FAULT_IN_STEP)


def _candidates(departures: Departures) -> Iterator[Departures]:
    """Largest steps first: without blocks of choices, then with single ones lower or earlier."""
    length = len(departures)
    block = length
    while block:
        for first in range(length - block, -1, -1):
            before, after = departures[:first], departures[first + block :]
            for shift in _SHIFTS if after and block <= 2 else (0,):
                moved = tuple((index + shift, option) for index, option in after)
                if not before or not moved or moved[0][0] > before[-1][0]:
                    yield before + moved
        block //= 2
    for place, (index, option) in enumerate(departures):
        before, after = departures[:place], departures[place + 1 :]
        for lower in range(1, option):
            yield (*before, (index, lower), *after)
    for place, (index, option) in enumerate(departures):
        before, after = departures[:place], departures[place + 1 :]
        least = before[-1][0] + 1 if before else 0
        for earlier in range(max(least, index - 3), index):
            yield (*before, (earlier, option), *after)


def _size(outcome: Outcome) -> Size:
    values = sum(index + option for index, option in departures_of(outcome.choices))
    return outcome.cost, len(outcome.choices), values
