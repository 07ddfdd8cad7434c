"""What Linux does with a call that blocks in a socket which another thread closes."""

from __future__ import annotations

import asyncio
import errno
import select
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from sim import World, explore, run
from sim.exploration.verdict import Verdict
from tests.limits import AMPLE_S, HANGS_S

# After this who has begun blocks, and what was sent has arrived; virtual in the simulator.
UNDER_WAY_S = 0.1
LIMIT_S = 0.5
BIG = b"x" * 3_000_000

Seen = list[object]
Blocks = Callable[[Any], object]


def outcome(act: Callable[[], object]) -> object:
    try:
        return act()
    except TimeoutError:
        return "timed out"
    except OSError as exc:
        return errno.errorcode[exc.errno or 0]


def closed_meanwhile(
    sockets: list[Any], blocks: Blocks, after: Callable[[list[Any]], object]
) -> Seen:
    """Whether closing the first wakes who blocks in it; what comes then, and what the call says."""
    results: Seen = []
    thread = threading.Thread(target=lambda: results.append(outcome(lambda: blocks(sockets[0]))))
    thread.start()
    time.sleep(UNDER_WAY_S)
    sockets[0].close()
    time.sleep(UNDER_WAY_S)
    seen = [len(results), outcome(lambda: after(sockets))]
    thread.join(HANGS_S)
    for each in sockets[1:]:
        each.close()
    return seen + results


def pair(limit_s: float | None = None) -> list[Any]:
    one, other = socket.socketpair()
    one.settimeout(limit_s)
    return [one, other]


def sends(sockets: list[Any]) -> object:
    return sockets[1].send(b"x")


def sends_and_reads(sockets: list[Any]) -> object:
    """The end of the connection comes with the end of the call."""
    sockets[1].settimeout(LIMIT_S)
    before = outcome(lambda: sockets[1].recv(1))
    sockets[1].send(b"x")
    time.sleep(UNDER_WAY_S)
    return before, sockets[1].recv(1)


def reads_all(sockets: list[Any]) -> object:
    sockets[1].settimeout(LIMIT_S)
    return sum(iter(lambda: len(sockets[1].recv(1 << 20)), 0))


def nothing(_: list[Any]) -> object:
    return None


def accepted() -> Seen:
    """The listener lives until the call returns: the first who asks is taken, and no other."""
    listener = socket.create_server(("127.0.0.1", 0))
    where = listener.getsockname()
    asking: list[Any] = []

    def asks_twice(_: list[Any]) -> object:
        asking.append(socket.create_connection(where))
        time.sleep(UNDER_WAY_S)
        return outcome(lambda: socket.create_connection(where))

    def accept(sock: Any) -> object:
        sock.accept()[0].close()
        return "accepted"

    seen = closed_meanwhile([listener], accept, asks_twice)
    asking[0].close()
    return seen


def accepted_with_limit() -> Seen:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(LIMIT_S)
    return closed_meanwhile([listener], lambda sock: sock.accept(), nothing)


def polled(sock: Any, limit_ms: float | None) -> object:
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return [mask for _, mask in poll.poll(limit_ms)]


def selected(sock: Any, limit_s: float | None) -> object:
    return [len(each) for each in select.select([sock], [], [], limit_s)]


def by_selector(kind: Callable[[], selectors.BaseSelector], sock: Any) -> object:
    with kind() as selector:
        selector.register(sock, selectors.EVENT_READ)
        return [mask for _, mask in selector.select(LIMIT_S)]


PROGRAMS: dict[str, Callable[[], Seen]] = {
    "accept": accepted,
    "accept, limited": accepted_with_limit,
    "recv": lambda: closed_meanwhile(pair(), lambda sock: sock.recv(9), sends),
    "recv, and its end": lambda: closed_meanwhile(
        pair(), lambda sock: sock.recv(9), sends_and_reads
    ),
    "recv, limited": lambda: closed_meanwhile(pair(LIMIT_S), lambda sock: sock.recv(9), sends),
    "recv, over": lambda: closed_meanwhile(pair(LIMIT_S), lambda sock: sock.recv(9), nothing),
    "recvfrom": lambda: closed_meanwhile(pair(), lambda sock: sock.recvfrom(9)[0], sends),
    "sendall": lambda: closed_meanwhile(pair(), lambda sock: sock.sendall(BIG), reads_all),
    "select": lambda: closed_meanwhile(pair(), lambda sock: selected(sock, None), sends),
    "select, over": lambda: closed_meanwhile(pair(), lambda sock: selected(sock, LIMIT_S), nothing),
    "poll": lambda: closed_meanwhile(pair(), lambda sock: polled(sock, None), sends),
    "poll, over": lambda: closed_meanwhile(
        pair(), lambda sock: polled(sock, LIMIT_S * 1000), nothing
    ),
    "SelectSelector": lambda: closed_meanwhile(
        pair(), lambda sock: by_selector(selectors.SelectSelector, sock), sends
    ),
    "PollSelector": lambda: closed_meanwhile(
        pair(), lambda sock: by_selector(selectors.PollSelector, sock), sends
    ),
    "EpollSelector": lambda: closed_meanwhile(
        pair(), lambda sock: by_selector(selectors.EpollSelector, sock), sends
    ),
}


@pytest.mark.socket
@pytest.mark.skipif(sys.platform != "linux", reason="the simulated kernel is Linux's")
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_call_outlives_the_close_of_its_socket_as_on_linux(name: str) -> None:
    """It is not woken, and what comes then reaches it; the socket ends with the call."""
    on_linux = PROGRAMS[name]()
    simulated: list[Seen] = []

    async def main(world: World) -> None:
        simulated.append(await asyncio.to_thread(PROGRAMS[name]))

    found = run(main)
    assert found.violation is None, found.violation
    assert simulated[-1] == on_linux
    assert on_linux[0] == 0


@pytest.mark.skipif(sys.platform != "linux", reason="the simulated kernel is Linux's")
@pytest.mark.parametrize("ends", ["close", "shutdown"])
def test_a_server_thread_is_stopped_by_shutdown_and_not_by_close(ends: str) -> None:
    """Who closes a listener and waits for the thread that accepts waits for ever."""

    async def program(world: World) -> None:
        listener = socket.create_server(("127.0.0.1", 7000))

        def serve() -> None:
            outcome(lambda: listener.accept())

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        await asyncio.sleep(0.05)
        if ends == "shutdown":
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        await asyncio.to_thread(thread.join, 1.0)
        world.check(not thread.is_alive(), "its thread has ended")

    expected = Verdict.PROVED if ends == "shutdown" else Verdict.REFUTED
    report = explore(program, budget_s=AMPLE_S)
    assert report.verdict == expected, report.text
