"""The HTTP front: disconnects, stopping, and good manners in somebody else's event loop."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import httpx
import pytest

from sim.fake_ollama import FakeOllama, Profile, profile_named
from sim.fake_ollama.http_front import HttpFront, running, serve, wall_clock_ns
from sim.fake_ollama.script import Steps
from tests.limits import HANGS_S

pytestmark = pytest.mark.socket

INSTANT = profile_named("instant")
LOCAL: dict[str, Any] = {"verify": False, "trust_env": False}  # no certificates, no proxy


def chat(model: str) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "why is the sky blue"}]}


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


async def until(condition: Callable[[], bool]) -> None:
    """Give the loop turns until the condition holds; HANGS_S at most."""
    async with asyncio.timeout(HANGS_S):
        while not condition():  # noqa: ASYNC110 - the fake has no events to wait for
            await asyncio.sleep(0.001)


class Visitors:
    """Clients on bare sockets, which show nothing but what the test does with them."""

    def __init__(self, front: HttpFront) -> None:
        self._front = front
        self._writers: list[asyncio.StreamWriter] = []

    async def chat(self, model: str) -> asyncio.StreamWriter:
        """Send a chat request, and wait until the fake has it."""
        before = len(self._front.fake.calls)
        host, port = self._front.base_url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        self._writers.append(writer)
        body = httpx.Request("POST", self._front.base_url, json=chat(model)).content
        head = f"POST /api/chat HTTP/1.1\r\nhost: fake\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await until(lambda: len(self._front.fake.calls) > before)
        return writer

    def leave(self) -> None:
        for writer in self._writers:
            writer.transport.abort()


def visit(
    profile: Profile, program: Callable[[HttpFront, Visitors], Coroutine[Any, Any, None]]
) -> None:
    """Run the program with a front and visitors in one event loop."""

    async def main() -> None:
        async with (
            asyncio.timeout(HANGS_S),
            running(FakeOllama(profile, wall_clock_ns)) as front,
        ):
            visitors = Visitors(front)
            try:
                await program(front, visitors)
            finally:
                visitors.leave()

    asyncio.run(main())


@pytest.mark.parametrize("mode", ["slow-load", "hang-before-headers", "hang-midstream", "slow"])
def test_a_disconnect_is_noticed_at_once(mode: str) -> None:
    """In a load, before the headers, in a hang and between chunks: the call ends."""

    async def program(front: HttpFront, visitors: Visitors) -> None:
        (await visitors.chat(f"fake:{mode}")).close()
        await until(lambda: not front.fake.active_calls)
        assert front.fake.calls[0].ended == "disconnected"
        assert front.fake.slots_taken(f"fake:{mode}") == 0

    visit(replace(INSTANT, slow_load_s=60.0, slow_chunk_s=60.0), program)


def test_a_disconnect_is_noticed_in_the_queue_for_a_slot() -> None:
    """Who leaves the queue is passed over; the slot goes to the one behind."""

    async def program(front: HttpFront, visitors: Visitors) -> None:
        model = "fake:hang-midstream"
        first, second, third = [await visitors.chat(model) for _ in range(3)]
        await until(lambda: front.fake.state(model).slots_waiting == 2)
        second.close()
        await until(lambda: front.fake.state(model).slots_waiting == 1)
        first.close()
        await until(lambda: front.fake.calls[2].chunks == 3)
        assert [call.slot_ns is None for call in front.fake.calls] == [False, True, False]
        third.close()
        await until(lambda: front.fake.state(model).slots_taken == 0)

    visit(INSTANT, program)


def test_a_reader_that_does_not_read_holds_the_answer_up_until_it_leaves() -> None:
    """Back-pressure stops the script, and a disconnect is noticed there too."""

    async def program(front: HttpFront, visitors: Visitors) -> None:
        writer = await visitors.chat("llama3.2")
        # What the reader's side takes in by itself is bounded too.
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        call = front.fake.calls[0]
        sent = -1
        while call.chunks != sent:
            sent = call.chunks
            for _ in range(200):
                await asyncio.sleep(0)
        assert front.fake.active_calls == (call,)
        writer.transport.abort()
        await until(lambda: not front.fake.active_calls)
        assert call.ended == "disconnected"

    visit(replace(INSTANT, chunks=100_000), program)


def test_late_notice_keeps_its_slot_after_the_disconnect() -> None:
    """ollama#11889: a disconnect that came before another's is noticed after it."""

    async def program(front: HttpFront, visitors: Visitors) -> None:
        late = await visitors.chat("fake:late-notice")
        hung = await visitors.chat("fake:hang-before-headers")
        late.close()
        await late.wait_closed()
        hung.close()
        await until(lambda: front.fake.slots_taken("fake:hang-before-headers") == 0)
        assert front.fake.slots_taken("fake:late-notice") == 1

    visit(replace(INSTANT, late_s=60.0), program)


def test_late_notice_notices_in_the_end() -> None:
    """When the prompt evaluation is over, the slot is freed."""

    async def program(front: HttpFront, visitors: Visitors) -> None:
        (await visitors.chat("fake:late-notice")).close()
        await until(lambda: front.fake.slots_taken("fake:late-notice") == 0)
        call = front.fake.calls[0]
        assert call.ended == "disconnected"
        assert call.ended_ns is not None
        assert call.ended_ns - call.started_ns >= 150_000_000

    visit(replace(INSTANT, late_s=0.2), program)


@pytest.mark.parametrize("mode", ["hang-before-headers", "hang-midstream", "late-notice", "slow"])
def test_the_front_stops_at_once_whatever_hangs(mode: str) -> None:
    """Leaving the block breaks hung streams off, and leaves neither task nor call behind."""

    async def main() -> None:
        fake = FakeOllama(replace(INSTANT, late_s=60.0, slow_chunk_s=60.0), wall_clock_ns)
        clock = asyncio.get_running_loop().time
        async with running(fake) as front:
            visitors = Visitors(front)
            await visitors.chat(f"fake:{mode}")
            began_s = clock()
        assert clock() - began_s < 0.5
        assert fake.active_calls == ()
        assert fake.slots_taken(f"fake:{mode}") == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}
        visitors.leave()

    asyncio.run(main())


def test_idle_connections_do_not_hold_up_the_stop() -> None:
    """A client that keeps its connection open is cut off, and nobody listens any more."""

    async def main() -> None:
        async with httpx.AsyncClient(**LOCAL) as client:
            async with running(FakeOllama(INSTANT, wall_clock_ns)) as front:
                assert (await client.get(front.base_url)).status_code == 200
            with pytest.raises(httpx.ConnectError):
                await client.get(front.base_url)

    asyncio.run(main())


def test_signal_handlers_and_loggers_are_left_alone() -> None:
    """Another server in the process keeps its signal handlers and uvicorn's loggers."""

    def look() -> list[object]:
        names = ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi")
        loggers = [logging.getLogger(name) for name in names]
        return [
            *(signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)),
            *((known.level, known.propagate, list(known.handlers)) for known in loggers),
        ]

    async def main() -> None:
        before = look()
        async with (
            running(FakeOllama(INSTANT, wall_clock_ns)) as front,
            httpx.AsyncClient(base_url=front.base_url, **LOCAL) as client,
        ):
            await client.post("/api/chat", json=chat("fake:normal"))
            assert look() == before

    handler = logging.NullHandler()
    logging.getLogger("uvicorn.access").addHandler(handler)
    try:
        asyncio.run(main())
    finally:
        logging.getLogger("uvicorn.access").removeHandler(handler)


def test_nothing_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Neither requests nor crashes nor the stop reach the log of the embedding process."""

    async def program(front: HttpFront, visitors: Visitors) -> None:
        async with httpx.AsyncClient(base_url=front.base_url, **LOCAL) as client:
            await client.get("/")
            with pytest.raises(httpx.RemoteProtocolError):
                await client.post("/api/chat", json=chat("fake:crash"))
        await visitors.chat("fake:hang-midstream")

    with caplog.at_level(logging.DEBUG):
        visit(INSTANT, program)
    assert [record for record in caplog.records if record.name.startswith(("uvicorn", "one"))] == []


def test_complaints_go_to_a_logger_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    """What uvicorn says about a broken request is not said in the name of another server."""

    async def program(front: HttpFront, visitors: Visitors) -> None:
        writer = await visitors.chat("fake:hang-midstream")
        port = writer.get_extra_info("peername")[1]
        reader, bare = await asyncio.open_connection("127.0.0.1", port)
        bare.write(b"hello?\r\n\r\n")
        assert await reader.readline() == b"HTTP/1.1 400 Bad Request\r\n"
        bare.transport.abort()

    with caplog.at_level(logging.DEBUG):
        visit(INSTANT, program)
    names = {record.name for record in caplog.records if record.name not in ("asyncio",)}
    assert names == {"onestream.fake_ollama"}


def test_a_disconnect_is_heard_between_two_segments_that_need_no_wait() -> None:
    """A server that takes segments without ever suspending does not keep the loop to itself.

    And the front closes the script by itself, although somebody else still refers to it.
    """
    kept: list[object] = []

    class Keeping(FakeOllama):
        def handle(self, method: str, path: str, body: bytes = b"") -> Steps:
            steps = super().handle(method, path, body)
            kept.append(steps)
            return steps

    async def main() -> tuple[int, str | None]:
        gone = asyncio.Event()
        bodies: list[bytes] = []
        requests = [{"type": "http.request", "body": json.dumps(chat("fake")).encode()}]

        async def receive() -> Any:
            if requests:
                return requests.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.body":
                bodies.append(message["body"])
            if len(bodies) == 3:
                gone.set()

        front = HttpFront(Keeping(INSTANT, wall_clock_ns))
        scope = {"type": "http", "method": "POST", "path": "/api/chat", "client": None}
        async with asyncio.timeout(HANGS_S):
            await front(scope, receive, send)
        return len(bodies), front.fake.calls[0].ended

    bodies, ended = asyncio.run(main())
    assert bodies < 10
    assert ended == "disconnected"


def test_segments_leave_without_delay() -> None:
    """Nagle's algorithm is off: no segment waits for the acknowledgement of another."""

    async def program(front: HttpFront, visitors: Visitors) -> None:
        await visitors.chat("fake:hang-midstream")
        (connection,) = front._connections()
        sock = connection.transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0

    visit(INSTANT, program)


def test_a_port_that_is_taken_is_an_os_error() -> None:
    """The caller hears of it; the process is not ended."""

    async def program(front: HttpFront, visitors: Visitors) -> None:
        port = int(front.base_url.rpartition(":")[2])
        with pytest.raises(OSError, match="in use"):
            async with running(front.fake, port=port):
                pytest.fail("two servers on one port")

    visit(INSTANT, program)


@pytest.mark.parametrize(
    ("host", "reachable"),
    [("0.0.0.0", "127.0.0.1"), ("::1", "[::1]"), ("::", "[::1]"), ("localhost", "localhost")],
)
def test_the_base_url_can_be_connected_to(host: str, reachable: str) -> None:
    """An address to listen on is turned into one to connect to."""
    if ":" in host and not has_ipv6():
        pytest.skip("this machine has no IPv6 loopback")

    async def main() -> int:
        async with (
            running(FakeOllama(INSTANT, wall_clock_ns), host=host) as front,
            httpx.AsyncClient(**LOCAL) as client,
        ):
            assert front.base_url.startswith(f"http://{reachable}:")
            return (await client.get(front.base_url)).status_code

    assert asyncio.run(main()) == 200


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_ends_at_a_signal(number: signal.Signals) -> None:
    """The stand-alone server announces itself, ends at a signal, and gives the handlers back."""
    told: list[str] = []

    async def main() -> None:
        before = signal.getsignal(number)
        async with asyncio.timeout(HANGS_S):
            serving = asyncio.create_task(serve(profile="instant", port=0, announce=told.append))
            await until(lambda: bool(told))
            os.kill(os.getpid(), number)
            await serving
        assert signal.getsignal(number) == before

    asyncio.run(main())
    assert "http://127.0.0.1:" in told[0]
    assert "fake:hang-midstream       Sends some chunks, and then nothing, for ever." in told[0]


def test_serve_ends_when_it_is_cancelled() -> None:
    """A cancelled server stops listening, and the cancel is not swallowed."""
    told: list[str] = []

    async def main() -> None:
        serving = asyncio.create_task(serve(port=0, announce=told.append))
        await until(lambda: bool(told))
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_serve_refuses_an_unknown_profile() -> None:
    """The error lists the profiles there are."""
    with pytest.raises(ValueError, match="there is no profile 'fast'; there are: instant"):
        asyncio.run(serve(profile="fast", port=0))
