"""Streams inside the server, without HTTP's outside: who owns what, and when it is over."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from registry import State, StreamCancelled, StreamRegistry
from registry.daemon_executor import DaemonExecutor
from server.app import create_app
from server.archive import Archive, Record, streams_in
from server.buffer import Buffer, Came
from server.ollama import Chunk, OllamaRequest
from server.ollama_thread import ThreadOllama
from tests.server.support import DEVKEY, error_of, events, prompt, run_async, settings, until

DONE_LINE = b'{"message":{"content":""},"done":true,"done_reason":"stop"}\n'


def chunk_line(text: str) -> bytes:
    return json.dumps({"message": {"content": text}, "done": False}).encode() + b"\n"


@asynccontextmanager
async def local(
    body: Callable[[], AsyncIterator[bytes]], **limits: Any
) -> AsyncIterator[tuple[httpx.AsyncClient, Any]]:
    """The application without a socket: `body` makes what Ollama sends to each call."""

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=body())

    app = create_app(
        settings(**limits), async_transport=lambda: httpx.MockTransport(answer), signals=()
    )
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://127.0.0.1", headers=DEVKEY
        ) as http,
    ):
        yield http, app.state.service


async def call(http: httpx.AsyncClient, body: Any, send: Callable[[Any], Any]) -> None:
    """One prompt, with a `send` of the test's own and a client that stays."""
    app = http._transport.app  # type: ignore[attr-defined]
    messages = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]

    async def receive() -> Any:
        if messages:
            return messages.pop()
        return await asyncio.get_running_loop().create_future()

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/chat/completions",
        "raw_path": b"/v1/chat/completions",
        "query_string": b"",
        "headers": [(b"authorization", b"Bearer devkey"), (b"content-type", b"application/json")],
        "server": ("127.0.0.1", 8000),
    }
    await app(scope, receive, send)


async def two_chunks() -> AsyncIterator[bytes]:
    yield chunk_line("one") + chunk_line(" two") + DONE_LINE


def test_a_stream_stopped_before_its_tasks_first_step_is_told() -> None:
    """Prompts of one session that register in one turn of the loop are all answered."""

    async def main() -> None:
        async with local(two_chunks) as (http, service):
            posts = [http.post("/v1/chat/completions", json=prompt(str(n))) for n in range(4)]
            answers = await asyncio.gather(*posts)
            assert sorted(answer.status_code for answer in answers) == [200, 400, 400, 400]
            assert answers[-1].status_code == 200
            assert {error_of(answer)["code"] for answer in answers[:-1]} == {"superseded"}
            assert not service.registry.snapshot().streams

    run_async(main())


def test_a_failure_of_our_own_is_an_error_too(caplog: pytest.LogCaptureFixture) -> None:
    """An exception nobody foresaw is logged, told in OpenAI's shape, and leaves nothing."""

    async def broken() -> AsyncIterator[bytes]:
        yield chunk_line("one")
        raise ZeroDivisionError("a secret")

    async def main() -> None:
        async with local(broken) as (http, service):
            whole = await http.post("/v1/chat/completions", json=prompt())
            assert (whole.status_code, error_of(whole)["code"]) == (500, "internal_error")
            streamed = await http.post("/v1/chat/completions", json=prompt(stream=True))
            found = events(streamed.text)
            assert [found[-2]["error"]["code"], found[-1]] == ["internal_error", "[DONE]"]
            assert "a secret" not in whole.text + streamed.text
            assert "a secret" in caplog.text
            assert not service.registry.snapshot().streams

    run_async(main())


@pytest.mark.parametrize("said", [(), ("one",)], ids=["nothing", "a chunk"])
@pytest.mark.parametrize("streamed", [True, False])
def test_a_client_of_ollama_that_just_ends_is_a_cut_answer(
    said: tuple[str, ...], streamed: bool
) -> None:
    """An end without a last chunk is told as `cut`, and is no wait that is over at once for ever.

    The store answers a step late here, as it may: in the meantime the stream holds its session, so
    that the gate ends nothing.
    """

    class JustEnds:
        async def ask(self, request: OllamaRequest, stream: Any, put: Any) -> None:
            for content in said:
                await put(Chunk(content))

    async def main() -> None:
        async with local(two_chunks) as (http, service):
            service._client = JustEnds()
            pop = service.registry.pop

            async def late_pop(trace_id: str) -> None:
                await asyncio.sleep(0)
                await pop(trace_id)

            service.registry.pop = late_pop
            answer = await http.post("/v1/chat/completions", json=prompt(stream=streamed))
            if answer.status_code == 200:
                found = events(answer.text)
                assert [found[-2]["error"]["code"], found[-1]] == ["cut", "[DONE]"]
            else:
                assert (answer.status_code, error_of(answer)["code"]) == (502, "cut")
            assert (streamed and said) or answer.status_code == 502
            await until(lambda: not service.registry.snapshot().streams, "over")

    run_async(main())


def test_an_agent_that_swallows_its_cancel_is_reported_and_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """After 0.5 s (here less) the stop is repeated; the stream stays until it is really over."""
    release = asyncio.Event()
    cancels = []

    async def stubborn() -> AsyncIterator[bytes]:
        yield chunk_line("one")
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                cancels.append(time.monotonic())

    async def main() -> None:
        limits = {"agent_cancel_seconds": 0.05, "grace_seconds": 0.2}
        async with local(stubborn, **limits) as (http, service):
            task = asyncio.create_task(http.post("/v1/chat/completions", json=prompt(stream=True)))
            try:
                await until(lambda: service.streams("key1")[:1], "registered")
                await until(lambda: service.streams("key1")[0]["chunks"], "a chunk")
                trace_id = service.streams("key1")[0]["trace_id"]
                await service.cancel("key1", trace_id)
                # The client hears of it at once, whatever the agent does.
                assert '"code":"cancelled"' in (await task).text
                await until(lambda: len(cancels) >= 2, "told again")
                await until(lambda: service.counts()["detached"], "detached")
                assert f"agent_timeout_on_cancel trace={trace_id}" in caplog.text
                assert service.stream("key1", trace_id)["state"] == "DETACHED"
            finally:
                release.set()
            await until(lambda: not service.registry.snapshot().streams, "over")

    run_async(main())


def test_what_ollama_has_finished_is_still_active_until_it_is_sent() -> None:
    """The last chunks go out while the stream is ACTIVE, and [DONE] after it has ended."""
    seen: list[tuple[str, list[str]]] = []

    async def main() -> None:
        async with local(two_chunks) as (http, service):

            async def send(message: Any) -> None:
                await asyncio.sleep(0.01)
                states = [s.state.name for s in service.registry.snapshot().streams]
                seen.append((message.get("body", b"").decode(), states))

            await call(http, prompt(stream=True), send)
        assert [states for text, states in seen if '"content":"' in text] == [["ACTIVE"]]
        assert [states for text, states in seen if "[DONE]" in text] == [[]]

    run_async(main())


def test_nothing_goes_out_after_a_stop_in_the_same_turn() -> None:
    """A response whose send is over in the very turn of the stop sends no chunk that is queued."""
    sent: list[bytes] = []

    async def body() -> AsyncIterator[bytes]:
        yield chunk_line("before")
        await until(lambda: b"before" in b"".join(sent), "the first is being sent")
        yield chunk_line("after")
        await asyncio.get_running_loop().create_future()

    async def main() -> None:
        go_on = asyncio.Event()

        async def send(message: Any) -> None:
            sent.append(message.get("body", b""))
            if b"before" in sent[-1]:
                await go_on.wait()

        async with local(body) as (http, service):
            task = asyncio.create_task(call(http, prompt(stream=True), send))
            await until(lambda: service.streams("key1")[:1], "registered")
            await until(lambda: service.streams("key1")[0]["chunks"] == 2, "both chunks are here")
            assert b"after" not in b"".join(sent)
            go_on.set()
            await service.cancel("key1", service.streams("key1")[0]["trace_id"])
            await task
            assert b"before" in b"".join(sent)
            assert b"after" not in b"".join(sent)
            assert events(sent[-1].decode())[-2]["error"]["code"] == "cancelled"

    run_async(main())


def test_a_response_that_is_cancelled_stops_its_stream() -> None:
    """Where the server gives a request up, by its own time limit, say, Ollama is let go."""

    async def hang() -> AsyncIterator[bytes]:
        yield chunk_line("one")
        await asyncio.get_running_loop().create_future()

    async def main() -> None:
        async def send(message: Any) -> None: ...

        async with local(hang) as (http, service):
            task = asyncio.create_task(call(http, prompt(stream=True), send))
            await until(lambda: service.counts()["active"], "active")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: not service.registry.snapshot().streams, "over")
            assert not service.connections

    run_async(main())


# ---- the buffer -----------------------------------------------------------------------------


def test_the_writer_waits_for_room_and_for_the_end() -> None:
    """`put` waits when the buffer is full, `drained` until what was taken is settled."""

    async def main() -> None:
        buffer = Buffer(2)
        await buffer.put(Chunk("1"))
        put = asyncio.create_task(buffer.put(Chunk("2")))
        await asyncio.sleep(0)
        assert not put.done()
        assert await buffer.wait(None) is Came.CHUNKS
        assert [chunk.content for chunk in buffer.take()] == ["1", "2"]
        await put
        drained = asyncio.create_task(buffer.drained())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not drained.done()
        buffer.settle()
        await drained
        assert await buffer.wait(0.0) is Came.NOTHING

    run_async(main())


def test_an_error_drops_what_is_queued_and_wakes_both_sides() -> None:
    """After a stop no chunk can be taken; the writer is not left waiting."""

    async def main() -> None:
        buffer, error = Buffer(1), RuntimeError("stopped")
        put = asyncio.create_task(buffer.put(Chunk("1")))
        await asyncio.sleep(0)
        buffer.end(error)
        await put
        assert buffer.take() == []
        assert await buffer.wait(None) is Came.END
        assert buffer.error is error
        buffer.end(None)
        assert buffer.error is error
        await buffer.put(Chunk("late"))
        assert buffer.take() == []

    run_async(main())


# ---- the worker thread ----------------------------------------------------------------------


class SilentOllama:
    """A listener that lets a thread block wherever a test wants it to."""

    def __init__(self, blocked_in: str) -> None:
        self._blocked_in = blocked_in
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(0)
        self.address = "http://{}:{}".format(*self._listener.getsockname())
        self._others: list[socket.socket] = []
        if blocked_in == "connect":
            # A full backlog drops what knocks: the connect gets no answer.
            self._others = [socket.socket() for _ in range(4)]
            for knocking in self._others:
                knocking.setblocking(False)
                knocking.connect_ex(self._listener.getsockname())

    async def block(self) -> None:
        """Until the thread is where it is to be blocked."""
        if self._blocked_in != "connect":
            await self._accept()
        # Long enough to be inside the blocking call.
        await asyncio.sleep(0.1)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        self._listener.setblocking(False)
        connection, _ = await loop.sock_accept(self._listener)
        self._others.append(connection)
        await loop.sock_recv(connection, 65536)
        if self._blocked_in == "read":
            return
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\n\r\n"
        await loop.sock_sendall(connection, head + chunk_line("one"))
        if self._blocked_in == "handover":
            flood = asyncio.create_task(
                loop.sock_sendall(connection, chunk_line("x" * 1000) * 20_000)
            )
            await asyncio.wait({flood}, timeout=0.3)
            assert not flood.done(), "the thread reads no further"
            flood.cancel()

    def close(self) -> None:
        for sock in (self._listener, *self._others):
            sock.close()


@pytest.mark.socket
@pytest.mark.parametrize("blocked_in", ["connect", "read", "midstream", "handover"])
def test_a_stop_wakes_the_thread_at_once(blocked_in: str) -> None:
    """Out of a connect, a read before the headers, one amid the stream, a wait for the loop."""

    async def put(chunk: Chunk) -> None:
        if blocked_in == "handover":
            await asyncio.get_running_loop().create_future()

    async def main() -> None:
        executor = DaemonExecutor(1)
        registry = StreamRegistry(executor=executor)
        ollama = SilentOllama(blocked_in)
        client = ThreadOllama(ollama.address, connect_s=30, read_s=30)

        async def work() -> None:
            async with registry.stream("s", trace_id="t") as stream:
                await client.ask(OllamaRequest("/api/chat", {}), stream, put)

        task = asyncio.create_task(work())
        try:
            await until(lambda: executor.threads, "a thread")
            await ollama.block()
            await registry.cancel("t")
            with pytest.raises(StreamCancelled):
                await task
            # That is, long before connect_s or read_s would have ended it.
            await until(lambda: not registry.snapshot().streams, "ended")
            # The thread tells that its job is over, and then ends.
            await until(lambda: executor.threads == 0, "no thread is left")
        finally:
            ollama.close()

    run_async(main())


@pytest.mark.socket
def test_a_stream_that_waits_for_a_thread_never_calls_ollama_when_it_is_stopped() -> None:
    """A job still queued when its stream is stopped never runs; a full queue is a 503."""

    async def main() -> None:
        executor = DaemonExecutor(1, queue_max=1)
        registry = StreamRegistry(executor=executor)
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        host, port = listener.getsockname()
        client = ThreadOllama(f"http://{host}:{port}", connect_s=30, read_s=30)

        async def put(chunk: Chunk) -> None: ...

        async def work(name: str) -> str:
            try:
                async with registry.stream(name, trace_id=name) as stream:
                    await client.ask(OllamaRequest("/api/chat", {}), stream, put)
            except Exception as exc:
                return getattr(exc, "code", repr(exc))
            return "no error"

        first = asyncio.create_task(work("first"))
        await until(lambda: executor.threads, "a thread")
        second = asyncio.create_task(work("second"))
        await until(lambda: len(registry.snapshot().in_state(State.ACTIVE)) == 2, "both active")
        await asyncio.sleep(0.01)
        assert await work("third") == "no_thread_free"
        await registry.cancel("second")
        assert await second == "cancelled"
        await until(lambda: len(registry.snapshot().streams) == 1, "the second is over")
        await registry.cancel("first")
        assert await first == "cancelled"
        await until(lambda: not executor.threads, "no thread")
        listener.setblocking(False)
        connection, _ = listener.accept()
        with pytest.raises(BlockingIOError):
            listener.accept()
        connection.close()
        listener.close()

    run_async(main())


# ---- the archive ----------------------------------------------------------------------------


def record(trace_id: str, owner: str = "key1", ended_at: float | None = None) -> Record:
    made = Record(trace_id, owner, "s", 0, text_max_chars=5, registered_at=0.0)
    if ended_at is not None:
        made.end("stop", None, ended_at)
    return made


def test_the_archive_is_bounded_by_number_age_and_text() -> None:
    """The oldest ended ones go first, running ones stay, and no owner pushes out another's."""
    archive = Archive(records_max=2, age_s=10.0)
    archive.add(record("running"), 0.0)
    for number in range(4):
        archive.add(record(f"ended-{number}", ended_at=float(number)), 5.0)
    archive.add(record("other", owner="key2", ended_at=1.0), 5.0)
    names = [kept.trace_id for kept in archive.of_owner("key1", 5.0)]
    assert names == ["ended-3", "ended-2", "running"]
    assert archive.get("key1", "other", 5.0) is None
    assert archive.get("key2", "other", 5.0) is not None
    assert [kept.trace_id for kept in archive.of_owner("key1", 12.5)] == ["ended-3", "running"]
    assert archive.of_owner("key2", 12.5) == []
    long = record("long")
    for text in ("abc", "def", "ghi"):
        long.add(Chunk(text), 1.0)
    assert long.text == "abcde"
    assert long.chunks == 3


def test_a_row_that_is_active_says_since_when() -> None:
    """From the step in which it was let in, before its own task has gone on and noted it."""

    async def main() -> None:
        registry = StreamRegistry()
        async with registry.stream("s") as stream:
            now = asyncio.get_running_loop().time()
            made = Record(stream.trace_id, "key1", "s", 0, text_max_chars=5, registered_at=now - 3)
            view = made.view(streams_in(registry.snapshot()), now, with_text=False)
            assert view["state"] == "ACTIVE"
            assert view["timings_ms"]["started"] is not None

    run_async(main())


def test_that_a_model_was_found_is_told_once() -> None:
    """Who shows the streams to others hears of it; of one that the prompt has named, nothing."""
    told: list[str | None] = []
    made = record("found")
    made.on_change = lambda each: told.append(each.model)
    for _ in range(2):
        made.note_model("llama")
    assert told == ["llama"]


@pytest.mark.socket
def test_the_registrys_lines_are_the_notes(caplog: pytest.LogCaptureFixture) -> None:
    """A stream that comes to its own end is started and ended in the log, and nothing else."""
    caplog.set_level(logging.INFO, "onestream.registry")

    async def main() -> None:
        async with local(two_chunks) as (http, _):
            headers = {"x-session-id": "sess-1"}
            answer = await http.post("/v1/chat/completions", json=prompt(), headers=headers)
            trace = answer.headers["x-trace-id"]
            start, end = [
                entry.getMessage() for entry in caplog.records if "registry" in entry.name
            ]
            assert start == f"stream_start trace={trace} trace_id={trace} session=sess-1"
            assert end.startswith(f"stream_end trace={trace} stream_id={trace} session=sess-1 dur")

    run_async(main())
