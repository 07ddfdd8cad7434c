"""What may become of what arrives: choices, and faults from a budget that a program declares."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sim.kernel.network.connection import SegmentKind
from sim.kernel.network.streams import StreamSocket
from sim.kernel.network.words import words_of_first
from sim.kernel.schedule import Option


class Fault(enum.Enum):
    """What a network, or a system, does to connections; each is a departure.

    REFUSED: a request for a connection, though somebody listens. RESET: a connection ends for both
    ends, and what was just to arrive is lost. SILENT: nothing of a connection arrives any more,
    either way, and nobody is told. LOST: a datagram. NO_DESCRIPTOR: `accept` and `socket` find the
    limit of the process reached.
    """

    REFUSED = "is refused"
    RESET = "the connection is reset"
    SILENT = "the connection falls silent"
    LOST = "is lost"
    NO_DESCRIPTOR = "no descriptor is left"


class Fate(enum.Enum):
    ARRIVES = enum.auto()
    IN_TWO = enum.auto()
    REFUSED = enum.auto()
    RESET = enum.auto()
    SILENT = enum.auto()


@dataclass(slots=True)
class Declared:
    """left: how many may still happen. port: of connections from or to this port alone."""

    left: int
    kinds: frozenset[Fault]
    port: int | None

    def may(self, fault: Fault, ports: Sequence[Any]) -> bool:
        return self.left > 0 and fault in self.kinds and (self.port is None or self.port in ports)


class Faults:
    """Those that may still happen in this execution, as they were declared, one after the other."""

    def __init__(self) -> None:
        self._declared: list[Declared] = []

    def declare(self, most: int, kinds: Iterable[Fault], port: int | None) -> None:
        self._declared.append(Declared(most, frozenset(kinds), port))

    @property
    def left(self) -> int:
        return sum(each.left for each in self._declared)

    def may(self, fault: Fault, *ports: Any) -> bool:
        return any(each.may(fault, ports) for each in self._declared)

    def happened(self, fault: Fault, *ports: Any) -> None:
        next(each for each in self._declared if each.may(fault, ports)).left -= 1


def ports_of(sender: StreamSocket) -> tuple[Any, Any]:
    return _port(sender.name), _port(sender.peer)


def fates_of(sender: StreamSocket, faults: Faults, *, may_cut: bool) -> list[tuple[Fate, Option]]:
    """What may become of the first segment that it sends; the first is the natural fate."""
    assert sender.outgoing is not None
    kind, data = sender.outgoing.under_way[0]
    words = words_of_first(sender)
    fates = [(Fate.ARRIVES, Option(words))]
    if may_cut and kind is SegmentKind.DATA and len(data) > 1:
        part = f"of {words}, the first {len(data) // 2} come alone"
        fates.append((Fate.IN_TWO, Option(part)))
    if kind is SegmentKind.RESET or faults.left <= 0:
        return fates
    ports = ports_of(sender)
    if kind is SegmentKind.REQUEST:
        possible = [(Fault.REFUSED, Fate.REFUSED)]
    elif kind is SegmentKind.ANSWER:
        # Reset instead, the connection would be refused.
        possible = [(Fault.SILENT, Fate.SILENT)]
    else:
        possible = [(Fault.RESET, Fate.RESET), (Fault.SILENT, Fate.SILENT)]
    for fault, fate in possible:
        if faults.may(fault, *ports):
            fates.append((fate, Option(f"in place of «{words}», {_words(fault)}")))
    return fates


def _words(fault: Fault) -> str:
    return f"it {fault.value}" if fault is Fault.REFUSED else fault.value


def _port(address: Any) -> Any:
    return address[1] if isinstance(address, tuple) else address
