"""The stream's own task: it owns the call to Ollama, watches its limits, and cleans up after it.

It is the `task` of the note's register entry. The request handler creates it behind a gate,
opens the gate when register has answered, and drains the buffer; it never owns the upstream,
so a client that leaves, or a response that is never started, leaves nothing open.

Two tasks, as in the note: the agent reads Ollama and fills the buffer, the stream's task watches
it. A cancel that the agent is slow to obey is thereby seen, reported and repeated, and a limit
needs no timer per chunk.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable

from registry import (
    QueueFull,
    QueueTimeout,
    Repetition,
    SessionBusy,
    SessionsUnavailable,
    State,
    Stream,
    StreamCancelled,
    StreamError,
    StreamRefused,
    StreamSuperseded,
)
from registry.patience import caught_up, late_by, over_within
from server.archive import Record, Way
from server.buffer import Buffer
from server.errors import ApiError, as_api_error
from server.events import Events
from server.lines import line
from server.ollama import Chunk, OllamaClient, OllamaRequest
from server.refusals import log_failed
from server.registries import Registry
from server.settings import Settings

_logger = logging.getLogger("onestream.server")


# Raised by register: the prompt was never let in, and the registry says nothing of why.
_WITHOUT_A_LINE = (
    *(StreamRefused, SessionsUnavailable),
    *(SessionBusy, QueueFull, QueueTimeout, Repetition),
)


class StreamTask:
    """One call to Ollama, from the opened gate until it is over.

    request: without a `model` in its body, the one that `pick_model` answers is asked for.
    """

    def __init__(
        self,
        *,
        trace_id: str,
        request: OllamaRequest,
        client: OllamaClient,
        pick_model: Callable[[], Awaitable[str]],
        registry: Registry,
        settings: Settings,
        buffer: Buffer,
        record: Record,
        events: Events,
    ) -> None:
        self.trace_id = trace_id
        self.buffer = buffer
        self.record = record
        self._request = request
        self._client = client
        self._pick_model = pick_model
        self._registry = registry
        self._settings = settings
        self._events = events
        # Opened when register has answered; the task does nothing before.
        self._gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # Set with the gate, and read where a stop overtakes the opened gate.
        self._stream: Stream | None = None
        self._agent: asyncio.Task[None] | None = None
        # Since when Ollama owes the next chunk; None while the agent waits for the client.
        self._silent_since: float | None = None
        # By how many seconds of that silence this process was late itself, which do not count.
        self._stood_still_s = 0.0

    def open(self, stream: Stream) -> None:
        """Register has answered: the work may begin."""
        self._stream = stream
        if not self._gate.done():
            self._gate.set_result(None)

    def reject(self, error: BaseException) -> None:
        """Register has raised: this stream was never active, and its task is about to be ended."""
        answer = as_api_error(error)
        if isinstance(error, _WITHOUT_A_LINE):
            log_failed(self._events, self.trace_id, answer)
        if isinstance(error, asyncio.CancelledError):
            answer = ApiError(400, "cancelled", "the caller of its register has left")
        now = asyncio.get_running_loop().time()
        way = _way_of(error, was_let_in=False)
        self.record.end(answer.code, answer.message, now, way, _newer_than(error))

    def start(self) -> asyncio.Task[None]:
        """Makes the task, which waits at the gate."""
        task = asyncio.create_task(self._run(), name=f"stream-{self.trace_id}")
        task.add_done_callback(self._task_over)
        return task

    def _task_over(self, task: asyncio.Task[None]) -> None:
        # A task that is cancelled before its first step runs none of its code, `finally` neither.
        if not self.buffer.is_over:
            self._report((self._stream and self._stream.stop_error) or asyncio.CancelledError())

    async def _run(self) -> None:
        """The note's generator, with its `finally`: cancel the agent task, then pop.

        Raises nothing: the buffer gets the error.
        """
        error: BaseException | None = None
        try:
            await self._gate
            assert self._stream is not None
            await self._work(self._stream)
        except asyncio.CancelledError as exc:
            error = (self._stream and self._stream.stop_error) or exc
        except ApiError as exc:
            error = exc
        except Exception as exc:
            _logger.exception(line("stream_failed", trace=self.trace_id))
            error = exc
        finally:
            # First: the client must not wait for the clean-up.
            self._report(error)
            if self._stream is not None:
                await self._end_agent()
                await self._registry.pop(self.trace_id)
            self._forget(error)

    def _forget(self, error: BaseException | None) -> None:
        """The places where it was raised hold all that there was, a body of megabytes too.

        They hold the error as well, so that only the garbage collector would free them.
        """
        self._agent = None
        if error is not None:
            error.__traceback__ = None

    def _report(self, error: BaseException | None) -> None:
        now = asyncio.get_running_loop().time()
        self.buffer.end(error)
        if error is None:
            self.record.end("stop", None, now, Way.FINISHED)
        else:
            answer = as_api_error(error)
            way = _way_of(error, was_let_in=True)
            self.record.end(answer.code, answer.message, now, way, _newer_than(error))
            if isinstance(error, ApiError):
                # All others have a line already: the registry's, or a traceback.
                log_failed(self._events, self.trace_id, answer)

    # -- the agent task

    async def _work(self, stream: Stream) -> None:
        """Runs the agent to its end, within the limits; raises what it raised."""
        now = asyncio.get_running_loop().time()
        self.record.started_at = self._silent_since = now
        self._agent = asyncio.create_task(self._read(stream), name=f"agent-{self.trace_id}")
        await self._watch(self._agent, now + self._settings.total_seconds)
        self._agent.result()

    async def _read(self, stream: Stream) -> None:
        request = self._request
        if "model" not in request.body:
            request = request.with_model(await self._pick_model())
        self.record.note_model(request.body["model"])
        # A worker that stood still may have lost the session since its prompt was let in.
        stream.raise_if_stopped()
        try:
            await self._client.ask(request, stream, self._put)
        except Exception:
            # What came before the failure goes out before it.
            await self._drain()
            raise
        await self._drain()

    async def _drain(self) -> None:
        # Ollama is done, the client perhaps not; only an ACTIVE stream may hand on the rest.
        self._silent_since = None
        await self.buffer.drained()

    async def _put(self, chunk: Chunk) -> None:
        loop = asyncio.get_running_loop()
        self._silent_since = None
        self.record.add(chunk, loop.time())
        if chunk.done_reason is not None:
            self.record.note_reason(chunk.done_reason)
        await self.buffer.put(chunk)
        self._silent_since, self._stood_still_s = loop.time(), 0.0

    async def _watch(self, agent: asyncio.Task[None], total_deadline: float) -> None:
        """Returns when the agent is over; raises ApiError when it has used up a limit."""
        loop = asyncio.get_running_loop()
        # What begins while this sleeps has a limit of its own: a later silence, or a wait for a
        # thread. It may be up before the one that runs.
        step_s = min(self._settings.stream_inactivity_seconds, self._settings.thread_wait_seconds)
        while not agent.done():
            now = loop.time()
            silence_deadline = self._silence_deadline()
            if now >= silence_deadline:
                raise self._silent_error()
            if now >= total_deadline:
                raise self._total_error()
            deadline = min(total_deadline, silence_deadline, now + step_s)
            await asyncio.wait({agent}, timeout=deadline - now)
            if late_s := late_by(deadline):
                self._stood_still_s += late_s
                await caught_up()

    def _silence_deadline(self) -> float:
        """Read again whenever it seems to be up: a thread that begins its work postpones it."""
        if self._silent_since is None:
            return math.inf
        assert self._stream is not None
        if self._stream.is_queued:
            return self._silent_since + self._settings.thread_wait_seconds
        # Ollama owes nothing before it is asked.
        asked_at = max(self._silent_since, self._stream.thread_began_at or self._silent_since)
        return asked_at + self._stood_still_s + self._silence_limit_s()

    def _silence_limit_s(self) -> float:
        if self.record.first_chunk_at is None:
            return self._settings.first_chunk_seconds
        return self._settings.stream_inactivity_seconds

    async def _end_agent(self) -> None:
        """Cancels the agent and waits until it is over, however often it has to be cancelled.

        The stream has ended only when its upstream has. The wait has no bound of its own: the
        registry lets the next prompt in when the grace is over, and counts this stream on.
        """
        agent = self._agent
        if agent is None:
            return
        patience_s: float | None = self._settings.agent_cancel_seconds
        while not agent.done():
            agent.cancel()
            try:
                is_over = await over_within(agent, patience_s)
            except asyncio.CancelledError:
                continue
            if not is_over:
                _logger.warning(
                    line("agent_timeout_on_cancel", trace=self.trace_id, after_s=patience_s)
                )
                patience_s = None
        if not agent.cancelled():
            # Retrieved, so that asyncio doesn't log it as lost; `_work` raises it if it matters.
            agent.exception()

    # -- what its limits say

    def _silent_error(self) -> ApiError:
        limit_s = self._silence_limit_s()
        if self._stream is not None and self._stream.is_queued:
            # Ollama was not asked: the silence is ours.
            return ApiError(
                503,
                "no_thread_free",
                f"this stream has waited {self._settings.thread_wait_seconds:g} s for a thread of "
                f"ours (JARVIS_THREAD_WAIT_SECONDS): all {self._settings.threads_max} are busy "
                f"(JARVIS_THREADS_MAX); send the prompt later, or use "
                f"JARVIS_OLLAMA_CLIENT=async, which needs none",
            )
        name = (
            "JARVIS_FIRST_CHUNK_SECONDS"
            if self.record.first_chunk_at is None
            else "JARVIS_STREAM_INACTIVITY_SECONDS"
        )
        return ApiError(
            504,
            "upstream_silent",
            f"Ollama sent nothing for {limit_s:g} s after {self.record.chunks} chunks "
            f"(limit {name}){self._detached_hint()}",
        )

    def _detached_hint(self) -> str:
        """Names the streams of the session that were given up and may still occupy Ollama."""
        snapshot = self._registry.snapshot()
        own = next((s for s in snapshot.streams if s.trace_id == self.trace_id), None)
        if own is None:
            return ""
        detached = [
            stream.trace_id
            for stream in snapshot.in_state(State.DETACHED)
            if stream.session_id == own.session_id
        ]
        if not detached:
            return ""
        return (
            f"; stream {', '.join(detached)} of this session did not end when it was told to and "
            f"may still hold Ollama's slot: look at `ollama ps`"
        )

    def _total_error(self) -> ApiError:
        return ApiError(
            504,
            "total_exceeded",
            f"the stream has run for {self._settings.total_seconds:g} s, which is the limit "
            f"JARVIS_TOTAL_SECONDS; what was sent of the answer is not the whole",
        )


def _way_of(error: BaseException, *, was_let_in: bool) -> Way:
    if isinstance(error, StreamSuperseded | StreamCancelled | asyncio.CancelledError):
        return Way.STOPPED
    if not isinstance(error, StreamError):
        # Of a prompt that was not let in, an ApiError is a repetition's.
        is_refusal = isinstance(error, ApiError) and not was_let_in
        return Way.REFUSED if is_refusal else Way.FAILED
    return Way.STOPPED if was_let_in else Way.REFUSED


def _newer_than(error: BaseException) -> str | None:
    return error.newer if isinstance(error, StreamSuperseded) else None
