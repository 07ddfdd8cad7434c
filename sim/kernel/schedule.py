"""Choice points, and schedules: the sequence of choices, as a short text that can be replayed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

from sim.kernel.arguments import require

FORMAT = "os2"
NATURAL = "natural"


class Named(Protocol):
    @property
    def name(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Option:
    """One of the answers to a choice point; arrivals and workers serve as options, too."""

    name: str


# Bounds that a verdict names where they are not the defaults.
_SELDOM = (
    *("entropy_seed", "step_lines_max", "unretrieved_fails"),
    *("own_lines", "set_order", "cpus", "timers_apart", "equal_readings", "collections"),
    "signal_lines",
    *("clock_s", "wall_s", "time_limits"),
)

EPOCH_S = 1_577_836_800.0
"""2020-01-01, 00:00 UTC."""

CLOCK_MAX_S = 16_000_000.0
"""What a clock may show: of more it could not tell two readings apart, a nanosecond each."""

NO_MORE = Option("no more")
GO_ON = Option("the loop goes on")
ON_TIME = Option("on time")
TOGETHER = Option("all together")
# Between a thread, and the place where it stands.
GOES_ON = " goes on at "
HAS_TURN = " has its turn"
FAULT, FAULT_IN_STEP = "fault", "fault in a step"
"""The kinds of choices of a fault: at a poll, and in the middle of a callback."""
LOOP_OPTIONS = (NO_MORE, GO_ON, ON_TIME, TOGETHER)
"""The options by which only the loop itself goes on."""


def one_natural(options: Sequence[object]) -> list[int]:
    """The costs where the first option is natural, and each other one a departure."""
    return [0] + [1] * (len(options) - 1)


@dataclass(slots=True)
class ChoicePoint:
    """A moment with several possible answers. Option 0 is the natural one.

    index: how many choice points came before it in this execution.
    kind: `landing` (which outside event lands), `network` (how it arrives), `clock` (how late the
    loop is), `thread` (which one goes on), `poll` (whether the loop waits already), `turn` (which
    process goes on), `timers` (which of one instant fire), `meanwhile` and `reading` (when what was
    kept waiting may land, and how long a step takes, by `time_limits.py`), `cancel`, `fault`, or
    `program`.
    """

    index: int
    kind: str
    options: Sequence[Named]
    at: float
    costs_of: Callable[[Sequence[Any]], Sequence[int]]

    @property
    def costs(self) -> Sequence[int]:
        """How many departures each option is, 0 or 1.

        An outside event that is kept waiting for several polls is one departure, so to keep it
        waiting, or to land it then, costs nothing more. Valid until an option is taken.
        """
        return self.costs_of(self.options)


class Durations(tuple[float, ...]):
    """Some, in seconds; in a schedule as `0.5:1.0`."""

    def __new__(cls, given: str | Iterable[float] = ()) -> Durations:
        each = filter(None, given.split(":")) if isinstance(given, str) else given
        return super().__new__(cls, map(float, each))

    def __repr__(self) -> str:
        return ":".join(map(repr, self))

    def __format__(self, spec: str) -> str:
        return ":".join(format(each, spec) for each in self)


@dataclass(frozen=True)
class Bounds:
    """The bounds of the arrival model; a verdict names them. (7)

    lateness_s: how late a loop may be. passes_max: at how many quiescent instants an outside
    event without `latest` may be passed over. spin_max: after how many iterations without an
    empty ready queue the clock moves on anyway. horizon_s: when an unfinished execution counts as
    one that never ends. step_lines_max: after how many lines of Python, which are counted once it
    has had the processor for seconds, a step counts as one that never ends. entropy_seed: of what
    the program draws, see `isolation/entropy.py`.
    unretrieved_fails: an exception that nobody retrieves is a violation, see `unretrieved.py`.
    own_lines: threads are overtaken between the lines of the program's own module, too.
    set_order: in which of many orders sets of tasks, of futures and the like iterate.
    cpus: how many CPUs the machine has, by which asyncio's default pool has its threads.
    timers_apart: timers of one instant may fire apart, see `timers_apart.py`.
    equal_readings: which of the wall clock show what the last one did, see `equal_readings.py`.
    collections: at which polls the garbage collector runs, see `collections_at_polls.py`.
    signal_lines: handlers of `signal.signal` run between the lines of the program's own module.
    time_limits: how long those of the program's own are, in seconds, see `time_limits.py`.
    clock_s, wall_s: what `time.monotonic()` and `time.time()` show at the beginning, see
    `sim/exploration/clocks_of_today.py`.
    """

    lateness_s: float = 0.010
    passes_max: int = 4
    spin_max: int = 200
    horizon_s: float = 600.0
    entropy_seed: int = 0
    step_lines_max: int = 10_000_000
    unretrieved_fails: bool = False
    own_lines: bool = False
    set_order: int = 0
    cpus: int = 4
    timers_apart: bool = False
    equal_readings: int = 0
    collections: int = 0
    signal_lines: bool = False
    clock_s: float = 0.0
    wall_s: float = EPOCH_S
    time_limits: tuple[float, ...] = Durations()

    def __post_init__(self) -> None:
        if self.time_limits:
            object.__setattr__(self, "time_limits", Durations(self.time_limits))
        given = dict(vars(self))
        if self.horizon_s == math.inf:
            # Of a loop that has none of its own, as that of a process on a host.
            del given["horizon_s"]
        require(**given)

    def __str__(self) -> str:
        return ", ".join(
            f"{field.name}={getattr(self, field.name):.13g}"
            for field in fields(self)
            if field.name not in _SELDOM or getattr(self, field.name) != field.default
        )

    def written_out(self) -> list[str]:
        """Those that differ from the defaults, as `name=value`."""
        return [
            f"{field.name}={getattr(self, field.name)!r}"
            for field in fields(self)
            if getattr(self, field.name) != field.default
        ]

    @classmethod
    def parse(cls, written_out: Iterable[str]) -> Bounds:
        """Raises ValueError for what `written_out` never writes."""
        kinds: dict[str, type[Any]] = {field.name: type(field.default) for field in fields(cls)}
        values: dict[str, Any] = {}
        for pair in written_out:
            name, _, value = pair.partition("=")
            if name not in kinds:
                raise ValueError(f"{name!r} is no bound")
            values[name] = kinds[name](value)
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Schedule:
    """Which program runs, and every choice in it that is not the natural one.

    subject: the name of what is run; digest: of the code and the interpreter; bounds: written out
    where they differ from the defaults.
    """

    subject: str
    digest: str
    bounds: Bounds
    departures: tuple[tuple[int, int], ...]

    def __str__(self) -> str:
        code = ",".join((self.digest, *self.bounds.written_out()))
        choices = "+".join(f"{index}={option}" for index, option in self.departures)
        return "/".join((FORMAT, self.subject, code, choices or NATURAL))

    @classmethod
    def parse(cls, text: str) -> Schedule:
        """Raises ValueError, with the form that a schedule has."""
        parts = text.strip().split("/")
        if parts[0] == "os1":
            raise ValueError(
                f"{text!r} is a schedule of an older version, whose choices fit no code of today: "
                f"explore the program again, to get one that begins with {FORMAT}"
            )
        if len(parts) < 4 or parts[0] != FORMAT:
            raise ValueError(_not_a_schedule(text))
        # The subject may be in a file, and its name then has slashes of its own.
        _, *subject, code, choices = parts
        digest, *written_out = code.split(",")
        try:
            bounds = Bounds.parse(written_out)
            departures = _parse_choices(choices)
        except ValueError:
            raise ValueError(_not_a_schedule(text)) from None
        return cls("/".join(subject), digest, bounds, departures)


def departures_of(choices: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """The choices that are not natural, with their index."""
    return tuple((index, option) for index, option in enumerate(choices) if option)


def _parse_choices(text: str) -> tuple[tuple[int, int], ...]:
    if text == NATURAL:
        return ()
    departures = []
    for choice in text.split("+"):
        index, option = choice.split("=")
        departures.append((int(index), int(option)))
    in_order = departures == sorted(dict(departures).items())
    if not in_order or any(option < 1 for _, option in departures):
        raise ValueError
    return tuple(departures)


def _not_a_schedule(text: str) -> str:
    return (
        f"{text!r} is not a schedule. A schedule is the text that a counterexample ends with: "
        f"{FORMAT}/SUBJECT/DIGEST/CHOICES, with choices such as 4=1+9=2 or "
        f"{NATURAL!r}"
    )
