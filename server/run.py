"""Runs the application under uvicorn: `serve` in a running loop, `run` as a whole process."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from server import log, memory, shutdown
from server.app import create_app
from server.environment import read_settings
from server.http_protocol import HttpProtocol
from server.lines import line
from server.listeners import listening, url_of
from server.security import StartRefused, check_address, read_keys
from server.settings import Settings

_logger = logging.getLogger("onestream.server")

HOST = "127.0.0.1"
PORT = 8000
EXIT_OK = 0
EXIT_USAGE = 3


async def serve(
    settings: Settings | None = None,
    host: str = HOST,
    port: int = PORT,
    *,
    ollama: AbstractAsyncContextManager[str] | None = None,
    on_started: Callable[[str], None] | None = None,
) -> None:
    """Serves until SIGTERM or SIGINT, or until the task is cancelled; then returns.

    ollama: an Ollama that lives in the same loop as long as the server does; it yields its
    address, which goes before that of the settings.
    on_started: called with the server's address once it serves; port 0 picks a free one.
    Raises StartRefused for settings that cannot be read, for an address that is open to strangers
    without a key, and for one that cannot be had; SystemExit, as uvicorn does, where the
    application refuses to start, which has said why.
    """
    log.configure()
    limits = settings or read_settings()
    log.configure(limits.log)
    check_address(read_keys(limits), host)
    with signals_swallowed() as came, listening(host, port) as listeners:
        async with ollama or nullcontext("") as address:
            if address:
                limits = limits.model_copy(update={"ollama_host": address})
            config = config_for(create_app(limits), limits, host, port)
            await _serve_until_cancelled(_Server(config, on_started, came), listeners)


async def _serve_until_cancelled(server: _Server, listeners: list[socket.socket]) -> None:
    """A cancel ends it as a signal does; uvicorn by itself would drop the running requests."""
    serving = asyncio.ensure_future(_exit_code(server, listeners))
    try:
        await asyncio.wait({serving})
    except asyncio.CancelledError:
        server.should_exit = True
        service = server.config.app.state.service  # type: ignore[union-attr]
        if service is not None:
            service.begin_shutdown()
        await asyncio.wait({serving})
    code = serving.result()
    if code is not None:
        raise SystemExit(code)


async def _exit_code(server: _Server, listeners: list[socket.socket]) -> int | str | None:
    """Serves; returns what uvicorn would exit with: a SystemExit in a task prints a traceback."""
    try:
        await server.serve(listeners)
    except SystemExit as exc:
        return exc.code
    return None


def config_for(
    app: ASGIApp | str,
    settings: Settings,
    host: str,
    port: int,
    *,
    workers: int = 1,
    **options: Any,
) -> uvicorn.Config:
    """How uvicorn serves the application. options: further ones of uvicorn.Config."""
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=HttpProtocol,
        lifespan="on",
        # WEB_CONCURRENCY is for programs that start several.
        workers=workers,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=shutdown.exit_limit_s(settings.grace_seconds),
        **options,
    )
    # It has given its loggers handlers, which write text.
    log.configure(settings.log)
    return config


class _Server(uvicorn.Server):
    """Reports its address once it serves. came: signals, to which it adds those that it takes."""

    def __init__(
        self,
        config: uvicorn.Config,
        on_started: Callable[[str], None] | None,
        came: list[signal.Signals],
    ) -> None:
        super().__init__(config)
        self._on_started = on_started
        self._came = came
        self._has_served = False

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            # What comes from here on it takes itself.
            with self.capture_signals():
                if not self._came:
                    await self._serve(sockets)
        except SystemExit:
            # It would not start. Who was told to end meanwhile has done so.
            if not self._came:
                raise
        if not self._has_served:
            ended_early(self._came)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._came.append(signal.Signals(sig))
        super().handle_exit(sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._has_served = self.started and not self.should_exit
        if self._has_served and self._on_started is not None:
            self._on_started(url_of(self.servers[0].sockets[0]))


def run(
    settings: Settings | None = None,
    host: str = HOST,
    port: int = PORT,
    *,
    ollama: AbstractAsyncContextManager[str] | None = None,
    on_started: Callable[[str], None] | None = None,
) -> int:
    """Serves as a process and returns its exit code: 0, or 3 where it would not start."""
    log.open_closed_streams()
    memory.collect_rarely()
    try:
        asyncio.run(serve(settings, host, port, ollama=ollama, on_started=on_started))
    except StartRefused as exc:
        log.say(f"onestream serve: {exc}", sys.stderr, logging.ERROR)
        return EXIT_USAGE
    except SystemExit:
        # uvicorn has said why.
        return EXIT_USAGE
    except KeyboardInterrupt:
        # Before there was anything to end; from then on signals are taken.
        ended_early([signal.SIGINT])
    return EXIT_OK


@contextmanager
def signals_swallowed() -> Iterator[list[signal.Signals]]:
    """uvicorn sends the signal that ended it again, which would end us before our clean-up.

    Those that come are noted: before uvicorn takes them itself, they are meant for us.
    """
    came: list[signal.Signals] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(signal.Signals(number))

    previous = {number: signal.signal(number, note) for number in shutdown.TERMINATING}
    try:
        yield came
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def ended_early(signals: list[signal.Signals]) -> bool:
    """Whether a signal came while the server started; the log says which."""
    if signals:
        sentence = f"{signals[0].name} came while the server started, and it ends"
        _logger.warning(line("ended_early", sentence))
    return bool(signals)
