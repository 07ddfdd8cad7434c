"""A store that answers in time, where it is far away, or this process stands still meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from registry.lease_records import LeaseLimits, Message, Told
from server.stores.directory import Entry
from server.stores.redis_store import RedisStore
from server.stores.store import StoreUnreachable
from sim import new_event_loop
from tests.late_loop import LateLoop, late_run, turns

pytestmark = pytest.mark.socket

# How long this process stands still, and what a call may take.
STOOD_S, CALL_S, HEALTH_S = 60.0, 0.5, 5.0
SUBSCRIBED = b"*3\r\n$9\r\nsubscribe\r\n$1\r\nx\r\n:1\r\n"
ALIVE = b"*2\r\n$4\r\npong\r\n$5\r\nalive\r\n"
FREE = b"*3\r\n$7\r\nmessage\r\n$1\r\nx\r\n$8\r\nfree v/1\r\n"

# What is said to one command; None for nothing.
Said = Callable[[bytes], bytes | None]


@asynccontextmanager
async def store_that_says(said: Said, after_turns: int = 0) -> AsyncIterator[RedisStore]:
    """A store behind a server that is asked with each word of a command, and agrees otherwise."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            if line.strip() in (b"CLIENT", b"SELECT"):
                writer.write(b"+OK\r\n")
            elif text := said(line.strip()):
                # So long it is on its way.
                await turns(after_turns)
                writer.write(text)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    store = RedisStore(
        f"redis://127.0.0.1:{port}", LeaseLimits(), "v", call_s=CALL_S, health_s=HEALTH_S
    )
    try:
        yield store
    finally:
        await store.close()
        server.close()


def test_an_answer_that_came_while_the_process_stood_still_counts() -> None:
    """The limit of a call is for the store, which needed none of it."""

    async def main(loop: LateLoop) -> None:
        def said(word: bytes) -> bytes | None:
            if word != b"EXISTS":
                return None
            loop.now_s += STOOD_S
            return b":1\r\n"

        async with store_that_says(said, after_turns=3) as store:
            assert await store.directory.is_seen("w")

    late_run(main)


def test_a_store_that_says_nothing_is_unreachable_to_a_late_process_too() -> None:
    """It has its limit once more, and that is all."""

    async def main(loop: LateLoop) -> None:
        asked = asyncio.Event()

        def said(word: bytes) -> bytes | None:
            if word == b"EXISTS":
                asked.set()
            return None

        async with store_that_says(said) as store:
            asking = asyncio.create_task(store.directory.is_seen("w"))
            await asked.wait()
            for _ in range(2):
                assert not asking.done()
                loop.now_s += STOOD_S
                await turns(20)
            with pytest.raises(StoreUnreachable, match=r"within 0\.5 s"):
                await asking

    late_run(main)


def test_a_connection_for_messages_that_has_answered_is_not_silent() -> None:
    """Where the process stood still between its question and a look at the answer."""

    async def main(loop: LateLoop) -> None:
        questions = 0

        def said(word: bytes) -> bytes | None:
            nonlocal questions
            if word == b"SUBSCRIBE":
                loop.call_soon(stand_still_for, HEALTH_S)
                return SUBSCRIBED
            if word != b"PING":
                return None
            questions += 1
            stand_still_for(STOOD_S)
            return ALIVE if questions == 1 else ALIVE + FREE

        def stand_still_for(seconds: float) -> None:
            loop.now_s += seconds

        async with store_that_says(said) as store:
            messages = store.messages()
            hearing = asyncio.create_task(_next(messages))
            while not hearing.done():
                # Each look is over at its time, by little.
                await turns(100)
                loop.now_s += HEALTH_S
            assert await hearing == Message("v/1", Told.FREE)
            await messages.aclose()  # type: ignore[attr-defined]

    late_run(main)


# One request has its limit; two of them take longer.
FAR_S = CALL_S * 0.6
NOTHING = b"$0\r\n\r\n"
TRACE = b"*1\r\n$1\r\nx\r\n"
TO_A_CANCEL = b"*9\r\n$4\r\ndone\r\n" + b":0\r\n" * 3 + NOTHING * 5
SAID_BY_INFO = b"redis_version:7.2.0\r\nrole:master\r\n"
FAR = {
    b"INFO": b"$%d\r\n%b\r\n" % (len(SAID_BY_INFO), SAID_BY_INFO),
    b"PING": b"+PONG\r\n",
    b"PUBLISH": b":0\r\n",
    b"TIME": b"*2\r\n$10\r\n1800000000\r\n$1\r\n0\r\n",
    b"EVALSHA": TO_A_CANCEL,
    b"SUBSCRIBE": b"*3\r\n$9\r\nsubscribe\r\n$1\r\nx\r\n:1\r\n",
    b"SCAN": b"*2\r\n$1\r\n0\r\n*0\r\n",
    b"ZRANGE": TRACE,
    b"MGET": b"*2\r\n" + b"$-1\r\n" * 2,
    b"ZREM": b":1\r\n",
    b"DEL": b":1\r\n",
    b"MULTI": b"+OK\r\n",
    # Of six commands, of which the fifth names a stream that is forgotten.
    b"EXEC": b"*6\r\n" + b":1\r\n" * 4 + TRACE + b":1\r\n",
}


def test_each_request_to_a_store_that_is_far_has_its_own_limit() -> None:
    """However many of them a start, a stream's description or a list is made of."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        later = asyncio.get_running_loop().call_later
        is_queued = False
        while line := await reader.readline():
            words = []
            for _ in range(int(line[1:])):
                length = int((await reader.readline())[1:])
                words.append((await reader.readexactly(length + 2))[:length])
            name = words[0]
            is_queued = is_queued and name != b"EXEC"
            if name in (b"CLIENT", b"SELECT"):
                writer.write(b"+OK\r\n")
            else:
                later(FAR_S, writer.write, b"+QUEUED\r\n" if is_queued else FAR[name])
            is_queued = is_queued or name == b"MULTI"
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 6379)
        store = RedisStore("redis://127.0.0.1:6379", LeaseLimits(), "v", call_s=CALL_S)
        await store.start()
        entry = Entry("key", "v/1", ended=True)
        await store.directory.describe(entry, keep_ms=1000, ended_max=1)
        assert await store.directory.described("key") == []
        await store.close()
        server.close()

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main())


async def _next(messages: AsyncIterator[Message]) -> Message:
    return await anext(messages)
