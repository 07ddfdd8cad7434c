"""Workers with the production client of Redis over the simulated network, and a Redis in Python.

fakeredis runs the production script, in Lua, in virtual time; in front of it is a server of asyncio
on a host of its own. So what runs between a worker and the script is production's code: redis-py's
pool, its parser and its reconnection, and `RedisStore`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import fakeredis
from fakeredis._clients._tcp_server import encode_reply
from fakeredis._commands import command
from fakeredis._socket._async import AsyncFakeSocket

from registry import StopSignals, Stream, StreamError
from registry.lease_records import LeaseLimits
from server.stores.lease import Lease
from server.stores.leased_registry import LeasedRegistry
from server.stores.redis_store import SCRIPT, RedisStore
from sim import Fault, World

LIMITS = LeaseLimits(lease_ms=3_000, margin_ms=300, grace_ms=2_000)
PORT = 6379
S1 = "S1 a session has at most one stream with an open gate"


class Front(AsyncFakeSocket):
    """fakeredis' end of one connection: its replies are bytes on a socket. It has INFO, too."""

    def __init__(self, server: fakeredis.FakeServer, writer: asyncio.StreamWriter) -> None:
        super().__init__(server, 0, client_class=fakeredis.FakeAsyncRedis)
        self._writer = writer

    def put_response(self, msg: object) -> None:
        self._writer.write(encode_reply(msg, 2))

    @command((), (bytes,))
    def info(self, *sections: bytes) -> bytes:
        return b"run_id:first\r\nredis_version:7.2.0\r\nrole:master\r\nmaxmemory:0\r\n"


async def serve_redis() -> None:
    """The main of the store's process."""
    server = fakeredis.FakeServer(server_type="redis", version=(7, 2))

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        front = Front(server, writer)
        try:
            while data := await reader.read(65536):
                front.sendall(data)
        except ConnectionError:
            pass
        front.close()
        writer.close()

    listening = await asyncio.start_server(one, "0.0.0.0", PORT)
    await listening.serve_forever()


@dataclass
class Wired:
    """What the workers' leases are, for the judge."""

    world: World
    leases: list[Lease] = field(default_factory=list)

    def one_gate(self) -> bool:
        return sum(lease.is_open for lease in self.leases) <= 1


async def worker(
    wired: Wired, name: str, starts_s: float, life_s: float, script: str = SCRIPT
) -> None:
    """One prompt at one worker, from the start of its process to its end."""
    world = wired.world
    host = world.host(name)

    def make(*args: object, **how: object) -> Lease:
        lease = Lease(*args, **how)  # type: ignore[arg-type]
        wired.leases.append(lease)
        return lease

    registry = LeasedRegistry(
        RedisStore(f"redis://store:{PORT}/0", LIMITS, name, script=script),
        name,
        clock=lambda: host.clock.shown(world.now),
        queue_s=60.0,
        stop_signals=StopSignals(),
        renew_s=1.0,
        poll_s=0.5,
        lease_class=make,  # type: ignore[arg-type]
    )
    await asyncio.sleep(0.1)
    await registry.start()
    await asyncio.sleep(starts_s)
    gate: asyncio.Future[Stream] = asyncio.get_running_loop().create_future()
    work = asyncio.create_task(_stream(gate, life_s))
    try:
        stream = await registry.register({"trace_id": name, "session_id": "s", "task": work})
    except StreamError as exc:
        world.reached(f"refused: {type(exc).__name__}")
        work.cancel()
    else:
        world.reached(f"{name} was let in")
        gate.set_result(stream)
    await asyncio.wait({work})
    await registry.close()
    await registry.end()


async def _stream(gate: asyncio.Future[Stream], life_s: float) -> None:
    await gate
    await asyncio.sleep(life_s)


def two_workers(*faults: Fault, script: str = SCRIPT) -> Callable[[World], Awaitable[None]]:
    """A prompt at each, the newer while the older streams; each of the faults may happen."""

    async def program(world: World) -> None:
        bench = Wired(world)
        world.always(S1, bench.one_gate)
        world.host("store").run(serve_redis)
        older, newer = world.host("v"), world.host("w")
        # The first worker hears later of what happens than the second.
        world.network.link("v", "store", latency_s=0.02)
        # A reply is read whole, however its bytes come.
        world.network.may_cut = False
        if faults:
            world.network.may_fail(*faults, port=PORT)
        # Once the quarantine of the new store is over.
        first = older.run(worker, bench, "v", 4.0, 60.0, script)
        second = newer.run(worker, bench, "w", 6.0, 1.0, script)
        await second.ended()
        await first.ended()
        world.reached("all is over")

    return program
