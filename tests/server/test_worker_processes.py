"""Workers that are processes: one that is killed, a supervisor that is, restarts, two hosts."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections import Counter
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.limits import HANGS_S
from tests.server import valkey_server
from tests.server.support import (
    DEVKEY,
    PATIENCE_S,
    Output,
    address_in,
    free_port,
    process,
    prompt,
)
from tests.server.workers import settle_valkey, settled_file


@pytest.mark.socket
def test_serve_has_workers_and_one_that_is_killed_gives_its_session_back_at_once(
    tmp_path: Path,
) -> None:
    """`serve --workers 2`: prompt 2 supersedes prompt 1; a killed worker's lease is not waited for.

    The lease is an hour, so that only the lock can have freed the session.
    """
    path = tmp_path / "shared" / "sessions.sqlite"
    asyncio.run(settled_file(tmp_path, lease_seconds=3600.0))
    with process(
        *("-m", "sim.cli", "serve", "--workers", "2", "--port", "0", "--fake-ollama", "instant"),
        JARVIS_SESSIONS=f"sqlite:{path}",
        JARVIS_LEASE_SECONDS="3600",
    ) as child:
        output = Output(child)
        url = address_in(output.wait_for("onestream listens on"))
        body = prompt(model="fake:hang-midstream", stream=True)
        with httpx.Client(base_url=url, headers=DEVKEY, timeout=PATIENCE_S) as http:
            ask = partial(http.stream, "POST", "/v1/chat/completions", json=body)
            with ask() as one:
                worker = output.wait_for(f"stream_start trace={one.headers['x-trace-id']}")
                with ask() as two:
                    text = "".join(one.iter_text())
                    assert '"superseded"' in text
                    worker = output.wait_for(f"stream_start trace={two.headers['x-trace-id']}")
                    found = re.search(r"worker=.*-(\d+)-\w+$", worker)
                    assert found
                    os.kill(int(found[1]), signal.SIGKILL)
                    # The system resets the connection where something was not read yet.
                    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
                        "".join(two.iter_text())
        # Of the first client some connection may be one to the worker that was killed.
        with (
            httpx.Client(base_url=url, headers=DEVKEY, timeout=PATIENCE_S) as http,
            http.stream("POST", "/v1/chat/completions", json=body) as three,
        ):
            assert three.status_code == 200
        child.send_signal(signal.SIGTERM)
        assert child.wait(HANGS_S) == 0


@pytest.mark.socket
@pytest.mark.parametrize(
    "command",
    [
        ("-m", "sim.cli", "serve"),
        pytest.param(
            ("-m", "uvicorn", "server.app:app", "--timeout-worker-healthcheck", "60"),
            marks=pytest.mark.thorough,
        ),
    ],
    ids=["serve", "uvicorn"],
)
def test_workers_end_with_a_supervisor_that_is_killed(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    """As by SIGTERM: each stream ends with an error message, and no process is left behind."""
    port = str(free_port())
    with ExitStack() as exits:
        fake = exits.enter_context(process("-m", "sim.cli", "fake-ollama", "--port", "0"))
        child = exits.enter_context(
            process(
                *(*command, "--workers", "2", "--port", port),
                JARVIS_SESSIONS=asyncio.run(settled_file(tmp_path)),
                OLLAMA_HOST=address_in(Output(fake).wait_for("fake Ollama on")),
            )
        )
        output = Output(child)
        for number in (1, 2):
            output.wait_for("sessions_shared worker=", number)
        body = prompt(model="fake:hang-midstream", stream=True)
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        with httpx.stream("POST", url, json=body, headers=DEVKEY, timeout=PATIENCE_S) as one:
            output.wait_for(f"stream_start trace={one.headers['x-trace-id']}")
            child.kill()
            text = "".join(one.iter_text())
        assert '"shutting_down"' in text
        assert text.endswith("data: [DONE]\n\n")
        # It is over once no process has it open.
        assert output.is_over_within(HANGS_S)
        assert len([line for line in output.lines if line.startswith("supervisor_gone")]) == 2


@pytest.mark.socket
@pytest.mark.thorough
@pytest.mark.parametrize("store", ["sqlite", "valkey"])
def test_a_rolling_restart_loses_nothing(store: str, tmp_path: Path) -> None:
    """SIGHUP under load: each answer is whole or ends with a message, and each session goes on.

    A stream that ended is asked for again at once, in its session: who has it now takes it over
    within the grace, not after its lease.
    """
    port = str(free_port())

    async def main(child: Any, output: Output) -> None:
        is_over = asyncio.Event()
        ends: Counter[str] = Counter()

        async def client(number: int) -> None:
            headers = {**DEVKEY, "x-session-id": f"s{number}"}
            while not is_over.is_set():
                ends[await one_end(f"http://127.0.0.1:{port}", headers)] += 1

        clients = [asyncio.ensure_future(client(number)) for number in range(8)]
        await asyncio.to_thread(output.wait_for, "stream_start", 8)
        child.send_signal(signal.SIGHUP)
        await asyncio.to_thread(output.wait_for, "sessions_shared worker=", 4)
        begun = len([line for line in output.lines if line.startswith("stream_start")])
        await asyncio.to_thread(output.wait_for, "stream_start", begun + 16)
        is_over.set()
        await asyncio.gather(*clients)
        child.send_signal(signal.SIGTERM)
        assert set(ends) <= {"whole", "shutting_down"}
        assert ends["shutting_down"]

    with ExitStack() as exits:
        fake = exits.enter_context(
            process("-m", "sim.cli", "fake-ollama", "--profile", "parallel", "--port", "0")
        )
        ollama = address_in(Output(fake).wait_for("fake Ollama on"))
        if store == "sqlite":
            sessions = asyncio.run(settled_file(tmp_path, lease_seconds=3600.0))
        else:
            sessions = exits.enter_context(valkey_server.running())
            asyncio.run(settle_valkey(sessions, lease_seconds=3600.0))
        child = exits.enter_context(
            process(
                *("-m", "sim.cli", "serve", "--workers", "2", "--port", port),
                JARVIS_SESSIONS=sessions,
                OLLAMA_HOST=ollama,
                JARVIS_LEASE_SECONDS="3600",
            )
        )
        output = Output(child)
        for number in (1, 2):
            output.wait_for("sessions_shared worker=", number)
        asyncio.run(main(child, output))
        assert child.wait(HANGS_S) == 0
        assert not [line for line in output.lines if "prev_stream_timeout_on_cancel" in line]


async def one_end(url: str, headers: dict[str, str]) -> str:
    """How one prompt with a connection of its own ended."""
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=PATIENCE_S) as http:
        body = prompt(stream=True)
        async with http.stream("POST", "/v1/chat/completions", json=body) as answer:
            text = (await answer.aread()).decode()
    codes = re.findall(r'"code": ?"(\w+)"', text)
    if codes:
        return str(codes[-1])
    return "whole" if text.endswith("data: [DONE]\n\n") else f"{answer.status_code} {text[-200:]}"


@pytest.mark.socket
def test_two_servers_of_two_addresses_share_a_valkey() -> None:
    """As two hosts would: prompt 2 at one supersedes prompt 1 at the other, over TCP."""
    with ExitStack() as exits:
        fake = exits.enter_context(process("-m", "sim.cli", "fake-ollama", "--port", "0"))
        ollama = address_in(Output(fake).wait_for("fake Ollama on"))
        port = str(free_port())
        exits.enter_context(valkey_server.running("--port", port, "--bind", "127.0.0.1"))
        url = f"redis://127.0.0.1:{port}/3"
        asyncio.run(settle_valkey(url))
        outputs = [
            Output(
                exits.enter_context(
                    process(
                        *("-m", "server", "--host", host, "--port", "0"),
                        JARVIS_SESSIONS=url,
                        OLLAMA_HOST=ollama,
                    )
                )
            )
            for host in ("127.0.0.1", "127.0.0.2")
        ]
        first, second = [
            exits.enter_context(
                httpx.Client(
                    base_url=address_in(each.wait_for("onestream listens on")),
                    headers=DEVKEY,
                    timeout=PATIENCE_S,
                )
            )
            for each in outputs
        ]
        assert first.base_url.host != second.base_url.host
        body = prompt(model="fake:slow", stream=True)
        with first.stream("POST", "/v1/chat/completions", json=body) as one:
            outputs[0].wait_for(f"stream_start trace={one.headers['x-trace-id']}")
            with second.stream("POST", "/v1/chat/completions", json=body):
                assert '"superseded"' in "".join(one.iter_text())
        finished = outputs[1].wait_for("prev_stream_finished_cleanly session=devkey/default")
        assert one.headers["x-trace-id"] in finished


@pytest.mark.socket
def test_an_ollama_that_does_not_start_ends_the_server_that_was_to_have_it(tmp_path: Path) -> None:
    """With its error: it was waited for without end, and neither SIGTERM nor Ctrl-C ended that."""
    program = (
        "import sys; from contextlib import asynccontextmanager\n"
        "from server.run_workers import run_workers\n"
        "@asynccontextmanager\n"
        "async def broken():\n"
        "    raise OSError(24, 'Too many open files')\n"
        "    yield ''\n"
        "sys.exit(run_workers(2, '127.0.0.1', 0, ollama=broken(), on_started=print))"
    )
    sessions = f"sqlite:{tmp_path}/own/sessions.sqlite"
    with process("-c", program, JARVIS_SESSIONS=sessions) as child:
        output = Output(child)
        assert child.wait(HANGS_S) == 1
        output.wait_for("OSError: [Errno 24] Too many open files")
        assert not any("Exception in thread" in each for each in output.lines)
