"""The network of one execution: its machines, its descriptors, and what is on its way.

What is written at one end lands at the other as an outside event, one for each write, in the order
of its connection. Between two machines, or the ends of a Unix socket, nothing else is free.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sim.kernel.network.conditions import LoopOfSockets
from sim.kernel.network.delivery import Delivery
from sim.kernel.network.streams import StreamSocket
from sim.kernel.notices import Special


class Network(Delivery):
    """The one of an execution, and what becomes of it where processes and machines end."""

    def __init__(self, loop: LoopOfSockets) -> None:
        super().__init__(loop)
        self.environment.observer.meets(Special.SOCKETS)

    WITHOUT_INFLUENCE = frozenset({"loop", "environment"})
    """Fields that do not decide what happens next, for the state reader; a test checks all."""

    def canonical_state(self) -> Sequence[object]:
        """All of it that decides what happens next, at a poll."""
        return (
            (self.open_by_fd, self.blocked),
            # In their order, which is that in which they are told.
            [
                (fd, each.loop, each.key, each.loop in self._polling)
                for fd, each in self.watches.items()
            ],
            self._told,
            # The number of the next descriptor.
            self._fds,
            list(self._by_arrival.items()),
            (self._deferred, self._held),
            (self.machines, self.here, self._links, self._cuts, self._partitions, self._faults),
            (self._everywhere_s, self._late_max_s, self._look_up_s, self._buffer_bytes),
            (self.may_cut, self.at_once),
        )

    def close_all_of(self, loop: Any) -> None:
        """A process has ended: its system closes what it has left open."""
        for fd, opened in tuple(self.open_by_fd.items()):
            if opened.loop is loop:
                self.watches.pop(fd, None)
                self.close(fd)
        for opened in tuple(self.blocked):
            if opened.loop is loop:
                self._blocks_no_more(opened)
        self._redirect(loop)

    def power_fails(self, name: str) -> None:
        """Of a host: its system says nothing to anybody, and hears nothing until it is back."""
        machine = next(each for each in self.known_machines() if each.name == name)
        machine.is_down = True
        for fd, opened in tuple(self.open_by_fd.items()):
            if opened.machine is machine:
                del self.open_by_fd[fd]
                self.watches.pop(fd, None)
                opened.forget()
        for opened in tuple(self.blocked):
            if opened.machine is machine:
                self.blocked.remove(opened)
                opened.forget()

    def is_back(self, name: str) -> None:
        for machine in self.machines:
            if machine.name == name and machine.is_down:
                machine.is_down = False
                self.carry_held()

    def _redirect(self, loop: Any) -> None:
        """What is on its way to a process that has ended arrives when it would have, at its system,
        which answers: at polls of the loop that hears that.
        """
        for arrival in tuple(loop.environment.pending):
            sender = self._by_arrival.pop(arrival, None)
            if sender is None:
                continue
            loop.environment.pending.remove(arrival)
            if isinstance(sender, StreamSocket) and sender.delivery is not arrival:
                # Its own patience.
                continue
            left_s = loop.environment.world_s_to(arrival.earliest)
            again = self._announce(self._living(sender.loop), arrival.name, left_s)
            again.callbacks = arrival.callbacks
            self._by_arrival[again] = sender
            if isinstance(sender, StreamSocket):
                sender.delivery = again

    def take_in(self, loop: Any, until: float) -> None:
        """The system takes what arrives by then for a process that does not run."""
        for arrival in tuple(loop.environment.pending):
            if arrival in self._by_arrival and arrival.earliest <= until:
                loop.environment.land(arrival)

    def let_go(self) -> None:
        """After the execution: what is still open is nobody's."""
        self.open_by_fd.clear()
        self.watches.clear()
        self._by_arrival.clear()
        del self.loop
