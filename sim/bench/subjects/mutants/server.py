"""The server and its clients with one line broken, each a function that is named for its bug."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx

import server.service
from registry import StopSignal, Strategy, Stream, StreamRegistry
from server.answer import Answer
from server.archive import Archive, Record
from server.buffer import Buffer
from server.connection import ClientStalled, Connection
from server.errors import ApiError
from server.ollama import Chunk, ChunkReader
from server.ollama_async import AsyncOllama
from server.ollama_thread import ThreadOllama, _Handover
from server.repeats import Repeats
from server.response import ChatResponse
from server.security import Keys
from server.service import Service
from server.sse import DONE, PING, message
from server.stream_task import StreamTask
from server.wakeable import Wake
from sim.bench.harness.http_judgements import HEARD
from sim.bench.harness.server_judgements import BACK_PRESSURE, PROMPT
from sim.bench.scenarios.server_level.clients import SLOW
from sim.bench.scenarios.server_level.retries import NEWER_WHOLE, RANK_KEPT
from sim.bench.scenarios.server_level.strategies import HEARS
from sim.bench.subjects.mutants.base import Break, Mutant, Patch


async def nothing(*arguments: object) -> None:
    pass


# ---- the gate, and what clients get ---------------------------------------------------------


def gate_is_not_asked(patch: Patch) -> None:
    async def emit(self: Stream, send: Callable[[Any], Awaitable[None]], content: object) -> None:
        await send(content)

    patch.setattr(Stream, "emit", emit)


def error_is_a_bare_end(patch: Patch) -> None:
    async def send_error(self: ChatResponse, connection: Connection, error: Any) -> None:
        await (connection.end() if connection.has_begun else connection.error(error))

    patch.setattr(ChatResponse, "_send_error", send_error)


def error_is_swallowed(patch: Patch) -> None:
    async def send_error(self: ChatResponse, connection: Connection, error: Any) -> None:
        if not connection.has_begun:
            await connection.error(error)
            return
        await connection.body(DONE)
        await connection.end()

    patch.setattr(ChatResponse, "_send_error", send_error)


def cut_answer_counts_as_whole(patch: Patch) -> None:
    """Neither Ollama's client finds the last chunk missing nor the response: each is enough."""
    next_chunks = ChatResponse._next_chunks

    def end(self: ChunkReader) -> Iterator[Chunk]:
        yield from self._chunks(self._lines.rest())

    async def none_is_missing(self: ChatResponse, timeout_s: float | None) -> bool:
        try:
            return await next_chunks(self, timeout_s)
        except ApiError as exc:
            if exc.code != "cut":
                raise
            self._answer.is_complete = True
            return False

    patch.setattr(ChunkReader, "end", end)
    patch.setattr(ChatResponse, "_next_chunks", none_is_missing)


# ---- what a stop reaches --------------------------------------------------------------------


def flag_is_never_read(patch: Patch) -> None:
    patch.setattr(StopSignal, "is_set", lambda self: False)


def blocked_read_is_not_woken(patch: Patch) -> None:
    patch.setattr(Wake, "cut", lambda self: None)


def stop_before_the_connect_is_missed(patch: Patch) -> None:
    patch.setattr(Wake, "hold", lambda self, sock: setattr(self, "_socket", sock))


def thread_is_not_signalled(patch: Patch) -> None:
    """Neither by the stop nor by the client's `finally`: each alone is enough."""
    call = ThreadOllama._call

    def call_with_a_signal_of_its_own(self: ThreadOllama, what: Any, _: Any, to: Any) -> None:
        call(self, what, StopSignal(), to)

    patch.setattr(ThreadOllama, "_call", call_with_a_signal_of_its_own)


def agent_is_not_ended_before_pop(patch: Patch) -> None:
    """The task that asks Ollama goes on when its stream is popped and the next one is let in."""
    patch.setattr(StreamTask, "_end_agent", nothing)


def connection_is_not_closed_on_cancel(patch: Patch) -> None:
    @asynccontextmanager
    async def asked(
        self: AsyncOllama,
        method: str,
        path: str,
        content: bytes,
        headers: Mapping[str, str],
        more: Mapping[str, Any] | None = None,
    ) -> AsyncIterator[httpx.Response]:
        limits = {**self._limits, **(more or {})}
        request = httpx.Request(
            method, self._url(path), headers=headers, content=content, extensions=limits
        )
        response = await self._new_transport().handle_async_request(request)
        yield response
        # Without a `finally`.
        await response.aclose()

    patch.setattr(AsyncOllama, "_asked", asked)


def thread_is_not_counted(patch: Patch) -> None:
    patch.setattr(Stream, "is_over", property(lambda self: self._task_over))


def stop_is_put_off(patch: Patch) -> None:
    """Our end of the connection is shut only 0.3 s after the stop."""
    ask = AsyncOllama.ask

    async def put_off(self: AsyncOllama, *arguments: Any) -> None:
        reading = asyncio.ensure_future(ask(self, *arguments))
        try:
            await asyncio.shield(reading)
        except asyncio.CancelledError:
            await asyncio.sleep(0.3)
            reading.cancel()
            await asyncio.wait({reading})
            raise

    patch.setattr(AsyncOllama, "ask", put_off)


def agent_is_awaited_for_its_patience_only(patch: Patch) -> None:
    async def end_agent(self: StreamTask) -> None:
        agent = self._agent
        while agent is not None and not agent.done():
            agent.cancel()
            try:
                await asyncio.wait({agent}, timeout=self._settings.agent_cancel_seconds)
            except asyncio.CancelledError:
                continue
            # Here production goes on to wait.
            return

    patch.setattr(StreamTask, "_end_agent", end_agent)


def agent_is_awaited_until_the_next_cancel_only(patch: Patch) -> None:
    async def end_agent(self: StreamTask) -> None:
        if self._agent is not None and not self._agent.done():
            self._agent.cancel()
            await asyncio.wait({self._agent})

    patch.setattr(StreamTask, "_end_agent", end_agent)


def leaving_is_not_heard(patch: Patch) -> None:
    patch.setattr(ChatResponse, "_client_left", nothing)


# ---- back-pressure, and chunks on their way ---------------------------------------------------


def thread_gets_no_room_back(patch: Patch) -> None:
    patch.setattr(_Handover, "settle", lambda self: None)


def thread_without_room_is_not_woken(patch: Patch) -> None:
    patch.setattr(_Handover, "wake", lambda self: None)


def landed_chunks_wake_nobody(patch: Patch) -> None:
    patch.setattr(_Handover, "_land", lambda self, chunks: self._landed.append(chunks))


def chunks_are_read_without_bound(patch: Patch) -> None:
    async def put(self: Buffer, chunk: Chunk) -> None:
        if not self.is_over:
            self._chunks.append(chunk)
            if self._reader is not None and not self._reader.done():
                self._reader.set_result(None)

    patch.setattr(Buffer, "put", put)


def buffered_chunks_wake_nobody(patch: Patch) -> None:
    async def put(self: Buffer, chunk: Chunk) -> None:
        self._chunks.append(chunk)
        while len(self._chunks) >= self._chunks_max and not self.is_over:
            await self._writer_waits()

    patch.setattr(Buffer, "put", put)


def rest_is_not_waited_for(patch: Patch) -> None:
    patch.setattr(Buffer, "drained", nothing)


# ---- limits ---------------------------------------------------------------------------------


def silence_has_no_limit(patch: Patch) -> None:
    patch.setattr(StreamTask, "_silence_limit_s", lambda self: 1e9)


def silence_after_a_chunk_is_not_counted(patch: Patch) -> None:
    put = StreamTask._put

    async def put_and_forget(self: StreamTask, chunk: Chunk) -> None:
        await put(self, chunk)
        self._silent_since = None

    patch.setattr(StreamTask, "_put", put_and_forget)


def send_has_no_limit(patch: Patch) -> None:
    async def unbounded(self: Connection, message: Any) -> None:
        await self._send(message)

    patch.setattr(Connection, "_bounded", unbounded)


def body_has_no_limit(patch: Patch) -> None:
    @asynccontextmanager
    async def limit(self: Service, seconds: float) -> AsyncIterator[None]:
        yield

    patch.setattr(Service, "limit", limit)


def stream_has_no_limit(patch: Patch) -> None:
    watch = StreamTask._watch
    patch.setattr(StreamTask, "_watch", lambda self, agent, _: watch(self, agent, 1e9))


def silence_has_no_pings(patch: Patch) -> None:
    next_chunks = ChatResponse._next_chunks
    patch.setattr(ChatResponse, "_next_chunks", lambda self, _: next_chunks(self, None))


def pings_are_content(patch: Patch) -> None:
    patch.setattr(Answer, "ping", message({"choices": [{"delta": {"content": " "}}]}))


def pings_go_on_after_the_end(patch: Patch) -> None:
    end = Connection.end

    async def end_and_ping(self: Connection) -> None:
        await end(self)
        await self.body(PING)

    patch.setattr(Connection, "end", end_and_ping)


# ---- repetitions ----------------------------------------------------------------------------


def repetition_is_a_new_prompt(patch: Patch) -> None:
    patch.setattr(Repeats, "admit", lambda self, *what, **how: None)


def repetition_has_a_new_rank(patch: Patch) -> None:
    admit = Repeats.admit

    def admit_as_the_newest(
        self: Repeats, session_id: str, trace_id: str, *what: Any, **how: Any
    ) -> None:
        admit(self, session_id, trace_id, *what, **how)
        asked = self._sessions[session_id]
        newest = asked[-1].rank + 1
        ranked = [replace(e, rank=newest) if e.stream == trace_id else e for e in asked]
        self._sessions[session_id] = tuple(sorted(ranked, key=lambda each: each.rank))

    patch.setattr(Repeats, "admit", admit_as_the_newest)


# ---- a busy session that is not interrupted -----------------------------------------------------


def strategy_is_not_read(patch: Patch) -> None:
    patch.setattr(server.service, "strategy_of", lambda *_: Strategy.INTERRUPT)


def queue_has_no_pings(patch: Patch) -> None:
    patch.setattr(ChatResponse, "_registered", lambda self, _, task, __: self._register(task))


# ---- the rest -------------------------------------------------------------------------------


def watcher_is_never_cancelled(patch: Patch) -> None:
    async def call(self: ChatResponse, scope: Any, receive: Any, send: Any) -> None:
        connection = Connection(scope, receive, send, send_s=self._settings.send_seconds)
        trace_id = self._work.trace_id
        task = self._work.start()
        watch = connection.watch(self._client_left)
        watcher = asyncio.create_task(watch, name=f"watch-{trace_id}")
        self._connections[connection] = None
        try:
            await self._answer_or_error(connection, task)
        except ClientStalled:
            await self._registry.cancel(trace_id, "client_not_reading")
            await connection.abort()
        finally:
            # Here production cancels it.
            assert watcher
            del self._connections[connection]
            await self._registry.cancel(trace_id, "response_over")

    patch.setattr(ChatResponse, "__call__", call)


def keys_share_their_sessions(patch: Patch) -> None:
    patch.setattr(Keys, "namespace", lambda self, owner, session_id: session_id)


def streams_of_other_keys_are_shown(patch: Patch) -> None:
    def get(self: Archive, owner: str, trace_id: str, now: float) -> Record | None:
        return next((each[trace_id] for each in self._records.values() if trace_id in each), None)

    patch.setattr(Archive, "get", get)


def shutdown_closes_nothing(patch: Patch) -> None:
    patch.setattr(StreamRegistry, "close", nothing)


KILLED: tuple[tuple[Break, str, str], ...] = (
    (gate_is_not_asked, "second_prompt.async", "S2 only_active_emits"),
    (error_is_a_bare_end, "second_prompt.async", "every client that stays is told the end"),
    (error_is_swallowed, "hung_upstream.async", "prompt 1 is told"),
    (cut_answer_counts_as_whole, "upstream_errors.async", "the error is told"),
    (flag_is_never_read, "second_prompt.thread", "L2 prompt_stop"),
    (blocked_read_is_not_woken, "second_prompt.thread", "L2 prompt_stop"),
    (stop_before_the_connect_is_missed, "second_prompt.thread", "L2 prompt_stop"),
    (thread_is_not_signalled, "second_prompt.thread", "L2 prompt_stop"),
    (agent_is_not_ended_before_pop, "second_prompt.async", "S3 no_silent_overlap"),
    (connection_is_not_closed_on_cancel, "second_prompt.async", "S3 no_silent_overlap"),
    (stop_is_put_off, "second_prompt.async", "L2 prompt_stop"),
    (agent_is_awaited_for_its_patience_only, "slow_close.async", "S3 no_silent_overlap"),
    (agent_is_awaited_until_the_next_cancel_only, "slow_close.async", "S3 no_silent_overlap"),
    (thread_is_not_counted, "stuck_lookup.thread", "L3 no_leak"),
    (leaving_is_not_heard, "queued_job.thread", "a job stopped in the queue never runs"),
    (leaving_is_not_heard, "leaves_a_hung_stream.async", "who leaves leaves nothing running"),
    (leaving_is_not_heard, "leaves_a_hung_stream.thread", "who leaves leaves nothing running"),
    (thread_gets_no_room_back, "full_buffers.thread", PROMPT),
    (thread_without_room_is_not_woken, "full_buffers.thread", "a stream that nobody reads ends"),
    (landed_chunks_wake_nobody, "second_prompt.thread", PROMPT),
    (chunks_are_read_without_bound, "full_buffers.async", BACK_PRESSURE),
    (chunks_are_read_without_bound, "full_buffers.thread", BACK_PRESSURE),
    (buffered_chunks_wake_nobody, "second_prompt.async", PROMPT),
    (rest_is_not_waited_for, "slow_reader.async", SLOW),
    (rest_is_not_waited_for, "slow_reader.thread", SLOW),
    (stream_has_no_limit, "endless.async", "an endless stream ends with a clear error"),
    (silence_has_no_pings, "silence.async", HEARD),
    (pings_go_on_after_the_end, "silence.async", "nothing is sent after the end of an answer"),
    (pings_are_content, "silence.async", "pings are no content"),
    (silence_has_no_limit, "silence.thread", "L6 silence"),
    (silence_after_a_chunk_is_not_counted, "silence.thread", "L6 silence"),
    (send_has_no_limit, "shutdown.async", "L4 no_deadlock"),
    (body_has_no_limit, "half_sent.async", "L4 no_deadlock"),
    (repetition_is_a_new_prompt, "repeated.async", NEWER_WHOLE),
    (repetition_has_a_new_rank, "both_repeated.async", RANK_KEPT),
    (watcher_is_never_cancelled, "shutdown.async", "L4 no_deadlock"),
    (strategy_is_not_read, "rejected.async", "who is rejected stops nobody"),
    (queue_has_no_pings, "enqueued.async", HEARS),
    (leaving_is_not_heard, "full_queue.async", "who leaves leaves the queue"),
    (keys_share_their_sessions, "two_keys.async", "S6 isolation"),
    (streams_of_other_keys_are_shown, "stop_is_pressed.async", "another key's stream is not there"),
    (shutdown_closes_nothing, "stuck_lookup.thread", "L3 no_leak"),
)


_SCENARIOS_BY_BREAK: dict[Break, tuple[str, ...]] = {}
for _breaks, _scenario, _ in KILLED:
    _SCENARIOS_BY_BREAK[_breaks] = (*_SCENARIOS_BY_BREAK.get(_breaks, ()), _scenario)

SERVER_MUTANTS = tuple(
    Mutant("server", breaks, likely) for breaks, likely in _SCENARIOS_BY_BREAK.items()
)
