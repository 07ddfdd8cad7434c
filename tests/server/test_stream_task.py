"""The stream's own task, with a gate, a client and a registry that a test plays."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from registry import StopSignals, Stream
from server.archive import Record
from server.buffer import Buffer
from server.events import Events
from server.ollama import OllamaClient, OllamaRequest
from server.registries import Registry
from server.settings import Settings
from server.stream_task import StreamTask


class _Gate:
    """Of a lease that may end while nobody is told."""

    is_open = True

    def may_emit(self, trace_id: str, fencing_token: int | None) -> bool:
        return self.is_open


class _Registry:
    async def pop(self, trace_id: str) -> None:
        """Nothing is kept here."""


class _Client:
    def __init__(self) -> None:
        self.asked = 0

    async def ask(self, *_: Any) -> None:
        self.asked += 1


async def _asked(*, is_lost: bool) -> int:
    """How often Ollama is asked, where the lease may end while the model is looked up."""
    gate, client = _Gate(), _Client()

    async def pick_model() -> str:
        gate.is_open = not is_lost
        return "llama"

    task = StreamTask(
        trace_id="t",
        request=OllamaRequest("/api/chat", {"stream": True}),
        client=cast(OllamaClient, client),
        pick_model=pick_model,
        registry=cast(Registry, _Registry()),
        settings=Settings(),
        buffer=Buffer(4),
        record=Record("t", "", "s", 0, 100, 0.0),
        events=Events(),
    )
    running = task.start()
    stream = Stream(
        "t",
        "s",
        running,
        protocol=gate,
        stop_signal=StopSignals().create("t"),
        executor=None,
        on_over=lambda stream: None,
    )
    task.open(stream)
    await running
    return client.asked


def test_who_lost_its_session_before_the_call_does_not_call() -> None:
    """A worker that stood still since its prompt was let in finds the lease over, and is silent."""
    assert asyncio.run(_asked(is_lost=False)) == 1
    assert asyncio.run(_asked(is_lost=True)) == 0
