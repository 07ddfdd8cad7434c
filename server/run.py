"""Runs the application under uvicorn: `serve` in a running loop, `run` as a whole process."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from server import log, memory, shutdown
from server.app import create_app
from server.environment import read_settings
from server.http_protocol import HttpProtocol
from server.security import StartRefused, check_address, read_keys
from server.settings import Settings

HOST = "127.0.0.1"
PORT = 8000
PORT_MAX = 65535
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
    on_started: called with the server's address once it listens; port 0 picks a free one.
    Raises StartRefused for settings that cannot be read, for an address that is open to strangers
    without a key, and for one that cannot be had; SystemExit, as uvicorn does, where that is taken
    in the last moment.
    """
    log.configure()
    limits = settings or read_settings()
    log.configure(limits.log)
    check_address(read_keys(limits), host)
    check_port(port)
    check_free(host, port)
    async with ollama or nullcontext("") as address:
        if address:
            limits = limits.model_copy(update={"ollama_host": address})
        with signals_swallowed():
            config = config_for(create_app(limits), limits, host, port)
            await _serve_until_cancelled(_Server(config, on_started))


async def _serve_until_cancelled(server: _Server) -> None:
    """A cancel ends it as a signal does; uvicorn by itself would drop the running requests."""
    serving = asyncio.ensure_future(_exit_code(server))
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


async def _exit_code(server: _Server) -> int | str | None:
    """Serves; returns what uvicorn would exit with: a SystemExit in a task prints a traceback."""
    try:
        await server.serve()
    except SystemExit as exc:
        return exc.code
    return None


def check_port(port: int) -> None:
    if not 0 <= port <= PORT_MAX:
        raise StartRefused(
            f"will not listen on port {port}: ports are 0 (any free one) to {PORT_MAX}"
        )


def check_free(host: str, port: int) -> None:
    """Raises StartRefused for an address on which nobody can listen, or somebody does already."""
    try:
        places = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as exc:
        raise StartRefused(
            f"cannot listen on {host[:_SHOWN_CHARS]!a}: that is no address and no name of one "
            f"({exc}); write 127.0.0.1, ::1 or a name as --host, and the port as --port"
        ) from None
    errors = [error for each in places if (error := _tried(*each)) is not None]
    # Of a name one address may be missing, as ::1 of localhost where there is no IPv6.
    final = [error for error in errors if error[1] in (errno.EADDRINUSE, errno.EACCES)]
    if final or len(errors) == len(places):
        address, number = (final or errors)[0]
        why = _WHY_NOT.get(number, os.strerror(number))
        raise StartRefused(f"cannot listen on {address} at port {port}: {why}")


def _tried(
    family: int, kind: int, protocol: int, _: str, place: tuple[Any, ...]
) -> tuple[str, int] | None:
    """The address and the error's number, where nobody can listen."""
    try:
        with socket.socket(family, kind, protocol) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                # Else it would be every address of both kinds.
                tried.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            tried.bind(place)
    except OSError as exc:
        return str(place[0]), exc.errno or errno.EINVAL
    return None


# What is to be done about it.
_WHY_NOT = {
    errno.EADDRINUSE: "that port is taken, its address already in use; end the program that "
    "listens there (`ss -ltnp` names it), or take another --port",
    errno.EACCES: "this user may not have that port, as those below 1024 are root's; take a --port "
    "from 1024 on, with a proxy in front of it if need be",
    errno.EADDRNOTAVAIL: "this machine has no such address; `ip address` lists those that it has, "
    "and with 0.0.0.0 as --host it listens on all of them",
}
_SHOWN_CHARS = 80


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
    """Reports its address once it listens."""

    def __init__(self, config: uvicorn.Config, on_started: Callable[[str], None] | None) -> None:
        super().__init__(config)
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self._on_started is not None:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self._on_started(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")


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
        pass
    return EXIT_OK


@contextmanager
def signals_swallowed() -> Iterator[None]:
    """uvicorn sends the signal that ended it again, which would end us before our clean-up."""
    previous = {number: signal.signal(number, lambda *_: None) for number in shutdown.TERMINATING}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
