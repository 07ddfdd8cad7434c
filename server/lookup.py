"""Host names of Ollama, looked up without asyncio's default executor.

asyncio looks names up in threads that keep a process alive until they are done, and a resolver
that gets no answer takes long. Daemon threads don't, so the process can end meanwhile.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Iterable
from concurrent.futures import Executor
from functools import partial
from typing import Any

import httpcore
import httpx


def is_name(host: str) -> bool:
    """Whether a host has to be looked up."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return True
    return False


class NamedHostTransport(httpx.AsyncHTTPTransport):
    """httpx's own transport, which looks names up in `executor`. `tls` is None for plain http."""

    def __init__(self, tls: ssl.SSLContext | None, executor: Executor) -> None:
        super().__init__(verify=tls or False, trust_env=False)
        # httpx has no parameter for it, httpcore has: the version of httpx is pinned for this.
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=tls, network_backend=_Backend(executor)
        )


class _Backend(httpcore.AsyncNetworkBackend):
    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        look_up = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        error: Exception = OSError(f"{host} has no address")
        try:
            async with asyncio.timeout(timeout):
                loop = asyncio.get_running_loop()
                for *_, address in await loop.run_in_executor(self._executor, look_up):
                    try:
                        return await self._inner.connect_tcp(
                            str(address[0]), port, None, local_address, socket_options
                        )
                    except httpcore.ConnectError as exc:
                        error = exc
        except TimeoutError as exc:
            raise httpcore.ConnectTimeout(f"no connection to {host} in {timeout:g} s") from exc
        except (OSError, RuntimeError, UnicodeError, LookupError) as exc:
            # The last two are of the name: it cannot be written for the resolver.
            error = exc
        raise httpcore.ConnectError(str(error)) from error

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
