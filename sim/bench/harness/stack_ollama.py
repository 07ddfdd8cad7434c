"""Ollama at stack level: the fake's HTTP front, which notes what it is asked and answers."""

from __future__ import annotations

import enum
import json
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from sim.fake_ollama import FakeOllama
from sim.fake_ollama.http_front import HttpFront
from sim.fake_ollama.modes import BUSY_TEXT


class Early(enum.Enum):
    """What an Ollama may do before it has read a prompt."""

    ANSWERS = "answers that it is busy"
    HANGS_UP = "closes the connection"


class UpstreamCall:
    """One prompt at the fake Ollama. port: of our end. said: the content that it has sent."""

    def __init__(self, prompt: str, port: int) -> None:
        self.prompt = prompt
        self.port = port
        self.said = ""
        self._rest = b""

    def __repr__(self) -> str:
        return f"<the call of {self.prompt}, from port {self.port}>"

    def sends(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            message = json.loads(line).get("message") or {}
            self.said += message.get("content") or ""


class ObservedFront(HttpFront):
    """The fake's front, which notes who asked what, and what was answered."""

    def __init__(self, fake: FakeOllama) -> None:
        super().__init__(fake)
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
        call = UpstreamCall("", scope["client"][1])
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
