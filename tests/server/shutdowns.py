"""A server as a process that gets into trouble and then a signal, for tests of how it ends."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from sim.fake_ollama import FakeOllama, profile_named
from sim.fake_ollama.http_front import running, wall_clock_ns
from tests.server.support import (
    PATIENCE_S,
    Output,
    RawClient,
    free_port,
    is_listening,
    process,
    prompt,
    until,
)

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
        # However slow the machine is, the prompt that waits for its first chunk has no head yet.
        "JARVIS_HEAD_HOLD_SECONDS": str(PATIENCE_S),
    }
    calls_before = len(fake.calls)
    with process(*LAUNCHERS[launcher], "--port", str(port), **environment) as child:
        output = Output(child)
        await until(lambda: is_listening(port) or child.poll() is not None, "it listens")
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
            # Twice as many chunks as needed: the server waits for the client that doesn't read.
            await until(lambda: fake.calls[-1].chunks > 40, "the flood")
        began = time.monotonic()
        child.send_signal(number)
        ends = [raw.read_to_end() for raw in (before_headers, midstream)]
        ended, streamed = await asyncio.gather(*ends)
        await until(lambda: child.poll() is not None, "the process is gone")
        took_s = time.monotonic() - began
        assert b"503" in ended.split(b"\r\n")[0], ended[:200]
        assert b'"code":"shutting_down"' in ended
        assert b'"code":"shutting_down"' in streamed
        if launcher != "nothing wakes the thread":
            assert b"data: [DONE]" in streamed
    await until(lambda: not fake.active_calls, "the upstream is closed")
    return took_s, output.lines
