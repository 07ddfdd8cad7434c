"""How the server starts, or says in a line why not: processes, ports, signals."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from server import startup
from server.app import create_app
from server.memory import YOUNG_MAX
from server.security import StartRefused
from tests.limits import HANGS_S
from tests.server.support import (
    REPOSITORY,
    Output,
    RawClient,
    error_of,
    free_port,
    is_listening,
    process,
    prompt,
    run_async,
    settings,
    stack,
    until,
)

UVICORN = ("-m", "uvicorn", "server.app:app")
OWN = ("-m", "server")


# ---- processes ------------------------------------------------------------------------------


def server_of(**config: Any) -> uvicorn.Server:
    return uvicorn.Server(uvicorn.Config("server.app:app", **config))


def test_one_of_several_workers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """uvicorn's and gunicorn's; not one process, a reloader's, or a program with the variable."""
    monkeypatch.setenv("WEB_CONCURRENCY", "2")
    # No supervisor started this process: a program runs one server in it.
    startup.check_processes(server_of())
    monkeypatch.setattr(multiprocessing, "parent_process", multiprocessing.current_process)
    startup.check_processes(server_of(workers=1))
    startup.check_processes(server_of(reload=True))
    for several in (server_of(), server_of(workers=3)):
        with pytest.raises(
            StartRefused,
            match=r"(?s)Start one process.*JARVIS_SESSIONS=sqlite .*JARVIS_SESSIONS=redis",
        ):
            startup.check_processes(several)
    with pytest.raises(StartRefused, match="only uvicorn is supported"):
        startup.check_processes(None)

    class Gunicorn:
        def __init__(self, workers: int) -> None:
            self.cfg = type("Cfg", (), {"workers": workers})

        async def callback_notify(self) -> None: ...

    startup.check_processes(server_of(callback_notify=Gunicorn(1).callback_notify))
    with pytest.raises(StartRefused, match="one of 2 workers"):
        startup.check_processes(server_of(callback_notify=Gunicorn(2).callback_notify))


@pytest.mark.socket
@pytest.mark.parametrize(
    ("arguments", "more"),
    [
        (("--workers", "2"), {}),
        ((), {"WEB_CONCURRENCY": "2"}),
    ],
)
@pytest.mark.thorough
def test_uvicorn_with_several_workers_ends(
    arguments: tuple[str, ...], more: dict[str, str]
) -> None:
    """Its workers say why, without a traceback, and it does not start them for ever."""
    # uvicorn gives a worker 5 s to answer, and begins another: on a busy machine that is too short.
    # For as long it waits for one that ends as it is asked.
    patient = ("--timeout-worker-healthcheck", "15")
    with process(*UVICORN, *arguments, *patient, "--port", str(free_port()), **more) as child:
        output = Output(child)
        output.wait_for("start_refused will not be one of 2 workers")
        child.wait(HANGS_S)
        assert not any("Traceback" in line for line in output.lines), output.lines


@pytest.mark.socket
def test_our_own_launcher_is_one_process_whatever_the_environment_says() -> None:
    """WEB_CONCURRENCY, which hosters set, is for those that start several."""
    with process(*OWN, "--port", "0", WEB_CONCURRENCY="3") as child:
        Output(child).wait_for("onestream listens on")
        child.send_signal(signal.SIGINT)
        assert child.wait(HANGS_S) == 0


@pytest.mark.parametrize(("signals", "told"), [(None, True), ((), False)])
def test_another_server_than_uvicorn_is_told(
    caplog: pytest.LogCaptureFixture, signals: Any, told: bool
) -> None:
    """Unless the caller says that it ends the application itself."""

    async def main() -> None:
        app = create_app(settings(), **({} if signals is None else {"signals": signals}))
        async with app.router.lifespan_context(app):
            pass

    run_async(main())
    assert any(line.startswith("server_unknown only uvicorn") for line in caplog.messages) is told


def test_without_its_start_up_it_says_so() -> None:
    """Every answer says why, in our shape, if the server around skips the lifespan."""

    async def main() -> None:
        app = create_app(settings(), signals=())
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
            for path in ("/healthz", "/v1/models"):
                answer = await http.get(path)
                assert (answer.status_code, error_of(answer)["code"]) == (500, "not_started")
                assert "--lifespan off" in error_of(answer)["message"]

    run_async(main())


# ---- signals --------------------------------------------------------------------------------


@pytest.mark.socket
@pytest.mark.parametrize(
    ("launcher", "signals"),
    [
        pytest.param(launcher, signals, id=f"{name}, {what}", marks=marks)
        for what, signals, name, launcher, marks in (
            ("terminal closed", (signal.SIGHUP,), "our own", OWN, ()),
            (
                "Ctrl-C twice",
                (signal.SIGINT, signal.SIGINT),
                "uvicorn",
                UVICORN,
                pytest.mark.thorough,
            ),
            ("terminal closed", (signal.SIGHUP,), "uvicorn", UVICORN, pytest.mark.thorough),
            ("Ctrl-C twice", (signal.SIGINT, signal.SIGINT), "our own", OWN, pytest.mark.thorough),
        )
    ],
)
def test_streams_are_told_however_the_process_ends(
    launcher: tuple[str, ...], signals: tuple[signal.Signals, ...]
) -> None:
    """As at SIGTERM: the message in words of a user, and no traceback in the log."""

    async def main() -> None:
        async with stack() as fake:
            port = free_port()
            with process(
                *launcher, "--port", str(port), OLLAMA_HOST=fake.service.settings.ollama_host
            ) as child:
                output = Output(child)
                started = "Uvicorn running on" if launcher is UVICORN else "onestream listens on"
                await asyncio.to_thread(output.wait_for, started)
                with closing(RawClient(f"http://127.0.0.1:{port}")) as client:
                    await client.send(prompt(stream=True, model="fake:hang-midstream"))
                    await client.read_until(b"word1")
                    for number in signals:
                        child.send_signal(number)
                    rest = await client.read_to_end()
                assert b'"code":"shutting_down"' in rest
                assert b"the server is shutting down" in rest
                assert b"data: [DONE]" in rest
                await until(lambda: child.poll() is not None, "the process is gone")
                assert not any("Traceback" in line for line in output.lines), output.lines

    run_async(main())


@pytest.mark.socket
def test_a_terminal_that_closes_does_not_end_what_was_started_to_outlive_it() -> None:
    """`nohup` has SIGHUP ignored, and it stays so."""
    program = (
        "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); "
        "from server.run import run; "
        "sys.exit(run(port=0, on_started=lambda url: os.write(1, f'up {url}\\n'.encode())))"
    )
    with process("-c", program) as child:
        output = Output(child)
        url = output.wait_for("up http").split()[1]
        child.send_signal(signal.SIGHUP)
        assert httpx.get(f"{url}/healthz", trust_env=False).status_code == 200
        assert child.poll() is None


@pytest.mark.socket
def test_a_process_that_serves_looks_for_cycles_rarely() -> None:
    """Among what it has made since it began; a program that only imports the server is let be."""
    program = (
        "import gc, os, signal; before = gc.get_threshold(); from server.run import run; "
        "here = gc.get_threshold(), gc.get_freeze_count(); "
        "run(port=0, on_started=lambda url: os.write(1, f'up {here == (before, 0)} "
        "{gc.get_threshold()[0]} {gc.get_freeze_count() > 50_000}\\n'.encode()) "
        "and signal.raise_signal(signal.SIGTERM))"
    )
    with process("-c", program) as child:
        assert Output(child).wait_for("up ").split() == ["up", "True", str(YOUNG_MAX), "True"]


def test_refusals_reach_nobody_as_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    """What uvicorn prints of a start-up that was refused is a sentence, once."""
    caplog.set_level(logging.INFO)

    async def main() -> None:
        app = create_app(settings(api_keys_file=Path("/nowhere/keys")), signals=())
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "lifespan.startup"}

        async def send(message: Any) -> None:
            sent.append(message)

        with pytest.raises(StartRefused):
            await app({"type": "lifespan", "state": {}}, receive, send)
        assert sent == [{"type": "lifespan.startup.failed", "message": ""}]
        assert sum("/nowhere/keys" in line for line in caplog.messages) == 1

    run_async(main())


@pytest.mark.socket
@pytest.mark.parametrize(
    "closed",
    [">&-", "2>&-", "<&- >&- 2>&-"],
)
@pytest.mark.thorough
def test_it_serves_where_its_output_was_closed_before_it_began(closed: str) -> None:
    """A daemon's start, as `>&- 2>&-` of a shell: it answers, and ends as always."""
    port = free_port()
    command = f"exec {sys.executable} -m server --port {port} {closed}"
    env = {name: text for name, text in os.environ.items() if "JARVIS_" not in name}
    child = subprocess.Popen(["/bin/sh", "-c", command], cwd=REPOSITORY, env=env)

    async def main() -> None:
        await until(lambda: is_listening(port) or child.poll() is not None, "it listens")
        assert child.poll() is None
        url = f"http://127.0.0.1:{port}/healthz"
        assert (await asyncio.to_thread(httpx.get, url, trust_env=False)).status_code == 200
        child.send_signal(signal.SIGTERM)
        await until(lambda: child.poll() is not None, "it is gone")
        assert child.returncode == 0

    try:
        run_async(main())
    finally:
        child.kill()
        child.wait()
