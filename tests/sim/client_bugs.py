"""Three programs with a planted bug in how they keep connections, each broken and mended.

A pool of asyncio's, a server with a selector in a thread, and `http.client` in another.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import selectors
import socket
import threading
import time
from typing import Any

from sim import Fault, World

ADDRESS = ("127.0.0.1", 7000)


# ---- a pool that gives out a connection on which an answer is still to come ----------------------


class Pool:
    """Who is cancelled leaves the answer to whom the connection is given next."""

    def __init__(self) -> None:
        self.free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, name: str) -> str:
        ends = self.free.pop() if self.free else await asyncio.open_connection(*ADDRESS)
        is_answered = False
        try:
            ends[1].write(f"{name}\n".encode())
            answer = await ends[0].readline()
            is_answered = True
            return answer.decode().strip()
        finally:
            self.gives_back(ends, is_answered=is_answered)

    def gives_back(self, ends: Any, *, is_answered: bool) -> None:
        self.free.append(ends)


class MendedPool(Pool):
    def gives_back(self, ends: Any, *, is_answered: bool) -> None:
        if is_answered:
            self.free.append(ends)
        else:
            ends[1].close()


async def greets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while name := await reader.readline():
            await asyncio.sleep(0.1)
            writer.write(b"hello " + name)
            await writer.drain()
    writer.close()


def of_pool(pool_class: type[Pool]) -> Any:
    async def program(world: World) -> None:
        async with await asyncio.start_server(greets, *ADDRESS):
            pool = pool_class()
            asking = asyncio.create_task(pool.ask("alice"))
            await world.outside("alice leaves")
            asking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asking
            answer = await pool.ask("bob")
            world.check(answer == "hello bob", "who asks has his own answer")
            for _, writer in pool.free:
                writer.close()

    return program


# ---- a server that one client's reset ends for all -----------------------------------------------


class Echo:
    """As tutorials of `selectors` have it."""

    def serve(self, listener: socket.socket, stop: socket.socket) -> None:
        with selectors.DefaultSelector() as selector, contextlib.ExitStack() as opened:
            for each in (listener, stop):
                selector.register(opened.enter_context(each), selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    sock: Any = key.fileobj
                    if sock is stop:
                        return
                    if sock is listener:
                        accepted = opened.enter_context(listener.accept()[0])
                        selector.register(accepted, selectors.EVENT_READ)
                    elif not self.answers(sock):
                        selector.unregister(sock)
                        sock.close()

    def answers(self, sock: socket.socket) -> bool:
        data = sock.recv(100)
        sock.sendall(data)
        return bool(data)


class MendedEcho(Echo):
    def answers(self, sock: socket.socket) -> bool:
        try:
            return super().answers(sock)
        except ConnectionError:
            return False


def of_selector(echo_class: type[Echo]) -> Any:
    async def program(world: World) -> None:
        world.network.may_fail(Fault.RESET, port=7000)
        world.network.may_cut = False

        def asks_twice() -> None:
            listener, (stop, stops) = socket.create_server(ADDRESS), socket.socketpair()
            serving = threading.Thread(target=echo_class().serve, args=(listener, stop))
            serving.start()
            answers = []
            for _ in range(2):
                with contextlib.suppress(ConnectionError), socket.create_connection(ADDRESS) as one:
                    one.sendall(b"hello")
                    answers.append(one.recv(5))
            stops.close()
            serving.join()
            world.check(b"hello" in answers, "one reset is one client's")

        await asyncio.to_thread(asks_twice)

    return program


# ---- a client that asks on a connection which its server is about to close -----------------------


class Client:
    """Its connection idles for as long as the server lets it."""

    def __init__(self) -> None:
        self.connection = http.client.HTTPConnection(*ADDRESS)

    def get(self) -> bytes:
        self.connection.request("GET", "/")
        return self.connection.getresponse().read()


class MendedClient(Client):
    def get(self) -> bytes:
        try:
            return super().get()
        except (http.client.RemoteDisconnected, ConnectionError):
            # What was asked for may be asked twice.
            self.connection.close()
            return super().get()


async def serves_for_a_while(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(TimeoutError, asyncio.IncompleteReadError, ConnectionError):
        while True:
            async with asyncio.timeout(5):
                await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    writer.close()


def of_keep_alive(client_class: type[Client], idle_s: float) -> Any:
    async def program(world: World) -> None:
        world.network.late_max_s = 0.5
        world.network.may_cut = False

        def asks_twice() -> None:
            client = client_class()
            for _ in range(2):
                world.check(client.get() == b"ok", "it is answered")
                time.sleep(idle_s)
            client.connection.close()

        async with await asyncio.start_server(serves_for_a_while, *ADDRESS):
            await asyncio.to_thread(asks_twice)

    return program
