"""Clients that leave, at any point, and clients that don't read: they leak and stall nothing."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from functools import partial
from typing import Any

import pytest

from tests.server.support import (
    CLIENTS,
    RawClient,
    Stack,
    error_of,
    events,
    prompt,
    run_async,
    stack,
    until,
)

pytestmark = pytest.mark.socket

HANG = "fake:hang-before-headers"
# Enough text to fill every buffer between the server and a client that does not read.
FLOOD = {"chunks": 20_000, "chunk_s": 0.0}


async def nothing_left(server: Stack) -> None:
    """No stream, no upstream call, no task and no thread of a stream is left."""
    await server.quiet()

    def left() -> list[str]:
        names = [task.get_name() for task in asyncio.all_tasks()]
        names += [thread.name for thread in threading.enumerate()]
        kinds = ("stream-", "agent-", "watch-", "thread-", "onestream-worker")
        return [name for name in names if name.startswith(kinds)]

    await until(lambda: not left(), f"left: {left()}")
    assert not server.service.connections


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("mode", ["hang-before-headers", "hang-midstream"])
def test_a_client_that_leaves_frees_ollama(client: str, streamed: bool, mode: str) -> None:
    """Before the first byte or amid the stream: the upstream call is closed at once."""

    async def main() -> None:
        async with stack(ollama_client=client) as server:
            raw = RawClient(server.url)
            await raw.send(prompt(stream=streamed, model=f"fake:{mode}"))
            await until(lambda: server.fake.active_calls, "upstream")
            if mode == "hang-midstream":
                await until(lambda: server.fake.active_calls[0].chunks >= 3, "chunks")
            raw.close()
            await until(lambda: not server.states(), "ended")
            # Closed is closed; that the other end hears of it takes a turn of its loop.
            call = server.fake.calls[-1]
            await until(lambda: call.ended == "disconnected", f"{call}")
            await nothing_left(server)

    run_async(main())


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_that_leaves_while_waiting_is_forgotten(client: str) -> None:
    """A prompt that waits for the older stream's clean-up leaves with its client."""

    async def main() -> None:
        async with stack(ollama_client=client, grace_seconds=60.0) as server:
            release = hold_agents(server)
            first, second = RawClient(server.url), RawClient(server.url)
            await first.send(prompt(stream=True, model=HANG))
            await until(lambda: server.fake.active_calls, "upstream")
            await second.send(prompt("second", stream=True))
            await until(lambda: server.states() == ["STOPPING", "WAITING"], "the second waits")
            second.close()
            await until(lambda: server.states() == ["STOPPING"], "it is forgotten")
            release.set()
            await until(lambda: not server.states(), "the first ends")
            assert len(server.fake.calls) == 1
            first.close()
            await nothing_left(server)

    run_async(main())


@pytest.mark.parametrize("client", CLIENTS)
def test_the_newest_of_many_prompts_wins(client: str) -> None:
    """Of prompts that race while an old stream cleans up, all but the newest get 400, and only
    the newest reaches Ollama."""

    async def main() -> None:
        async with stack(ollama_client=client, grace_seconds=60.0) as server:
            release = hold_agents(server)
            first = asyncio.create_task(server.post(prompt(stream=True, model=HANG)))
            await until(lambda: server.fake.active_calls, "upstream")
            racing = []
            for number in range(5):
                racing.append(asyncio.create_task(server.post(prompt(f"prompt {number}"))))
                await until(partial(has_registered, server, number + 2), "registered")
            await until(lambda: server.states() == ["STOPPING", "WAITING"], "one waits")
            release.set()
            answers = await asyncio.gather(first, *racing)
            assert [answer.status_code for answer in answers] == [400] * 5 + [200]
            assert {error_of(answer)["code"] for answer in answers[:-1]} == {"superseded"}
            assert len(server.fake.calls) == 2
            await nothing_left(server)

    run_async(main())


@pytest.mark.parametrize("client", CLIENTS)
def test_a_stream_that_does_not_end_is_detached_and_named(client: str) -> None:
    """Past the grace the next prompt starts; when it meets silence, its error names the old one."""

    async def main() -> None:
        limits = {"grace_seconds": 0.2, "first_chunk_seconds": 0.3, "agent_cancel_seconds": 0.05}
        async with stack(ollama_client=client, **limits) as server:
            release = hold_agents(server)
            first = asyncio.create_task(server.post(prompt(stream=True, model=HANG)))
            await until(lambda: server.fake.active_calls, "upstream")
            second = asyncio.create_task(server.post(prompt(model=HANG)))
            old = (await first).headers["x-trace-id"]
            await until(lambda: server.states() == ["DETACHED", "ACTIVE"], "the second starts")
            message = error_of(await second)["message"]
            assert old in message
            assert "ollama ps" in message
            release.set()
            await nothing_left(server)

    run_async(main())


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_that_does_not_read_holds_up_nobody(client: str) -> None:
    """It stalls its own stream, a newer prompt is served at once, and its socket is dropped."""

    async def main() -> None:
        async with stack("flood", FLOOD, ollama_client=client, send_seconds=0.5) as server:
            stuck = RawClient(server.url, receive_bytes=4096)
            await stuck.send(prompt(stream=True))
            await until(lambda: server.stalled(), "the stream stalls")
            loop = asyncio.get_running_loop()
            began = loop.time()
            healthy = await server.post(prompt(model="fake:error"))
            assert healthy.status_code == 500
            assert loop.time() - began < 0.4, "sooner than the send limit"
            await until(lambda: not server.service.connections, "the response is given up")
            await until(lambda: not server.busy_connections(), "the socket is dropped")
            stuck.close()
            await nothing_left(server)

    run_async(main())


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_that_does_not_read_loses_its_stream(
    client: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Past the send limit the stream ends, and Ollama is let go; it is no error of ours."""

    async def main() -> None:
        async with stack("flood", FLOOD, ollama_client=client, send_seconds=0.3) as server:
            stuck = RawClient(server.url, receive_bytes=4096)
            await stuck.send(prompt(stream=True))
            await until(lambda: server.states() == ["ACTIVE"], "active")
            await until(lambda: not server.states(), "ended")
            (view,) = server.service.streams("key1")
            assert view["reason"] == "cancelled"
            assert "client_not_reading" in view["message"]
            await until(lambda: not server.busy_connections(), "the socket is dropped")
            stuck.close()
            await nothing_left(server)
        assert not [record for record in caplog.records if record.levelname == "ERROR"]

    run_async(main())


@pytest.mark.parametrize("client", CLIENTS)
def test_a_slow_reader_gets_everything(client: str) -> None:
    """A client that reads slowly, but reads, gets the whole answer; Ollama is held back for it."""

    async def main() -> None:
        changes = {"chunks": 3000, "chunk_s": 0.0}
        limits = {"buffer_max_chunks": 4, "stream_inactivity_seconds": 0.3, "send_seconds": 5.0}
        async with stack("flood", changes, ollama_client=client, **limits) as server:
            slow = RawClient(server.url, receive_bytes=4096)
            await slow.send(prompt(stream=True))
            await until(lambda: server.stalled(), "the stream stalls")
            # Longer than the inactivity limit: a client's slowness is no silence of Ollama.
            stalled_at = asyncio.get_running_loop().time()
            await until(lambda: asyncio.get_running_loop().time() > stalled_at + 0.6, "time passes")
            data = await slow.read_until(b"data: [DONE]")
            assert b'"error"' not in data
            assert b"word2990" in data
            slow.close()
            await nothing_left(server)

    run_async(main())


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_that_half_sends_and_leaves_is_forgotten(client: str) -> None:
    """A request whose body never comes whole starts nothing."""

    async def main() -> None:
        async with stack(ollama_client=client) as server:
            raw = RawClient(server.url)
            await raw.send(prompt("x" * 1000), half=True)
            await until(lambda: server.busy_connections(), "connected")
            raw.close()
            await until(lambda: not server.busy_connections(), "gone")
            assert not server.fake.calls
            await nothing_left(server)

    run_async(main())


def test_nothing_is_left_for_the_garbage_collector_to_warn_of() -> None:
    """After leaving clients no coroutine, task or generator is destroyed while pending."""

    async def main() -> None:
        complaints: list[Any] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        for client in CLIENTS:
            async with stack("instant", {"chunk_s": 0.01}, ollama_client=client) as server:
                for _ in range(5):
                    raw = RawClient(server.url)
                    await raw.send(prompt(stream=True))
                    await raw.read_until(b"data: ")
                    raw.close()
                await nothing_left(server)
                answer = await server.post(prompt(stream=True))
                assert events(answer.text)[-1] == "[DONE]"
        gc.collect()
        assert not complaints

    run_async(main())


# ---- helpers --------------------------------------------------------------------------------


def has_registered(server: Stack, streams: int) -> bool:
    return len(server.service.streams("key1")) == streams


def hold_agents(server: Stack) -> asyncio.Event:
    """Makes the call of the first stream linger over its cancel until the event is set."""
    release = asyncio.Event()
    client: Any = server.service._client
    ask = client.ask
    held = []

    async def lingering(*args: Any) -> None:
        try:
            await ask(*args)
        finally:
            if not held:
                held.append(args)
                while not release.is_set():
                    try:
                        await release.wait()
                    except asyncio.CancelledError:
                        continue

    client.ask = lingering
    return release


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("streamed", [True, False])
def test_a_client_that_leaves_with_the_whole_answer_has_stopped_nothing(
    client: str, streamed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """It closes at the last byte of it, while the thread, say, has not yet reported its end."""
    caplog.set_level(logging.INFO)
    last = b'"finish_reason":"stop"'

    async def main() -> None:
        async with stack(ollama_client=client) as server:
            for number in range(30):
                raw = RawClient(server.url)
                await raw.send(prompt(stream=streamed, session_id=f"s{number}"))
                await raw.read_until(last)
                raw.close()
            await server.quiet()
            records = (await server.http.get("/v1/streams")).json()["data"]
            assert [record["reason"] for record in records] == ["stop"] * 30
        assert not [line for line in caplog.messages if "stream_cancelled" in line]

    run_async(main())
