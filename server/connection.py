"""One HTTP exchange as a response sees it: one reader of `receive`, every send bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.types import Message, Receive, Send

from registry.patience import PatientTimeout, within
from server.errors import ApiError
from server.http_cycle import BODY_FOLLOWS
from server.sse import encode_json

ABORT_KEY = "onestream.abort"


class ClientStalled(Exception):
    """The client did not take what was sent to it within the limit."""


class Connection:
    """`send` as ASGI has it, with a limit; the limit can be tightened while a send is waiting."""

    def __init__(self, scope: Mapping[str, Any], receive: Receive, send: Send, *, send_s: float):
        self._abort: Callable[[], None] = scope.get(ABORT_KEY, lambda: None)
        self._scope = scope
        self._receive = receive
        self._send = send
        self._send_s = send_s
        # The limit of the send that is waiting now.
        self._timeout: PatientTimeout | None = None
        self.has_begun = False

    async def watch(self, on_left: Callable[[], Awaitable[None]]) -> None:
        """Reads `receive` until the client has left, then awaits `on_left`. The only reader.

        To be started when the body of the request has been read, and cancelled with the response.
        """
        while (await self._receive())["type"] != "http.disconnect":
            pass
        await on_left()

    async def begin(
        self, status: int, headers: Mapping[str, str], *, body_follows: bool = False
    ) -> None:
        """body_follows: in the same step, so that the head may wait for it."""
        self.has_begun = True
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        start: Message = {"type": "http.response.start", "status": status, "headers": raw}
        await self._bounded({**start, BODY_FOLLOWS: True} if body_follows else start)

    async def body(self, data: bytes) -> None:
        await self._bounded({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, last: bytes = b"") -> None:
        """The last message; after it `receive` says that the client has left.

        last: some bytes. What is long goes before, as a message of its own: the server waits for
        what is unsent of one before it takes the next, and for nothing behind the last.
        """
        await self._bounded({"type": "http.response.body", "body": last, "more_body": False})

    async def json(self, status: int, value: Any, headers: Mapping[str, str] | None = None) -> None:
        """A whole JSON answer, except for its `end`."""
        data = encode_json(value)
        fixed = {"content-type": "application/json", "content-length": str(len(data))}
        await self.begin(status, {**fixed, **(headers or {})}, body_follows=True)
        await self.body(data)

    async def error(self, error: ApiError) -> None:
        """A whole answer that is an error."""
        await self.json(error.status, error.body_for(self._scope), error.headers)
        await self.end()

    def hurry(self, send_s: float) -> None:
        """From now on no send takes longer than this, the waiting one included."""
        self._send_s = min(self._send_s, send_s)
        if self._timeout is not None:
            self._timeout.shorten(self._send_s)

    async def abort(self) -> None:
        """Drops the connection with all that is unsent: nobody reads it."""
        self._abort()
        # The server notices in the next iteration. Before that it would take our return for an
        # incomplete answer, and log an error.
        await asyncio.sleep(0)

    async def _bounded(self, message: Message) -> None:
        try:
            await within(self._limit, self._send(message))
        except TimeoutError:
            raise ClientStalled(f"a send took longer than {self._send_s:g} s") from None
        finally:
            self._timeout = None

    def _limit(self) -> PatientTimeout:
        self._timeout = PatientTimeout(self._send_s)
        return self._timeout


def abort_of(send: Send) -> Callable[[], None]:
    """What drops the connection behind the server's own `send`, or nothing.

    ASGI has no message for it: uvicorn closes a connection only after the client has read, which a
    stalled one never does. Its `send` is a method of an object that has the transport. Under
    another server the socket stays until the client leaves; no stream waits for it.
    """
    transport = getattr(getattr(send, "__self__", None), "transport", None)
    abort = getattr(transport, "abort", None)
    return abort if callable(abort) else lambda: None
