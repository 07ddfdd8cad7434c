"""The blocking Ollama client: the note's way, in a worker thread of the stream.

The stop signal wakes the thread wherever it blocks: in a connect, a read, or its wait for the loop
to take chunks. Between two segments it also reads the flag. The stream counts the thread, and has
not ended before it has.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping

import httpx

from registry import StopSignal, Stream
from registry.daemon_executor import ExecutorFull
from server.errors import ApiError
from server.ollama import (
    ERROR_BODY_MAX_BYTES,
    Chunk,
    ChunkReader,
    LimitedBody,
    OllamaRequest,
    Put,
    broken_error,
    status_error,
    unreachable_error,
)
from server.wakeable import Wake, WakeableTransport

# Segments that the thread may have read ahead of the loop; a segment is at most 64 KiB.
SEGMENTS_MAX = 4

# Makes the transport of one call. It gives its sockets, or what else it blocks on, to `Wake.hold`.
ThreadTransportFactory = Callable[[Wake], httpx.BaseTransport]


def thread_transport_factory(address: str) -> ThreadTransportFactory:
    """A transport for each stream; the TLS context, costly, is made once, for https only."""
    tls = ssl.create_default_context() if address.startswith("https") else None
    return lambda wake: WakeableTransport(wake, tls)


class ThreadOllama:
    """Implements OllamaClient with one blocking call per stream, by `Stream.run_in_thread`.

    read_s: after this long a silence a thread that no wake has reached ends by itself.
    """

    def __init__(
        self,
        address: str,
        *,
        connect_s: float,
        read_s: float,
        headers: Mapping[str, str] | None = None,
        new_transport: ThreadTransportFactory | None = None,
    ) -> None:
        self.address = address
        self._headers = dict(headers or {})
        self._new_transport = new_transport or thread_transport_factory(address)
        self._timeout = httpx.Timeout(read_s, connect=connect_s)

    async def ask(self, request: OllamaRequest, stream: Stream, put: Put) -> None:
        handover = _Handover(asyncio.get_running_loop(), stream.stop_signal)
        job = asyncio.create_task(
            stream.run_in_thread(self._call, request, stream.stop_signal, handover),
            name=f"thread-{stream.trace_id}",
        )
        job.add_done_callback(handover.end)
        try:
            while (chunks := await handover.take()) is not None:
                for chunk in chunks:
                    await put(chunk)
                handover.settle()
            await job
        except ExecutorFull as exc:
            raise ApiError(503, "no_thread_free", f"no thread for this stream: {exc}") from exc
        finally:
            if not job.done():
                # A cancel does not reach a thread: the signal does.
                stream.stop_signal.set()
                job.cancel()

    # -- in the worker thread

    def _call(self, request: OllamaRequest, stop_signal: StopSignal, handover: _Handover) -> None:
        wake = Wake(stop_signal)

        def wake_thread() -> None:
            wake.cut()
            handover.wake()

        with stop_signal.waking(wake_thread):
            try:
                self._read(request, wake, stop_signal, handover)
            except _Stopped:
                return
            except (httpx.ConnectError, httpx.ConnectTimeout) as exc:
                if not stop_signal.is_set():
                    raise unreachable_error(self.address, str(exc) or type(exc).__name__) from exc
            except httpx.HTTPError as exc:
                if not stop_signal.is_set():
                    raise broken_error(self.address, exc) from exc

    def _read(
        self, request: OllamaRequest, wake: Wake, stop_signal: StopSignal, handover: _Handover
    ) -> None:
        reader = ChunkReader(keeps_lines=request.keeps_lines)
        with (
            httpx.Client(
                base_url=self.address,
                headers=self._headers,
                transport=self._new_transport(wake),
                timeout=self._timeout,
                trust_env=False,
            ) as client,
            client.stream("POST", request.path, **request.sent()) as response,
        ):
            if response.status_code != 200:
                raise status_error(response.status_code, _start_of(response))
            for segment in response.iter_raw():
                if stop_signal.is_set():
                    return
                handover.give_all(reader.feed(segment))
                if reader.is_done:
                    return
            # A read that was woken looks like the end of the body.
            if not stop_signal.is_set():
                handover.give_all(reader.end())


def _start_of(response: httpx.Response) -> bytes:
    """The body of an error up to the limit: the rest may have no end."""
    body = LimitedBody(ERROR_BODY_MAX_BYTES)
    for segment in response.iter_raw():
        if not body.add(segment):
            break
    return body.data


class _Stopped(Exception):
    """The stream was stopped while the thread waited for the loop."""


class _Handover:
    """Chunks on their way from the thread to the loop, a few segments at most."""

    def __init__(self, loop: asyncio.AbstractEventLoop, stop_signal: StopSignal) -> None:
        self._loop = loop
        self._stop_signal = stop_signal
        # One permit per segment that may be handed over; one more when the stop wakes the thread.
        self._room = threading.Semaphore(SEGMENTS_MAX)
        # The rest belongs to the loop. What has landed, in order; the thread gives no empty list.
        self._landed: deque[list[Chunk]] = deque()
        self._taker: asyncio.Future[None] | None = None
        self._is_over = False

    # -- in the thread

    def give_all(self, chunks: Iterable[Chunk]) -> None:
        """Hands over what `chunks` yields, also if it raises after some. Raises _Stopped."""
        given: list[Chunk] = []
        try:
            for chunk in chunks:
                given.append(chunk)
        finally:
            if given:
                self._give(given)

    def _give(self, chunks: list[Chunk]) -> None:
        self._room.acquire()
        if self._stop_signal.is_set():
            raise _Stopped
        try:
            self._loop.call_soon_threadsafe(self._land, chunks)
        except RuntimeError:
            # The loop is closed: nothing is taken any more.
            raise _Stopped from None

    def wake(self) -> None:
        """In any thread: lets a `_give` that waits look at the flag."""
        self._room.release()

    # -- in the loop

    async def take(self) -> list[Chunk] | None:
        """The chunks of one segment, to be settled; None when the thread is over."""
        while not self._landed:
            if self._is_over:
                return None
            self._taker = self._loop.create_future()
            try:
                await self._taker
            finally:
                self._taker = None
        return self._landed.popleft()

    def settle(self) -> None:
        self._room.release()

    def end(self, job: asyncio.Task[None]) -> None:
        """The thread's work is over, or was given up; what it gave has landed before."""
        if not job.cancelled():
            # Retrieved, so that asyncio doesn't log it as lost; who awaits the job gets it raised.
            job.exception()
        self._is_over = True
        self._wake_taker()

    def _land(self, chunks: list[Chunk]) -> None:
        self._landed.append(chunks)
        self._wake_taker()

    def _wake_taker(self) -> None:
        if self._taker is not None and not self._taker.done():
            self._taker.set_result(None)
