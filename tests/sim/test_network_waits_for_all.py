"""`recv` with MSG_WAITALL, and descriptors that `os` closes, on Linux and simulated."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable

import pytest

from sim import Fault, World, explore, run
from sim.schedulers import DepartureBounded
from tests.limits import AMPLE_S

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="the simulated kernel is Linux's")

PATIENCE_S = (0.005, 0.05, 0.5)
"""When more comes. On Linux who waits is there by then, but on a machine that is busy."""

Pair = tuple[socket.socket, socket.socket]
Seen = list[str]


def outcome(act: Callable[[], object]) -> str:
    try:
        return repr(act())
    except OSError as exc:
        return errno.errorcode.get(exc.errno or 0, str(exc))


def of_tcp() -> Pair:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        return client, listener.accept()[0]


def of_unix() -> Pair:
    return socket.socketpair()


def ends(waits: socket.socket, other: socket.socket) -> None:
    other.close()


def leaves_something_unread(waits: socket.socket, other: socket.socket) -> None:
    """On Linux a reset; of a Unix socket an error to read, and then the end."""
    waits.send(b"unread")
    select.select([other], [], [])
    other.close()


def resets(waits: socket.socket, other: socket.socket) -> None:
    other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    other.close()


def shuts(waits: socket.socket, other: socket.socket) -> None:
    waits.shutdown(socket.SHUT_RD)


def sends_the_rest(waits: socket.socket, other: socket.socket) -> None:
    other.send(b"cdef")


PAIRS = (of_tcp, of_unix)
THEN = (ends, leaves_something_unread, resets, shuts, sends_the_rest)
PEEKS = (0, socket.MSG_PEEK)
LIMITS_S = (None, 1.0)
CASES = list(itertools.product(PAIRS, THEN, PEEKS, LIMITS_S, (True, False)))


def seen_by_who_waits(
    pair: Callable[[], Pair],
    then: Callable[[socket.socket, socket.socket], None],
    peek: int,
    limit_s: float | None,
    is_later: bool,
    later_s: float,
) -> Seen:
    """Two of five bytes are there; then, before it reads or while it waits, something happens."""
    waits, other = pair()
    with waits, other:
        other.send(b"ab")
        time.sleep(later_s)
        waits.settimeout(limit_s)
        happens = threading.Timer(later_s * is_later, then, (waits, other))
        happens.start()
        if not is_later:
            happens.join()
            time.sleep(later_s)
        seen = [outcome(lambda: waits.recv(5, socket.MSG_WAITALL | peek))]
        happens.join()
        time.sleep(later_s)
        waits.settimeout(later_s)
        return [*seen, *(outcome(lambda: waits.recv(5)) for _ in range(3))]


def simulated(program: Callable[[], Seen]) -> Seen:
    seen: Seen = []

    async def main(world: World) -> None:
        world.network.may_cut = False
        seen.extend(await asyncio.to_thread(program))

    result = run(main)
    assert result.violation is None, result.violation
    assert result.error is None, result.error
    return seen


@pytest.mark.socket
@on_linux
@pytest.mark.parametrize(
    "case", CASES, ids=lambda case: "-".join(getattr(e, "__name__", str(e)) for e in case)
)
def test_who_waits_for_all_gets_what_linux_gives(case: tuple) -> None:  # type: ignore[type-arg]
    """All of it, or what came before the end; and what the calls after it return or raise."""
    here = simulated(lambda: seen_by_who_waits(*case, PATIENCE_S[0]))
    there: Seen = []
    for later_s in PATIENCE_S:
        there = seen_by_who_waits(*case, later_s)
        if here == there:
            break
    assert here == there


def test_what_came_before_a_reset_is_not_lost() -> None:
    """In whatever order the data, its reader and the reset come; the error is the next call's."""

    async def program(world: World) -> None:
        def reads() -> None:
            waits, other = of_tcp()
            with waits, other:
                other.send(b"ab")
                resetting = threading.Thread(target=resets, args=(waits, other))
                resetting.start()
                came = outcome(lambda: waits.recv(5, socket.MSG_WAITALL))
                world.check(came == "b'ab'", f"two bytes come, not {came}")
                world.check(outcome(lambda: waits.recv(5)) == "ECONNRESET", "and the reset")
                resetting.join()

        world.network.may_cut = False
        await asyncio.to_thread(reads)

    report = explore(program, strategy=DepartureBounded(1), budget_s=AMPLE_S)
    assert report.verdict == "proved", report.text


# ---- descriptors -------------------------------------------------------------------------------


def after_os_close() -> Seen:
    """What each call of a socket says whose number `os.close` has closed."""
    one, other = socket.socketpair()
    with other:
        os.close(one.fileno())
        calls: list[Callable[[], object]] = [
            lambda: one.send(b"x"),
            lambda: one.recv(1),
            lambda: one.getsockname(),
            lambda: one.getpeername(),
            lambda: one.shutdown(socket.SHUT_WR),
            lambda: one.setblocking(False),
            lambda: one.dup(),
            lambda: one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR),
            lambda: other.recv(1),
            lambda: one.close(),
        ]
        return [outcome(each) for each in calls]


@pytest.mark.socket
@on_linux
def test_a_socket_whose_descriptor_is_closed_has_none() -> None:
    """Each call says so by EBADF, and its own `close`, too; its peer reads the end."""
    assert simulated(after_os_close) == after_os_close()


def test_a_limit_of_descriptors_is_met_before_anybody_asks() -> None:
    """As Linux has it: `accept` of who does not wait fails, with an empty backlog, too."""

    async def program(world: World) -> None:
        with socket.create_server(("127.0.0.1", 7000)) as listener:
            listener.setblocking(False)
            world.network.may_fail(Fault.NO_DESCRIPTOR, port=7000)
            world.reached(outcome(listener.accept))

    both = ["EAGAIN", "EMFILE"]
    report = explore(program, strategy=DepartureBounded(1), labels=both, budget_s=AMPLE_S)
    assert report.verdict == "proved", report.text
