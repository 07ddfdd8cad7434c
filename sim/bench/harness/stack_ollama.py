"""Ollama at stack level: the fake's HTTP front, which notes what it is asked and answers."""

from __future__ import annotations

import asyncio
import enum
import json
from collections.abc import Callable
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from sim.fake_ollama import FakeOllama
from sim.fake_ollama.http_front import HttpFront
from sim.fake_ollama.modes import BUSY_TEXT
from sim.kernel.network.streams import StreamSocket


class Early(enum.Enum):
    """What an Ollama may do before it has read a prompt."""

    ANSWERS = "answers that it is busy"
    HANGS_UP = "closes the connection"


class UpstreamCall:
    """One prompt at the fake Ollama. said: the content that it has sent.

    our_end: of its connection; None where that was over before Ollama had heard of it.
    """

    def __init__(self, prompt: str, port: int, our_end: StreamSocket | None) -> None:
        self.prompt = prompt
        self.port = port
        self._our_end = our_end
        self.said = ""
        self._rest = b""

    @property
    def is_held(self) -> bool:
        """Whether our end is open: when Ollama learns of it is the network's affair."""
        return self._our_end is not None and bool(self._our_end.fds)

    def __repr__(self) -> str:
        return f"<the call of {self.prompt}, from port {self.port}>"

    def sends(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            message = json.loads(line).get("message") or {}
            self.said += message.get("content") or ""


class ObservedFront(HttpFront):
    """The fake's front, which notes who asked what, and what was answered.

    our_end_of: the other end of the connection of a transport of its own.
    """

    def __init__(
        self, fake: FakeOllama, our_end_of: Callable[[asyncio.Transport], StreamSocket | None]
    ) -> None:
        super().__init__(fake)
        self._our_end_of = our_end_of
        self.calls: list[UpstreamCall] = []
        # What it does with the head of each request, while the body is still to come.
        self.early: Early | None = None
        # Whether it has, before the body was there.
        self.was_early = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.early is not None:
            await self._be_early(self.early, receive, send)
            return
        if scope["path"] != "/api/chat":
            await super().__call__(scope, receive, send)
            return
        transport = send.__self__.transport  # type: ignore[attr-defined]
        call = UpstreamCall("", scope["client"][1], self._our_end_of(transport))
        body = b""

        async def received() -> Message:
            nonlocal body
            message = await receive()
            body += message.get("body", b"")
            if message["type"] == "http.request" and not message.get("more_body"):
                call.prompt = json.loads(body)["messages"][-1]["content"]
                self.calls.append(call)
            return message

        async def sending(message: Message) -> None:
            call.sends(message.get("body", b""))
            await send(message)

        await super().__call__(scope, received, sending)

    async def _be_early(self, early: Early, receive: Receive, send: Send) -> None:
        cycle: Any = send.__self__  # type: ignore[attr-defined]
        self.was_early = cycle.more_body
        if early is Early.HANGS_UP:
            cycle.transport.close()
            while (await receive())["type"] != "http.disconnect":
                pass
            return
        body = json.dumps({"error": BUSY_TEXT}).encode()
        headers = [(b"content-length", str(len(body)).encode()), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 503, "headers": headers})
        await send({"type": "http.response.body", "body": body})
