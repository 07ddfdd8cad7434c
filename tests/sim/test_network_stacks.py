"""Programs and libraries that run unmodified on simulated sockets."""

from __future__ import annotations

import asyncio
import http.client
import shutil
import socket
import ssl
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from sim import DepartureBounded, World, explore, run

# To make one takes as long as an execution.
CONTEXT = ssl.create_default_context()


def runs(program: Any) -> None:
    """Once, in natural order."""
    outcome = run(program)
    assert outcome.violation is None, outcome.violation
    assert outcome.error is None, outcome.error


async def shouts(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write((await reader.readline()).upper())
    await writer.drain()
    writer.close()


# ---- HTTP --------------------------------------------------------------------------------------


async def numbers(scope: Any, receive: Any, send: Any) -> None:
    """An ASGI application that streams three numbers, one a second."""
    if scope["type"] != "http":
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for number in range(3):
        await asyncio.sleep(1)
        body = f"{number}\n".encode()
        await send({"type": "http.response.body", "body": body, "more_body": True})
    await send({"type": "http.response.body"})


def served_by_uvicorn(parser: Any) -> Any:
    async def program(world: World) -> None:
        options = {"lifespan": "off", "ws": "none", "log_level": "critical", "http": parser}
        server = uvicorn.Server(uvicorn.Config(numbers, port=8000, **options))
        serving = asyncio.create_task(server.serve())
        while not server.started:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.01)
        async with httpx.AsyncClient(verify=CONTEXT) as client:
            for _ in range(2):
                async with client.stream("GET", "http://127.0.0.1:8000/") as answer:
                    lines = [line async for line in answer.aiter_lines()]
                    world.check(lines == ["0", "1", "2"], "all numbers come")
        server.should_exit = True
        await serving

    return program


@pytest.mark.parametrize("parser", ["h11", "httptools"])
def test_uvicorn_serves_httpx(parser: str) -> None:
    """The real server, parser, client and connection pool; none of 20 departures loses a number."""
    report = explore(served_by_uvicorn(parser), strategy=DepartureBounded(1), max_executions=20)
    assert report.counterexample is None, report.text
    assert report.verdict == "inconclusive", report.text


async def aiohttp_serves_itself(world: World) -> None:
    from aiohttp import ClientSession, web

    async def hello(request: web.Request) -> web.Response:
        await asyncio.sleep(1)
        return web.Response(text="hello")

    app = web.Application()
    app.router.add_get("/", hello)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 8000).start()
    async with ClientSession() as client, client.get("http://127.0.0.1:8000/") as answer:
        world.check(await answer.text() == "hello", "it answers")
    await runner.cleanup()


def test_aiohttp_serves_its_client() -> None:
    """Both with their parsers in C."""
    pytest.importorskip("aiohttp")
    runs(aiohttp_serves_itself)


# ---- TLS ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    make = "req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 3 -subj /CN=a"
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run([openssl, *make.split(), *names], cwd=folder, check=True, capture_output=True)
    return folder


def test_tls_runs_at_both_ends(certificate: Path) -> None:
    """From the first byte, and from `start_tls` on."""
    serves = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    serves.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    asks = ssl.create_default_context(cafile=str(certificate / "cert.pem"))

    async def upgrades(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        await writer.start_tls(serves)
        await shouts(reader, writer)

    async def program(world: World) -> None:
        async with await asyncio.start_server(shouts, "127.0.0.1", 7000, ssl=serves):
            reader, writer = await asyncio.open_connection("127.0.0.1", 7000, ssl=asks)
            writer.write(b"one\n")
            world.check(await reader.readline() == b"ONE\n", "from the first byte")
            writer.close()
        async with await asyncio.start_server(upgrades, "127.0.0.1", 7001):
            reader, writer = await asyncio.open_connection("127.0.0.1", 7001)
            writer.write(b"STARTTLS\n")
            await writer.start_tls(asks, server_hostname="localhost")
            writer.write(b"two\n")
            world.check(await reader.readline() == b"TWO\n", "from start_tls on")
            writer.close()

    runs(program)


# ---- sockets that block, and others ------------------------------------------------------------


async def answers_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    writer.close()


async def threads_that_block(world: World) -> None:
    def by_the_standard_library() -> bytes:
        connection = http.client.HTTPConnection("localhost", 7000, timeout=3)
        connection.request("GET", "/")
        body = connection.getresponse().read()
        connection.close()
        return body

    def by_httpx() -> bytes:
        with httpx.Client(verify=CONTEXT) as client:
            return client.get("http://127.0.0.1:7000/").content

    def waits_in_vain() -> str:
        address = ("127.0.0.1", 7001)
        with socket.create_server(address), socket.create_connection(address, timeout=2) as waits:
            try:
                waits.recv(1)
            except TimeoutError:
                return "timed out"
        return "received"

    async with await asyncio.start_server(answers_once, "127.0.0.1", 7000):
        world.check(await asyncio.to_thread(by_the_standard_library) == b"ok", "http.client")
        world.check(await asyncio.to_thread(by_httpx) == b"ok", "httpx.Client")
        begun = world.now
        world.check(await asyncio.to_thread(waits_in_vain) == "timed out", "a time limit")
        world.check(2 <= world.now - begun < 2.1, "in virtual time")


def test_blocking_sockets_block_their_worker_thread() -> None:
    """http.client and httpx.Client in threads, a server in the loop; a time limit of recv."""
    runs(threads_that_block)


async def others(world: World) -> None:
    path = f"{tempfile.gettempdir()}/simulated-socket"
    async with await asyncio.start_unix_server(shouts, path):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"unix\n")
        world.check(await reader.readline() == b"UNIX\n", "Unix sockets")
        writer.close()
    loop = asyncio.get_running_loop()
    one, other = socket.socketpair()
    with one, other:
        one.setblocking(False)
        other.setblocking(False)
        await loop.sock_sendall(one, b"pair")
        world.check(await loop.sock_recv(other, 10) == b"pair", "a pair")
        one.shutdown(socket.SHUT_WR)
        world.check(await loop.sock_recv(other, 10) == b"", "its end")
        await loop.sock_sendall(other, b"back")
        world.check(await loop.sock_recv(one, 10) == b"back", "half closed, the other way goes on")


def test_unix_sockets_and_pairs_talk() -> None:
    """start_unix_server, socketpair, sock_recv and half close."""
    runs(others)


class Forwarding:
    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


def threads_with_tls(serves: ssl.SSLContext, asks: ssl.SSLContext) -> Any:
    async def program(world: World) -> None:
        def by_the_standard_library() -> bytes:
            at = http.client.HTTPSConnection("localhost", 7000, context=asks, timeout=3)
            at.request("GET", "/")
            body = at.getresponse().read()
            at.close()
            return body

        def by_httpx() -> bytes:
            with httpx.Client(verify=asks) as client:
                return client.get("https://localhost:7000/").content

        def by_hand() -> bytes:
            with socket.create_connection(("localhost", 7000)) as opened:
                wrapped = asks.wrap_socket(
                    opened, server_hostname="localhost", do_handshake_on_connect=False
                )
                wrapped.do_handshake()
                world.check(wrapped.getpeercert() != {}, "it has shown its certificate")
                world.check(isinstance(wrapped, ssl.SSLSocket), "as others ask")
                with wrapped:
                    wrapped.sendall(b"GET / HTTP/1.1\r\n\r\n")
                    return wrapped.makefile("rb").read()[-2:]

        def through_what_forwards_to_it() -> bytes:
            opened: Any = Forwarding(socket.create_connection(("localhost", 7000)))
            with asks.wrap_socket(opened, server_hostname="localhost") as wrapped:
                wrapped.sendall(b"GET / HTTP/1.1\r\n\r\n")
                return wrapped.makefile("rb").read()[-2:]

        def with_nobodys_certificate() -> str:
            try:
                CONTEXT.wrap_socket(
                    socket.create_connection(("localhost", 7000)), server_hostname="localhost"
                )
            except ssl.SSLCertVerificationError as exc:
                return exc.verify_message
            return "taken"

        async with await asyncio.start_server(answers_once, "localhost", 7000, ssl=serves):
            for asking in (
                by_the_standard_library,
                by_httpx,
                by_hand,
                through_what_forwards_to_it,
            ):
                world.check(await asyncio.to_thread(asking) == b"ok", asking.__name__)
            told = await asyncio.to_thread(with_nobodys_certificate)
            world.check("self-signed" in told or "self signed" in told, told)

    return program


def test_tls_over_blocking_sockets_runs_in_threads(certificate: Path) -> None:
    """http.client, httpx.Client and `wrap_socket` itself; a certificate of nobody's is refused."""
    serves = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    serves.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    asks = ssl.create_default_context(cafile=str(certificate / "cert.pem"))
    runs(threads_with_tls(serves, asks))


async def breaks_off_the_handshake(world: World) -> None:
    def asks() -> None:
        with socket.create_connection(("localhost", 7000)) as opened:
            CONTEXT.wrap_socket(opened, server_hostname="localhost")

    async def leaves(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.close()

    async with await asyncio.start_server(leaves, "localhost", 7000):
        await asyncio.to_thread(asks)


def test_what_openssl_raises_is_the_programs() -> None:
    """A thread that does not expect the end of its handshake is refuted, by name."""
    report = explore(breaks_off_the_handshake, max_executions=1)
    assert report.verdict == "refuted", report
    assert "SSLEOFError" in report.counterexample.text
