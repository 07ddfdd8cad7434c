"""What may become of what arrives: choices, and faults from a budget that a program declares."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sim.kernel.faults import Faults
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
    LOST = enum.auto()
    PARTED = enum.auto()


@dataclass(slots=True)
class Declared:
    """port: of connections from or to this port alone."""

    kinds: frozenset[Fault]
    port: int | None

    def covers(self, fault: Fault, ports: Sequence[Any]) -> bool:
        return fault in self.kinds and (self.port is None or self.port in ports)


class FaultsOfNetwork:
    """Those that a program has declared, and partitions; how many happen is the execution's budget.

    partitions: between which two machines, by name, for how many seconds.
    """

    def __init__(self, budget: Faults) -> None:
        self._budget = budget
        self._declared: list[Declared] = []
        self.partitions: dict[frozenset[str], float] = {}

    def declare(self, kinds: Iterable[Fault], port: int | None) -> None:
        self._declared.append(Declared(frozenset(kinds), port))

    @property
    def are_declared(self) -> bool:
        return bool(self._declared or self.partitions)

    def may(self, fault: Fault, *ports: Any) -> bool:
        is_declared = any(each.covers(fault, ports) for each in self._declared)
        return is_declared and self._budget.may_happen()

    def partition_s(self, link: frozenset[str]) -> float | None:
        """How long one between them would last; None where none may begin."""
        for_s = self.partitions.get(link)
        return for_s if for_s is not None and self._budget.may_happen() else None

    def happened(self) -> None:
        self._budget.taken += 1


def fates_of_datagram(
    words: str, faults: FaultsOfNetwork, link: frozenset[str], ports: tuple[Any, Any]
) -> list[tuple[Fate, Option]]:
    fates = [(Fate.ARRIVES, Option(words))]
    if (for_s := faults.partition_s(link)) is not None:
        fates.append((Fate.PARTED, Option(f"in place of «{words}», {parting(link, for_s)}")))
    if faults.may(Fault.LOST, *ports):
        fates.append((Fate.LOST, Option(f"the datagram {Fault.LOST.value}: {words}")))
    return fates


def ports_of(sender: StreamSocket) -> tuple[Any, Any]:
    return _port(sender.name), _port(sender.peer)


def parting(link: frozenset[str], for_s: float) -> str:
    return f"{' and '.join(sorted(link))} are cut off from one another for {for_s:g} s"


def fates_of(
    sender: StreamSocket, faults: FaultsOfNetwork, link: frozenset[str], *, may_cut: bool
) -> list[tuple[Fate, Option]]:
    """What may become of the first segment that it sends; the first is the natural fate.

    link: between which two machines it travels, by name.
    """
    assert sender.outgoing is not None
    kind, data, _ = sender.outgoing.under_way[0]
    words = words_of_first(sender)
    fates = [(Fate.ARRIVES, Option(words))]
    if may_cut and kind is SegmentKind.DATA and len(data) > 1:
        part = f"of {words}, the first {len(data) // 2} come alone"
        fates.append((Fate.IN_TWO, Option(part)))
    if not faults.are_declared:
        return fates
    if (for_s := faults.partition_s(link)) is not None:
        parted = f"in place of «{words}», {parting(link, for_s)}"
        fates.append((Fate.PARTED, Option(parted)))
    if kind is SegmentKind.RESET:
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
