"""What a network is like: its machines, and what a program declares of it."""

from __future__ import annotations

import errno
import math
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, Protocol

from sim.kernel.arguments import is_number, is_whole, wrong_with
from sim.kernel.current import execution_of_this_thread
from sim.kernel.environment import Environment
from sim.kernel.faults import Faults
from sim.kernel.network.addresses import Machine, in_words, is_own, loopback_for, unmapped
from sim.kernel.network.connection import BUFFER_BYTES
from sim.kernel.network.errors import os_error
from sim.kernel.network.fates import Fault, FaultsOfNetwork
from sim.kernel.network.open_sockets import OpenSocket
from sim.kernel.network.streams import StreamSocket
from sim.kernel.schedule import Option, one_natural

NOBODYS = (
    "no machine of the simulated network has it, and the real one is not asked; let the program "
    "start on 127.0.0.1 what answers there, or put that into a coroutine that awaits "
    "world.outside(…), or give the library an in-memory transport"
)


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

    def _write_to_self(self) -> None: ...

    # Those of the execution.
    @property
    def faults(self) -> Faults: ...

    def after(self, seconds: float, call: Callable[[], None]) -> None: ...

    def misuse(self, what: str) -> NoReturn: ...

    def refuse(self, what: str, instead: str) -> NoReturn: ...


class Conditions:
    """here: the machine whose program runs. latency_s: how long everything is on its way, at least;
    late_max_s: how much longer, at most. look_up_s: how long a name is looked up. may_cut: whether
    what one write has sent may arrive in two parts, or at which sockets. at_once: at which sockets
    all that is sent is there at once.
    """

    def __init__(self, loop: LoopOfSockets) -> None:
        self.loop = loop
        self.environment = loop.environment
        self.here = self._new_machine("localhost", "10.0.0.1")
        self.machines = [self.here]
        self._everywhere_s = self._look_up_s = 0.0
        self._late_max_s = math.inf
        self.may_cut: bool | Callable[[StreamSocket], bool] = True
        self.at_once: Callable[[StreamSocket], bool] | None = None
        self._buffer_bytes = BUFFER_BYTES
        self._faults = FaultsOfNetwork(loop.faults)
        self._links: dict[frozenset[str], float] = {}
        # Those of the program, and those that have befallen it, with how many of these.
        self._cuts: set[frozenset[str]] = set()
        self._partitions: Counter[frozenset[str]] = Counter()

    def carry_held(self) -> None:
        """What a cut has held sets out."""
        raise NotImplementedError

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

    # -- addresses

    def source_of(self, opened: OpenSocket, host: str) -> str:
        """From which address of its machine it reaches this one. Refused if it is nobody's."""
        self.machine_at(host, opened.machine)
        own_host = opened.host_towards(host)
        if own_host not in ("0.0.0.0", "::"):
            _require_route(opened, opened.meant_by(host))
            return own_host
        if is_own(host):
            return loopback_for(opened.family, host)
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
    def late_max_s(self) -> float:
        return self._late_max_s

    @late_max_s.setter
    def late_max_s(self, seconds: float) -> None:
        if seconds != math.inf:
            self._require_seconds("world.network.late_max_s", seconds)
        self._late_max_s = seconds

    @property
    def is_timed(self) -> bool:
        """Whether it depends on when something was sent, when it lands."""
        return bool(self._everywhere_s or self._links) or self._late_max_s < math.inf

    def sending_at(self) -> float | None:
        return self.world_now() if self.is_timed else None

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
        self.carry_held()

    def _part(self, link: frozenset[str], for_s: float) -> None:
        """A partition befalls the program; one of its own is its own to heal."""
        self._faults.happened()
        self._partitions[link] += 1

        def is_over() -> None:
            self._partitions[link] -= 1
            self.environment.observer.tells(
                f"{' and '.join(sorted(link))} reach one another again", actor="network"
            )
            self.carry_held()

        self.loop.after(for_s, is_over)

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


def _require_route(opened: OpenSocket, host: str) -> None:
    """Of a socket of IPv6 that is bound to an address of IPv4, or to one of its own."""
    is_mapped, to_mapped = (unmapped(each) != each for each in (opened.host, host))
    if opened.family == socket.AF_INET6 and is_mapped != to_mapped:
        raise os_error(errno.EAFNOSUPPORT if is_mapped else errno.ENETUNREACH)
