"""Runs several workers as one server: `onestream serve --workers N`."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, contextmanager

import uvicorn

from server import log
from server.environment import read_settings
from server.listeners import listening, url_of
from server.opening import check_store
from server.run import EXIT_OK, EXIT_USAGE, config_for, ended_early, signals_swallowed
from server.security import StartRefused, check_address, read_keys
from server.settings import Settings
from server.startup import check_shared
from server.supervisor import Supervisor

# A worker that answers its supervisor no more is killed after this; a new one has so long to start.
_HEALTH_S = 30


def run_workers(
    workers: int,
    host: str,
    port: int,
    *,
    ollama: AbstractAsyncContextManager[str] | None = None,
    on_started: Callable[[str], None],
) -> int:
    """Serves until SIGTERM or SIGINT; returns the exit code: 0, or 3 where it would not start.

    SIGHUP replaces one worker after the other. ollama, on_started: as `server.run.run` has them;
    the former lives in a thread of this process, which serves nobody else.
    """
    log.open_closed_streams()
    log.configure()
    with signals_swallowed() as came:
        try:
            _serve(workers, host, port, ollama, on_started, came)
            return EXIT_OK
        except StartRefused as exc:
            log.say(f"onestream serve: {exc}", sys.stderr, logging.ERROR)
        except SystemExit:
            # uvicorn, or a worker, has said why.
            pass
        # Who was told to end meanwhile has done so.
        return EXIT_OK if ended_early(came) else EXIT_USAGE


def _serve(
    workers: int,
    host: str,
    port: int,
    ollama: AbstractAsyncContextManager[str] | None,
    on_started: Callable[[str], None],
    came: list[signal.Signals],
) -> None:
    """came: the signals that have come before the supervisor takes them itself.

    Raises StartRefused, or SystemExit where it was said why.
    """
    settings = read_settings()
    log.configure(settings.log)
    check_address(read_keys(settings), host)
    check_shared(workers, settings.sessions)
    with listening(host, port) as listeners:
        asyncio.run(check_store(settings))
        with _running(ollama) as address:
            if address:
                os.environ["JARVIS_OLLAMA_HOST"] = address
            supervisor = Supervisor(
                _config(settings, workers, host, port),
                listeners,
                health_s=_HEALTH_S,
                on_ready=lambda: on_started(url_of(listeners[0])),
            )
            if ended_early(came):
                return
            supervisor.run()
            if supervisor.has_failed:
                raise SystemExit(EXIT_USAGE)
            if not supervisor.was_ready:
                ended_early(supervisor.told)


def _config(settings: Settings, workers: int, host: str, port: int) -> uvicorn.Config:
    # By its name: each worker imports it, and reads the settings of the environment.
    return config_for("server.app:app", settings, host, port, workers=workers)


@contextmanager
def _running(ollama: AbstractAsyncContextManager[str] | None) -> Iterator[str]:
    """Its address, while it runs in a loop of its own; nothing where there is none.

    Raises what its start raises.
    """
    if ollama is None:
        yield ""
        return
    started: Future[str] = Future()
    loop = asyncio.new_event_loop()
    stopped = asyncio.Event()

    async def main() -> None:
        try:
            async with ollama as address:
                started.set_result(address)
                await stopped.wait()
        except BaseException as exc:
            # Else it would be waited for without end, and signals are swallowed meanwhile.
            if started.done():
                raise
            started.set_exception(exc)

    thread = threading.Thread(target=lambda: loop.run_until_complete(main()), daemon=True)
    thread.start()
    try:
        yield started.result()
    finally:
        loop.call_soon_threadsafe(stopped.set)
        thread.join()
        loop.close()
