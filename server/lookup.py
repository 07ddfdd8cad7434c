"""Host names of Ollama, looked up without asyncio's default executor.

asyncio looks names up in threads that keep a process alive until they are done, and a resolver
that gets no answer takes long. Daemon threads don't, so the process can end meanwhile.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from concurrent.futures import Executor
from functools import partial


def is_name(host: str) -> bool:
    """Whether a host has to be looked up."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return True
    return False


async def addresses_of(executor: Executor, host: str, port: int) -> list[str]:
    """In the resolver's order. Raises OSError, and others for what is no name."""
    look_up = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    found = await asyncio.get_running_loop().run_in_executor(executor, look_up)
    return [str(address[0]) for *_, address in found]
