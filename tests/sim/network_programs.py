"""Random small programs with connections: a server and its clients, on real sockets or simulated.

A plan is data: which statements each end of a connection runs, and with which part of asyncio. What
can be seen of a run are the notes of each end, in its own order; ends have no order among each
other. An end that waits for what never comes is stuck, here as there.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from random import Random
from typing import Any

Note = Callable[[str, str], None]
"""Who has seen what."""


class Interface(Enum):
    """With what an end uses its connection."""

    STREAMS = "streams"
    PROTOCOL = "a protocol"
    SOCKET = "a socket"


class Act(Enum):
    """A statement. The reads of a protocol are its callbacks."""

    WRITE = "write"
    WRITE_LINE = "write a line"
    DRAIN = "drain"
    READ = "read"
    READ_FEW = "read 2 bytes"
    READ_LINE = "read a line"
    READ_ALL = "read to the end"
    READ_NOW = "read what is there"
    HALF_CLOSE = "write_eof"
    CLOSE = "close"
    ABORT = "abort"
    RESET = "close without lingering"
    YIELD = "sleep(0)"
    SLEEP = "sleep"
    WAIT_CLOSED = "wait until it is closed"


ACTS = {
    Interface.STREAMS: tuple(act for act in Act if act is not Act.READ_NOW),
    Interface.PROTOCOL: (
        Act.WRITE,
        Act.WRITE_LINE,
        Act.HALF_CLOSE,
        Act.CLOSE,
        Act.ABORT,
        Act.RESET,
        Act.YIELD,
        Act.SLEEP,
        Act.WAIT_CLOSED,
    ),
    Interface.SOCKET: (
        Act.WRITE,
        Act.WRITE_LINE,
        Act.READ,
        Act.READ_FEW,
        Act.READ_NOW,
        Act.HALF_CLOSE,
        Act.CLOSE,
        Act.RESET,
        Act.YIELD,
        Act.SLEEP,
    ),
}

ACTS_MAX = 5
SLEEP_S = 0.001
POLLS_BETWEEN = 3
"""For a write, the reset that answers it, and the close that comes of that."""


@dataclass(frozen=True)
class Script:
    """What one end of a connection does; keeps_open: what its `eof_received` returns."""

    interface: Interface
    acts: tuple[Act, ...]
    keeps_open: bool = False


@dataclass(frozen=True)
class Plan:
    """accepted: one script for each connection, in the order in which they are accepted.

    is_awaited: whether all ends wait for one another before they begin.
    """

    clients: tuple[Script, ...]
    accepted: tuple[Script, ...]
    is_awaited: bool = True

    def __str__(self) -> str:
        ends = [("client", self.clients), ("server", self.accepted)]
        return f"ends wait for one another: {self.is_awaited}\n" + "\n".join(
            f"{name} {number} ({each.interface.value}, keeps open: {each.keeps_open}): "
            + ", ".join(act.value for act in each.acts)
            for name, scripts in ends
            for number, each in enumerate(scripts)
        )


def random_plan(seed: str) -> Plan:
    random = Random(seed)
    count = random.choice((1, 1, 1, 2))
    serving = random.choice(tuple(Interface))
    clients = [_script(random, random.choice(tuple(Interface))) for _ in range(count)]
    accepted = [_script(random, serving) for _ in range(count)]
    sleeper = random.choice((*clients, *accepted))
    return Plan(
        tuple(each if each is sleeper else _sleepless(each) for each in clients),
        tuple(each if each is sleeper else _sleepless(each) for each in accepted),
        is_awaited=random.random() < 0.7,
    )


def _script(random: Random, interface: Interface) -> Script:
    acts = random.choices(ACTS[interface], k=random.randint(2, ACTS_MAX))
    return Script(interface, tuple(acts), random.random() < 0.5)


def _sleepless(script: Script) -> Script:
    """One end of a plan sleeps: virtual time does not pass while the loop is busy.

    So of two ends that sleep, the second sleep of one does not end within a statement of the other.
    """
    acts = (Act.YIELD if act is Act.SLEEP else act for act in script.acts)
    return Script(script.interface, tuple(acts), script.keeps_open)


# ---- the ends of a connection ----------------------------------------------------------------


class Turns:
    """Whose statement begins next: polls pass before it, so that what came before it has landed.

    Not modelled: on loopback the other end has got it, and its system has answered, before a write,
    a close or a reset returns, so that what follows in the same iteration meets it. What is sent
    here lands at a poll, and so does what answers it.
    """

    def __init__(self, plan: Plan) -> None:
        self._missing = len(plan.clients) + len(plan.accepted)
        self._is_awaited = plan.is_awaited
        self._all_there = asyncio.Event()
        self._turn = asyncio.Lock()

    async def begin(self) -> None:
        self._missing -= 1
        if not self._missing or not self._is_awaited:
            self._all_there.set()
        await self._all_there.wait()

    async def next(self) -> None:
        async with self._turn:
            for _ in range(POLLS_BETWEEN):
                await asyncio.sleep(0)


@dataclass(frozen=True)
class Part:
    """Whose part in a run it is, and what it takes to play it."""

    name: str
    script: Script
    note: Note
    turns: Turns


class _End:
    """Runs its script and notes what comes of each statement."""

    def __init__(self, part: Part) -> None:
        self.name = part.name
        self.script = part.script
        self._note = part.note
        self._turns = part.turns
        self._written = 0

    def notes(self, text: str) -> None:
        self._note(self.name, text)

    async def run(self) -> None:
        await self._turns.begin()
        for act in (*self.script.acts, Act.CLOSE):
            await self._turns.next()
            try:
                result = await self._do(act)
            except (OSError, RuntimeError, asyncio.IncompleteReadError) as exc:
                result = _words(exc)
            self.notes(f"{act.value}: {result}")
        await self.ended()

    async def _do(self, act: Act) -> object:
        if act in (Act.WRITE, Act.WRITE_LINE):
            self._written += 1
            data = f"{self.name[0]}{self.name[-1]}{self._written}"
            return await self.write(
                f"{data}\n".encode() if act is Act.WRITE_LINE else data.encode()
            )
        if act in (Act.SLEEP, Act.YIELD):
            return await asyncio.sleep(SLEEP_S if act is Act.SLEEP else 0)
        return await self.do(act)

    async def write(self, data: bytes) -> object:
        raise NotImplementedError

    async def do(self, act: Act) -> object:
        raise NotImplementedError

    async def ended(self) -> None:
        """It has been closed: waits for what it is told of that."""

    def give_up(self) -> None:
        """The program is over, or stuck."""
        raise NotImplementedError


class _StreamsEnd(_End):
    def __init__(
        self, part: Part, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        super().__init__(part)
        self.reader, self.writer = reader, writer

    async def write(self, data: bytes) -> object:
        self.writer.write(data)
        return None

    async def do(self, act: Act) -> object:
        acts: dict[Act, Callable[[], Any]] = {
            Act.DRAIN: self.writer.drain,
            Act.READ: lambda: self.reader.read(100),
            Act.READ_FEW: lambda: self.reader.read(2),
            Act.READ_LINE: self.reader.readline,
            Act.READ_ALL: self.reader.read,
            Act.HALF_CLOSE: self.writer.write_eof,
            Act.CLOSE: self.writer.close,
            Act.ABORT: self.writer.transport.abort,
            Act.RESET: lambda: _reset(self.writer.transport),
            Act.WAIT_CLOSED: self.writer.wait_closed,
        }
        result = acts[act]()
        return await result if isinstance(result, Awaitable) else result

    async def ended(self) -> None:
        try:
            await self.writer.wait_closed()
        except OSError as exc:
            self.notes(f"closed: {_words(exc)}")

    def give_up(self) -> None:
        self.writer.transport.abort()


class _ProtocolEnd(_End, asyncio.Protocol):
    transport: Any = None

    def __init__(self, part: Part) -> None:
        super().__init__(part)
        self.is_lost = asyncio.Event()
        self.on_made: Callable[[], object] = lambda: None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.on_made()

    def data_received(self, data: bytes) -> None:
        self.notes(f"data_received: {data!r}")

    def eof_received(self) -> bool:
        self.notes("eof_received")
        return self.script.keeps_open

    def connection_lost(self, exc: Exception | None) -> None:
        self.notes(f"connection_lost: {_words(exc)}")
        self.is_lost.set()

    async def write(self, data: bytes) -> object:
        return self.transport.write(data)

    async def do(self, act: Act) -> object:
        if act is Act.WAIT_CLOSED:
            return await self.is_lost.wait()
        if act is Act.RESET:
            return _reset(self.transport)
        acts = {Act.HALF_CLOSE: "write_eof", Act.CLOSE: "close", Act.ABORT: "abort"}
        return getattr(self.transport, acts[act])()

    async def ended(self) -> None:
        await self.is_lost.wait()

    def give_up(self) -> None:
        self.transport.abort()


class _SocketEnd(_End):
    def __init__(self, part: Part, sock: socket.socket) -> None:
        super().__init__(part)
        self.sock = sock

    async def write(self, data: bytes) -> object:
        return await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def do(self, act: Act) -> object:
        loop = asyncio.get_running_loop()
        if act in (Act.READ, Act.READ_FEW):
            return await loop.sock_recv(self.sock, 2 if act is Act.READ_FEW else 100)
        if act is Act.READ_NOW:
            return self.sock.recv(100)
        if act is Act.HALF_CLOSE:
            return self.sock.shutdown(socket.SHUT_WR)
        if act is Act.RESET:
            _linger_not(self.sock)
        return self.sock.close()

    def give_up(self) -> None:
        self.sock.close()


def _reset(transport: Any) -> None:
    if not transport.is_closing():
        _linger_not(transport.get_extra_info("socket"))
    transport.close()


def _linger_not(sock: Any) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _words(exc: BaseException | None) -> str:
    """Its class and its number: the texts of a system differ."""
    if isinstance(exc, asyncio.IncompleteReadError):
        return f"IncompleteReadError {exc.partial!r}"
    return f"{type(exc).__name__} {getattr(exc, 'errno', '')}".strip()


# ---- the program -----------------------------------------------------------------------------


class _Running:
    """One run of a plan."""

    def __init__(self, plan: Plan, note: Note) -> None:
        self.plan = plan
        self.note = note
        self.turns = Turns(plan)
        self.ends: list[_End] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.accepted = 0
        self.all_accepted = asyncio.Event()

    def runs(self, end: _End) -> None:
        self.ends.append(end)
        self.tasks.append(asyncio.create_task(end.run(), name=end.name))

    def accepts(self) -> Part:
        """Of the next end that is accepted."""
        number, self.accepted = self.accepted, self.accepted + 1
        if self.accepted == len(self.plan.accepted):
            self.all_accepted.set()
        return Part(f"server {number}", self.plan.accepted[number], self.note, self.turns)

    async def all(self) -> None:
        listening = socket.create_server(("127.0.0.1", 0))
        listening.setblocking(False)
        address = listening.getsockname()
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self.give_up)
            stack.callback(listening.close)
            await self._serve(listening, stack)
            for number, script in enumerate(self.plan.clients):
                part = Part(f"client {number}", script, self.note, self.turns)
                self.runs(await _connected(part, address))
            await self.all_accepted.wait()
            await asyncio.gather(*self.tasks)

    def give_up(self) -> None:
        for end in self.ends:
            end.give_up()

    async def _serve(self, listening: socket.socket, stack: contextlib.AsyncExitStack) -> None:
        loop = asyncio.get_running_loop()
        interface = self.plan.accepted[0].interface
        if interface is Interface.SOCKET:
            self.tasks.append(asyncio.create_task(self._accept(listening)))
            return
        if interface is Interface.STREAMS:

            def accepted(*streams: Any) -> None:
                self.runs(_StreamsEnd(self.accepts(), *streams))

            server: Any = await asyncio.start_server(accepted, sock=listening)
        else:

            def made() -> _ProtocolEnd:
                end = _ProtocolEnd(self.accepts())
                end.on_made = lambda: self.runs(end)
                return end

            server = await loop.create_server(made, sock=listening)
        stack.callback(server.close)

    async def _accept(self, listening: socket.socket) -> None:
        for _ in self.plan.accepted:
            sock, _ = await asyncio.get_running_loop().sock_accept(listening)
            self.runs(_SocketEnd(self.accepts(), sock))


async def _connected(part: Part, address: Any) -> _End:
    loop = asyncio.get_running_loop()
    interface = part.script.interface
    if interface is Interface.STREAMS:
        return _StreamsEnd(part, *await asyncio.open_connection(*address))
    if interface is Interface.PROTOCOL:
        _, end = await loop.create_connection(lambda: _ProtocolEnd(part), *address)
        return end
    sock = socket.socket()
    sock.setblocking(False)
    try:
        await loop.sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return _SocketEnd(part, sock)


async def run_plan(plan: Plan, note: Note) -> None:
    """Returns when every end has run its script and is closed."""
    await _Running(plan, note).all()
