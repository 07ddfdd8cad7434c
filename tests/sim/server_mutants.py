"""The production server and its clients with one line broken: what the bench has to find.

Each mutant is a function that breaks it through pytest's monkeypatch, named for its bug. MUTANTS
says in which scenario it is refuted, and by which property.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from registry import StopSignal, Stream, StreamRegistry
from server.archive import Archive, Record
from server.connection import ClientStalled, Connection
from server.ollama import Chunk, ChunkReader
from server.ollama_thread import ThreadOllama
from server.response import ChatResponse
from server.security import Keys
from server.service import Service
from server.sse import DONE
from server.stream_task import StreamTask
from server.wakeable import Wake

Patch = pytest.MonkeyPatch
Mutant = Callable[[Patch], None]


async def nothing(*arguments: object) -> None:
    pass


# ---- the gate, and what clients are told ----------------------------------------------------


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
    def end(self: ChunkReader) -> Iterator[Chunk]:
        yield from self._chunks(self._lines.rest())

    patch.setattr(ChunkReader, "end", end)


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

    def call_with_a_signal_of_its_own(self: ThreadOllama, content: bytes, _: Any, to: Any) -> None:
        call(self, content, StopSignal(), to)

    patch.setattr(ThreadOllama, "_call", call_with_a_signal_of_its_own)


def agent_is_not_ended_before_pop(patch: Patch) -> None:
    patch.setattr(StreamTask, "_end_agent", nothing)


def connection_is_not_closed_on_cancel(patch: Patch) -> None:
    @asynccontextmanager
    async def stream(self: httpx.AsyncClient, *what: str, **how: Any) -> AsyncIterator[Any]:
        response = await self.send(self.build_request(*what, **how), stream=True)
        yield response
        # Without a `finally`.
        await response.aclose()

    patch.setattr(httpx.AsyncClient, "stream", stream)


def thread_is_not_counted(patch: Patch) -> None:
    patch.setattr(Stream, "is_over", property(lambda self: self._task_over))


def leaving_is_not_heard(patch: Patch) -> None:
    patch.setattr(ChatResponse, "_client_left", nothing)


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


# ---- the rest -------------------------------------------------------------------------------


def watcher_is_never_cancelled(patch: Patch) -> None:
    async def call(self: ChatResponse, scope: Any, receive: Any, send: Any) -> None:
        connection = Connection(scope, receive, send, send_s=self._settings.send_seconds)
        trace_id = self._work.trace_id
        task = self._work.start()
        watch = connection.watch(self._client_left)
        watcher = asyncio.create_task(watch, name=f"watch-{trace_id}")
        self._connections.add(connection)
        try:
            await self._answer_or_error(connection, task)
        except ClientStalled:
            await self._registry.cancel(trace_id, "client_not_reading")
            connection.abort()
        finally:
            # Here production cancels it.
            assert watcher
            self._connections.discard(connection)
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


MUTANTS: tuple[tuple[Mutant, str, str], ...] = (
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
    (thread_is_not_counted, "stuck_lookup.thread", "L3 no_leak"),
    (leaving_is_not_heard, "queued_job.thread", "a job stopped in the queue never runs"),
    (silence_has_no_limit, "silence.thread", "L6 silence"),
    (silence_after_a_chunk_is_not_counted, "silence.thread", "L6 silence"),
    (send_has_no_limit, "shutdown.async", "L4 no_deadlock"),
    (body_has_no_limit, "half_sent.async", "L4 no_deadlock"),
    (watcher_is_never_cancelled, "shutdown.async", "L4 no_deadlock"),
    (keys_share_their_sessions, "two_keys.async", "S6 isolation"),
    (streams_of_other_keys_are_shown, "stop_is_pressed.async", "another key's stream is not there"),
    (shutdown_closes_nothing, "stuck_lookup.thread", "L3 no_leak"),
)
