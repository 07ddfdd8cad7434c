"""What is on its way, how it lands, and what comes of that."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Iterator
from functools import partial
from typing import Any

from sim.kernel.environment import Arrival
from sim.kernel.network.addresses import is_own
from sim.kernel.network.conditions import LoopOfSockets
from sim.kernel.network.connection import Segment, SegmentKind
from sim.kernel.network.datagrams import DatagramSocket
from sim.kernel.network.fates import Fate, fates_of, fates_of_datagram
from sim.kernel.network.open_sockets import READABLE, WRITABLE, OpenSocket
from sim.kernel.network.streams import StreamSocket
from sim.kernel.network.watched import Watched
from sim.kernel.network.words import excerpt, words_of_first
from sim.kernel.schedule import Option, one_natural

CONNECT_S = 127.0
"""After how many seconds Linux gives up a request for a connection that nobody answers."""

_CHATTER = (SegmentKind.ANSWER, SegmentKind.CONFIRMATION, SegmentKind.END)


class Delivery(Watched):
    def __init__(self, loop: LoopOfSockets) -> None:
        super().__init__(loop)
        # What is on its way, and who has sent it.
        self._by_arrival: dict[Arrival, OpenSocket] = {}
        # Whose rest arrives after the next poll has begun; whose segments a cut holds.
        self._deferred: list[StreamSocket] = []
        self._held: list[StreamSocket] = []

    def begin_poll(self, loop: LoopOfSockets) -> None:
        super().begin_poll(loop)
        if self._deferred:
            deferred, self._deferred = self._deferred, []
            for sender in deferred:
                self.carry(sender)
        self.tell_ready(loop)

    def thread_went_on(self, loop: LoopOfSockets) -> None:
        """In a poll: it may have read the part that came alone, or closed."""
        deferred, self._deferred = self._deferred, []
        for sender in deferred:
            if self._is_unread(sender):
                self._deferred.append(sender)
            else:
                self.carry(sender)
        self.tell_ready(loop)

    def _is_unread(self, sender: StreamSocket) -> bool:
        """Whether who waits to read what it has sent has not done so yet."""
        way = sender.outgoing
        return way is not None and bool(way.arrived) and self._is_awaited(sender)

    # -- streams

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
        earliest_s = latency_s - self._gone_s(way.under_way[0])
        arrival = self._announce(receiver, words_of_first(sender), earliest_s)
        sender.delivery = arrival
        self._by_arrival[arrival] = sender
        assert arrival.callbacks is not None
        arrival.callbacks.append(partial(self._lands, sender))

    def _gone_s(self, segment: Segment) -> float:
        """How long it was on its way, behind what was sent before."""
        return 0.0 if segment.sent_at is None else self.world_now() - segment.sent_at

    def _is_there_at_once(self, sender: StreamSocket) -> bool:
        if self.at_once is None or sender.other is None:
            return False
        return self.at_once(sender.other)

    def _all_arrives(self, sender: StreamSocket) -> None:
        assert sender.outgoing is not None
        while sender.outgoing.under_way:
            actor = self._column_at(self._receiving_loop(sender), sender.peer)
            self.environment.observer.tells(words_of_first(sender), actor=actor)
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
            actor = self._column_at(asking.loop, asking.name)
            self.environment.observer.tells(words, actor=actor)
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

    def _announce(self, receiver: LoopOfSockets, words: str, earliest_s: float) -> Arrival:
        """It lands from then on, and `late_max_s` later at the latest."""
        if receiver is self.loop and self.loop_here() is not receiver:
            # It may be asleep; a process's environment wakes its process.
            receiver.is_woken = True
        latest_s = max(0.0, earliest_s + self.late_max_s)
        return receiver.environment.announce_in_world(words, max(0.0, earliest_s), latest_s)

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
        kind, data, _ = sender.outgoing.under_way[0]
        told = f"{words}{excerpt(data)}" if fate is Fate.ARRIVES else words
        is_chatter = fate is Fate.ARRIVES and kind in _CHATTER
        actor = self._column_at(self._receiving_loop(sender), sender.peer)
        self.environment.observer.tells(told, actor=actor, is_chatter=is_chatter)

    def _column_at(self, loop: LoopOfSockets, address: Any) -> str:
        """Of what arrives there: a process's, or that end's own where all is in one process.

        By its port alone where its machine means itself, so that columns are narrow.
        """
        if loop.lane:
            return loop.lane.removesuffix(": ")
        is_own_port = isinstance(address, tuple) and is_own(address[0])
        return f":{address[1]}" if is_own_port else self.words_of(address)

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
        accepted.sends(SegmentKind.ANSWER)
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
            asking.outgoing.send(Segment(SegmentKind.CONFIRMATION, b"", self.sending_at()))
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
        return self._who_takes(sender, listeners, host, port) if listeners else None

    def _who_takes(self, sender: OpenSocket, bound: list[Any], host: str, port: Any) -> Any:
        """Of those who share an address any: a choice, and for one sender always the same.

        A kernel picks by the addresses of both ends.
        """
        sharing = [each for each in bound if each.host == bound[0].host]
        if len(sharing) < 2 or not bound[0].option(socket.SO_REUSEPORT):
            # Of datagrams that share one otherwise, who was bound last has all.
            return sharing[-1]
        sender.spread = sender.spread or {}
        if (host, port) not in sender.spread:
            to = self.words_of((host, port))
            options = [
                Option(f"number {at} of those at {to} takes what {sender.words} sends")
                for at in range(1, len(sharing) + 1)
            ]
            sender.spread[host, port] = self.loop.choose("network", options, one_natural)
        return sharing[sender.spread[host, port] % len(sharing)]

    def carry_held(self) -> None:
        held, self._held = self._held, []
        for sender in held:
            if sender.outgoing is not None and self.is_timed:
                sender.outgoing.sets_out_again(self.world_now())
            self.carry(sender)

    def _hears_nothing(self, sender: StreamSocket) -> bool:
        """Whether nothing of it arrives at the other machine for now; it will be sent again."""
        host = sender.peer[0]
        return self._is_cut(sender.machine, host) or self.machine_at(host, sender.machine).is_down

    # -- datagrams

    def carry_datagram(self, sender: DatagramSocket, data: bytes, host: str, port: Any) -> None:
        self.machine_at(host, sender.machine)
        if self._is_cut(sender.machine, host):
            return
        many = "byte" if len(data) == 1 else "bytes"
        words = f"a datagram of {len(data)} {many} from {sender.words} reaches {host}:{port}"
        latency_s = self._latency_s(sender.machine, host)
        bound = self._bound_at(sender, host, port)
        taker = self._who_takes(sender, bound, host, port) if bound else sender
        arrival = self._announce(taker.loop, words, latency_s)

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
            actor = self._column_at(taker.loop, (host, port))
            self.environment.observer.tells(options[chosen].name, actor=actor)
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
        bound: list[Any] = machine.bound_at(socket.SOCK_DGRAM, sender.family, host, port)
        found = [each for each in bound if each.takes_from(sender.name_for(each, host))]
        return [each for each in found if each.peer is not None] or found

    def _delivers(self, sender: DatagramSocket, data: bytes, host: str, port: Any) -> None:
        found = self._bound_at(sender, host, port)
        if not found:
            sender.finds_nobody(host, port)
            self.tell(sender)
            return
        taker = self._who_takes(sender, found, host, port)
        taker.receives(data, sender.name_for(taker, host))
        self.tell(taker)

    # -- what has landed before a poll, and what lands next

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
        latest_s = earliest_s + self.late_max_s
        arrival = environment.announce(what, earliest_s, latest_s, lambda: not waiter.done())

        def landed(_: object) -> None:
            self.environment.observer.tells(what, actor="network", is_chatter=True)
            asyncio.get_running_loop().call_soon(_settle, waiter)

        assert arrival.callbacks is not None
        arrival.callbacks.append(landed)
        await waiter


def _settle(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
