"""SIGTERM and SIGINT: every stream gets an error, the process ends within the grace and 1 s."""

from __future__ import annotations

import asyncio
import gc
import signal
from contextlib import AsyncExitStack

import httpx
import pytest

from server import shutdown, startup
from server.app import begin_shutdown
from tests.limits import HANGS_S
from tests.server.shutdowns import GRACE_S, exit_under_trouble, fake_ollama
from tests.server.support import (
    CLIENTS,
    DEVKEY,
    RawClient,
    error_of,
    events,
    prompt,
    run_async,
    stack,
    until,
)

pytestmark = pytest.mark.socket


# How long it takes, only an idle machine can judge.
IN_TIME_S = GRACE_S + 1
in_time = [pytest.mark.thorough, pytest.mark.alone]


@pytest.mark.parametrize(
    ("launcher", "client", "number", "within_s"),
    [
        pytest.param("our own", "thread", signal.SIGTERM, HANGS_S, id="our own, at all"),
        *(
            pytest.param(*each, IN_TIME_S, id=f"{each[0]}, {each[1]}", marks=in_time)
            for each in (
                ("plain uvicorn", "async", signal.SIGTERM),
                ("plain uvicorn", "thread", signal.SIGINT),
                ("our own", "async", signal.SIGINT),
                ("our own", "thread", signal.SIGTERM),
                ("nothing wakes the thread", "thread", signal.SIGTERM),
            )
        ),
    ],
)
def test_a_signal_ends_the_process(
    launcher: str, client: str, number: signal.Signals, within_s: float
) -> None:
    """With Ollama hung for ever, threads blocked, and clients that don't read or half-send."""

    async def main() -> None:
        async with fake_ollama() as (fake, ollama):
            clients: list[RawClient] = []
            try:
                took_s, lines = await exit_under_trouble(
                    launcher, client, number, fake, ollama, clients
                )
            finally:
                for raw in clients:
                    raw.close()
            print(f"gone after {took_s:.2f} s")
            assert took_s < within_s, lines
            assert not any("Traceback" in line for line in lines), lines

    run_async(main())


@pytest.mark.parametrize("client", CLIENTS)
def test_nothing_new_is_let_in_while_it_shuts_down(client: str) -> None:
    """From the signal on every request is answered 503; the streams end with a message."""

    async def main() -> None:
        async with stack(ollama_client=client) as server:
            stream = asyncio.create_task(
                server.post(prompt(stream=True, model="fake:hang-midstream"))
            )
            # Not the fake's chunks: the answer could still be on its way to being begun.
            begun = server.service.connections
            await until(lambda: any(each.has_begun for each in begun), "the answer has begun")
            server.service.begin_shutdown()
            for answer in (await server.post(prompt()), await server.http.get("/healthz")):
                assert (answer.status_code, error_of(answer)["code"]) == (503, "shutting_down")
            found = events((await stream).text)
            assert [found[-2]["error"]["code"], found[-1]] == ["shutting_down", "[DONE]"]
            await server.quiet()

    run_async(main())


def test_a_worker_that_is_replaced_answers_whom_it_has_accepted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Look-ups, each as the last of its connection; a prompt is to be sent again; nobody new."""
    monkeypatch.setattr(startup, "workers_of", lambda server: 2)

    async def main() -> None:
        async with stack() as server:
            first = await server.http.get("/v1/models")
            assert "connection" not in first.headers
            async with AsyncExitStack() as exits:
                connected = [
                    await exits.enter_async_context(
                        httpx.AsyncClient(base_url=server.url, headers=DEVKEY, trust_env=False)
                    )
                    for _ in range(3)
                ]
                for each in connected:
                    await each.get("/healthz")
                begin_shutdown(server.service, server.uvicorn)
                assert not any(each.sockets for each in server.uvicorn.servers)
                looked = await connected[0].get("/v1/models")
                assert (looked.status_code, looked.headers["connection"]) == (200, "close")
                refused = await connected[1].post("/v1/chat/completions", json=prompt())
                assert (refused.status_code, error_of(refused)["code"]) == (503, "shutting_down")
                told = [refused.headers[each] for each in ("retry-after", "x-should-retry")]
                assert told == ["1", "true"]
                server.service._shut()
                late = await connected[2].get("/v1/models")
                assert (late.status_code, error_of(late)["code"]) == (503, "shutting_down")
            await server.quiet()

    run_async(main())


def test_the_collector_is_spared_from_the_signal_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of ends at once would have it go through all that is there, again and again."""
    calls: list[str] = []
    monkeypatch.setattr(gc, "freeze", lambda: calls.append("freeze"))
    previous = signal.signal(signal.SIGTERM, lambda *_: None)

    async def main() -> None:
        with shutdown.hearing([signal.SIGTERM], lambda: None):
            assert not calls
            signal.raise_signal(signal.SIGTERM)
            assert calls == ["freeze"]

    try:
        run_async(main())
    finally:
        signal.signal(signal.SIGTERM, previous)
