"""Servers and clients of one line each: a request is a line, and so is its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

RETRY_S = 0.5


async def serve(port: int, answer: Callable[[list[str]], str]) -> None:
    """Answers each line, for ever. A connection is for one request."""

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = (await reader.readline()).decode()
        if line:
            writer.write(f"{answer(line.split())}\n".encode())
        writer.close()

    server = await asyncio.start_server(one, "0.0.0.0", port)
    await server.serve_forever()


async def ask(host: str, port: int, line: str) -> str:
    """The answer. Raises ConnectionResetError where none came."""
    reader, writer = await connect(host, port)
    try:
        writer.write(f"{line}\n".encode())
        answer = (await reader.readline()).decode().strip()
    finally:
        writer.close()
    if not answer:
        raise ConnectionResetError("the connection ended without an answer")
    return answer


async def connect(host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Once somebody listens there."""
    while True:
        try:
            return await asyncio.open_connection(host, port)
        except ConnectionRefusedError:
            await asyncio.sleep(RETRY_S)
