"""How connections end: each way to end one, with what is unread, and what is done after it.

The same calls on real loopback sockets and on simulated ones.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import random
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import NamedTuple

import pytest

from sim import World, outcomes, run
from sim.schedulers import DepartureBounded

Seen = tuple[str, ...]


class Ending(Enum):
    """What the server does with its end."""

    CLOSE = "close"
    RESET = "close without lingering"
    HALF_CLOSE = "shutdown of writing"
    DEAF = "shutdown of reading"
    SHUTDOWN = "shutdown of both"
    HALF_CLOSE_AND_CLOSE = "shutdown of writing, close"
    DEAF_AND_CLOSE = "shutdown of reading, close"


class Unread(Enum):
    NOTHING = "nothing unread"
    AT_SERVER = "data unread at the server"
    AT_CLIENT = "data unread at the client"
    AT_BOTH = "data unread at both"


class Then(Enum):
    """What the client does then."""

    WRITE = "write"
    READ = "read"
    READ_FEW = "read 2 bytes"
    HALF_CLOSE = "shutdown of writing"
    SHUTDOWN = "shutdown of both"
    ERROR = "SO_ERROR"
    PEER = "getpeername"


class Plan(NamedTuple):
    ending: Ending
    unread: Unread
    then: tuple[Then, ...]

    def __str__(self) -> str:
        return f"{self.unread.value}; {self.ending.value}; " + ", ".join(t.value for t in self.then)


ALL = [Plan(*each) for each in itertools.product(Ending, Unread, itertools.product(Then, repeat=3))]


def outcome(act: Callable[[], object]) -> str:
    try:
        return str(act())
    except OSError as exc:
        return errno.errorcode[exc.errno or 0]


def ends(server: socket.socket, ending: Ending) -> None:
    if ending is Ending.RESET:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if ending in (Ending.HALF_CLOSE, Ending.HALF_CLOSE_AND_CLOSE):
        server.shutdown(socket.SHUT_WR)
    if ending in (Ending.DEAF, Ending.DEAF_AND_CLOSE):
        server.shutdown(socket.SHUT_RD)
    if ending is Ending.SHUTDOWN:
        server.shutdown(socket.SHUT_RDWR)
    if ending not in (Ending.HALF_CLOSE, Ending.DEAF, Ending.SHUTDOWN):
        server.close()


def does(client: socket.socket, then: Then) -> object:
    if then is Then.WRITE:
        return client.send(b"x")
    if then in (Then.READ, Then.READ_FEW):
        return client.recv(9 if then is Then.READ else 2)
    if then is Then.ERROR:
        return client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if then is Then.PEER:
        return len(client.getpeername())
    return client.shutdown(socket.SHUT_WR if then is Then.HALF_CLOSE else socket.SHUT_RDWR)


def plays(plan: Plan, listener: socket.socket, between_s: float | None) -> Seen:
    """between_s: how long what is sent has to arrive, and to be answered; None for no pause."""

    def pause() -> None:
        if between_s is not None:
            time.sleep(between_s)

    client = socket.create_connection(listener.getsockname())
    server, _ = listener.accept()
    with client, server:
        # What is small is not kept until what was sent before is acknowledged.
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.setblocking(False), server.setblocking(False)
        if plan.unread in (Unread.AT_SERVER, Unread.AT_BOTH):
            client.send(b"abc")
        if plan.unread in (Unread.AT_CLIENT, Unread.AT_BOTH):
            server.send(b"defg")
        time.sleep(SETTLES_S)
        ends(server, plan.ending)
        pause()
        seen = []
        for then in plan.then:
            seen.append(outcome(lambda: does(client, then)))  # noqa: B023
            pause()
        # A read here takes what has landed; on loopback all that was written has.
        time.sleep(SETTLES_S)
        seen += [outcome(lambda: server.recv(9)) for _ in range(2)]
        seen += [outcome(lambda: server.send(b"x")), outcome(lambda: server.recv(9))]
        return tuple(seen)


SETTLES_S = 0.0001
"""Loopback has answered before a call returns, but on a machine that is busy."""

PATIENCE_S = (SETTLES_S, 0.002, 0.05, 0.5)
"""How long a real network is waited for, where it seems to do something else than the simulated."""


def each_of(plans: Iterable[Plan], between_s: float | None) -> list[Seen]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return [plays(plan, listener, between_s) for plan in plans]


def simulated(plans: Sequence[Plan]) -> list[Seen]:
    found: list[Seen] = []

    async def main(world: World) -> None:
        found[:] = await asyncio.to_thread(each_of, plans, SETTLES_S)

    outcome = run(main)
    assert outcome.violation is None, outcome.violation
    return found


FEW = [*random.Random("endings").sample(ALL, 150)]


@pytest.mark.socket
@pytest.mark.skipif(sys.platform != "linux", reason="the simulated kernel is Linux's")
@pytest.mark.parametrize(
    "plans", [FEW, pytest.param(ALL, marks=pytest.mark.soak)], ids=["few", "all"]
)
def test_connections_end_as_on_linux(plans: Sequence[Plan]) -> None:
    """With time for all that is sent to arrive, each call returns the same, or raises the same."""
    real = each_of(plans, SETTLES_S)
    for plan, on_linux, here in zip(plans, real, simulated(plans), strict=True):
        again = (each_of([plan], patience_s)[0] for patience_s in PATIENCE_S)
        assert here == on_linux or here in again, f"{plan}:\non Linux {on_linux}\nhere {here}"


def is_simulated(plan: Plan, wanted: Seen) -> bool:
    found: list[Seen] = []

    async def main(world: World) -> None:
        found[:] = await asyncio.to_thread(each_of, [plan], None)

    return any(found == [wanted] for _ in outcomes(main, DepartureBounded(2)))


SHUTDOWNS = (Then.HALF_CLOSE, Then.SHUTDOWN)
AT_ONCE = [
    plan
    for plan in ALL
    if not {Then.PEER, Then.ERROR} & set(plan.then)
    and sum(plan.then.count(each) for each in SHUTDOWNS) < 2
]
"""Not modelled: before a poll nothing but a write, and one shutdown, finds a connection broken."""


@pytest.mark.socket
@pytest.mark.skipif(sys.platform != "linux", reason="the simulated kernel is Linux's")
@pytest.mark.parametrize(
    "plans",
    [
        random.Random("few").sample(AT_ONCE, 8),
        pytest.param(random.Random("at once").sample(AT_ONCE, 20), marks=pytest.mark.thorough),
        pytest.param(random.Random("soak").sample(AT_ONCE, 400), marks=pytest.mark.soak),
    ],
    ids=["few", "more", "many"],
)
def test_what_happens_without_a_pause_may_happen(plans: Sequence[Plan]) -> None:
    """What loopback does at once is what some schedule does."""
    for plan, on_linux in zip(plans, each_of(plans, None), strict=True):
        assert is_simulated(plan, on_linux), f"{plan}:\non Linux {on_linux}"
