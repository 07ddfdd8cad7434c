"""Threads and the network: what a thread does at a socket while the loop is in its poll."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable

import pytest

from sim import World, explore, run
from sim.exploration.verdict import Verdict
from sim.schedulers import DepartureBounded
from tests.limits import AMPLE_S


def test_a_thread_that_makes_a_descriptor_ready_ends_the_poll() -> None:
    """The loop watches it: it is nothing that was put into its queue without waking it."""

    async def program(world: World) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            thread = threading.Thread(target=theirs.send, args=(b"x",))
            thread.start()
            received = await asyncio.get_running_loop().sock_recv(ours, 1)
            world.check(received == b"x", "it arrives")
            thread.join()

    report = explore(program, strategy=DepartureBounded(2), budget_s=AMPLE_S)
    assert report.verdict == Verdict.PROVED, report.text


def test_the_second_part_of_a_write_reaches_a_thread_before_its_time_is_over() -> None:
    """What comes in two parts comes whole within the bound of the network; the loop is asleep."""

    def reads(client: socket.socket, server: socket.socket, seen: list[bytes]) -> None:
        server.settimeout(2.0)
        client.sendall(b"abcd")
        received = b""
        while len(received) < 4:
            part = server.recv(4)
            received += part
            seen.append(part)

    async def program(world: World) -> None:
        world.network.late_max_s = 0.1
        seen: list[bytes] = []
        with socket.create_server(("127.0.0.1", 7000)) as listener:
            client = await asyncio.to_thread(socket.create_connection, ("127.0.0.1", 7000))
            server, _ = listener.accept()
            with client, server:
                thread = threading.Thread(target=reads, args=(client, server, seen))
                thread.start()
                await asyncio.sleep(10)
                world.check(b"".join(seen) == b"abcd", "it is there in time")
                if len(seen) > 1:
                    world.reached("two parts")
                thread.join()

    report = explore(program, strategy=DepartureBounded(2), labels=["two parts"], budget_s=AMPLE_S)
    assert report.verdict == Verdict.PROVED, report.text


def timed_out_after_s(act: Callable[[], object]) -> float | None:
    begun = time.monotonic()
    try:
        act()
    except TimeoutError:
        return round(time.monotonic() - begun, 3)
    return None


def test_the_time_limit_of_sendall_is_for_all_of_it() -> None:
    """Who reads a part now and then does not make it longer, as CPython has it."""

    def reads_now_and_then(theirs: socket.socket) -> None:
        for _ in range(2):
            time.sleep(0.2)
            theirs.recv(1000)

    async def program(world: World) -> None:
        world.network.buffer_bytes = 1000
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.settimeout(0.3)
            reading = asyncio.create_task(asyncio.to_thread(reads_now_and_then, theirs))
            after_s = await asyncio.to_thread(timed_out_after_s, lambda: ours.sendall(bytes(4000)))
            world.check(after_s == 0.3, "it is over in time", f"{after_s} s")
            await reading

    outcome = run(program)
    assert outcome.error is None and outcome.violation is None, outcome


GIVEN: dict[str, Callable[[socket.socket, bytearray], object]] = {
    "send": lambda sock, given: sock.send(given),
    "sendall": lambda sock, given: sock.sendall(given),
    "sendmsg": lambda sock, given: sock.sendmsg([given]),
    "recv_into": lambda sock, given: sock.recv_into(given),
    "recvfrom_into": lambda sock, given: sock.recvfrom_into(given),
    "recvmsg_into": lambda sock, given: sock.recvmsg_into([given]),
}


def grows_what_it_gave(call: str) -> str:
    """Of a call that raises, whose exception is kept."""
    one, other = socket.socketpair()
    with one, other:
        one.setblocking(False)
        given = bytearray(20_000_000)
        try:
            while True:
                GIVEN[call](one, given)
        except BlockingIOError as kept:
            given.append(0)
            return f"{type(kept).__name__} {len(given)}"


@pytest.mark.parametrize("call", GIVEN)
def test_what_a_call_raises_keeps_no_buffer_of_its_caller(call: str) -> None:
    """A bytearray that was given may grow as soon as the call is over, as on stock."""

    async def program(world: World) -> None:
        assert grows_what_it_gave(call) == "BlockingIOError 20000001"

    assert grows_what_it_gave(call) == "BlockingIOError 20000001"
    report = explore(program, strategy="natural", max_executions=1)
    assert report.counterexample is None, report.text
