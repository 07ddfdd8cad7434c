"""A store that answers what Valkey and Redis do not: something else, or what stands between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager

import pytest

from registry.lease_records import LeaseLimits, Register
from server.stores.directory import Entry
from server.stores.redis_store import RedisStore
from server.stores.store import StoreUnreachable
from tests.server.support import run_async

pytestmark = [pytest.mark.socket, pytest.mark.once]

ODD = {
    "nil": b"$-1\r\n",
    "no list": b"*-1\r\n",
    "an empty list": b"*0\r\n",
    "a number": b":5\r\n",
    "a text": b"$1\r\nx\r\n",
    "a list of nils": b"*9\r\n" + b"$-1\r\n" * 9,
}
ASKED: dict[str, Callable[[RedisStore], Awaitable[object]]] = {
    "start": lambda store: store.start(),
    "ask": lambda store: store.ask(Register("s", "v/1")),
    "queue": lambda store: store.queue("s"),
    "describe": lambda store: store.directory.describe(
        Entry("key-a", "1", ended=True), keep_ms=1000, ended_max=1
    ),
    "described": lambda store: store.directory.described("key-a"),
    "found": lambda store: store.directory.found("key-a", ["1", "2"]),
    "be seen": lambda store: store.directory.be_seen("v", 1000),
    "messages": lambda store: first_message(store),
}
# An answer all the same: nothing is listed; a sign of life.
UNDERSTOOD = (("described", "an empty list"), ("messages", "a text"))


async def first_message(store: RedisStore) -> object:
    async with aclosing(store.messages()) as messages:
        return await anext(messages)


@asynccontextmanager
async def store_that_says(reply: bytes) -> AsyncIterator[RedisStore]:
    """To each command, once it is connected."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readline():
            words = []
            for _ in range(int(head[1:])):
                size = int((await reader.readline())[1:])
                words.append((await reader.readexactly(size + 2))[:-2])
            writer.write(b"+OK\r\n" if words[0] == b"CLIENT" else reply)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    store = RedisStore(f"redis://127.0.0.1:{port}", LeaseLimits(), "v", call_s=2, health_s=0.01)
    try:
        yield store
    finally:
        await store.close()
        server.close()


@pytest.mark.parametrize(
    ("asked", "said"),
    [(asked, said) for asked in ASKED for said in ODD if (asked, said) not in UNDERSTOOD],
)
def test_a_reply_of_another_kind_is_told_as_one(asked: str, said: str) -> None:
    """In a sentence with the address: it was an AttributeError, which is nobody's to understand."""

    async def main() -> None:
        async with store_that_says(ODD[said]) as store:
            with pytest.raises(StoreUnreachable, match=r"^the store of sessions redis://127") as no:
                await ASKED[asked](store)
            if said == "nil" and asked in ("start", "ask", "be seen"):
                no.match(r".* a reply that Valkey and Redis do not give .*changes replies\. Name")

    run_async(main())
