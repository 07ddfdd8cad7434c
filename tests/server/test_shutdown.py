"""SIGTERM and SIGINT: every stream is told, and the process is gone within the grace and 1 s."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from sim.fake_ollama import FakeOllama, profile_named
from sim.fake_ollama.http_front import running, wall_clock_ns
from tests.server.support import (
    CLIENTS,
    Output,
    RawClient,
    error_of,
    events,
    free_port,
    is_listening,
    process,
    prompt,
    run_async,
    stack,
    until,
)

pytestmark = pytest.mark.socket

GRACE_S = 2.0
# The fake answers with the first 20 words of the prompt: these fill every buffer on the way.
FLOOD = " ".join(["x" * 500_000] * 20)
LAUNCHERS = {
    "plain uvicorn": ("-m", "uvicorn", "server.app:app", "--log-level", "warning"),
    "our own": ("-m", "server"),
    "nothing wakes the thread": (
        "-m",
        "uvicorn",
        "tests.server.blocked_app:app",
        "--log-level",
        "warning",
    ),
}


@asynccontextmanager
async def fake_ollama() -> AsyncIterator[tuple[FakeOllama, str]]:
    fake = FakeOllama(replace(profile_named("flood"), chunk_s=0.01), wall_clock_ns)
    async with running(fake) as front:
        yield fake, front.base_url


async def exit_under_trouble(
    launcher: str,
    client: str,
    number: signal.Signals,
    fake: FakeOllama,
    ollama: str,
    clients: list[RawClient],
) -> tuple[float, list[str]]:
    """Starts a server, gets it into trouble, signals it; seconds until it is gone, its output."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environment = {
        "OLLAMA_HOST": ollama,
        "JARVIS_OLLAMA_CLIENT": client,
        "JARVIS_GRACE_SECONDS": str(GRACE_S),
    }
    calls_before = len(fake.calls)
    with process(*LAUNCHERS[launcher], "--port", str(port), **environment) as child:
        output = Output(child)
        await until(lambda: is_listening(port) or child.poll() is not None, "it listens", 20)
        assert child.poll() is None, output.lines

        async def post(text: str, model: str, *, half: bool = False) -> RawClient:
            raw = RawClient(url, receive_bytes=4096)
            clients.append(raw)
            body = prompt(text, stream=True, model=model, session_id=f"session-{len(clients)}")
            await raw.send(body, half=half)
            return raw

        before_headers = await post("hello", "fake:hang-before-headers")
        midstream = await post("hello", "fake:hang-midstream")
        await post(FLOOD, "fake:normal")  # this client never reads
        await post("hello", "fake:normal", half=True)
        expected = 3
        if launcher == "nothing wakes the thread":
            await asyncio.to_thread(output.wait_for, "session=session-3")
        else:
            await until(lambda: len(fake.calls) - calls_before >= expected, "all are upstream")
            await midstream.read_until(b"data: ")
            # Twice as many chunks as it takes: the server waits for the client that doesn't read.
            await until(lambda: fake.calls[-1].chunks > 40, "the flood")
        began = time.monotonic()
        child.send_signal(number)
        ends = [raw.read_to_end() for raw in (before_headers, midstream)]
        ended, streamed = await asyncio.gather(*ends)
        await until(lambda: child.poll() is not None, "the process is gone", 20)
        took_s = time.monotonic() - began
        assert b"503" in ended.split(b"\r\n")[0], ended[:200]
        assert b'"code":"shutting_down"' in ended
        assert b'"code":"shutting_down"' in streamed
        if launcher != "nothing wakes the thread":
            assert b"data: [DONE]" in streamed
    await until(lambda: not fake.active_calls, "the upstream is closed")
    return took_s, output.lines


@pytest.mark.parametrize(
    ("launcher", "client", "number"),
    [
        ("plain uvicorn", "async", signal.SIGTERM),
        ("plain uvicorn", "thread", signal.SIGINT),
        ("our own", "async", signal.SIGINT),
        ("our own", "thread", signal.SIGTERM),
        ("nothing wakes the thread", "thread", signal.SIGTERM),
    ],
)
def test_a_signal_ends_the_process_in_time(
    launcher: str, client: str, number: signal.Signals
) -> None:
    """With Ollama hung, threads blocked, a client that doesn't read and one that half-sends."""

    async def main() -> None:
        async with fake_ollama() as (fake, ollama):
            clients: list[RawClient] = []
            try:
                took_s, lines = await exit_under_trouble(
                    launcher, client, number, fake, ollama, clients
                )
            finally:
                for raw in clients:
                    raw.close()
            print(f"gone after {took_s:.2f} s")
            assert took_s < GRACE_S + 1, lines
            assert not any("Traceback" in line for line in lines), lines

    run_async(main())


@pytest.mark.parametrize("client", CLIENTS)
def test_nothing_new_is_let_in_while_it_shuts_down(client: str) -> None:
    """From the signal on every request is answered 503; the streams end with a message."""

    async def main() -> None:
        async with stack(ollama_client=client) as server:
            stream = asyncio.create_task(
                server.post(prompt(stream=True, model="fake:hang-midstream"))
            )
            # Not the fake's chunks: the answer could still be on its way to being begun.
            begun = server.service.connections
            await until(lambda: any(each.has_begun for each in begun), "the answer has begun")
            server.service.begin_shutdown()
            for answer in (await server.post(prompt()), await server.http.get("/healthz")):
                assert (answer.status_code, error_of(answer)["code"]) == (503, "shutting_down")
            found = events((await stream).text)
            assert [found[-2]["error"]["code"], found[-1]] == ["shutting_down", "[DONE]"]
            await server.quiet()

    run_async(main())
