"""A shortage passes: what fails once for lack of a resource is tried again, and logged."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Any

import httpx
import pytest

from registry import StopSignal, StreamRegistry
from registry.daemon_executor import DaemonExecutor, ExecutorFull
from server.errors import ApiError
from server.ollama import OllamaRequest
from server.ollama_async import AsyncOllama
from server.ollama_thread import ThreadOllama
from server.wakeable import Wake, WakeableTransport
from tests.limits import HANGS_S
from tests.server.support import CLIENTS, error_of, process, prompt, run_async, stack, until


@pytest.mark.socket
@pytest.mark.parametrize(
    ("client", "host"),
    [
        ("async", "127.0.0.1"),
        pytest.param("thread", "localhost", marks=pytest.mark.thorough),
    ],
)
def test_nothing_is_imported_while_it_serves(client: str, host: str) -> None:
    """An import that failed for lack of a descriptor could be remembered as failed for ever."""
    with process("-m", "tests.server.nothing_late", client, host) as child:
        printed, _ = child.communicate(timeout=HANGS_S)
    lines = [line for line in printed.splitlines() if line and "=" not in line]
    assert [line for line in lines if not line.startswith("no_keys")] == []
    assert child.returncode == 0


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(
    "error",
    [
        OSError(24, "Too many open files"),
        socket.gaierror(-11, "System error"),
        LookupError("unknown encoding: idna"),
        UnicodeError("label empty or too long"),
    ],
)
def test_a_connection_that_cannot_be_made_is_503(
    client: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No descriptor, no resolver, a name that is none: Ollama cannot be reached, and it is said."""

    def fail(*arguments: Any, **named: Any) -> Any:
        raise error

    async def main() -> None:
        ollama: Any
        if client == "async":
            ollama = AsyncOllama("http://some-name:1", connect_s=1.0)
        else:
            ollama = ThreadOllama("http://some-name:1", connect_s=1.0, read_s=1.0)
        async with StreamRegistry(executor=DaemonExecutor(1)).stream("s") as stream:
            monkeypatch.setattr("socket.getaddrinfo", fail)
            with pytest.raises(ApiError, match=str(error).partition("]")[2] or str(error)) as told:
                await ollama.ask(OllamaRequest("/api/chat", {}), stream, None)
        monkeypatch.undo()
        assert (told.value.status, told.value.code) == (503, "upstream_unreachable")

    run_async(main())


def test_a_socket_that_cannot_be_made_is_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocking client's own sockets, too."""

    def fail(*arguments: Any) -> None:
        raise OSError(24, "Too many open files")

    transport = WakeableTransport(Wake(StopSignal()), None)
    monkeypatch.setattr("socket.socket", fail)
    with pytest.raises(httpx.ConnectError, match="Too many"):
        transport.handle_request(httpx.Request("GET", "http://127.0.0.1:1/"))


def test_a_thread_that_cannot_be_started_is_told_and_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The executor says so as when it is full, and takes the next job when there are threads."""
    executor = DaemonExecutor(1)

    def fail(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        with pytest.raises(ExecutorFull, match="can't start new thread"):
            executor.submit(lambda: None)
    assert executor.submit(lambda: 7).result(10) == 7


@pytest.mark.socket
def test_who_waited_for_a_thread_of_ours_is_not_told_that_ollama_is_silent() -> None:
    """Ollama was never asked; what is missing is a thread, and the setting for them is named."""

    async def main() -> None:
        async with stack(ollama_client="thread", threads_max=1, thread_wait_seconds=1.0) as server:
            body = prompt(stream=True, model="fake:hang-midstream", session_id="a")
            first = asyncio.create_task(server.post(body))
            await until(lambda: server.fake.calls and server.fake.calls[0].chunks >= 3, "chunks")
            answer = await server.post(prompt(session_id="b"))
            assert (answer.status_code, error_of(answer)["code"]) == (503, "no_thread_free")
            assert "JARVIS_THREADS_MAX" in error_of(answer)["message"]
            assert len(server.fake.calls) == 1
            server.service.begin_shutdown()
            await first

    run_async(main())
