"""A call over TLS, and one that we ourselves are late with."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from registry import StopSignal
from server.http_call import CallTransport
from server.wakeable import Wake, WakeableTransport
from sim import World, run
from tests.late_loop import LateLoop, late_run, turns

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    make = "req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 3 -subj /CN=a"
    names = ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([openssl, *make.split(), *names], cwd=folder, check=True, capture_output=True)
    return folder


def call_by_async(tls: ssl.SSLContext) -> Callable[[], Coroutine[Any, Any, bytes]]:
    async def call() -> bytes:
        request = httpx.Request("POST", "https://127.0.0.1/x")
        response = await CallTransport(tls, None).handle_async_request(request)
        try:
            return b"".join([each async for each in response.aiter_raw()])
        finally:
            await response.aclose()

    return call


def call_by_thread(tls: ssl.SSLContext) -> Callable[[], Coroutine[Any, Any, bytes]]:
    def call() -> bytes:
        request = httpx.Request("POST", "https://127.0.0.1/x")
        response = WakeableTransport(Wake(StopSignal()), tls).handle_request(request)
        try:
            return b"".join(response.iter_raw())
        finally:
            response.close()

    return lambda: asyncio.to_thread(call)


@pytest.mark.parametrize("caller", [call_by_async, call_by_thread])
def test_an_answer_comes_over_tls_from_who_shows_a_certificate(
    certificate: Path, caller: Callable[..., Any]
) -> None:
    """From nobody else: that is no connection, and its socket is closed."""
    serves = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    serves.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    trusts = ssl.create_default_context(cafile=str(certificate / "cert.pem"))

    async def program(world: World) -> None:
        async def says(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with suppress(asyncio.IncompleteReadError):
                await reader.readuntil(b"\r\n\r\n")
                writer.write(CHUNKED + b"2\r\nab\r\n0\r\n\r\n")
                await reader.read()
            writer.close()

        server = await asyncio.start_server(says, "127.0.0.1", 443, ssl=serves)
        assert await caller(trusts)() == b"ab"
        with pytest.raises(httpx.ConnectError, match="certificate"):
            await caller(ssl.create_default_context())()
        server.close()
        await asyncio.sleep(1)

    outcome = run(program)
    assert outcome.violation is None and outcome.error is None, outcome


@pytest.mark.parametrize("stopped_at_s", [0, 1])
def test_a_thread_before_and_in_a_handshake_is_woken(stopped_at_s: int) -> None:
    """The other side has accepted and says nothing: the stop ends the wait at once."""
    signal = StopSignal()
    wake = Wake(signal)

    def call() -> None:
        request = httpx.Request("POST", "https://127.0.0.1/x")
        context = ssl.create_default_context()
        if not stopped_at_s:
            signal.set()
        WakeableTransport(wake, context).handle_request(request)

    async def program(world: World) -> None:
        async def says_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            with suppress(OSError):
                await reader.read()
            writer.close()

        server = await asyncio.start_server(says_nothing, "127.0.0.1", 443)
        calling = asyncio.create_task(asyncio.to_thread(call))
        await asyncio.sleep(1)
        assert calling.done() == (not stopped_at_s)
        wake.cut()
        with pytest.raises(httpx.ConnectError):
            await calling
        assert world.now < 2
        server.close()
        await asyncio.sleep(1)

    outcome = run(program)
    assert outcome.violation is None and outcome.error is None, outcome


# ---- our own lateness -----------------------------------------------------------------------


@pytest.mark.socket
@pytest.mark.parametrize("steps_before", range(1, 8))
def test_a_connect_does_not_fail_because_we_were_late(steps_before: int) -> None:
    """The loop stands still for longer than the limit, at any step; it is connected then."""

    async def main(loop: LateLoop) -> None:
        # Its kernel takes the connection; nobody answers.
        with socket.create_server(("127.0.0.1", 0)) as listener:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}/x"
            request = httpx.Request("POST", url, extensions={"timeout": {"connect": 5.0}})
            asking = asyncio.create_task(CallTransport(None, None).handle_async_request(request))
            await turns(steps_before)
            loop.now_s += 60
            await turns(20)
            # It is connected, and waits for its answer.
            assert not asking.done(), asking.exception()
            asking.cancel()
            await asyncio.wait({asking})

    late_run(main)
