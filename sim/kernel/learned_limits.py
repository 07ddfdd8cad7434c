"""How long the time limits are that a program compares readings of a clock with.

In an execution that is run for this alone, readings are numbers and dates that know when the clock
showed them. What is computed from them knows how it would differ had it been read later, so a
comparison tells at which reading it would come out otherwise: 1 s after an entry was made, or half
a second after a token was taken. Their types are subclasses, which not every library takes for
numbers: nothing else is asked of such an execution, and what it ends with counts for nothing.
"""

from __future__ import annotations

import datetime
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from sim.kernel.environment import Environment
from sim.kernel.schedule import Durations
from sim.kernel.time_limits import ReadingsOfPoll, is_for_a_log

LIMITS_MAX, OTHERS_MAX = 5, 3
"""How many are looked at, those that were met first."""

SAME_DURATION_S = 0.0005
"""Durations that differ by less, in seconds, are one: readings take some microseconds."""

SHORTEST_S = 0.002
"""Less is the grain of a clock, or what a step takes."""


@dataclass(frozen=True, slots=True)
class Source:
    """Of which readings a number was computed, and how much more it would be per second later.

    That is of the newest of them, which has this number; oldest, newest: when they were made.
    """

    learner: Learner
    per_second: float
    oldest: float
    newest: float
    number: int

    def joined(self, other: Source | None, sign: int) -> Source:
        """Of the sum of two, or of their difference."""
        if other is None:
            return self
        number = max(self.number, other.number)
        per_second = self._by(number) + sign * other._by(number)
        newest = max(self.newest, other.newest)
        return Source(self.learner, per_second, min(self.oldest, other.oldest), newest, number)

    def _by(self, number: int) -> float:
        """How much more it would be, were this reading a second later."""
        return self.per_second if self.number == number else 0.0

    def times(self, factor: float) -> Source:
        return replace(self, per_second=self.per_second * factor)

    def differs_after(self, missing: float) -> None:
        """It would come out otherwise if it were more by that."""
        if not self.per_second or not math.isfinite(missing):
            return
        seconds = missing / self.per_second
        self.learner.learn(self.newest - self.oldest + seconds)
        self.learner.learn_of_rest(seconds)


class Learner:
    """Of one execution: it takes the place of `TimeLimits` there, and lets nothing be late."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._readings, self._of_poll = 0, ReadingsOfPoll(environment)
        self._limits: list[float] = []
        self._others: list[float] = []

    @property
    def found(self) -> Durations:
        """Of what the program compares, and, if there is any, of the timers that it has armed."""
        if not self._limits:
            return Durations()
        found = [*self._limits]
        for each in self._others:
            note(found, each)
        return Durations(found)

    def learn(self, seconds: float) -> None:
        if len(self._limits) < LIMITS_MAX:
            note(self._limits, seconds)

    def learn_of_rest(self, seconds: float) -> None:
        """Of a limit, from the last reading on."""
        if len(self._others) < OTHERS_MAX:
            note(self._others, seconds)

    def armed(self, when: float) -> float:
        """A timer is; returns when it is due."""
        due: float = float(_plain(when))
        self.learn_of_rest(due - self._environment.now)
        return due

    def reads(self) -> None: ...

    def shown(self, reading: Any, per_second: float) -> Any:
        if not self._of_poll.is_one_of_few() or is_for_a_log():
            return reading
        now = self._environment.now
        self._readings += 1
        return _known(reading, Source(self, per_second, now, now, self._readings))

    def instants(self, before: float) -> list[float]:
        return []

    def next_instant(self, instants: Sequence[float]) -> float | None:
        return None

    def has_waited(self) -> bool:
        return False


def note(durations: list[float], seconds: float) -> None:
    """Adds one, unless there is one that differs by what readings take at most."""
    if SHORTEST_S <= seconds < math.inf and all(
        abs(seconds - each) > SAME_DURATION_S for each in durations
    ):
        durations.append(round(seconds, 6))


# ---- how one is asked for ---------------------------------------------------------------------

_asked_for = False


@contextmanager
def learning() -> Iterator[None]:
    """In the block, executions learn of time limits: see `Outcome.time_limits`."""
    global _asked_for
    _asked_for = True
    try:
        yield
    finally:
        _asked_for = False


def is_learning() -> bool:
    return _asked_for


# ---- numbers and dates that know ------------------------------------------------------------


def _source_of(value: object) -> Source | None:
    return value.source if isinstance(value, _Known) else None


def _known(value: Any, source: Source | None) -> Any:
    """The value, of a type that knows where it comes from, if there is one."""
    kind = _KNOWN.get(type(value))
    if kind is None or source is None:
        return value
    return kind.knowing(value, source)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def _plain(value: Any) -> Any:
    return value.plain() if isinstance(value, _Known) else value


def _compared(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], Any]:
    def compared(self: Any, other: Any) -> Any:
        if not self.is_comparable(other):
            return NotImplemented
        mine, its = self.plain(), _plain(other)
        missing = _missing(mine, its)
        if self.source is not None:
            self.source.joined(_source_of(other), -1).differs_after(missing)
        return compare(mine, its)

    return compared


def _missing(mine: Any, its: Any) -> float:
    try:
        return _in_seconds(its - mine)
    except OverflowError:
        # A float and a whole number that is larger than any: they are compared all the same.
        return math.inf


def _in_seconds(difference: Any) -> float:
    if isinstance(difference, datetime.timedelta):
        return difference.total_seconds()
    try:
        return float(difference)
    except OverflowError:
        return math.inf


def _added(
    add: Callable[[Any, Any], Any], sign: int, *, is_reflected: bool = False
) -> Callable[[Any, Any], Any]:
    """sign: of the second. is_reflected: the one that knows is the second."""

    def added(self: Any, other: Any) -> Any:
        if not self.is_addable(other):
            return NotImplemented
        mine, its = self.plain(), _plain(other)
        result = add(its, mine) if is_reflected else add(mine, its)
        source, its_source = self.source, _source_of(other)
        if source is None:
            return result
        is_reading = source.oldest == source.newest and not isinstance(its, datetime.datetime)
        if its_source is None and is_reading:
            source.differs_after(abs(_in_seconds(its)))
        if is_reflected and sign < 0:
            return _known(result, source.times(-1.0))
        return _known(result, source.joined(its_source, sign))

    return added


def _scaled(
    scale: Callable[[Any, Any], Any], factor_of: Callable[[float], float]
) -> Callable[[Any, Any], Any]:
    def scaled(self: Any, other: Any) -> Any:
        if not _is_number(other):
            return NotImplemented
        result = scale(self.plain(), _plain(other))
        if self.source is None or isinstance(other, _Known):
            return result
        return _known(result, self.source.times(factor_of(_in_seconds(other))))

    return scaled


def _divided(self: Any, other: Any) -> None:
    """By a whole number of times: it is another one at the next multiple."""
    if self.source is not None and not isinstance(other, _Known) and other:
        self.source.differs_after(_in_seconds(other - self.plain() % other))
        self.source.differs_after(_in_seconds(abs(other)))


class _Known:
    """A part of the types below."""

    source: Source | None = None

    @classmethod
    def knowing(cls, value: Any, source: Source) -> Any:
        known = cls.of(value)
        known.source = source
        return known

    @classmethod
    def of(cls, value: Any) -> Any:
        return cls(value)  # type: ignore[call-arg]

    def plain(self) -> Any:
        raise NotImplementedError

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Who unpickles it, knows nothing."""
        return _plain, (self.plain(),)

    def __copy__(self) -> Any:
        return self

    def __deepcopy__(self, memo: object) -> Any:
        return self

    __lt__, __le__ = _compared(operator.lt), _compared(operator.le)
    __gt__, __ge__ = _compared(operator.gt), _compared(operator.ge)
    __add__ = _added(operator.add, 1)
    __radd__ = _added(operator.add, 1, is_reflected=True)
    __sub__ = _added(operator.sub, -1)
    __rsub__ = _added(operator.sub, -1, is_reflected=True)


class _KnownNumber(_Known):
    def is_comparable(self, other: object) -> bool:
        return _is_number(other)

    is_addable = is_comparable

    __mul__ = _scaled(operator.mul, lambda other: other)
    __rmul__ = _scaled(operator.mul, lambda other: other)
    __truediv__ = _scaled(operator.truediv, lambda other: 1 / other)

    def __floordiv__(self, other: Any) -> Any:
        if not _is_number(other):
            return NotImplemented
        _divided(self, other)
        result = self.plain() // _plain(other)
        if self.source is None or isinstance(other, _Known):
            return result
        # In milliseconds, mostly: what is compared with these counts as well.
        return _known(result, self.source.times(1 / _in_seconds(other)))

    def __mod__(self, other: Any) -> Any:
        if not _is_number(other):
            return NotImplemented
        _divided(self, other)
        return _known(self.plain() % _plain(other), self.source)

    def __divmod__(self, other: Any) -> Any:
        return (self // other, self % other) if _is_number(other) else NotImplemented

    def __round__(self, digits: Any = None) -> Any:
        return _known(round(self.plain(), digits), self.source)


class _KnownFloat(_KnownNumber, float):
    def plain(self) -> float:
        return float.__add__(self, 0.0)

    def __int__(self) -> int:
        _divided(self, 1)
        return int(self.plain())

    def __trunc__(self) -> int:
        return self.__int__()

    def __floor__(self) -> int:
        _divided(self, 1)
        return math.floor(self.plain())


class _KnownInt(_KnownNumber, int):
    def plain(self) -> int:
        return int.__add__(self, 0)


class _KnownDate(_Known, datetime.datetime):
    @classmethod
    def of(cls, value: datetime.datetime) -> _KnownDate:
        time_of_day = value.hour, value.minute, value.second, value.microsecond
        day = value.year, value.month, value.day
        return cls(*day, *time_of_day, value.tzinfo, fold=value.fold)

    def plain(self) -> datetime.datetime:
        time_of_day = self.hour, self.minute, self.second, self.microsecond
        day = self.year, self.month, self.day
        return datetime.datetime(*day, *time_of_day, self.tzinfo, fold=self.fold)

    def is_comparable(self, other: object) -> bool:
        return isinstance(other, datetime.datetime)

    def is_addable(self, other: object) -> bool:
        return isinstance(other, datetime.datetime | datetime.timedelta)

    def timestamp(self) -> float:
        shown: float = _known(self.plain().timestamp(), self.source)
        return shown


class _KnownSpan(_Known, datetime.timedelta):
    @classmethod
    def of(cls, value: datetime.timedelta) -> _KnownSpan:
        return cls(value.days, value.seconds, value.microseconds)

    def plain(self) -> datetime.timedelta:
        return datetime.timedelta(self.days, self.seconds, self.microseconds)

    def is_comparable(self, other: object) -> bool:
        return isinstance(other, datetime.timedelta)

    def is_addable(self, other: object) -> bool:
        return isinstance(other, datetime.datetime | datetime.timedelta)

    def total_seconds(self) -> float:
        shown: float = _known(self.plain().total_seconds(), self.source)
        return shown


_KNOWN: dict[type, type[_Known]] = {
    float: _KnownFloat,
    int: _KnownInt,
    datetime.datetime: _KnownDate,
    datetime.timedelta: _KnownSpan,
}
