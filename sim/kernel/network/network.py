"""The network of one execution: its machines, its descriptors, and what is on its way.

What is written at one end lands at the other as an outside event, one for each write, in the order
of its connection. Between two machines, or the ends of a Unix socket, nothing else is free.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import math
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, NoReturn, Protocol

from sim.kernel.arguments import is_number, is_whole, wrong_with
from sim.kernel.current import execution_of_this_thread
from sim.kernel.environment import Arrival, Environment
from sim.kernel.faults import Faults
from sim.kernel.network.addresses import Machine, as_told, in_words, is_own, to_itself, unmapped
from sim.kernel.network.connection import BUFFER_BYTES, Segment, SegmentKind
from sim.kernel.network.datagrams import DatagramSocket
from sim.kernel.network.errors import os_error
from sim.kernel.network.fates import (
    Fate,
    Fault,
    FaultsOfNetwork,
    fates_of,
    fates_of_datagram,
)
from sim.kernel.network.open_sockets import READABLE, WRITABLE, OpenSocket
from sim.kernel.network.streams import StreamSocket
from sim.kernel.network.words import excerpt, words_of_first
from sim.kernel.notices import Special
from sim.kernel.schedule import Option, one_natural

FIRST_FD = 1_000_000
"""Descriptors are numbers that no real one has, so that none is taken for another."""

CONNECT_S = 127.0
"""After how many seconds Linux gives up a request for a connection that nobody answers."""

NOBODYS = (
    "no machine of the simulated network has it, and the real one is not asked; let the program "
    "start on 127.0.0.1 what answers there, or put that into a coroutine that awaits "
    "world.outside(…), or give the library an in-memory transport"
)


_CHATTER = (SegmentKind.ANSWER, SegmentKind.CONFIRMATION, SegmentKind.END)


class LoopOfSockets(Protocol):
    """What the network uses of a loop."""

    environment: Environment
    choose: Any
    refused: str | None

    # What a loop has that runs a process: see hosts/.
    host_name: str
    lane: str
    is_woken: bool
    is_over: bool

    def _process_events(self, event_list: Any) -> None: ...

    # Those of the execution.
    @property
    def faults(self) -> Faults: ...

    def after(self, seconds: float, call: Callable[[], None]) -> None: ...

    def misuse(self, what: str) -> NoReturn: ...

    def refuse(self, what: str, instead: str) -> NoReturn: ...


class Watch(NamedTuple):
    """What a loop wants to know of a descriptor."""

    loop: LoopOfSockets
    key: Any


class Network:
    """The one of an execution.

    open_by_fd: what each descriptor stands for. watches: which are watched, by whom. here: the
    machine whose program runs. latency_s: how long everything is on its way, at least; look_up_s:
    how long a name is looked up. may_cut: whether what one write has sent may arrive in two
    parts, or at which sockets. at_once: at which sockets all that is sent is there at once.
    """

    def __init__(self, loop: LoopOfSockets) -> None:
        self.loop = loop
        self.environment = loop.environment
        self.open_by_fd: dict[int, OpenSocket] = {}
        self.watches: dict[int, Watch] = {}
        self.here = self._new_machine("localhost", "10.0.0.1")
        self.machines = [self.here]
        self._everywhere_s = self._look_up_s = 0.0
        self.may_cut: bool | Callable[[StreamSocket], bool] = True
        self.at_once: Callable[[StreamSocket], bool] | None = None
        self._buffer_bytes = BUFFER_BYTES
        self._fds = itertools.count(FIRST_FD)
        # The loops that are in a poll.
        self._polling: set[LoopOfSockets] = set()
        # What this poll has told of which descriptor.
        self._told: dict[int, int] = {}
        # What is on its way, and who has sent it.
        self._by_arrival: dict[Arrival, OpenSocket] = {}
        # Whose rest arrives after the next poll has begun; whose segments a cut holds.
        self._deferred: list[StreamSocket] = []
        self._held: list[StreamSocket] = []
        self._faults = FaultsOfNetwork(loop.faults)
        self._links: dict[frozenset[str], float] = {}
        # Those of the program, and those that have befallen it, with how many of these.
        self._cuts: set[frozenset[str]] = set()
        self._partitions: Counter[frozenset[str]] = Counter()
        self.environment.observer.meets(Special.SOCKETS)

    WITHOUT_INFLUENCE = frozenset({"loop", "environment"})
    """Fields that do not decide what happens next, for the state reader; a test checks all."""

    def canonical_state(self) -> Sequence[object]:
        """All of it that decides what happens next, at a poll."""
        return (
            self.open_by_fd,
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
            (self._everywhere_s, self._look_up_s, self._buffer_bytes),
            (self.may_cut, self.at_once),
        )

    # -- whose it is

    def loop_here(self) -> Any:
        """That of the process that runs."""
        execution = execution_of_this_thread()
        return self.loop if execution is None else execution.loop

    def machine_here(self) -> Machine:
        """That of the process that runs; the program's own is `here`."""
        name = self.loop_here().host_name
        if not name:
            return self.here
        return next(each for each in self.known_machines() if each.name == name)

    def known_machines(self) -> list[Machine]:
        """With those of hosts, which have an address each."""
        hub = getattr(self.loop, "hosts", None)
        names = {machine.name for machine in self.machines}
        for name in [] if hub is None else hub.host_names:
            if name not in names:
                self.machine(name, f"10.0.1.{len(self.machines)}")
        return self.machines

    def close_all_of(self, loop: Any) -> None:
        """A process has ended: its system closes what it has left open."""
        for fd, opened in tuple(self.open_by_fd.items()):
            if opened.loop is loop:
                self.watches.pop(fd, None)
                self.close(fd)
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

    def is_back(self, name: str) -> None:
        for machine in self.machines:
            if machine.name == name and machine.is_down:
                machine.is_down = False
                self._carry_held()

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

    def about_to(self, what: str) -> None:
        """Before what a peer can tell: a process may fail there."""
        self.loop_here().may_fail(what)

    def words_of(self, address: Any) -> str:
        """As a report has it: with the name of the machine, if it is one of a host."""
        if isinstance(address, tuple):
            for machine in self.machines[1:]:
                if address[0] in machine.addresses and not is_own(address[0]):
                    return f"{machine.name}:{address[1]}"
        return in_words(address)

    # -- descriptors

    def new_fd(self, opened: OpenSocket) -> int:
        fd = next(self._fds)
        self.open_by_fd[fd] = opened
        opened.fds.append(fd)
        return fd

    def opened(self, fd: int) -> OpenSocket:
        found = self.open_by_fd.get(fd)
        if found is None:
            raise os_error(errno.EBADF)
        return found

    def close(self, fd: int) -> None:
        opened = self.open_by_fd.pop(fd, None)
        if opened is not None:
            opened.fds.remove(fd)
            if not opened.fds:
                opened.closed()

    # -- addresses

    def as_told(self, family: int, host: str, port: int) -> Any:
        """The address that a connection to this one has: to anywhere means to itself."""
        return as_told(family, to_itself(family, host), port)

    def source_of(self, opened: OpenSocket, host: str) -> str:
        """From which address of its machine it reaches this one. Refused if it is nobody's."""
        self.machine_at(host, opened.machine)
        if opened.host not in ("0.0.0.0", "::"):
            return opened.host
        if is_own(host):
            return to_itself(opened.family, host)
        colon = opened.family == socket.AF_INET6
        own = [
            each for each in opened.machine.addresses if (":" in each) == colon and not is_own(each)
        ]
        return own[0] if own else host

    def machine_at(self, host: str, seen_from: Machine) -> Machine:
        """Whose address it is. Refused if it is nobody's."""
        if seen_from.has(host):
            return seen_from
        for machine in self.known_machines():
            if unmapped(host) in machine.addresses and not is_own(host):
                return machine
        return self.loop.refuse(f"the address {host}", NOBODYS)

    # -- what a program declares

    @property
    def latency_s(self) -> float:
        return self._everywhere_s

    @latency_s.setter
    def latency_s(self, seconds: float) -> None:
        self._require_seconds("world.network.latency_s", seconds)
        self._everywhere_s = seconds

    @property
    def look_up_s(self) -> float:
        return self._look_up_s

    @look_up_s.setter
    def look_up_s(self, seconds: float) -> None:
        self._require_seconds("world.network.look_up_s", seconds)
        self._look_up_s = seconds

    @property
    def buffer_bytes(self) -> int:
        """Of each direction of the connections that are made from now on."""
        return self._buffer_bytes

    @buffer_bytes.setter
    def buffer_bytes(self, size: int) -> None:
        if not is_whole(size) or size < 1:
            self._misuse(f"world.network.buffer_bytes = {size!r} is no number of bytes, 1 or more")
        self._buffer_bytes = size

    def _require_seconds(self, what: str, seconds: object) -> None:
        if not is_number(seconds) or not 0 <= seconds < math.inf:  # type: ignore[operator]
            self._misuse(f"{what} = {seconds!r} is no finite number of seconds, 0 or more")

    def _require_known(self, *names: str) -> None:
        known = [machine.name for machine in self.known_machines()]
        for name in names:
            if name not in known:
                self._misuse(f"{name!r} is no machine of the network: {', '.join(known)} are")

    def _misuse(self, what: str) -> NoReturn:
        """An error, whether or not the program catches what is raised here."""
        self.loop.misuse(what)

    def machine(self, name: str, *addresses: str) -> Machine:
        """Another machine, with its addresses; its name is found by `getaddrinfo`."""
        self.machines.append(self._new_machine(name, *addresses))
        return self.machines[-1]

    def _new_machine(self, name: str, *addresses: str) -> Machine:
        return Machine(name, ["127.0.0.1", "::1", *addresses], self.world_now)

    def world_now(self) -> float:
        return self.environment.world_now

    @contextmanager
    def on(self, machine: Machine) -> Iterator[None]:
        """Sockets that are made within the block are this machine's."""
        before, self.here = self.here, machine
        try:
            yield
        finally:
            self.here = before

    def may_fail(self, *kinds: Fault, port: int | None = None) -> None:
        """From now on faults of these kinds may happen, each where the scheduler says.

        How many do is the budget of the execution, `world.faults.faults_max`. port: to connections
        from or to this port alone. What was declared before goes on.
        """
        if not kinds or not all(isinstance(each, Fault) for each in kinds):
            self._misuse(
                f"world.network.may_fail({', '.join(map(repr, kinds))}) needs kinds of Fault, as "
                f"in may_fail(Fault.RESET, Fault.REFUSED)"
            )
        self._faults.declare(kinds, port)

    def faults(self, *arguments: object, **more: object) -> NoReturn:
        """As it was called before network and hosts had one budget."""
        self._misuse(
            "world.network.faults(most, *kinds) is now two calls: "
            "world.network.may_fail(*kinds, port=None) says what may happen, and "
            "world.faults.faults_max = most, 1 unless it is set, how often, to network and hosts "
            "together"
        )

    def may_part(self, one: str, other: str, for_s: float) -> None:
        """A fault: from some arrival on, nothing arrives between two machines for so long."""
        self._require_known(one, other)
        wrong = wrong_with({"for_s": for_s})
        if wrong is not None or one == other:
            self._misuse(
                f"world.network.may_part({one!r}, {other!r}): "
                f"{wrong or 'a machine is not cut off from itself'}"
            )
        self._faults.partitions[frozenset((one, other))] = for_s

    def link(self, one: str, other: str, *, latency_s: float) -> None:
        """How long everything is on its way, at least, between two machines, by their names."""
        self._require_known(one, other)
        self._require_seconds("link's latency_s", latency_s)
        self._links[frozenset((one, other))] = latency_s

    def cut(self, one: str, other: str) -> None:
        """Nothing arrives between two machines from now on, and nobody is told."""
        self._require_known(one, other)
        self._cuts.add(frozenset((one, other)))

    def heal(self, one: str, other: str) -> None:
        """What connections have sent meanwhile arrives now."""
        self._require_known(one, other)
        self._cuts.discard(frozenset((one, other)))
        self._carry_held()

    def _part(self, link: frozenset[str], for_s: float) -> None:
        """A partition befalls the program; one of its own is its own to heal."""
        self._faults.happened()
        self._partitions[link] += 1

        def is_over() -> None:
            self._partitions[link] -= 1
            self.environment.observer.tells(
                f"{' and '.join(sorted(link))} reach one another again", actor="network"
            )
            self._carry_held()

        self.loop.after(for_s, is_over)

    def _carry_held(self) -> None:
        held, self._held = self._held, []
        for sender in held:
            self.carry(sender)

    def _latency_s(self, one: Machine, host: str) -> float:
        if not self._links:
            return self.latency_s
        other = self.machine_at(host, one)
        return self._links.get(frozenset((one.name, other.name)), self.latency_s)

    def _is_cut(self, one: Machine, host: str) -> bool:
        if not self._cuts and not self._partitions:
            return False
        link = self._link(one, host)
        return link in self._cuts or self._partitions[link] > 0

    def _hears_nothing(self, sender: StreamSocket) -> bool:
        """Whether nothing of it arrives at the other machine for now; it will be sent again."""
        host = sender.peer[0]
        return self._is_cut(sender.machine, host) or self.machine_at(host, sender.machine).is_down

    def _link(self, one: Machine, host: str) -> frozenset[str]:
        return frozenset((one.name, self.machine_at(host, one).name))

    def has_descriptor(self, *ports: Any) -> bool:
        """Whether the process may open one more, to accept a connection at one of these ports."""
        if not self._faults.may(Fault.NO_DESCRIPTOR, *ports):
            return True
        options = [Option("a descriptor is left"), Option(Fault.NO_DESCRIPTOR.value)]
        if self.loop.choose("network", options, one_natural) == 0:
            return True
        self.environment.observer.tells(Fault.NO_DESCRIPTOR.value, actor="network")
        self._faults.happened()
        return False

    # -- what is on its way

    def carry(self, sender: StreamSocket) -> None:
        """The first segment that it has sent sets out, unless it has already."""
        way = sender.outgoing
        if way is None or not way.under_way or sender.delivery is not None or sender.is_silent:
            return
        if self._hears_nothing(sender):
            self._hold(sender)
            return
        latency_s = self._latency_s(sender.machine, sender.peer[0])
        if not latency_s and self._is_there_at_once(sender):
            self._all_arrives(sender)
            return
        receiver = self._receiving_loop(sender)
        arrival = self._announce(receiver, words_of_first(sender), latency_s)
        sender.delivery = arrival
        self._by_arrival[arrival] = sender
        assert arrival.callbacks is not None
        arrival.callbacks.append(partial(self._lands, sender))

    def _is_there_at_once(self, sender: StreamSocket) -> bool:
        if self.at_once is None or sender.other is None:
            return False
        return self.at_once(sender.other)

    def _all_arrives(self, sender: StreamSocket) -> None:
        assert sender.outgoing is not None
        while sender.outgoing.under_way:
            self.environment.observer.tells(words_of_first(sender), actor="network")
            if not self._arrives(sender):
                return

    def _hold(self, sender: StreamSocket) -> None:
        """A cut, or that nobody is there, holds what it sends."""
        self._held.append(sender)
        self._may_give_up(sender)

    def _may_give_up(self, sender: StreamSocket) -> None:
        """It, or the other end, asks for a connection, and may never be answered."""
        asking = sender if sender.is_connecting else sender.other
        if asking is None or not asking.is_connecting or asking.gives_up_later:
            return
        asking.gives_up_later = True
        words = f"{asking.words} has no answer from {self.words_of(asking.peer)}, and gives up"
        left_s = asking.asked_at + CONNECT_S - asking.loop.environment.now
        arrival = asking.loop.environment.announce(
            words, left_s, left_s, lambda: asking.is_connecting
        )
        self._by_arrival[arrival] = asking

        def lands(_: object) -> None:
            del self._by_arrival[arrival]
            self.environment.observer.tells(words, actor="network")
            asking.cannot_connect(errno.ETIMEDOUT)
            self.tell(asking)

        assert arrival.callbacks is not None
        arrival.callbacks.append(lands)

    def _receiving_loop(self, sender: StreamSocket) -> LoopOfSockets:
        """At whose polls it lands."""
        receiver = sender.other if sender.other is not None else self._listener_for(sender)
        return self._living((receiver or sender).loop, sender.loop)

    def _living(self, *loops: LoopOfSockets) -> LoopOfSockets:
        """Where a process has ended, its system answers, at the other's polls."""
        return next((each for each in loops if not each.is_over), self.loop)

    def _announce(self, receiver: LoopOfSockets, words: str, latency_s: float) -> Arrival:
        if receiver is self.loop and self.loop_here() is not receiver:
            # It may be asleep; a process's environment wakes its process.
            receiver.is_woken = True
        return receiver.environment.announce_in_world(words, latency_s)

    def _lands(self, sender: StreamSocket, arrival: Arrival) -> None:
        assert sender.outgoing is not None
        sender.delivery = None
        del self._by_arrival[arrival]
        if sender.is_silent:
            return
        if self._hears_nothing(sender):
            self._hold(sender)
            return
        may_cut = self._may_cut(sender) and self._is_awaited(sender)
        link = self._link(sender.machine, sender.peer[0])
        fates = fates_of(sender, self._faults, link, may_cut=may_cut)
        options = [option for _, option in fates]
        chosen = self.loop.choose("network", options, one_natural) if len(fates) > 1 else 0
        fate = fates[chosen][0]
        self._tell_landed(sender, options[chosen].name, fate)
        if fate in (Fate.ARRIVES, Fate.IN_TWO):
            if fate is Fate.IN_TWO:
                sender.outgoing.cut(len(sender.outgoing.under_way[0].data) // 2)
            has_arrived = self._arrives(sender)
            if fate is Fate.IN_TWO:
                self._deferred.append(sender)
            elif has_arrived:
                self.carry(sender)
        elif fate is Fate.PARTED:
            self._part(link, self._faults.partitions[link])
            self._hold(sender)
        else:
            self._faults.happened()
            self._suffers(sender, fate)

    def _tell_landed(self, sender: StreamSocket, words: str, fate: Fate) -> None:
        """For a reader: where it is, and what is in it."""
        assert sender.outgoing is not None
        kind, data = sender.outgoing.under_way[0]
        told = f"{words}{excerpt(data)}" if fate is Fate.ARRIVES else words
        is_chatter = fate is Fate.ARRIVES and kind in _CHATTER
        actor = self._receiving_loop(sender).lane.removesuffix(": ") or "network"
        self.environment.observer.tells(told, actor=actor, is_chatter=is_chatter)

    def _suffers(self, sender: StreamSocket, fate: Fate) -> None:
        assert sender.outgoing is not None
        receiver = sender.other
        if fate is Fate.REFUSED:
            self._refuses(sender)
        elif fate is Fate.SILENT:
            sender.is_silent = True
            if receiver is not None:
                receiver.is_silent = True
            self._may_give_up(sender)
        elif receiver is not None:
            sender.outgoing.lose()
            receiver.is_reset()
            self.tell(receiver)
            receiver.send_reset()

    def _may_cut(self, sender: StreamSocket) -> bool:
        if isinstance(self.may_cut, bool):
            return self.may_cut
        return sender.other is not None and self.may_cut(sender.other)

    def _is_awaited(self, sender: StreamSocket) -> bool:
        """Whether somebody reads at its other end, and would see that only a part has come."""
        other = sender.other
        return other is not None and (
            other.blocked_readers > 0 or self._is_watched_for(other, READABLE)
        )

    def _is_watched_for(self, opened: OpenSocket, mask: int) -> bool:
        """By a loop that is in a poll."""
        watches = [self.watches.get(fd) for fd in opened.fds]
        return any(
            each is not None and each.loop in self._polling and each.key.events & mask
            for each in watches
        )

    def _arrives(self, sender: StreamSocket) -> bool:
        """False if it has to wait where it arrives."""
        assert sender.outgoing is not None
        if sender.outgoing.under_way[0].kind is SegmentKind.REQUEST:
            return self._asks(sender)
        receiver = sender.other
        segment = sender.outgoing.arrive()
        if receiver is None:
            return True
        is_answered = segment.kind is SegmentKind.DATA or receiver.is_forgotten
        if not receiver.fds and is_answered and not receiver.in_backlog:
            # Nobody can read it any more: as a kernel does, its own answers with a reset.
            sender.outgoing.drop()
            receiver.send_reset()
            return True
        if segment.kind is SegmentKind.DATA and receiver.is_shut:
            # As Linux has it, that resets both ends.
            del sender.outgoing.arrived[-len(segment.data) :]
            receiver.is_reset()
            receiver.send_reset()
        elif segment.kind is SegmentKind.ANSWER:
            receiver.is_connecting = False
            self._confirms(receiver, sender)
        elif segment.kind is SegmentKind.CONFIRMATION:
            assert receiver.confirmed_to is not None
            receiver.confirmed_to.admits(receiver)
        elif segment.kind is SegmentKind.RESET:
            receiver.is_reset()
        self.tell(receiver)
        return True

    def _asks(self, sender: StreamSocket) -> bool:
        """A request for a connection reaches its machine."""
        assert sender.outgoing is not None
        listener = self._listener_for(sender)
        if listener is None:
            self._refuses(sender)
            return True
        if not listener.has_room():
            listener.waiting.append(sender)
            self._may_give_up(sender)
            return False
        sender.outgoing.arrive()
        accepted = listener.takes(sender)
        accepted.stands_at(*sender.peer[:2])
        sender.pair_with(accepted)
        if self._hears_first(sender, listener):
            accepted.confirmed_to = listener
        else:
            listener.admits(accepted)
        assert accepted.outgoing is not None
        accepted.outgoing.under_way.append(Segment(SegmentKind.ANSWER))
        self.carry(accepted)
        return True

    def _hears_first(self, asking: StreamSocket, listener: StreamSocket) -> bool:
        """Whether who asks learns of its connection before the listener does; a choice.

        In TCP's handshake it does, by the answer, and its own confirmation tells the listener. A
        process that is woken late learns of it after the listener all the same.
        """
        if self.at_once is not None and self.at_once(listener):
            return False
        options = [
            Option(f"{each.words} learns first of the connection") for each in (listener, asking)
        ]
        return bool(self.loop.choose("network", options, one_natural))

    def _confirms(self, asking: StreamSocket, accepted: StreamSocket) -> None:
        """Who has asked for a connection is answered; not where it has given up meanwhile."""
        assert asking.outgoing is not None
        if accepted.confirmed_to is not None and not asking.outgoing.is_closed:
            asking.outgoing.under_way.append(Segment(SegmentKind.CONFIRMATION))
            if self._is_watched_for(asking, WRITABLE):
                # It goes on before the next poll.
                self._deferred.append(asking)
            else:
                self.carry(asking)

    def _refuses(self, sender: StreamSocket) -> None:
        assert sender.outgoing is not None
        sender.outgoing.lose()
        if not sender.is_connecting:
            return
        host, port = sender.peer[:2]
        machine = self.machine_at(host, sender.machine)
        if not self._latency_s(sender.machine, host):
            sender.is_reset()
            self.tell(sender)
            return
        # What the other machine answers is on its way as anything else.
        refusing = StreamSocket(self, machine, sender.family)
        refusing.host, refusing.port = host, port
        sender.pair_with(refusing)
        refusing.send_reset()

    def _listener_for(self, sender: StreamSocket) -> StreamSocket | None:
        host, port = sender.peer[:2]
        machine = self.machine_at(host, sender.machine)
        found = machine.bound_at(socket.SOCK_STREAM, sender.family, host, port)
        listeners = [each for each in found if isinstance(each, StreamSocket) and each.is_listening]
        return listeners[0] if listeners else None

    def carry_datagram(self, sender: DatagramSocket, data: bytes, host: str, port: Any) -> None:
        self.machine_at(host, sender.machine)
        if self._is_cut(sender.machine, host):
            return
        words = f"a datagram of {len(data)} bytes from {sender.words} reaches {host}:{port}"
        latency_s = self._latency_s(sender.machine, host)
        bound = self._bound_at(sender, host, port)
        arrival = self._announce(bound[0].loop if bound else sender.loop, words, latency_s)

        self._by_arrival[arrival] = sender

        def lands(landed: Arrival) -> None:
            del self._by_arrival[landed]
            if self._is_cut(sender.machine, host) or self.machine_at(host, sender.machine).is_down:
                return
            link = self._link(sender.machine, host)
            fates = fates_of_datagram(words, self._faults, link, (port, sender.port))
            options = [option for _, option in fates]
            chosen = self.loop.choose("network", options, one_natural) if len(fates) > 1 else 0
            fate = fates[chosen][0]
            self.environment.observer.tells(options[chosen].name, actor="network")
            if fate is Fate.PARTED:
                self._part(link, self._faults.partitions[link])
            elif fate is Fate.LOST:
                self._faults.happened()
            else:
                self._delivers(sender, data, host, port)

        assert arrival.callbacks is not None
        arrival.callbacks.append(lands)

    def _bound_at(self, sender: DatagramSocket, host: str, port: Any) -> list[Any]:
        machine = self.machine_at(host, sender.machine)
        return list(machine.bound_at(socket.SOCK_DGRAM, sender.family, host, port))

    def _delivers(self, sender: DatagramSocket, data: bytes, host: str, port: Any) -> None:
        found = self._bound_at(sender, host, port)
        if not found:
            sender.finds_nobody()
            self.tell(sender)
            return
        from_host = sender.name[0]
        if from_host in ("0.0.0.0", "::"):
            from_host = self.source_of(sender, host)
        name = as_told(found[0].family, from_host, sender.port)
        found[0].receives(data, name)
        self.tell(found[0])

    def arrives_already(self, opened: OpenSocket) -> bool:
        """Whether what is due has arrived before a poll, for who asks before; a choice."""
        due = self._first_due(opened)
        if due is None:
            return False
        options = [Option(f"already arrived: {due.name}"), Option(f"not arrived yet: {due.name}")]
        if self.loop.choose("network", options, one_natural):
            return False
        due.env.land(due)  # type: ignore[attr-defined]
        return True

    def may_be_broken(self, sender: StreamSocket) -> None:
        """Before it writes: a reset that is due may have come already; a choice.

        On loopback it has: what is sent to a closed end is answered before `send` returns.
        """
        due = self._due_break(sender)
        if due is None:
            return
        words = f"the connection of {sender.words} is broken"
        options = [Option(f"not yet: {words}"), Option(f"already: {words}")]
        if self.loop.choose("network", options, one_natural) == 0:
            return
        while due is not None:
            due.env.land(due)  # type: ignore[attr-defined]
            due = self._due_break(sender)

    def _due_break(self, sender: StreamSocket) -> Arrival | None:
        """What arrives next of what will break it, if that is due."""
        other = sender.other
        if other is None or other.outgoing is None or other.loop is not sender.loop:
            return None
        due = None
        if any(each.kind is SegmentKind.RESET for each in other.outgoing.under_way):
            due = other.delivery
        elif sender.meets_nobody():
            due = sender.delivery
        is_due = due is not None and due.earliest <= sender.loop.environment.now
        return due if is_due else None

    def lands_next(self, until: float) -> bool:
        """What arrives first lands, by the clock's `until`; False if nothing does."""
        awaited = (each for each in self._by_arrival if each.is_awaited())
        first = min(awaited, key=lambda each: each.earliest, default=None)
        if first is None or first.earliest > until:
            return False
        environment: Any = first.env
        environment.advance(first.earliest)
        environment.land(first)
        return True

    def _first_due(self, opened: OpenSocket) -> Arrival | None:
        now = opened.loop.environment.now
        if opened.is_listening:
            senders: Iterator[StreamSocket] = (
                each
                for each in self._by_arrival.values()
                if isinstance(each, StreamSocket)
                and each.is_connecting
                and self._listener_for(each) is opened
            )
        else:
            other = getattr(opened, "other", None)
            senders = iter([] if other is None else [other])
        arrivals = (each.delivery for each in senders)
        return next((each for each in arrivals if each is not None and each.earliest <= now), None)

    async def answered(self, what: str, earliest_s: float) -> None:
        """Waits for an answer that comes from outside of the loop."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        environment = self.loop_here().environment
        arrival = environment.announce(what, earliest_s, math.inf, lambda: not waiter.done())

        def landed(_: object) -> None:
            self.environment.observer.tells(what, actor="network", is_chatter=True)
            asyncio.get_running_loop().call_soon(_settle, waiter)

        assert arrival.callbacks is not None
        arrival.callbacks.append(landed)
        await waiter

    # -- polls

    def begin_poll(self, loop: LoopOfSockets) -> None:
        self._polling.add(loop)
        for fd in [fd for fd in self._told if self._is_watched_by(fd, loop)]:
            del self._told[fd]
        if self._deferred:
            deferred, self._deferred = self._deferred, []
            for sender in deferred:
                self.carry(sender)
        self.tell_ready(loop)

    def _is_watched_by(self, fd: int, loop: LoopOfSockets) -> bool:
        watch = self.watches.get(fd)
        return watch is None or watch.loop is loop

    def tell_ready(self, loop: LoopOfSockets) -> None:
        """Of what is ready and was not told in this poll, its loop is told, in any order."""
        ready = [(fd, watch) for fd, watch in self.watches.items() if watch.loop is loop]
        ready = [each for each in ready if self._mask(*each)]
        while len(ready) > 1:
            options = [Option(f"{self.open_by_fd[fd].words} is served first") for fd, _ in ready]
            self._tell(*ready.pop(self.loop.choose("network", options, one_natural)))
        for each in ready:
            self._tell(*each)

    def tell(self, opened: OpenSocket) -> None:
        """Something has landed there: the loop that watches it learns of it in this poll.

        Outside of polls nobody is told: the next poll finds it.
        """
        for fd in opened.fds if self._polling else ():
            watch = self.watches.get(fd)
            if watch is not None and watch.loop in self._polling:
                self._tell(fd, watch)

    def end_poll(self, loop: LoopOfSockets) -> None:
        self._polling.discard(loop)

    def _mask(self, fd: int, watch: Watch) -> int:
        """For what it is ready, of what its loop wants to know and was not told in this poll."""
        opened = self.open_by_fd.get(fd)
        if opened is None:
            return 0
        mask: int = opened.readiness() & watch.key.events & ~self._told.get(fd, 0)
        return mask

    def _tell(self, fd: int, watch: Watch) -> None:
        mask = self._mask(fd, watch)
        if mask:
            self._told[fd] = self._told.get(fd, 0) | mask
            watch.loop._process_events([(watch.key, mask)])

    # -- reports

    def who_waits(self) -> list[str]:
        """A sentence for each descriptor that a loop watches."""
        found = []
        for fd, watch in self.watches.items():
            opened = self.open_by_fd.get(fd)
            if opened is not None:
                found.append(f"the loop waits {opened.words_of_wait(watch.key.events)}")
        return found

    def let_go(self) -> None:
        """After the execution: what is still open is nobody's."""
        self.open_by_fd.clear()
        self.watches.clear()
        self._by_arrival.clear()
        del self.loop


def _settle(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
