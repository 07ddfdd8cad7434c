"""The HTTP response of one chat: registers the stream, drains its buffer through the gate.

A plain ASGI response: it alone reads `receive`, it bounds every send, and it owns nothing but
the connection to the client. When it ends, for any reason, it cancels the stream by name.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, MutableMapping
from functools import partial

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from registry import Strategy, Stream, StreamError, TraceIdKnown
from registry.attempts import Attempt
from registry.patience import over_within
from server.answer import Answer
from server.buffer import Came
from server.connection import ClientStalled, Connection
from server.errors import ApiError, as_api_error
from server.lines import line
from server.ollama import cut_error
from server.registries import Registry
from server.repeats import Repetitions
from server.settings import Settings
from server.stream_task import StreamTask

_logger = logging.getLogger("onestream.server")

STREAM_HEADERS = {
    # Proxies that compress would hold a stream back.
    "cache-control": "no-cache, no-transform",
    "x-accel-buffering": "no",
}


class ChatResponse(Response):
    """Answers one prompt, as messages or as one object, or with the error that ended it.

    connections: its key is the connection, while it is open, for the server's shut-down.
    """

    def __init__(
        self,
        *,
        session_id: str,
        strategy: Strategy,
        task: StreamTask,
        answer: Answer,
        streamed: bool,
        registry: Registry,
        settings: Settings,
        connections: MutableMapping[Connection, None],
        headers: Mapping[str, str],
        repeats: Repetitions,
        attempt: Attempt,
    ) -> None:
        self.status_code = 200
        self.background = None
        self._session_id = session_id
        self._strategy = strategy
        self._work = task
        self._buffer = task.buffer
        self._answer = answer
        self._streamed = streamed
        self._registry = registry
        self._settings = settings
        self._connections = connections
        # Of an answer, besides those of its form.
        self._more_headers = headers
        self._repeats = repeats
        self._attempt = attempt
        # All of the answer was handed over.
        self._is_whole = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection = Connection(scope, receive, send, send_s=self._settings.send_seconds)
        trace_id = self._work.trace_id
        task = self._work.start()
        watch = connection.watch(self._client_left)
        watcher = asyncio.create_task(watch, name=f"watch-{trace_id}")
        self._connections[connection] = None
        try:
            await self._answer_or_error(connection, task)
        except ClientStalled as exc:
            _logger.warning(line("client_stalled", str(exc), trace=trace_id))
            await self._registry.cancel(trace_id, "client_not_reading")
            await connection.abort()
        finally:
            watcher.cancel()
            del self._connections[connection]
            now = asyncio.get_running_loop().time()
            self._repeats.over(self._session_id, trace_id, now, is_whole=self._is_whole)
            # No effect on a stream that has ended by itself.
            await self._registry.cancel(trace_id, "response_over")

    async def _client_left(self) -> None:
        # A client that has all of the answer and closes stops nothing: the stream ends by itself.
        if not self._is_whole:
            await self._registry.cancel(self._work.trace_id, "client_left")

    async def _answer_or_error(self, connection: Connection, task: asyncio.Task[None]) -> None:
        head_deadline = asyncio.get_running_loop().time() + self._settings.head_hold_seconds
        try:
            stream = await self._registered(connection, task, head_deadline)
            if self._streamed:
                await self._send_messages(connection, stream, task, head_deadline)
            else:
                await self._send_whole(connection, stream, task)
        except ClientStalled:
            raise
        except Exception as exc:
            if not isinstance(exc, (ApiError, StreamError)):
                _logger.exception(line("response_failed", trace=self._work.trace_id))
            await self._send_error(connection, as_api_error(exc))

    async def _registered(
        self, connection: Connection, task: asyncio.Task[None], head_deadline: float
    ) -> Stream:
        """Registers; a client whose prompt waits in a queue gets pings meanwhile."""
        if self._strategy is not Strategy.ENQUEUE or not self._streamed or not self._answer.ping:
            return await self._register(task)
        name = f"register-{self._work.trace_id}"
        registering = asyncio.create_task(self._register(task), name=name)
        try:
            await self._ping_while_waiting(connection, registering, head_deadline)
        except BaseException:
            # The end of this wait ends the register: its stream leaves the queue.
            registering.cancel()
            await asyncio.wait({registering})
            raise
        return registering.result()

    async def _ping_while_waiting(
        self, connection: Connection, registering: asyncio.Task[Stream], head_deadline: float
    ) -> None:
        wait_s = max(head_deadline - asyncio.get_running_loop().time(), 0)
        while True:
            await asyncio.wait({registering}, timeout=wait_s)
            if registering.done():
                return
            if connection.has_begun:
                await connection.body(self._answer.ping)
            else:
                await self._begin(connection)
            wait_s = self._settings.ping_seconds

    async def _begin(
        self, connection: Connection, stream: Stream | None = None, *, body_follows: bool = False
    ) -> None:
        """stream: once it is let in."""
        content_type = {"content-type": self._answer.content_type}
        headers = {**content_type, **STREAM_HEADERS, **self._headers_for(stream)}
        await connection.begin(200, headers, body_follows=body_follows)

    def _headers_for(self, stream: Stream | None) -> Mapping[str, str]:
        if stream is None or not self._settings.shares_sessions:
            # The tokens of one process begin anew with it: nobody could fence with them.
            return self._more_headers
        return {**self._more_headers, "x-fencing-token": str(stream.fencing_token)}

    async def _register(self, task: asyncio.Task[None]) -> Stream:
        """The note's register, with the task behind its gate until it has answered."""
        trace_id = self._work.trace_id
        entry = {
            "trace_id": trace_id,
            "session_id": self._session_id,
            "task": task,
            "strategy": self._strategy,
            "attempt": self._attempt,
        }
        now = asyncio.get_running_loop().time()
        try:
            self._repeats.admit(
                self._session_id,
                trace_id,
                self._attempt,
                now,
                interrupts=self._strategy is Strategy.INTERRUPT,
            )
            stream = await self._registry.register(entry)
        except BaseException as exc:
            self._work.reject(exc)
            task.cancel()
            await asyncio.wait({task})
            if not isinstance(exc, TraceIdKnown):
                # The stream that has this trace id is another's: it must not be popped here.
                await self._registry.pop(trace_id)
            raise
        self._work.open(stream)
        return stream

    # -- one object

    async def _send_whole(
        self, connection: Connection, stream: Stream, task: asyncio.Task[None]
    ) -> None:
        while not self._answer.is_complete:
            await self._next_chunks(None)
            for chunk in self._buffer.take():
                self._answer.gather(chunk)
            if not self._answer.is_complete:
                # The client does not have it yet, but here it waits only for the rest.
                self._buffer.settle()
        self._answer.model = self._work.record.model or ""

        send = partial(connection.json, 200, headers=self._headers_for(stream))
        await stream.emit(send, self._answer.whole())
        await self._settle_and_end(task)
        await connection.end()

    # -- messages

    async def _send_messages(
        self,
        connection: Connection,
        stream: Stream,
        task: asyncio.Task[None],
        head_deadline: float,
    ) -> None:
        answer = self._answer
        held_s: float | None = head_deadline - asyncio.get_running_loop().time()
        ping_s: float | None = self._settings.ping_seconds
        if not answer.ping:
            # A form that has only chunks: its head comes with the first of them.
            held_s = ping_s = None
        has_waited = connection.has_begun
        if not has_waited:
            has_chunks = await self._next_chunks(held_s and max(held_s, 0))
            await self._begin(connection, stream, body_follows=has_chunks)
        answer.model = self._work.record.model or ""
        # The last ping in the queue may be nearly as long ago as one is from the next.
        if first := answer.begin() or (answer.ping if has_waited else b""):
            await connection.body(first)
        while not answer.is_complete:
            if await self._next_chunks(ping_s):
                await stream.emit(connection.body, self._messages())
                self._buffer.settle()
            else:
                await connection.body(answer.ping)
        await self._settle_and_end(task)
        await connection.end(answer.last)

    async def _settle_and_end(self, task: asyncio.Task[None]) -> None:
        """The whole answer is sent: gives the stream's task the time to end by itself.

        A client may send its next prompt as soon as it has read the last message: that prompt
        should find no stream to stop.
        """
        self._is_whole = True
        self._repeats.answered(self._work.trace_id)
        self._buffer.settle()
        await over_within(task, self._settings.agent_cancel_seconds)

    async def _next_chunks(self, timeout_s: float | None) -> bool:
        """Whether there are chunks to take. Raises what ended the stream without an answer."""
        came = await self._buffer.wait(timeout_s)
        if self._buffer.error is not None:
            # Another each time: what is raised refers to where, and so to all of this.
            raise as_api_error(self._buffer.error).again()
        if came is Came.END:
            # Both clients say themselves what was cut. To wait on would be to turn for ever: the
            # end is there at once, however often it is waited for.
            raise cut_error("it ended without a last chunk")
        return came is Came.CHUNKS

    def _messages(self) -> bytes:
        self._answer.model = self._work.record.model or ""
        return b"".join(self._answer.encoded(chunk) for chunk in self._buffer.take())

    # -- an error

    async def _send_error(self, connection: Connection, error: ApiError) -> None:
        """With its status if no header was sent, else as a message: never a bare end."""
        if not connection.has_begun:
            await connection.error(error)
        elif self._streamed:
            await connection.end(self._answer.error(error))
