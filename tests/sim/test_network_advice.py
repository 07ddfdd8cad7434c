"""What to do is said: of time limits, of what asyncio logs, of what cannot be read."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import sys
import time

import pytest

from sim import DepartureBounded, World, explore
from tests.limits import AMPLE_S

BOUND = "world.network.late_max_s = 1.0 in the program"


@pytest.mark.parametrize("late_max_s", [None, 60.0])
def test_a_time_limit_that_is_over_names_the_bound_that_a_network_lacks(
    late_max_s: float | None,
) -> None:
    """Where the program has set one, and it is too long for the limit, nothing is said of it."""

    async def program(world: World) -> None:
        if late_max_s is not None:
            world.network.late_max_s = late_max_s
        server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 80)
        async with server, asyncio.timeout(10):
            _, writer = await asyncio.open_connection("127.0.0.1", 80)
            writer.close()

    report = explore(program)
    assert report.verdict == "refuted", report.text
    assert (BOUND in report.text) is (late_max_s is None)


@pytest.mark.parametrize(("late_max_s", "verdict"), [(None, "proved"), (20.0, "refuted")])
def test_an_age_is_outlasted_where_the_network_says_for_how_long(
    late_max_s: float | None, verdict: str
) -> None:
    """What is late without a bound would outlast minutes, and on loopback stock never does."""

    async def program(world: World) -> None:
        if late_max_s is not None:
            world.network.late_max_s = late_max_s
        server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 80)
        async with server:
            began = time.monotonic()
            reader, writer = await asyncio.open_connection("127.0.0.1", 80)
            await reader.read()
            world.check(time.monotonic() - began < 10, "it answers in time")
            writer.close()

    report = explore(program)
    assert report.verdict == verdict, report.text


def test_who_asks_again_for_ever_is_told_of_the_bound_that_a_network_lacks() -> None:
    """As a client that connects anew, after a while, whenever its time limit is over."""

    async def program(world: World) -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 80)):
            is_connected = False
            while not is_connected:
                with contextlib.suppress(TimeoutError), socket.socket() as sock:
                    sock.setblocking(False)
                    async with asyncio.timeout(100):
                        await loop.sock_connect(sock, ("127.0.0.1", 80))
                    is_connected = True
                await asyncio.sleep(50)

    report = explore(program, strategy=DepartureBounded(1), horizon_s=130, budget_s=AMPLE_S)
    assert report.verdict == "refuted" and "the execution ends" in report.text, report.text
    assert BOUND in report.text


def test_a_connection_whose_task_is_cancelled_is_told_of_where_asyncio_logs_it() -> None:
    """Before Python 3.13 it is refuted, with how not to be; who catches it is proved."""

    def cancels(*, catches: bool) -> object:
        async def program(world: World) -> None:
            async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
                try:
                    await reader.read()
                except asyncio.CancelledError:
                    writer.close()
                    if not catches:
                        raise

            async with await asyncio.start_server(serve, "127.0.0.1", 80):
                reader, writer = await asyncio.open_connection("127.0.0.1", 80)
                await reader.read()
                writer.close()

        return program

    raises, catches = (
        explore(cancels(catches=each), strategy=DepartureBounded(1), budget_s=AMPLE_S)  # type: ignore[arg-type]
        for each in (False, True)
    )
    assert catches.verdict == "proved", catches.text
    if raises.verdict != "proved":
        assert sys.version_info < (3, 13), raises.text
        assert "start_server catches CancelledError and returns" in raises.text, raises.text


def test_what_openssl_keeps_is_said_to_be_left_out() -> None:
    """Where no state can be read, the next step is one that a user can take."""

    async def program(world: World) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        await asyncio.gather(*(world.outside(name) for name in "abc"))
        del context

    report = explore(program, strategy="states", max_executions=5, budget_s=AMPLE_S)
    assert report.verdict == "inconclusive", report.text
    text = " ".join(report.text.split())
    assert "ssl.SSLContext: what TLS knows OpenSSL keeps to itself; let the program" in text
    assert "canonical_state" not in text
