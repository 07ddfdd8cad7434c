"""What workers ask the store and read of it, as lines of a trace: who asked when, what the store
answered, and when that was read."""

from __future__ import annotations

from dataclasses import dataclass

from registry.lease_records import (
    LeaseLimits,
    LeaseOperation,
    Leave,
    Poll,
    Register,
    Renew,
    Reply,
    Word,
)
from registry.lease_table import LeaseTable
from sim.kernel.hosts.clock import HostClock
from sim.kernel.world import World

STORE = "store"
# A reply that is on its way for longer is a row of its own: it comes late.
USUAL_S = 0.1

_ASKS: dict[type[LeaseOperation], str] = {
    Register: "to be let in",
    Poll: "whether it is let in",
    Renew: "to renew its lease",
    Leave: "to end its lease",
}


_GIVES_A_LEASE = {Word.OK.value, Word.GRANTED.value}


@dataclass(slots=True)
class _Trip:
    stream: str
    asks: str
    asked_s: float
    # By the worker's own clock.
    asked_shown_s: float
    answered_s: float = 0.0
    word: str = ""


class Trips:
    """Only of an execution that is traced; the bench's state knows nothing of it."""

    def __init__(self, world: World, limits: LeaseLimits) -> None:
        self._world, self._limits = world, limits
        self._under_way: dict[tuple[str, int], _Trip] = {}
        self._let_in: set[str] = set()
        # Whose lease was over, where another has the session as a request arrives.
        self._before = ""
        # By stream until when the store counted its lease, once another asks after that.
        self.counted_s: dict[str, float] = {}

    def asks(self, worker: str, number: int, operation: LeaseOperation, clock: HostClock) -> None:
        if self._world.trace is None:
            return
        asks = _ASKS.get(type(operation), type(operation).__name__)
        now = self._world.now
        trip = _Trip(operation.stream, asks, now, clock.shown(now))
        self._under_way[worker, number] = trip
        self._world.record(f"asks the store {asks}", actor=trip.stream, is_chatter=True)

    def arrives(self, table: LeaseTable, operation: LeaseOperation, ahead_s: float) -> None:
        """At the store, which has not run it yet. ahead_s: by how much its clock goes before the
        world's."""
        if self._world.trace is None:
            return
        record = table.sessions.get(operation.session)
        holder = None if record is None else record.holder
        self._before = ""
        if holder is not None and holder.stream != operation.stream:
            self._is_asked_after(holder.stream, holder.until_ms / 1000 - ahead_s)

    def _is_asked_after(self, stream: str, until_s: float) -> None:
        """One that has outlasted its grace may still have its lease."""
        if until_s > self._world.now:
            return
        self.counted_s[stream] = until_s
        margin_s = self._limits.margin_ms / 1000
        self._before = f"; {stream}'s was over at {until_s:.3f} s, and {margin_s:g} s of margin are"

    def is_answered(self, worker: str, number: int, reply: Reply) -> None:
        trip = self._under_way.get((worker, number))
        if trip is None:
            return
        trip.answered_s, trip.word = self._world.now, reply.word.value
        is_new = reply.word is Word.GRANTED and trip.stream not in self._let_in
        if is_new:
            self._let_in.add(trip.stream)
            lease_s = self._limits.lease_ms / 1000
            text = f"lets {trip.stream} in, with a lease of {lease_s:g} s{self._before}"
        else:
            text = f"answers {trip.stream}, which asked {trip.asks}: {trip.word}"
        self._world.record(text, actor=STORE, is_chatter=not is_new)

    def is_read(self, worker: str, number: int, clock: HostClock) -> None:
        trip = self._under_way.pop((worker, number), None)
        if trip is None:
            return
        is_late = self._world.now - trip.asked_s > USUAL_S
        text = f"reads the store's answer: {trip.word}"
        if is_late:
            text = (
                f"reads only now what the store answered at {trip.answered_s:.3f} s, as it asked "
                f"{trip.asks} at {trip.asked_s:.3f} s: {trip.word}{self._good_until(trip, clock)}"
            )
        self._world.record(text, actor=trip.stream, is_chatter=not is_late)

    def _good_until(self, trip: _Trip, clock: HostClock) -> str:
        """How a worker has to date a lease that is given: from when it asked, by its own clock."""
        if trip.word not in _GIVES_A_LEASE:
            return ""
        lease_s = self._limits.lease_ms / 1000
        until_s = clock.world(trip.asked_shown_s + lease_s)
        return f", for {lease_s:g} s from when it asked, until {until_s:.3f} s"
