"""What one execution reads of clocks, and draws: the numbers behind `isolation/`."""

from __future__ import annotations

import datetime
import math
import operator
import random  # noqa: TID251 - it is this module that makes it deterministic
import uuid
from typing import Any, Protocol, TypeVar

from sim.kernel.environment import SAME_S, Environment
from sim.kernel.notices import Special
from sim.kernel.origin import forwards
from sim.kernel.schedule import EPOCH_S
from sim.kernel.time_limits import Limits

_Reading = TypeVar("_Reading", float, int, datetime.datetime)

BUSY_READINGS = 1000
BUSY_STEP_S = 0.001
"""After BUSY_READINGS in a row the program waits for the clock: each then takes BUSY_STEP_S."""

GRAIN_US = 0.3
"""More than lies between two readings of `time.time()`, a float, in this century."""

_DAY_OF_1970 = datetime.date(1970, 1, 1).toordinal()

READINGS_AHEAD = 50
"""As many readings in a row do not put the wall clock ahead for longer than their instant."""

_inst: random.Random = random._inst
_real_random_seed = random.Random.seed
# Of `random`'s own generator, before the first execution that drew from it seeded it.
_state_before: list[object] = []


class Repeats(Protocol):
    """See `equal_readings.py`."""

    in_a_row: int

    def is_next(self) -> bool: ...

    def forget_the_last(self) -> None: ...

    def end(self) -> None: ...


class Entropy:
    """What one execution reads of clocks, and draws. With `seed` None the draws are real."""

    __slots__ = (
        *("_bytes", "_is_seeded", "_last", "_made_us", "_processor_s", "_readings"),
        *("_wall_at_s", "_wall_us", "changed", "environment", "epoch_s", "equal", "limits"),
        *("seed", "shown"),
    )

    def __init__(
        self, environment: Environment, seed: int | None, epoch_s: float = EPOCH_S
    ) -> None:
        """epoch_s: what the wall clock shows where the environment's shows 0."""
        self.environment = environment
        self.seed = seed
        self.epoch_s = epoch_s
        # Seeding takes 12 µs, so it is done at the first draw.
        self._is_seeded = False
        self._bytes: random.Random | None = None
        self._last = -1.0
        self._readings = 0
        # What the processor has worked: it does not while the loop sleeps.
        self._processor_s = 0.0
        # What the wall clock showed last, in microseconds; what it would have shown, were it not
        # ahead; and when.
        self._wall_us, self._made_us, self._wall_at_s = 0, 0, 0.0
        # Which files the execution has written, by path, and when: see `isolation/file_times.py`.
        self.changed: dict[str, Any] = {}
        # Which readings of the wall clock show what the last one showed.
        self.equal: Repeats | None = None
        # Of an execution in which time limits of the program's end, or are learned.
        self.limits: Limits | None = None
        # Of an exploration's execution: what the wall clock has shown, in nanoseconds, and in which
        # microsecond; it may be ahead.
        self.shown: dict[int, int] = {}
        if seed is not None:
            uuid._last_timestamp = None  # type: ignore[attr-defined]

    def canonical_state(self) -> object:
        """How the draws and readings so far decide later ones.

        And by how many milliseconds the wall clock is ahead: its microseconds only tell readings
        apart.
        """
        drawn = _inst.getstate() if self._is_seeded else None
        drawn_bytes = self._bytes.getstate() if self._bytes is not None else None
        # An ordinary program does not read the clock that often in a row, so fewer do not count.
        readings = self._readings if self._readings > BUSY_READINGS // 2 else 0
        ahead_ms = (self._wall_us - self._made_us) // 1000
        changed = list(self.changed.items())
        return drawn, drawn_bytes, readings, self._processor_s, ahead_ms, changed

    def keep_up_with(self, wall_s: float) -> None:
        """From now on the wall clock does not show less than that."""
        self.epoch_s = max(self.epoch_s, wall_s - self.environment.now)

    def monotonic(self) -> float:
        if self.limits is not None:
            self.limits.reads()
        now = self.environment.read_clock()
        self._note_reading(now)
        return now if self.limits is None else self._as_limits_have(now, 1.0)

    def _as_limits_have(self, reading: _Reading, per_second: float) -> _Reading:
        assert self.limits is not None
        shown: _Reading = self.limits.shown(reading, per_second)
        return shown

    def processor(self) -> float:
        before = self.environment.now
        self._note_reading(self.environment.read_clock())
        # Only who waits for it makes it pass: a reading, or the step of a busy one.
        self._processor_s += self.environment.now - before
        return self._processor_s

    def wall_us(self) -> int:
        """The wall clock, in microseconds; it does not move the clock, since logging may read it.

        Between two readings it never shows less time than has passed: on stock a timer is later
        than the grain of `time.time()` and `datetime`. So it gets ahead, by a microsecond for each
        reading, and who reads it many times at one instant lets the clock catch up.
        """
        catches_up = self._readings > READINGS_AHEAD
        self._note_reading(self.environment.now)
        now = self.environment.now
        if self.equal is not None and self.equal.is_next():
            return self._wall_us
        made_us = shown = round((self.epoch_s + now) * 1e6)
        if self._wall_us:
            passed_us = 0.0 if catches_up else (now - self._wall_at_s) * 1e6
            shown = max(shown, self._wall_us + max(1, math.ceil(passed_us + GRAIN_US)))
        self._wall_us, self._made_us, self._wall_at_s = shown, made_us, now
        if self.seed is not None:
            self.shown[shown * 1000] = made_us
        return shown

    def wall_ns(self) -> int:
        """No two are the same: a call takes more than a nanosecond."""
        if self.limits is not None:
            self.limits.reads()
        shown_us = self.wall_us()
        in_a_row = 0 if self.equal is None else self.equal.in_a_row
        shown = shown_us * 1000 + in_a_row
        self._note_shown(shown_us, shown)
        return shown if self.limits is None else self._as_limits_have(shown, 1e9)

    @forwards
    def wall_date(
        self, kind: type[datetime.datetime], zone: datetime.tzinfo | None
    ) -> datetime.datetime:
        """What a clock on the wall shows there."""
        if self.limits is not None:
            self.limits.reads()
        shown_us = self.wall_us()
        date = kind.fromtimestamp(shown_us / 1e6, zone)
        # By its fields alone: a subclass may subtract in another way.
        minutes = (date.toordinal() - _DAY_OF_1970) * 1440 + date.hour * 60 + date.minute
        self._note_shown(shown_us, (minutes * 60 + date.second) * 10**9 + date.microsecond * 1000)
        return date if self.limits is None else self._as_limits_have(date, 1.0)

    def _note_shown(self, shown_us: int, as_ns: int) -> None:
        """The reading was shown in this way: of another zone, say."""
        made_us = self.shown.get(shown_us * 1000)
        if made_us is not None:
            self.shown[as_ns] = made_us + as_ns // 1000 - shown_us

    def wall_clock(self) -> float:
        if self.limits is not None:
            self.limits.reads()
        shown = self.wall_us() / 1e6
        return shown if self.limits is None else self._as_limits_have(shown, 1.0)

    def wall_clock_apart(self) -> float:
        """A reading of ours, far from the program's before it and after it."""
        if self.equal is None:
            return self.wall_us() / 1e6
        self.equal.forget_the_last()
        shown = self.wall_us() / 1e6
        self.equal.forget_the_last()
        return shown

    @property
    def was_read(self) -> bool:
        return self._last >= 0

    @property
    def wall_seen(self) -> float:
        """What it shows, for another one that must not be behind; this is no reading."""
        return max(self.epoch_s + self.environment.now, self._wall_us / 1e6)

    @property
    def readings_here(self) -> int:
        """How often the program has read a clock at this instant, also over several polls."""
        return self._readings if self.environment.now <= self._last + SAME_S else 0

    def _note_reading(self, now: float) -> None:
        self._readings = self._readings + 1 if now <= self._last + SAME_S else 0
        self._last = now
        if self._readings > BUSY_READINGS:
            self.environment.advance(now + BUSY_STEP_S)
            self._last = self.environment.now

    def seed_module(self) -> None:
        """Seeds `random`'s own generator."""
        if not self._is_seeded:
            self._is_seeded = True
            self.environment.observer.meets(Special.RANDOM_NUMBERS)
            _save_state()
            _real_random_seed(_inst, self.seed)

    @forwards
    def bytes(self, size: int) -> bytes:
        if operator.index(size) < 0:
            raise ValueError("negative argument not allowed")
        if self._bytes is None:
            self.environment.observer.meets(Special.RANDOM_NUMBERS)
            self._bytes = random.Random(f"bytes {self.seed}")
        return self._bytes.randbytes(size)


def _save_state() -> None:
    if not _state_before:
        _state_before.append(_inst.getstate())


def restore_module() -> None:
    """`random`'s own generator goes on where it was before executions drew from it."""
    while _state_before:
        _inst.setstate(_state_before.pop())  # type: ignore[arg-type]
