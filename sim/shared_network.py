"""The network of all stand-alone loops of a process, each in whichever thread of the system.

What is sent from one loop to another lands at a poll of the loop that receives it. A loop that does
not run hears nothing: what is sent to it lands where its sender is, as in a system, which takes in
what is sent to a program that sleeps. One of these loops runs at a time: each has the baton, and
gives it away while it waits, and at its polls.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sim.kernel.current import execution_of_this_thread, os_thread
from sim.kernel.environment import Arrival
from sim.kernel.network.conditions import LoopOfSockets
from sim.kernel.network.network import Network
from sim.kernel.network.streams import StreamSocket

# Bound here: what stands there while a loop runs is another.
_real_sleep, _real_lock = time.sleep, threading.Lock

PATIENCE_S = 5.0
"""So long the baton is waited for, in real seconds. Who holds it longer blocks in a call that
nobody sees: a lock of a library written in C, say. What waits goes on beside it then."""


class Baton:
    def __init__(self) -> None:
        self._lock = _real_lock()
        self._holder: int | None = None
        self._turns = 0
        # The turn whose end was waited for in vain.
        self._given_up: int | None = None
        self._running: set[int] = set()

    @contextmanager
    def held(self) -> Iterator[None]:
        """While a loop runs in this thread. Blocks may be nested."""
        this = os_thread()
        if this in self._running:
            yield
            return
        self._running.add(this)
        self._take()
        try:
            yield
        finally:
            self._running.discard(this)
            self._give()

    @contextmanager
    def given_away(self) -> Iterator[None]:
        """While it waits for others."""
        if os_thread() not in self._running:
            yield
            return
        self._give()
        try:
            yield
        finally:
            self._take()

    def pass_on(self) -> None:
        """At a poll: whichever other loop waits for it has its turn."""
        if len(self._running) > 1:
            with self.given_away():
                _real_sleep(0)

    def _take(self) -> None:
        turn = self._turns
        if self._lock.acquire(True, 0 if turn == self._given_up else PATIENCE_S):
            self._holder, self._turns = os_thread(), self._turns + 1
        else:
            self._given_up = turn

    def _give(self) -> None:
        if self._holder == os_thread():
            self._holder = None
            self._lock.release()


baton = Baton()


class SharedNetwork(Network):
    """Its loop is the one that runs in this thread, or was the last to use it."""

    def __init__(self, loop: LoopOfSockets) -> None:
        self._last = loop
        super().__init__(loop)

    @property
    def loop(self) -> Any:
        execution = execution_of_this_thread()
        if execution is not None and getattr(execution.loop, "_network", None) is self:
            self._last = execution.loop
        return self._last

    @loop.setter
    def loop(self, loop: Any) -> None:
        self._last = loop

    @property
    def environment(self) -> Any:
        return self.loop.environment

    @environment.setter
    def environment(self, environment: Any) -> None:
        """It is its loop's."""

    def loop_here(self) -> Any:
        return self.loop

    # -- where something lands

    def _living(self, *loops: LoopOfSockets) -> LoopOfSockets:
        running = (each for each in loops if not each.is_over and each.is_running())  # type: ignore[attr-defined]
        return next(running, self.loop)

    def _announce(self, receiver: LoopOfSockets, words: str, earliest_s: float) -> Arrival:
        arrival = super()._announce(receiver, words, earliest_s)
        if receiver is not self.loop:
            receiver.hears()  # type: ignore[attr-defined]
        return arrival

    def begins_run(self, loop: Any) -> bool:
        """What is on its way to loops that do not run lands at its polls; whether there is any."""
        left = [
            each
            for each in self._by_arrival.items()
            if each[0].env is not loop.environment and not self._has_runner(each[0])
        ]
        for arrival, sender in left:
            self._moves(arrival, sender, loop)
        return bool(left)

    def ends_run(self, loop: Any) -> None:
        """What is on its way to it lands where its sender is, if that runs."""
        for arrival, sender in tuple(self._by_arrival.items()):
            is_elsewhere = sender.loop is not loop and sender.loop.is_running()
            if arrival.env is loop.environment and is_elsewhere:
                self._moves(arrival, sender, sender.loop)

    def _has_runner(self, arrival: Arrival) -> bool:
        loops = {each.loop for each in self.open_by_fd.values()}
        return any(each.environment is arrival.env and each.is_running() for each in loops)

    def _moves(self, arrival: Arrival, sender: Any, loop: Any) -> None:
        environment: Any = arrival.env
        if arrival not in environment.pending:
            return
        environment.pending.remove(arrival)
        left_s = max(0.0, arrival.earliest - environment.now)
        again = loop.environment.announce(arrival.name, left_s, left_s + self.late_max_s)
        again.callbacks, again.is_awaited = arrival.callbacks, arrival.is_awaited
        self._by_arrival[again] = self._by_arrival.pop(arrival)
        if isinstance(sender, StreamSocket) and sender.delivery is arrival:
            sender.delivery = again
        loop.hears()

    def lands_next(self, until: float) -> bool:
        mine = [each for each in self._by_arrival if each.env is self.environment]
        awaited = (each for each in mine if each.is_awaited())
        first = min(awaited, key=lambda each: each.earliest, default=None)
        if first is None or first.earliest > until:
            return False
        self.environment.advance(first.earliest)
        self.environment.land(first)
        return True

    # -- the end of a loop

    def loop_closes(self, loop: Any) -> None:
        """Its sockets stay; what they had to wait for after their end has passed."""
        for fd in [fd for fd, watch in self.watches.items() if watch.loop is loop]:
            del self.watches[fd]
        for machine in self.machines:
            machine.ends_waits_of(loop)
        self._polling.discard(loop)

    def who_waits(self) -> list[str]:
        loop = self.loop
        return [
            f"the loop waits {self.open_by_fd[fd].words_of_wait(watch.key.events)}"
            for fd, watch in self.watches.items()
            if watch.loop is loop and fd in self.open_by_fd
        ]


_of_process: list[SharedNetwork] = []


def begins_run(loop: Any) -> SharedNetwork | None:
    """The network of the process, if it has one and the loop has to do with it."""
    return next((each for each in _of_process if each.begins_run(loop)), None)


def network_of_process(loop: Any) -> SharedNetwork:
    if not _of_process:
        _of_process.append(SharedNetwork(loop))
    return _of_process[0]
