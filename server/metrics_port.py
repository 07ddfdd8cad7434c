"""A port of the metrics' own, for a scraper without a key: `JARVIS_METRICS_LISTEN`.

Each worker has one, since each answers for itself alone: the first that is free from the one on
that the setting names.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from server.http_protocol import HttpProtocol, with_limits
from server.lines import line
from server.security import StartRefused
from server.settings import Settings, host_and_port

_logger = logging.getLogger("onestream.server")

# How many are tried: more than there are workers, also while SIGHUP replaces them.
PORTS = 64
_EXIT_S = 1


@asynccontextmanager
async def listening(app: ASGIApp, settings: Settings, worker: str) -> AsyncIterator[None]:
    """While the block runs `app` is served there. Raises StartRefused where it cannot listen."""
    host, port = host_and_port(settings.metrics_listen)
    listener = _bound(host, port)
    config = uvicorn.Config(
        app,
        http=_quiet(with_limits(settings)),
        lifespan="off",
        # Each of these would change uvicorn's loggers, which are the main server's as well.
        log_config=None,
        log_level=None,
        access_log=True,
        timeout_graceful_shutdown=_EXIT_S,
    )
    server = uvicorn.Server(config)
    # As `Server.serve` does, without its signal handlers: those are the main server's.
    config.load()
    server.lifespan = config.lifespan_class(config)
    try:
        await server.startup([listener])
        shown = f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{listener.getsockname()[1]}/metrics"
        named = {"worker": worker} if worker else {}
        _logger.info(line("metrics_listening", address=address, **named))
        yield
    finally:
        await server.shutdown([listener])
        listener.close()


def _quiet(protocol: type[HttpProtocol]) -> type[HttpProtocol]:
    """The same without lines of scrapes in the access log."""

    class Quiet(protocol):  # type: ignore[valid-type,misc]
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            self.access_log = False

    return Quiet


def _bound(host: str, first: int) -> socket.socket:
    why: Exception | None = None
    for port in range(first, min(first + PORTS, 65536)) if first else (0,):
        listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            # Bound is not taken yet: two sockets may be, and only one of them listens.
            listener.listen()
            return listener
        except (OSError, UnicodeError) as exc:
            # The second of a name that cannot be one, as `a..b`.
            listener.close()
            why = exc
    behind = f", nor on the {PORTS - 1} ports behind it," if first else ""
    sentence = f"cannot listen on {host}:{first}{behind} for the metrics (JARVIS_METRICS_LISTEN)"
    refusal = StartRefused(f"{sentence}: {why}")
    # What a lifespan raises is seen by nobody: uvicorn says only that the start-up has failed.
    _logger.error(line("start_refused", str(refusal)))
    raise refusal
