"""What is left of a script where the program takes another path: its events, in their order.

`onestream export` copies this file into each test, between `shim.py` and `shim_run.py`. The script
names polls by their number, and the fixed program mostly takes other polls to the same place; so
does a program that was changed elsewhere and still has the bug. What the script finds in one poll
is a *moment* here: its events land together, as many polls after the moment before as they did, or
as soon after that as the program waits for them. Whatever the script does not know lands at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from sim.export.shim import READING_S, SAME_S, Script, World

SHIFTS = (1, -1, 2, -2)
MOMENTS_MAX = 8  # how many of them are shifted one by one


@dataclass(frozen=True)
class Variant:
    """all_by: by how many polls each moment comes later; one, one_by: a single one of them.

    is_patient: time passes until the program waits for an event; else an idle loop goes without.
    is_natural: nothing of the script, natural order.
    """

    all_by: int = 0
    one: int = -1
    one_by: int = 0
    is_patient: bool = False
    is_natural: bool = False

    def __str__(self) -> str:
        if self.is_natural:
            return "in natural order"
        words = "with its events in their order"
        if self.one_by:
            return f"{words}, those of moment {self.one + 1} {self.one_by:+} polls later"
        return f"{words}, {self.all_by:+} polls later" if self.all_by else words

    @property
    def is_shifted(self) -> bool:
        return bool(self.all_by or self.one_by or self.is_natural)

    def shift(self, number: int) -> int:
        return self.all_by + (self.one_by if number == self.one else 0)


def shifted(script: Script) -> Iterator[Variant]:
    """All of it some polls later or earlier; each moment by itself; none of it."""
    for shift in SHIFTS:
        yield Variant(all_by=shift)
    for number in range(min(len(script.polls), MOMENTS_MAX)):
        for shift in SHIFTS:
            yield Variant(one=number, one_by=shift)
    yield Variant(is_natural=True)


@dataclass
class Moment:
    """gap: polls since the moment before. to: the reading to which the clock jumps, or 0."""

    gap: int
    to: float = 0.0
    events: list[str] = field(default_factory=list)


class InOrder:
    """Plays the moments of a script. missed: the events that the program did not wait for."""

    def __init__(self, script: Script, variant: Variant) -> None:
        self.missed: list[str] = []
        self._is_patient = variant.is_patient
        self._moments = [] if variant.is_natural else list(_moments(script, variant))
        self._choices = [] if variant.is_natural else [chosen for chosen, _ in script.choices]
        self._since = 0

    @property
    def left_out(self) -> list[str]:
        """Of the script, what never came: events, and answers to `World.choose`."""
        still = [name for each in self._moments for name in each.events]
        return [*self.missed, *still, *self._choices]

    def choose(self, options: Sequence[str]) -> int:
        """The next answer of the script to this question; the natural one without any."""
        for number, chosen in enumerate(self._choices):
            if chosen in options:
                del self._choices[number]
                return options.index(chosen)
        return 0

    def poll(self, world: World) -> list[int]:
        self._since += 1
        while self._moments:
            moment = self._moments[0]
            found = (self._events if moment.events else self._clock)(world, moment)
            if found or (found is not None and not _is_idle(world)) or world.is_over:
                return found or []
            if found is not None:
                # Nothing can come any more but what is held back.
                self._next()
        return world.natural()

    def _clock(self, world: World, moment: Moment) -> list[int] | None:
        """The loop is late, or wakes where it would anyway. None: go on with the next moment."""
        if world.clock.now >= moment.to - SAME_S:
            self._next()
            return None
        is_idle = _is_idle(world)
        wakes = world.until if is_idle else world.clock.now
        is_late = wakes + SAME_S < moment.to <= wakes + world.lateness_s + SAME_S
        if is_late and (is_idle or self._since >= moment.gap):
            self._next()
            _jump(world, moment.to)
            return []
        return self._natural(world)

    def _events(self, world: World, moment: Moment) -> list[int] | None:
        is_idle, pending = _is_idle(world), world.pending()
        if not is_idle and self._since < moment.gap:
            return self._natural(world)
        awaited: list[int] = []
        for name in moment.events:
            awaited += [fd for fd in pending if pending[fd].name == name and fd not in awaited][:1]
        opens = max([moment.to, *(pending[fd].earliest for fd in awaited)])
        if opens > (world.until if is_idle else world.clock.now) + world.lateness_s:
            return self._natural(world)
        if len(awaited) < len(moment.events):
            # The program may be on its way to the others.
            if not is_idle or self._may_go_on(world):
                return self._natural(world)
            there = [pending[fd].name for fd in awaited]
            self.missed += _without(moment.events, there)
            moment.events = there
            if not there:
                self._next()
            return None
        self._next()
        _jump(world, opens)
        return [world.land(fd, pending[fd].name) for fd in awaited if fd in world.due()] or None

    def _may_go_on(self, world: World) -> bool:
        """Whether an idle loop goes on without an event of the moment."""
        free = [each for each in world.pending().values() if each.name not in self._held]
        if self._is_patient:
            return bool(free) or world.until < math.inf
        return any(each.earliest <= world.clock.now for each in free)

    @property
    def _held(self) -> set[str]:
        return {name for each in self._moments for name in each.events}

    def _natural(self, world: World) -> list[int]:
        """What the script does not know lands, and what has to; the clock moves."""
        landed = len(world.landed)
        is_idle, begun = _is_idle(world), world.clock.now
        found = world.natural(self._held)
        if is_idle and world.clock.now > begun + SAME_S:
            # As after a moment of the script: each waking of an idle loop is one there.
            self._since = 0
        for name in world.landed[landed:]:
            of = next((each for each in self._moments if name in each.events), None)
            if of is not None:
                of.events.remove(name)
        return found

    def _next(self) -> None:
        del self._moments[0]
        self._since = 0


def _is_idle(world: World) -> bool:
    return world.clock.now < world.until - 2 * READING_S


def _jump(world: World, to: float) -> None:
    """As far as no window ends before; instants that are nearer than SAME_S are one."""
    same = [at for at in world.deadlines() if abs(at - to) <= SAME_S]
    latest = [each.latest for each in world.pending().values()]
    world.clock.now = max(world.clock.now, min([max([to, *same]), *latest]))


def _without(names: Sequence[str], others: Sequence[str]) -> list[str]:
    """Each of the others takes away one of the names."""
    left = list(names)
    for name in others:
        left.remove(name)
    return left


def _moments(script: Script, variant: Variant) -> Iterator[Moment]:
    before = 0
    for number, (poll, found) in enumerate(sorted(script.polls.items())):
        moment = Moment(max(1, poll - before + variant.shift(number)))
        before = poll
        for each in found:
            if isinstance(each, float):
                moment.to = each
            elif each is not None:
                moment.events.append(each[1])
        yield moment
